//! The simulation from some hundred seeds, and every list that once failed.

#![allow(clippy::unwrap_used)]

mod senders;

use tests::simulation::{Operation, Simulator, Summary, generate};

const SEEDS: u64 = 300;

#[test]
fn invariants_hold_after_every_step_of_every_seed() {
    let simulator = Simulator::new().unwrap();
    let mut all = Summary::default();
    for seed in 1..=SEEDS {
        match simulator.run(seed, &generate(seed)) {
            Ok(summary) => all += summary,
            Err(failure) => panic!(
                "seed {seed}, step {}: {}\n`cargo xtask simulate --seeds 1 --seed {seed}` shortens it",
                failure.step, failure.what
            ),
        }
    }
    let Summary { counted, duplicate, reasons, tests, stopped, lies, turned_away, .. } = all;
    // Much must have happened: a simulation in which nothing does holds every invariant.
    assert!(counted > 50 * SEEDS && duplicate > 5 * SEEDS && reasons > 5 * SEEDS);
    assert!(tests > SEEDS / 2 && stopped > SEEDS / 20, "{tests} of tests, {stopped} stopped");
    assert!(lies > 4 * SEEDS && turned_away > SEEDS, "{lies} lies, {turned_away} turned away");
}

#[test]
fn the_same_seed_is_the_same_list() {
    assert_eq!(generate(7), generate(7));
    assert_ne!(generate(7), generate(8));
}

/// Lists that once failed, with what was wrong.
#[test]
fn lists_that_once_failed() {
    use Operation as Op;
    let simulator = Simulator::new().unwrap();
    let lists: &[(u64, &[Operation])] = &[
        // An outbox that nobody had heard of opened a final minute again, an import counted into
        // it, and it became final once more: other counts at the same revision.
        (
            9,
            &[
                Op::Seal { edge: 1 },
                Op::Import { source: 1, rows: 12, back: 14, collector: 0 },
                Op::Flush { collector: 0 },
                Op::Apply { partition: 3, most: 5 },
                Op::Resend { edge: 1, batch: 1, collector: 0 },
                Op::Flush { collector: 0 },
                Op::Import { source: 1, rows: 30, back: 4, collector: 0 },
            ],
        ),
    ];
    for (seed, list) in lists {
        simulator.run(*seed, list).unwrap();
    }
}
