//! The aggregator: counts exactly, keeps its counts, and answers questions about them.

pub mod count;
mod documents;
pub mod facts;
mod filters;
pub mod store;

mod http;
pub mod metrics;
mod query;
mod restatements;
pub mod service;
#[cfg(test)]
mod testing;
pub mod upkeep;

pub use http::{COUNT_MAX, RANGE_MINUTES_MAX};
pub use metrics::Metrics;
pub use service::{Aggregator, NotReady, Parts, Registered, Settings, Status};
