//! The roles, each a process of its own: [`edge`], [`collector`], [`aggregator`]. What connects them
//! is NATS: edges put their batches into the work queue, collectors take them from there and append
//! to the log, one aggregator counts, others stand by ([`lease`]). What they share otherwise is in
//! [`crate::deployment`], looked at every second ([`follow`]).
//!
//! Every role serves an operator's side: `/healthz` (alive), `/readyz` (takes work), `/metrics`.

pub(crate) mod aggregator;
pub(crate) mod collector;
pub(crate) mod edge;
mod follow;
mod lease;

/// How often documents are looked at.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_secs(1);
