//! The edge from outside: decisions as cases, hostile input, and the edge as it runs.
#![allow(clippy::unwrap_used)]

mod alike;
mod cases;
mod doors;
mod harness;
mod hostile;
mod issuers;
mod limits;
mod networks;
mod plain;
mod repeats;
mod rim;
mod shells;
mod steps;
mod support;
mod verdicts;
mod worker;
mod worker_hostile;
mod worker_nats;
mod worker_news;
mod wrangler;
