//! The native rim: reads HTTP, asks [`crate::handle()`] for a decision, and carries it out.

mod bodies;
mod connection;
pub mod doors;
mod head;
mod networks;
mod patience;
mod plain;
mod policies;
mod rim;
mod run;
mod threads;

pub use crate::metrics::Metrics;
pub use policies::Policies;
pub use run::{Parts, RimSettings, RunError, Summary, run};
