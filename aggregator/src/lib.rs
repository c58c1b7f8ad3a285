//! The aggregator: counts exactly, keeps its counts, and answers questions about them.

pub mod count;
