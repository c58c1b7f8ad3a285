//! Whole-system tests and what they share: benchmarks, the data set, fuzz targets, the simulation.

pub mod bench;
pub mod dataset;
pub mod engine_speed;
pub mod fuzz;
pub mod simulation;
