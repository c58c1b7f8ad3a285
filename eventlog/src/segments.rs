//! Append-only segment files: sync, on a local disk, one writer.
//!
//! A directory holds segments named by the index of their first commit group.
//! Every append is one group with one CRC, and it is fdatasynced before the
//! next is written, so after a crash at most the last group can be torn. A bad
//! last group was never acknowledged and is cut; a bad group with a valid one
//! behind it is damage and refused. Each stream has its own gapless sequence.

mod error;
mod format;
mod read;
mod recover;
mod verify;
mod view;
mod write;

pub use error::SegmentsError;
pub use read::{SegmentReader, Stored};
pub use recover::{Cut, Recovered};
pub use verify::Verified;
pub use view::{SegmentsView, StreamEnd};
pub use write::{Appended, GROUP_BYTES_MAX, GROUP_RECORDS_MAX, Record, Segments, SegmentsConfig};

/// The result type of this module.
pub type Result<T> = std::result::Result<T, SegmentsError>;
