//! Prints how fast the engine counts the data set of the benchmarks:
//! `cargo run --release -p aggregator --example engine_speed [ad|full|both] [events] [checkpoint]`.
//! Up to a million events are counted by a naive loop too, and must come out alike.
#![allow(clippy::print_stdout, reason = "this is what it is for")]

#[path = "../../tests/src/dataset.rs"]
mod dataset;
#[path = "../../tests/src/engine_speed.rs"]
mod engine_speed;

use dataset::Shape;

fn main() -> Result<(), String> {
    let mut arguments = std::env::args().skip(1);
    let what = arguments.next().unwrap_or_else(|| "both".into());
    let number = |text: Option<String>, or: u64| text.and_then(|n| n.parse().ok()).unwrap_or(or);
    let events = number(arguments.next(), Shape::FULL.events);
    let checkpoint = number(arguments.next(), 0) as usize;
    for full_cells in [false, true] {
        if what != "both" && (what == "full") != full_cells {
            continue;
        }
        let shape = Shape { events, full_cells, ..Shape::FULL };
        let speed = engine_speed::measure(shape, 1, checkpoint)?;
        if events <= 1_000_000 && speed.result != engine_speed::naive(shape, 1) {
            return Err("the engine and a naive count differ".into());
        }
        let name = if full_cells { "full cells" } else { "ad × minute" };
        println!("{name}: {:.2} M events/s, result {}", speed.rate() / 1e6, speed.result);
        println!("  dedup {:.3} bits per issued impression", speed.dedup_bits());
        println!("  checkpoints {:?}, applying {:?}", speed.checkpoints, speed.applying);
        println!("  {:?}, peak {}", speed.size, peak());
    }
    Ok(())
}

/// The largest resident set so far, as Linux tells it.
fn peak() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM"));
    line.unwrap_or("unknown").split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
}
