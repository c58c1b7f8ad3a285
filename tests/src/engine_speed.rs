//! How fast the engine counts the data set, and what it holds in memory then.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use aggregator::count::{Engine, Settings, Size};
use aggregator::facts::blocks;
use eventlog::Position;
use shared::ambient::Stopwatch;
use shared::wire::MessageView;
use shared::{AdId, Kind, Minute, Validity};

use crate::dataset::{Click, Dataset, Shape};

/// How many messages are made, and then applied, in one turn: enough that reading the clock costs
/// nothing, few enough that they are still in a cache, like messages that a log reader has just
/// checked.
const TURN: usize = 16;

/// What was measured.
#[derive(Clone, Debug)]
pub struct Speed {
    /// Events applied.
    pub events: u64,
    /// Time in reading and applying messages, one thread.
    pub applying: Duration,
    /// Time in checkpoints.
    pub checkpoints: Duration,
    /// Digest of every ad's count in every minute.
    pub result: blake3::Hash,
    /// Impressions issued.
    pub issued: u64,
    /// The most bytes of facts before a checkpoint, and how many facts these were.
    pub facts: (usize, usize),
    /// What the engine held in the end.
    pub size: Size,
}

impl Speed {
    /// Events per second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.events as f64 / self.applying.as_secs_f64()
    }

    /// Bits of dedup state for each impression issued.
    #[must_use]
    pub fn dedup_bits(&self) -> f64 {
        self.size.dedup_bytes as f64 * 8.0 / self.issued as f64
    }
}

/// Applies a data set to an engine, with a checkpoint after every `checkpoint` bytes of messages.
///
/// # Errors
/// When the engine refuses a message.
pub fn measure(shape: Shape, seed: u64, checkpoint: usize) -> Result<Speed, String> {
    let mut dataset = Dataset::new(shape, seed);
    let settings = Settings { resident_minutes: u32::try_from(shape.minutes + 20).unwrap_or(120) };
    let mut engine = Engine::new(0, settings);
    let (mut applying, mut checkpoints) = (Duration::ZERO, Duration::ZERO);
    let (mut sequence, mut events, mut unsaved, mut facts) = (0, 0, 0, (0, 0));
    loop {
        let turn: Vec<_> = std::iter::from_fn(|| dataset.message(None)).take(TURN).collect();
        if turn.is_empty() {
            break;
        }
        let watch = Stopwatch::start();
        for bytes in &turn {
            sequence += 1;
            let message = MessageView::read(bytes).map_err(|e| e.to_string())?;
            let position = Position { identity: [1; 16], sequence, digest: [0; 16] };
            unsaved += bytes.len();
            events += engine.apply(&message, position).map_err(|e| e.to_string())?.events;
        }
        applying += watch.elapsed();
        if unsaved >= checkpoint {
            unsaved = 0;
            let Size { facts: count, facts_bytes, .. } = engine.size();
            facts = facts.max((facts_bytes, count));
            let watch = Stopwatch::start();
            let changes = engine.checkpoint();
            for (_, block) in blocks(&changes.facts) {
                std::hint::black_box(block.to_bytes());
            }
            drop(std::hint::black_box(changes));
            checkpoints += watch.elapsed();
        }
    }
    let (issued, size) = (dataset.issued(), engine.size());
    Ok(Speed { events, applying, checkpoints, result: result(&engine), issued, facts, size })
}

/// The digest of a naive count of the same data set: sets and maps, one click after the other.
#[must_use]
pub fn naive(shape: Shape, seed: u64) -> blake3::Hash {
    let mut dataset = Dataset::new(shape, seed);
    let mut clicks: Vec<Click> = Vec::new();
    while dataset.message(Some(&mut clicks)).is_some() {}
    let mut seen = HashSet::new();
    let mut counts = BTreeMap::new();
    for click in clicks {
        if seen.insert(click.id) {
            *counts.entry((click.minute, dataset.ad(click.ad))).or_insert(0_u64) += 1;
        }
    }
    digest(counts)
}

fn result(engine: &Engine) -> blake3::Hash {
    let mut counts = BTreeMap::new();
    for (minute, _) in engine.account(Minute(0), Minute(u32::MAX)) {
        engine.ad_totals(minute, Kind::Click, Validity::Valid, &mut |ad, count| {
            counts.insert((minute, ad), count);
        });
    }
    digest(counts)
}

fn digest(counts: BTreeMap<(Minute, AdId), u64>) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    for ((minute, ad), count) in counts {
        hasher.update(&minute.0.to_le_bytes()).update(ad.padded()).update(&count.to_le_bytes());
    }
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_engine_counts_what_a_naive_count_does() {
        for full_cells in [false, true] {
            let shape = Shape { events: 60_000, ads: 2_000, full_cells, ..Shape::FULL };
            let shape = Shape { message: 1_000, ..shape };
            let speed = measure(shape, 7, 0).unwrap();
            assert_eq!(speed.events, 60_000);
            assert_eq!(speed.result, naive(shape, 7));
            assert_eq!(speed.result, measure(shape, 7, 5).unwrap().result);
            assert_ne!(speed.result, naive(shape, 8));
        }
    }
}
