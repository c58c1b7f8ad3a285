//! What `shared` promises to everyone who reads our bytes: golden vectors (in `vectors/`, for Rust
//! and JavaScript alike; `COUNTERSIGN_WRITE_VECTORS=1` writes them anew), and properties.
#![allow(clippy::unwrap_used)]

mod jwks;
mod keys;
mod partitions;
mod properties;
mod rejections;
mod requests;
mod tokens;
mod values;
mod vectors;
mod wire;
mod wire_properties;
mod wire_rejections;
mod world;
