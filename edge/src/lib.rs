//! The edge: signs impressions, verifies clicks, answers redirects, and holds every event in its
//! outbox until the log has acknowledged it.
//!
//! It has two halves. The pure one ([`handle`], [`policy`], [`limit`], [`clicks`], [`repeats`],
//! [`verdict`], [`privacy`], [`outbox::seal`], [`outbox::tallies`]) makes every decision: it takes
//! time and randomness as arguments, returns its effects as data, and compiles to Wasm. The native
//! one ([`native`], and the rest of [`outbox`]; feature `native`) carries the effects out: it reads
//! HTTP, writes files, sends batches, and decides nothing.

pub mod address;
pub mod bots;
mod browser;
pub mod clicks;
pub mod decision;
pub mod device;
pub mod handle;
pub mod limit;
#[cfg(feature = "native")]
mod metrics;
#[cfg(feature = "native")]
pub mod native;
pub mod networks;
pub mod outbox;
pub mod policy;
pub mod privacy;
pub mod ready;
pub mod repeats;
pub mod request;
pub mod settings;
pub mod verdict;
pub mod worker;

pub use decision::{Decision, Draft, Durability, Loss, Reply, WhenFull};
pub use handle::{Effect, Outcome, Resume, State, Step, decide, handle};
pub use policy::{Keys, Policy, PublicUrl};
pub use request::{Method, Request};
