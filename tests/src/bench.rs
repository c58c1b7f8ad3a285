//! The benchmarks of `cargo xtask bench`. Each group prints JSON lines (`xtask/src/bench.rs`
//! describes them) and a digest of what it computed, so that a fast wrong answer is noticed.

mod archive;
mod engine;
mod log;
mod memory;
mod process;
pub mod redirect;
mod roles;
mod tokens;
mod verify;

use serde::Serialize;

/// One result: a line of JSON.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    name: &'static str,
    what: String,
    value: f64,
    unit: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

impl Measured {
    fn new(name: &'static str, what: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { name, what: what.into(), value, unit, hash: None, peer: None, note: None }
    }

    fn hash(mut self, digest: blake3::Hash) -> Self {
        self.hash = Some(digest.to_hex()[..16].to_owned());
        self
    }

    fn peer(mut self, name: &'static str) -> Self {
        self.peer = Some(name);
        self
    }

    fn note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }
}

/// How much work a group does: all of it, or so little that the tests can afford it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// All of it, for figures.
    Full,
    /// Little, to see that it still runs.
    Smoke,
}

impl Size {
    const fn choose(self, full: usize, smoke: usize) -> usize {
        match self {
            Self::Full => full,
            Self::Smoke => smoke,
        }
    }
}

/// A group measures, or says why it could not.
pub type Group = fn(Size) -> Result<Vec<Measured>, String>;

/// All groups, by name.
pub const GROUPS: &[(&str, Group)] = &[
    ("tokens", tokens::measure),
    ("verify", verify::measure),
    ("engine", engine::ad_minute),
    ("hash-loop", engine::hash_loop),
    ("full-cells", engine::full_cells),
    ("log", log::measure),
    ("nats-log", log::nats),
    ("archive", archive::write),
    ("recount", archive::recount),
    ("up", process::idle),
    ("memory", memory::clicks),
    ("click", process::click),
    ("roles", roles::click),
    ("failover", roles::failover),
    ("redirect", redirect::measure),
    ("worker", redirect::worker::measure),
];

/// Sorts the values; returns the one below which so many percent of them are.
fn percentile(values: &mut [f64], percent: usize) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let at = (values.len() * percent / 100).min(values.len().saturating_sub(1));
    values.get(at).copied().unwrap_or(0.0)
}

/// The largest resident set of this process so far.
fn peak_memory_mb() -> Result<f64, String> {
    memory_mb("/proc/self/status", "VmHWM:")
}

/// A line of a process's status, which Linux gives in KiB.
fn memory_mb(path: &str, line: &str) -> Result<f64, String> {
    let status = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    let words = status.lines().find_map(|text| text.strip_prefix(line));
    let kib = words.and_then(|words| words.trim().strip_suffix(" kB"));
    let kib: Option<f64> = kib.and_then(|kib| kib.trim().parse().ok());
    kib.map(|kib| kib * 1_024.0 / 1e6).ok_or_else(|| format!("{path} has no line {line}"))
}
