//! The whole way of an event, from a request to an answer, as a list of operations from a seed: the
//! real edge, collector, coalescer and engine, with clocks, disks and a log that fail on demand.
//! After every step the invariants are checked ([`check`]); in the end everything is delivered, and
//! what the edges accepted must be what was counted, whatever a hostile sender sent beside it.
//!
//! A list that once failed is kept, as it is, in `tests/tests/simulation/main.rs`.

mod centre;
mod check;
mod edge;
mod facts;
mod hostile;
mod operation;
mod oracle;
mod queue;
mod world;

pub use operation::{Operation, generate};
pub(crate) use world::CATALOGUE;
pub use world::{Failure, Simulator, Summary};
