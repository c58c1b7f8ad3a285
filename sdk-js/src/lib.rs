//! What a publisher's page measures and sends, as values in, values out: [`viewability`] and
//! [`queue`]. The browser's side of it is `rim`, compiled for Wasm alone: wasm-bindgen's exports,
//! and the page's storage. The loader (`loader/`, TypeScript) draws, observes and fetches.
//!
//! Time comes in as an argument, in whole milliseconds of the page's own clock.
//!
//! Without `std` on Wasm: its panics bring the formatting of their messages along, a fifth of what
//! visitors would download.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

pub mod queue;
#[cfg(target_arch = "wasm32")]
mod rim;
pub mod viewability;
