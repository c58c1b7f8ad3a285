//! What can happen, and how a seed becomes a list of operations.

use shared::random::{Seeded, below};

/// One step. A number of an edge, token or the like is taken modulo how many there are, so that
/// every list can be run, and a shortened one too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the variants say what their numbers are")]
pub enum Operation {
    /// An edge serves an ad.
    Serve { edge: usize },
    /// An edge serves an ad to somebody who tries it out.
    ServeTest { edge: usize },
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
    /// An edge reaches nobody any more, and takes events all the same.
    Cut { edge: usize },
    /// It reaches everybody again.
    Mend { edge: usize },
    /// An edge is taken out of service: what is judged from now on gets `edge_retired`.
    Retire { edge: usize },
    /// An edge sends a batch that is not acknowledged, the first or one after it, to a collector.
    Send { edge: usize, ahead: usize, collector: usize },
    /// An edge sends any batch again.
    Resend { edge: usize, batch: usize, collector: usize },
    /// An edge puts a batch that is not acknowledged into the work queue.
    Publish { edge: usize, ahead: usize },
    /// It is in the queue, and the edge does not hear of it.
    PublishLosesAck { edge: usize, ahead: usize },
    /// A collector takes a batch from the queue, the first or one after it.
    Take { collector: usize, ahead: usize },
    /// The queue has waited long enough, and gives a batch that was taken to somebody else.
    Redeliver { nth: usize },
    /// A collector appends what it has.
    Flush { collector: usize },
    /// It appends, and the answer is lost.
    FlushLosesAck { collector: usize },
    /// It appends, and the queue does not hear that the batches are done with.
    FlushLosesDone { collector: usize },
    /// It appends, and only some partitions are written.
    FlushHalf { collector: usize },
    /// It cannot append.
    FlushFails { collector: usize },
    /// kill -9 of a collector.
    CrashCollector { collector: usize },
    /// A partition applies some messages.
    Apply { partition: usize, most: usize },
    /// A partition writes a checkpoint.
    Checkpoint { partition: usize },
    /// A partition dies while it writes one.
    CheckpointDies { partition: usize },
    /// kill -9 of a partition's engine.
    CrashEngine { partition: usize },
    /// A partition writes a checkpoint, and then the log loses as many messages as told before the
    /// checkpoint's position. The sequences are used anew.
    Vanish { partition: usize, back: u64 },
    /// The partitions write checkpoints, and then the log is made anew, empty.
    Recreate,
    /// Time goes on.
    Tick { ms: u64 },
    /// An edge's clock jumps, by less than clocks may differ.
    Skew { edge: usize, ms: i64 },
    /// A collector's clock jumps, by less than clocks may differ.
    SkewCollector { collector: usize, ms: i64 },
    /// An edge's wall clock is set, and is so far off from now on (0 is right). Its monotonic clock
    /// is not affected.
    StepEdge { edge: usize, ms: i64 },
    /// A collector's wall clock is set.
    StepCollector { collector: usize, ms: i64 },
    /// A hostile sender sends what is made of a number, to a collector or into the queue.
    Lie { what: u64, collector: usize, queue: bool },
    /// An importer sends the next rows of a log, as many as told, starting `back` rows early.
    Import { source: usize, rows: u64, back: u64, collector: usize },
}

const DAY_AND_AN_HOUR_MS: u64 = 90_000_000;

/// The operations of a seed.
#[must_use]
pub fn generate(seed: u64) -> Vec<Operation> {
    use Operation as Op;
    let mut random = Seeded::new(seed);
    let length = 60 + below(&mut random, 240);
    // Some worlds are calm, some mostly break.
    let trouble = 1 + below(&mut random, 12);
    let mut list: Vec<_> = (0..length).map(|_| random_operation(&mut random, trouble)).collect();
    let mut n = |bound: usize| below(&mut random, bound as u64) as usize;
    // In some worlds an edge is away for a day, and in a few something happens that nothing can
    // mend.
    if n(6) == 0 {
        let edge = n(2);
        let mut at = [n(list.len()), n(list.len()), n(list.len())];
        at.sort_unstable();
        list.insert(at[2], Op::Mend { edge });
        list.insert(at[1], Op::Tick { ms: DAY_AND_AN_HOUR_MS });
        list.insert(at[0], Op::Cut { edge });
    }
    // In some worlds clocks are set: for a moment or for long, by a little or by a month.
    for _ in 0..[0, 0, 1, 2, 6][n(5)] {
        let ms = [61_000, 600_000, 7_200_000, 30 * 86_400_000][n(4)] * [1, -1][n(2)];
        let (machine, at) = (n(2), n(list.len()));
        let stays = [1, 3, 10, 60][n(4)];
        let (back, which) = ((at + stays).min(list.len()), n(3));
        let step = |ms| match which {
            0 => vec![Op::StepEdge { edge: machine, ms }],
            1 => vec![Op::StepCollector { collector: machine, ms }],
            // An edge and a collector on one machine.
            _ => vec![
                Op::StepEdge { edge: machine, ms },
                Op::StepCollector { collector: machine, ms },
            ],
        };
        list.splice(back..back, step(0));
        list.splice(at..at, step(ms));
    }
    match n(24) {
        0 => list.insert(n(list.len()), Op::Retire { edge: n(2) }),
        1 => list.insert(n(list.len()), Op::Vanish { partition: n(8), back: n(4) as u64 }),
        2 => list.insert(n(list.len()), Op::Recreate),
        _ => {}
    }
    // In half of the worlds there is a hostile sender.
    for _ in 0..[0, 0, 8, 40][n(4)] {
        let (what, collector, queue) = (n(1 << 32) as u64, n(2), n(2) == 0);
        list.insert(n(list.len()), Op::Lie { what, collector, queue });
    }
    list
}

fn random_operation(random: &mut Seeded, trouble: u64) -> Operation {
    use Operation as Op;
    let mut n = |bound: u64| below(random, bound);
    let edge = n(2) as usize;
    let collector = n(2) as usize;
    let token = n(64) as usize;
    let partition = n(8) as usize;
    if n(40) < trouble {
        return match n(20) {
            0 => Op::SealDiesBefore { edge },
            1 => Op::SealDiesAfter { edge },
            2 => Op::CrashEdge { edge },
            3 | 4 => Op::Resend { edge, batch: n(64) as usize, collector },
            5 => Op::FlushLosesAck { collector },
            6 => Op::FlushHalf { collector },
            7 => Op::FlushFails { collector },
            8 => Op::CrashCollector { collector },
            9 => Op::CheckpointDies { partition },
            10 => Op::CrashEngine { partition },
            11 => Op::Skew { edge, ms: 25_000 - n(50_000) as i64 },
            12 => Op::SkewCollector { collector, ms: 25_000 - n(50_000) as i64 },
            13 | 14 => Op::PublishLosesAck { edge, ahead: n(3) as usize },
            15 | 16 => Op::Redeliver { nth: n(8) as usize },
            17 => Op::FlushLosesDone { collector },
            18 => Op::Cut { edge },
            _ => Op::Mend { edge },
        };
    }
    let ahead = [0, 0, 0, 1, 2][n(5) as usize];
    match n(36) {
        0..=2 => Op::Serve { edge },
        3 => [Op::Serve { edge }, Op::ServeTest { edge }][n(2) as usize],
        4..=7 => Op::Click { edge, token },
        8 => Op::Head { edge, token },
        9 | 10 => Op::Impression { edge, token },
        11 => Op::Viewable { edge, token },
        12 => Op::Forge { edge, token, bit: n(2_048) as usize },
        13..=16 => Op::Seal { edge },
        17 | 18 => Op::Send { edge, ahead, collector },
        19..=21 => Op::Publish { edge, ahead },
        22..=24 => Op::Take { collector, ahead },
        25 | 26 => Op::Flush { collector },
        27..=30 => Op::Apply { partition, most: 1 + n(6) as usize },
        31 => Op::Checkpoint { partition },
        32 | 33 => Op::Tick {
            ms: [40, 900, 31_000, 130_000, 1_300_000, DAY_AND_AN_HOUR_MS][n(6) as usize],
        },
        _ => {
            let (source, rows, back) = (n(2) as usize, 1 + n(40), n(3) * n(20));
            Op::Import { source, rows, back, collector }
        }
    }
}
