//! What a publisher's page measures and sends, as pure functions of values: [`viewability`] and
//! [`queue`]. The browser's side is `rim`, which is compiled for Wasm alone: the exports for
//! JavaScript, and the page's storage. The loader (`loader/`, TypeScript) draws, observes and
//! fetches.
//!
//! Time is an argument, in whole milliseconds of the page's own clock.
//!
//! On Wasm this is built without `std`, whose panics bring along the code that formats their
//! messages: a fifth of what visitors would download.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

pub mod queue;
#[cfg(target_arch = "wasm32")]
mod rim;
pub mod viewability;
