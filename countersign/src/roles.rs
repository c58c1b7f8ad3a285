//! The roles, each a process of its own: [`edge`], [`collector`], [`aggregator`]. NATS connects
//! them: edges put their batches into the work queue, collectors take them from there and append
//! them to the log, one aggregator counts, others stand by ([`lease`]). Everything else that they
//! share is in documents ([`crate::deployment`]), which they read every second ([`follow`]).
//!
//! Every role serves an operator's side: `/healthz` (alive), `/readyz` (takes work), `/metrics`.

pub(crate) mod aggregator;
pub(crate) mod collector;
pub(crate) mod edge;
mod follow;
mod lease;

/// How often documents are looked at.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_secs(1);
