//! What a publisher's page measures and sends, as values in, values out: [`viewability`] and
//! [`queue`]. The browser's side of it is `rim`, compiled for Wasm alone: wasm-bindgen's exports,
//! and the page's storage. The loader (`loader/`, TypeScript) draws, observes and fetches.
//!
//! Time comes in as an argument, in whole milliseconds of the page's own clock.

pub mod queue;
#[cfg(target_arch = "wasm32")]
mod rim;
pub mod viewability;
