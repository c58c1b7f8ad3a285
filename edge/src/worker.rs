//! The edge on Cloudflare Workers: the same core in another shell.
//!
//! An isolate answers requests ([`rim`]) and hands their events to a shard ([`outbox`], a Durable
//! Object), which keeps them until the collector has acknowledged its batches. Isolates come and go
//! at any time and hold nothing that may not be lost; what must last is in a shard's database.
//!
//! Pure, and tested natively: [`settings`], [`nats`], [`nkey`], [`location`]. The other modules use
//! the platform and exist only for Wasm.

pub mod location;
pub mod nats;
pub mod nkey;
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
mod outbox;
#[cfg(target_arch = "wasm32")]
mod platform;
#[cfg(target_arch = "wasm32")]
mod policy_watch;
#[cfg(target_arch = "wasm32")]
mod rim;
#[cfg(target_arch = "wasm32")]
mod shard;
#[cfg(target_arch = "wasm32")]
mod single_flight;
#[cfg(target_arch = "wasm32")]
mod transport;
