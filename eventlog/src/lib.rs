//! Append-only segments with group commit, and the log trait.
//!
//! Three layers, each usable alone:
//!
//! - [`segments`]: files on a local disk. One CRC per commit group, the next
//!   group written only after the fsync of the one before. The edge's outbox
//!   and the local log are made of them.
//! - [`group`]: a committer thread that turns what waits into one group, so
//!   that many writers share one fsync.
//! - [`log`]: the trait that collectors write to and aggregators read from,
//!   with positions that can be checked; [`local`] is its adapter over
//!   segments, [`jetstream`] (feature `nats`) the one over NATS, and [`AnyLog`] either.
//!
//! And [`nats`], what a deployment shares there besides its log: documents, and the queue of batches.
//!
//! With the feature `testing`: [`fake`], an in-memory log with fault switches
//! for deterministic simulations, and [`contract`], the test that every
//! adapter and fake passes.
//!
//! What is deliberately absent: nothing here reads a clock, draws a random
//! number, retries, or skips a damaged record.

#[cfg(feature = "nats")]
mod any;
#[cfg(any(test, feature = "testing"))]
pub mod contract;
#[cfg(any(test, feature = "testing"))]
pub mod fake;
pub mod group;
#[cfg(feature = "nats")]
pub mod jetstream;
pub mod local;
pub mod log;
#[cfg(feature = "nats")]
pub mod nats;
pub mod position;
pub mod segments;

#[cfg(feature = "nats")]
pub use any::{AnyLog, AnyReader};
pub use local::{LocalLog, LocalLogConfig, LocalReader};
pub use log::{DEAD, Delivered, Log, LogError, Message, PositionPart, Reader};
pub use position::{Digest, Identity, Position};
