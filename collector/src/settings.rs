//! The collector's settings.

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
    /// The most tokens that are remembered as well signed, about 150 bytes each; 0: none.
    pub verified_tokens_max: u64,
    /// The most batches and chunks that are taken in and not acknowledged; further ones wait outside.
    pub queue_items_max: usize,
    /// The most bytes of memory of these batches and chunks; further ones wait outside.
    pub queue_bytes_max: usize,
    /// The longest time that a batch or chunk is gathered for before it goes to the log, in milliseconds.
    pub flush_ms: u64,
    /// How long an append that fails is tried again, in milliseconds. Then its senders are told to send
    /// again.
    pub retry_for_ms: u64,
    /// Whether others may write to the log too, so that the clock is compared with it again and again.
    pub follow_log: bool,
    /// The most bytes of dead letters that are kept of one issuer in an hour; less than 128 KiB counts as
    /// 128 KiB.
    pub dead_letter_bytes_per_hour: u64,
    /// The time that the operator has named when saying that the clock is right, whatever the log says. It
    /// counts for an hour.
    pub clock_is_right: Option<Timestamp>,
    /// What one issuer may cost over time.
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
