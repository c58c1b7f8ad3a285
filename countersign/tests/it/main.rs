//! The real binary, as a user runs it: on free ports, in a directory of its own.
#![allow(clippy::unwrap_used, missing_docs)]

mod admin;
mod answers;
mod backup;
#[cfg(target_os = "linux")]
mod clocks;
mod commands;
mod disk;
mod doors;
mod duckdb;
mod engines;
mod facts;
mod hostile;
mod import;
mod import_ways;
mod keys;
mod link;
mod logs;
mod metrics;
mod names;
mod nats;
#[cfg(target_os = "linux")]
mod old;
mod operations;
mod process;
mod reconcile;
mod recount;
mod role_faults;
mod roles;
mod segments;
mod sender;
mod simulate;
mod up;
mod worker;
mod world;
