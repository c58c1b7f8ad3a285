//! The edge from outside: decisions as cases, hostile input, and the edge as it runs.
#![allow(clippy::unwrap_used)]

mod cases;
mod harness;
mod hostile;
mod limits;
mod plain;
mod rim;
mod support;
mod verdicts;
mod worker;
