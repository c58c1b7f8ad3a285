//! The versioned binary forms, and one in JSON for people and third parties. All numbers are
//! little endian. Reading refuses what it does not know, and whatever follows the end.

pub mod batch;
mod codec;
pub mod control;
pub mod dead;
pub mod json;
pub mod message;
mod message_view;

pub use batch::{Batch, Event, Tally};
pub use control::{Control, Logged, Word};
pub use dead::{DeadLetter, Resolved};
pub use message::{BatchEntry, ChunkEntry, Judged, MessageBuilder, TallyEntry};
pub use message_view::{Cold, MessageView, PageRow, Row};

use crate::time::Minute;

/// Bytes that are no message of ours, or a damaged one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at byte {at}: {what}")]
pub struct WireError {
    /// What was expected or wrong.
    pub what: &'static str,
    /// Where, in bytes from the start.
    pub at: usize,
}

/// How many events of each minute a batch or chunk declares, in order of the minutes.
pub type Declared = Vec<(Minute, u32)>;

/// Adds one to a minute's count.
pub(crate) fn declare(declared: &mut Declared, minute: Minute, count: u32) {
    match declared.binary_search_by_key(&minute, |(minute, _)| *minute) {
        Ok(at) => declared[at].1 = declared[at].1.saturating_add(count),
        Err(at) => declared.insert(at, (minute, count)),
    }
}
