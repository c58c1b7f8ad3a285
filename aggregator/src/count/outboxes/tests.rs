#![allow(clippy::unwrap_used)]
use shared::BatchDigest;
use shared::random::{Seeded, below};

use super::*;
use crate::count::contents::CONFLICTS_PER_EDGE;

const CLOCK: Timestamp = Timestamp(1_790_000_000_000);
const PLACE: CutOff = CutOff { sequence: 1, entry: 0 };

fn batch(edge: &str, epoch: u64, number: u64, watermark: Timestamp) -> BatchEntry {
    BatchEntry {
        outbox: OutboxId { edge: edge.parse().unwrap(), epoch },
        number,
        watermark,
        digest: BatchDigest([7; 16]),
        declared: Vec::new(),
    }
}

/// However many outboxes an edge begins, and whatever it sends in each.
#[test]
fn an_edge_has_so_many_digests_kept() {
    let mut outboxes = Outboxes::default();
    for epoch in 0..2_000 {
        for number in 0..130 {
            outboxes.take(&batch("m", epoch, number, CLOCK), PLACE, CLOCK);
        }
    }
    let kept: usize = outboxes.all().map(|(_, state)| state.contents.digests.len()).sum();
    // 64 outboxes with 128 each, and a share that falls with the number of outboxes.
    assert!((8_192..40_000).contains(&kept), "{kept}");
    assert!(outboxes.all().all(|(_, state)| !state.contents.digests.is_empty()));
}

/// However many conflicts an edge makes, and in however many outboxes: each outbox still says that
/// it is in doubt, and up to when.
#[test]
fn an_edge_has_so_many_conflicts_kept() {
    let mut outboxes = Outboxes::default();
    let late = CLOCK.plus_ms(77);
    let conflicts_of = |outboxes: &Outboxes, edge: &str| {
        let edge: shared::EdgeId = edge.parse().unwrap();
        let of_edge = outboxes.conflicts().filter(|(o, _)| registered_name(o.edge) == edge);
        of_edge.map(|(_, state)| state.contents.clone()).collect::<Vec<_>>()
    };
    let other = |edge, epoch, digest| BatchEntry {
        digest: BatchDigest([digest; 16]),
        ..batch(edge, epoch, 0, CLOCK)
    };
    for epoch in 0..2_000 {
        let edge = ["m", "m--1"][usize::from(epoch % 2 == 1)];
        assert_eq!(outboxes.take(&batch(edge, epoch, 0, CLOCK), PLACE, CLOCK), Taken::New);
        for digest in 20..60 {
            let clock = if digest == 59 { late } else { CLOCK };
            let taken = outboxes.take(&other(edge, epoch, digest), PLACE, clock);
            assert_eq!(taken, Taken::Conflict);
        }
    }
    let kept = conflicts_of(&outboxes, "m");
    assert_eq!((kept.len(), kept.iter().map(|of| of.conflicts_all).max()), (2_000, Some(40)));
    let all: usize = kept.iter().map(|of| of.conflicts.len()).sum();
    assert!(all <= 2_000 + CONFLICTS_PER_EDGE, "{all}");
    assert!(kept.iter().all(|of| of.conflicts.last().unwrap().at == late));
    // Another edge keeps its own.
    outboxes.take(&batch("n", 1, 0, CLOCK), PLACE, CLOCK);
    for digest in 20..30 {
        outboxes.take(&other("n", 1, digest), PLACE, CLOCK);
    }
    assert_eq!(conflicts_of(&outboxes, "n")[0].conflicts.len(), 10);
    // A snapshot brings the same back; one of an earlier build brings no more than is kept now.
    let again = |states: Vec<_>| Outboxes::load(states, vec![], vec![], vec![]).unwrap();
    let states: Vec<_> = outboxes.all().map(|(o, state)| (o, state.clone())).collect();
    let loaded = again(states.clone());
    assert!(loaded.all().eq(outboxes.all()) && loaded.kept == outboxes.kept);
    let full = states.iter().map(|(outbox, state)| {
        let mut state = state.clone();
        state.contents.conflicts = vec![state.contents.conflicts[0]; 16];
        state.contents.conflicts_all = 40;
        (*outbox, state)
    });
    let loaded = again(full.collect());
    let all: usize = conflicts_of(&loaded, "m").iter().map(|of| of.conflicts.len()).sum();
    assert!(all <= 2_000 + CONFLICTS_PER_EDGE, "{all}");
    // Nothing is kept of outboxes that are forgotten.
    let states = outboxes.states.keys().copied().collect::<Vec<_>>();
    states.into_iter().for_each(|outbox| outboxes.forget(outbox));
    assert!(outboxes.kept.is_empty());
}

/// Each shard that is forgotten leaves the last epoch that is over. An edge with ever new shards is
/// cut off: if an epoch were forgotten, batches of it could be applied once more.
#[test]
fn an_edge_has_so_many_shards_whatever_they_are_called() {
    let mut outboxes = Outboxes::default();
    let name = |n: usize| format!("m--{n}");
    let at = |outboxes: &mut Outboxes, edge: &str, epoch: u64| {
        let taken = outboxes.take(&batch(edge, epoch, 0, Timestamp::MAX), PLACE, CLOCK);
        outboxes.forget_behind(CLOCK.plus_ms(HORIZON_MS + 1));
        taken
    };
    at(&mut outboxes, "n", 7);
    for n in 0..EPOCHS_PER_EDGE_MAX {
        assert_eq!(at(&mut outboxes, &name(n), n as u64), Taken::New);
    }
    assert_eq!(at(&mut outboxes, &name(EPOCHS_PER_EDGE_MAX), 5), Taken::OverQuota);
    assert_eq!(outboxes.all_cut_off().len(), 1);
    for n in [0, 1, EPOCHS_PER_EDGE_MAX - 1] {
        assert_eq!(at(&mut outboxes, &name(n), n as u64), Taken::Known, "{n}");
    }
    assert_eq!(at(&mut outboxes, "n", 7), Taken::Known);
    assert_eq!(at(&mut outboxes, "n", 8), Taken::New);
    // A snapshot knows how many there are.
    let epochs = outboxes.epochs.iter().map(|(edge, epoch)| (*edge, *epoch)).collect();
    let loaded = Outboxes::load(vec![], epochs, vec![], vec![]).unwrap();
    assert_eq!(loaded.epochs_per_edge, outboxes.epochs_per_edge);
}

/// The list of open outboxes is what a look at all outboxes gives.
#[test]
fn the_least_watermark_is_that_of_a_look_at_all() {
    let random = &mut Seeded::new(5);
    let mut outboxes = Outboxes::default();
    let edges = ["a", "b", "b--1", "c"];
    for round in 0..4_000_u64 {
        let edge = edges[usize::try_from(below(random, 4)).unwrap()];
        let (epoch, number) = (below(random, 6), below(random, 12));
        let watermark = match below(random, 12) {
            0 => Timestamp::MAX,
            ms => CLOCK.plus_ms(ms * 1_000 + below(random, 500)),
        };
        match below(random, 400) {
            0 => outboxes.retire(edge.parse().unwrap(), CLOCK),
            1 => outboxes.cut_off(edge.parse().unwrap(), PLACE),
            2 => outboxes.forget_behind(CLOCK.plus_ms(round + HORIZON_MS)),
            _ => drop(outboxes.take(
                &batch(edge, epoch, number, watermark),
                PLACE,
                CLOCK.plus_ms(round),
            )),
        }
        let all = outboxes.all().filter(|(outbox, state)| {
            state.closed_at.is_none() && outboxes.is_waited_for(outbox.edge)
        });
        let mut all: Vec<_> = all.map(|(outbox, state)| (state.watermark, outbox)).collect();
        all.sort_unstable();
        assert!(outboxes.open.iter().copied().eq(all), "round {round}");
    }
}
