//! Whole-system tests and what they share: benchmarks, the data set, the simulation.

pub mod bench;
pub mod dataset;
pub mod engine_speed;
pub mod simulation;
