//! What an operator sets.

use serde::Deserialize;
use shared::Timestamp;
use shared::limits::FLUSH_MS;

use crate::quota::Quotas;

/// A collector's settings; unknown ones are refused.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Threads that verify; 0: one per core.
    pub verify_threads: usize,
    /// The most tokens whose signature is remembered as good, about 150 bytes each; 0: none.
    pub verified_tokens_max: u64,
    /// The most batches and chunks that are taken in and not acknowledged; one more waits outside.
    pub queue_items_max: usize,
    /// The most memory of them, in bytes; one more waits outside.
    pub queue_bytes_max: usize,
    /// What was gathered goes to the log after this many milliseconds at the latest.
    pub flush_ms: u64,
    /// An append that fails is tried again for this many milliseconds, then its senders are told
    /// to send again.
    pub retry_for_ms: u64,
    /// Others may write to the log too: its newest message is looked at again and again.
    pub follow_log: bool,
    /// The most bytes of dead letters that are kept of one issuer in an hour; not less than
    /// 128 KiB.
    pub dead_letter_bytes_per_hour: u64,
    /// When the operator has said that the clock is right, whatever the log says; good for an hour.
    pub clock_is_right: Option<Timestamp>,
    /// What one issuer may cost.
    pub quotas: Quotas,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            verify_threads: 0,
            verified_tokens_max: 100_000,
            queue_items_max: 4_096,
            queue_bytes_max: 64 << 20,
            flush_ms: FLUSH_MS,
            retry_for_ms: 10_000,
            follow_log: false,
            dead_letter_bytes_per_hour: 16 << 20,
            clock_is_right: None,
            quotas: Quotas::default(),
        }
    }
}
