//! The outbox: a log of numbered batches that holds every event until the collector has
//! acknowledged it.
//!
//! One group commit is one batch and one record: the waiting requests are stamped, encoded as the
//! batch that will be sent, appended and fsynced; then their replies go out. So a resend is byte
//! for byte the same by construction. And numbers have no gaps, for a batch gets its number only
//! when it is on disk.
//!
//! Pure: [`seal`] (stamps, numbers, watermarks, splitting, what a restart does), [`tallies`]
//! (slots, and how they get into batches exactly once), [`shard`] (both together, for an outbox
//! that lives in a database) and [`parcel`] (how events get there). Native: [`Outbox`] (the
//! writer), [`Drain`] (the sender).

pub mod parcel;
pub mod seal;
pub mod shard;
pub mod tallies;

#[cfg(feature = "native")]
mod acked;
#[cfg(feature = "native")]
mod commit;
#[cfg(feature = "native")]
mod drain;
#[cfg(feature = "native")]
mod side_log;
#[cfg(feature = "native")]
mod sink;
#[cfg(feature = "native")]
mod tally_file;
#[cfg(feature = "native")]
mod writer;

#[cfg(feature = "native")]
pub use drain::{Drain, DrainSettings};
#[cfg(feature = "native")]
pub use sink::{BatchSink, News, SinkError};
#[cfg(feature = "native")]
pub use writer::{
    AppendError, DISK_BYTES_LEAST, Depth, Opened, Outbox, OutboxError, OutboxSettings, Pending,
};

#[cfg(all(test, feature = "native"))]
mod tests;
