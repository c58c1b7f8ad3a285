//! Verifies every signature, judges, coalesces, splits by partition.
//!
//! What comes in — numbered batches of outboxes, chunks of imported logs — goes through four steps:
//!
//! 1. [`verify`]: every token's signature, over all cores;
//! 2. [`judge`] (pure): each event's one outcome;
//! 3. [`coalesce`] (pure): one message per partition, each listing all the batches and chunks;
//! 4. [`Collector`]: one append of them all, and then, never before, the acknowledgements.
//!
//! [`gateway`] offers the same over HTTP to edges without NATS, to servers and to importers.
//!
//! An edge belongs to one issuer ([`Sender`]). A batch is refused when its edge is not the sender's; an
//! event is rejected as `foreign_issuer` when its token is signed by another issuer than its edge's.
//!
//! Each issuer is bounded twice: by its quotas over time ([`Quotas`]) and by its share of the queue. A
//! batch that is over one of them is not written; its sender sends it again later.
//!
//! Invariants:
//!
//! - An event that is taken becomes one row of one partition, or is counted in one tally, whatever is
//!   wrong with it.
//! - A batch that cannot be decoded goes to the log's dead letters ([`dead`]), together with the name of
//!   its sender. The settings say how many bytes an hour each sender may put there.
//! - Every queue is bounded: a caller that finds it full waits.
//!
//! What is deliberately absent: dedup. A batch that is appended twice, because an acknowledgement was
//! lost, has the same number both times, and the count engine skips the second.

pub mod clock;
pub mod coalesce;
mod collector;
mod controls;
pub mod dead;
mod error;
mod flush;
pub mod gateway;
pub mod judge;
mod keys;
mod metrics;
mod queue;
mod quota;
pub mod sender;
mod settings;
pub mod verify;

#[cfg(test)]
mod tests;

pub use collector::{Collector, Parts, Receipt, StartError};
pub use error::SubmitError;
pub use keys::CollectorKeys;
pub use metrics::{LetterFate, Metrics};
pub use quota::{Quota, Quotas};
pub use sender::Refusal;
pub use settings::Settings;
pub use shared::keys::Sender;
