//! What can happen, and how a seed becomes a list of it.

use shared::random::{Seeded, below};

/// One step. Numbers beyond what there is are taken modulo what there is, so that every list can be
/// run, and a shortened one too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the variants say what their numbers are")]
pub enum Operation {
    /// An edge serves an ad.
    Serve { edge: usize },
    /// A token comes back as a click, at any edge.
    Click { edge: usize, token: usize },
    /// A HEAD request for a click link.
    Head { edge: usize, token: usize },
    /// A token comes back as an impression.
    Impression { edge: usize, token: usize },
    /// A token comes back as viewable.
    Viewable { edge: usize, token: usize },
    /// A token with one bit altered.
    Forge { edge: usize, token: usize, bit: usize },
    /// A group commit, with or without events: a heartbeat.
    Seal { edge: usize },
    /// A group commit that dies before the batch is on disk; the edge starts again.
    SealDiesBefore { edge: usize },
    /// A group commit that dies after the batch is on disk; the edge starts again.
    SealDiesAfter { edge: usize },
    /// kill -9 of an edge; it starts again.
    CrashEdge { edge: usize },
    /// An edge sends a batch that is not acknowledged, the first or one after it.
    Send { edge: usize, ahead: usize },
    /// An edge sends any batch again.
    Resend { edge: usize, batch: usize },
    /// The collector appends what it has.
    Flush,
    /// It appends, and the answer is lost.
    FlushLosesAck,
    /// It appends, and only some partitions are written.
    FlushHalf,
    /// It cannot append.
    FlushFails,
    /// kill -9 of the collector.
    CrashCollector,
    /// A partition applies some messages.
    Apply { partition: usize, most: usize },
    /// A partition writes a checkpoint.
    Checkpoint { partition: usize },
    /// A partition dies while it writes one.
    CheckpointDies { partition: usize },
    /// kill -9 of a partition's engine.
    CrashEngine { partition: usize },
    /// Time goes on.
    Tick { ms: u64 },
    /// An edge's clock jumps, by less than clocks may differ.
    Skew { edge: usize, ms: i64 },
    /// An importer sends the next rows of a log, as many as told, starting `back` rows early.
    Import { source: usize, rows: u64, back: u64 },
}

/// The list of a seed.
#[must_use]
pub fn generate(seed: u64) -> Vec<Operation> {
    let mut random = Seeded::new(seed);
    let length = 60 + below(&mut random, 240);
    // Some worlds are calm, some mostly break.
    let trouble = 1 + below(&mut random, 12);
    (0..length).map(|_| one(&mut random, trouble)).collect()
}

fn one(random: &mut Seeded, trouble: u64) -> Operation {
    use Operation as Op;
    let mut n = |bound: u64| below(random, bound);
    let edge = n(2) as usize;
    let token = n(64) as usize;
    let partition = n(8) as usize;
    if n(40) < trouble {
        return match n(12) {
            0 => Op::SealDiesBefore { edge },
            1 => Op::SealDiesAfter { edge },
            2 => Op::CrashEdge { edge },
            3 | 4 => Op::Resend { edge, batch: n(64) as usize },
            5 => Op::FlushLosesAck,
            6 => Op::FlushHalf,
            7 => Op::FlushFails,
            8 => Op::CrashCollector,
            9 => Op::CheckpointDies { partition },
            10 => Op::CrashEngine { partition },
            _ => Op::Skew { edge, ms: 25_000 - n(50_000) as i64 },
        };
    }
    match n(32) {
        0..=3 => Op::Serve { edge },
        4..=7 => Op::Click { edge, token },
        8 => Op::Head { edge, token },
        9 | 10 => Op::Impression { edge, token },
        11 => Op::Viewable { edge, token },
        12 => Op::Forge { edge, token, bit: n(2_048) as usize },
        13..=16 => Op::Seal { edge },
        17..=20 => Op::Send { edge, ahead: [0, 0, 0, 1, 2][n(5) as usize] },
        21..=22 => Op::Flush,
        23..=26 => Op::Apply { partition, most: 1 + n(6) as usize },
        27 => Op::Checkpoint { partition },
        28 | 29 => {
            Op::Tick { ms: [40, 900, 31_000, 130_000, 1_300_000, 90_000_000][n(6) as usize] }
        }
        _ => Op::Import { source: n(2) as usize, rows: 1 + n(40), back: n(3) * n(20) },
    }
}
