//! The collector as a whole, over the fake log and the local one.
#![allow(clippy::unwrap_used)]

mod bodies;
mod faults;
mod gateway;
mod letters;
mod outcomes;
mod quota;
mod sender;
mod verify;
mod world;
