//! Imported logs: how far each has been taken.

use shared::event::REASON_CODES;

/// What a partition knows of an imported log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SourceState {
    /// All rows before this one have been taken.
    pub rows: u64,
    /// BLAKE3 of the log's bytes up to the end of these rows; zeros while there are none.
    pub digest: [u8; 32],
    /// Events counted in this partition.
    pub counted: u64,
    /// Events of this partition that were seen before.
    pub duplicate: u64,
    /// Events of this partition with a reason, by its code.
    pub reasons: [u64; REASON_CODES],
}
