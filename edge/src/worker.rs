//! The edge on Cloudflare Workers: the same core in another shell.
//!
//! An isolate answers requests ([`rim`]) and hands their events to a shard ([`outbox`], a Durable
//! Object), which keeps them until the collector has acknowledged its batches. Isolates come and go
//! at any time and remember nothing that matters; a shard's database does.
//!
//! Pure, and tested natively: [`settings`], [`nats`], [`nkey`], [`place`]. The rest is the platform's and exists for Wasm
//! only.

pub mod nats;
pub mod nkey;
pub mod place;
pub mod settings;
#[cfg(feature = "testing")]
pub mod workerd;

#[cfg(target_arch = "wasm32")]
mod bodies;
#[cfg(target_arch = "wasm32")]
mod database;
#[cfg(target_arch = "wasm32")]
mod gather;
#[cfg(target_arch = "wasm32")]
mod glue;
#[cfg(target_arch = "wasm32")]
mod news;
#[cfg(target_arch = "wasm32")]
mod once;
#[cfg(target_arch = "wasm32")]
mod outbox;
#[cfg(target_arch = "wasm32")]
mod platform;
#[cfg(target_arch = "wasm32")]
mod rim;
#[cfg(target_arch = "wasm32")]
mod shard;
#[cfg(target_arch = "wasm32")]
mod transport;
