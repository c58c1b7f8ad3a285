//! The native rim: reads HTTP, asks [`crate::handle()`] what to do, and does it.

mod bodies;
mod catalogue_file;
mod connection;
pub mod doors;
mod head;
mod landing;
mod metrics;
mod networks;
mod patience;
mod plain;
mod policies;
mod rim;
mod run;
mod threads;

pub use catalogue_file::{CatalogueFile, CatalogueSource};
pub use landing::stored_as;
pub use metrics::Metrics;
pub use policies::Policies;
pub use run::{Parts, RimSettings, RunError, Summary, run};
