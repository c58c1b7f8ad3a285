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
//! An edge belongs to one issuer ([`Sender`]): whoever sends a batch of another's edge is not let in, and
//! what the tokens of another issuer tell is `foreign_issuer`.
//!
//! What an issuer may cost is bounded by time ([`Quotas`]) and by its share of the queue; what is over
//! comes again later.
//!
//! Invariants: an event that comes in is one row of one partition, or one of a tally, whatever is
//! wrong with it. A batch that cannot be decoded goes to the log's dead letters ([`dead`]), with who
//! has sent it, and as many bytes an hour of each as the settings say. Nothing waits without a bound:
//! when the queue is full, whoever submits waits.
//!
//! What is deliberately absent: dedup. A batch that is appended twice (a lost acknowledgement) has
//! the same number twice, and the count engine skips it.

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
