//! The count engine on the data set of the issue: one thread, `MessageView::read` and `apply`.

use std::hint::black_box;

use hashbrown::{HashMap, HashSet};
use shared::ambient::Stopwatch;

use super::tokens::per_second;
use super::{Measured, Size, peak_memory_mb};
use crate::dataset::{Dataset, Shape};
use crate::engine_speed::{self, Speed};

/// Bytes of messages between two checkpoints: the service's default.
const CHECKPOINT_BYTES: usize = 8 << 20;

fn shape(size: Size, full_cells: bool) -> Shape {
    Shape { events: size.choose(20_000_000, 50_000) as u64, full_cells, ..Shape::FULL }
}

/// Ad × minute, as the peers of the table count; in a process of its own, for its memory.
pub(super) fn ad_minute(size: Size) -> Result<Vec<Measured>, String> {
    let every = CHECKPOINT_BYTES;
    let Speed { result, .. } = engine_speed::measure(shape(Size::Smoke, false), 1, every)?;
    if result != engine_speed::naive(shape(Size::Smoke, false), 1) {
        return Err("the engine and a naive count of the same clicks differ".to_owned());
    }
    let speed = engine_speed::measure(shape(size, false), 1, every)?;
    Ok(vec![
        Measured::new(
            "engine/ad-minute",
            "engine: read and apply, ad × minute, one thread",
            speed.rate(),
            "events/s",
        )
        .hash(speed.result)
        .peer("hash-loop/ad-minute"),
        Measured::new("engine/ad-minute-memory", "its peak memory", peak_memory_mb()?, "MB"),
        Measured::new(
            "dedup/bits-per-impression",
            "dedup state per issued impression, 60 % of them clicked",
            speed.dedup_bits(),
            "bits",
        ),
    ])
}

/// Ad × minute × publisher × country × device: nearly every click is a cell of its own.
pub(super) fn full_cells(size: Size) -> Result<Vec<Measured>, String> {
    let speed = engine_speed::measure(shape(size, true), 1, CHECKPOINT_BYTES)?;
    let both = speed.applying + speed.checkpoints;
    let share = speed.checkpoints.as_secs_f64() / both.as_secs_f64().max(1e-9) * 100.0;
    let events = usize::try_from(speed.events).unwrap_or(usize::MAX);
    Ok(vec![
        Measured::new(
            "full-cells/apply",
            "engine: read and apply, full cells, one thread",
            speed.rate(),
            "events/s",
        )
        .hash(speed.result),
        Measured::new(
            "full-cells/with-checkpoints",
            "the same with a checkpoint's rows and facts every 8 MiB of messages",
            per_second(events, both),
            "events/s",
        )
        .note(format!("full cells: {share:.0} % of the time goes into the rows of checkpoints")),
        Measured::new("full-cells/memory", "its peak memory", peak_memory_mb()?, "MB"),
        Measured::new(
            "full-cells/tail",
            "memory of a fact before its checkpoint",
            speed.facts.0 as f64 / speed.facts.1.max(1) as f64,
            "bytes",
        ),
    ])
}

/// The plainest loop there is over the same clicks, already decoded and in memory: a hash set of
/// impression ids, a hash map of ad and minute.
pub(super) fn hash_loop(size: Size) -> Result<Vec<Measured>, String> {
    let mut dataset = Dataset::new(shape(size, false), 1);
    let mut clicks = Vec::new();
    while dataset.message(Some(&mut clicks)).is_some() {}
    let watch = Stopwatch::start();
    let mut seen = HashSet::new();
    let mut counts: HashMap<(u32, u32), u64> = HashMap::new();
    for click in &clicks {
        if seen.insert(click.id) {
            *counts.entry((click.minute.0, click.ad)).or_default() += 1;
        }
    }
    let spent = watch.elapsed();
    black_box((&seen, &counts));
    let what = "peer: a hash set of ids and a hash map, decoded clicks, one thread";
    let rate = per_second(clicks.len(), spent);
    Ok(vec![
        Measured::new("hash-loop/ad-minute", what, rate, "events/s"),
        Measured::new("hash-loop/memory", "its peak memory", peak_memory_mb()?, "MB"),
    ])
}
