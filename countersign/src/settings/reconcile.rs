//! When the archive is counted again by itself.

use serde::{Deserialize, Serialize};

/// The archive is counted again and compared with the counts, once a day.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Reconcile {
    /// Whether that is done by itself.
    pub(crate) enabled: bool,
    /// From which hour on, UTC.
    pub(crate) hour: u64,
    /// So many days that have ended.
    pub(crate) days: u64,
    /// So many seconds after the start at the earliest.
    pub(crate) delay_s: u64,
    /// About so much memory it takes at most, beside that for one file.
    pub(crate) memory_bytes: u64,
}

impl Default for Reconcile {
    fn default() -> Self {
        Self { enabled: true, hour: 3, days: 1, delay_s: 120, memory_bytes: 256 << 20 }
    }
}
