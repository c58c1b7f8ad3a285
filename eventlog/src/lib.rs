//! Append-only segments with group commit, and the log trait.
//!
//! Three layers, each usable alone:
//!
//! - [`segments`]: files on a local disk. Each commit group has a CRC, and a
//!   group is written only after the fsync of the one before. The edge's outbox
//!   and the local log are made of segments.
//! - [`group`]: a committer thread that writes all waiting items as one group,
//!   so that many writers share one fsync.
//! - [`log`]: the trait that collectors write to and aggregators read from,
//!   with positions that can be checked. [`local`] implements it over segments,
//!   [`jetstream`] (feature `nats`) over NATS; [`AnyLog`] is one of the two.
//!
//! [`nats`] has what a deployment shares on NATS besides its log: documents, and the queue of batches.
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
