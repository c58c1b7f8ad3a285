//! The contract of a log, as a test.
