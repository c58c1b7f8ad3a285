#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use shared::random::Seeded;
use shared::wire::Batch;
use shared::{Codes, EdgeId, Fingerprint, Flags, Kind, Network, Reason, Region, RuleSet};

use super::*;
use crate::decision::{Draft, Loss};

const TIMING: ShardTiming =
    ShardTiming { heartbeat_ms: 1_000, hand_over_ms: 2_000, idle_ms: 10_000 };
const START: Timestamp = Timestamp(1_700_000_000_000);

fn edge() -> EdgeId {
    "w-FRA-0".parse().unwrap()
}

fn click(token: u64) -> Draft {
    Draft {
        kind: Kind::Click,
        verdict: None,
        flags: Flags::default(),
        rules: RuleSet(7),
        page: None,
        codes: Codes::default(),
        region: Region::UNKNOWN,
        network: Network::default(),
        visitor: Fingerprint::NONE,
        token: token.to_le_bytes().to_vec(),
    }
}

fn parcel(events: impl IntoIterator<Item = u64>, losses: u32) -> Parcel {
    let loss = Loss { kind: Kind::Click, reason: Reason::BadSeal, count: losses };
    Parcel {
        events: events.into_iter().map(click).collect(),
        losses: (losses > 0).then_some(loss).into_iter().collect(),
    }
}

/// The database: what was written, and the shard of the process that runs.
struct World {
    batches: Vec<Vec<u8>>,
    slots: BTreeMap<usize, [u8; SLOT_BYTES]>,
    ids: Option<IdRange>,
    shard: Shard,
    random: Seeded,
}

impl World {
    fn new() -> Self {
        Self {
            batches: Vec::new(),
            slots: BTreeMap::new(),
            ids: None,
            shard: Shard::recover(edge(), None, Vec::new(), None),
            random: Seeded::new(1),
        }
    }

    fn write(&mut self, rows: Rows) {
        self.batches.extend(rows.batches);
        for (at, slot) in rows.slots {
            match slot {
                Some(slot) => drop(self.slots.insert(at, slot)),
                None => drop(self.slots.remove(&at)),
            }
        }
    }

    fn restart(&mut self) {
        let last = self.batches.last().map(|batch| BatchHead::read(batch).unwrap());
        let mut slots = vec![None; super::super::tallies::SLOTS];
        for (at, slot) in &self.slots {
            slots[*at] = Slot::from_bytes(slot).unwrap();
        }
        self.shard = Shard::recover(edge(), last, slots, self.ids);
    }

    fn settle(&mut self, now: Timestamp) -> Idle {
        let idle = self.shard.idle(now, &TIMING);
        if let Idle::Send(rows) = &idle {
            self.write(rows.clone());
        }
        idle
    }

    /// What has arrived, after a check of the order that a collector relies on.
    fn told(&self) -> (Vec<u64>, u64) {
        let (mut events, mut losses) = (Vec::new(), 0);
        let mut before: Option<(OutboxId, u64, Timestamp)> = None;
        for bytes in &self.batches {
            let batch = Batch::read(bytes).unwrap();
            if let Some((outbox, number, watermark)) = before {
                if batch.outbox == outbox {
                    assert_eq!(batch.number, number + 1, "numbers have no gaps");
                    assert!(watermark <= batch.watermark, "watermarks never go back");
                } else {
                    assert_eq!(watermark, Timestamp::MAX, "an epoch is closed before the next");
                    assert!(batch.outbox.epoch > outbox.epoch && batch.number == 0);
                }
                let floor = if batch.outbox == outbox { watermark } else { Timestamp(0) };
                assert!(batch.events.iter().all(|event| event.at >= floor));
                assert!(batch.tallies.iter().all(|tally| tally.minute >= floor.minute()));
            }
            for event in &batch.events {
                events.push(u64::from_le_bytes(event.token.try_into().unwrap()));
            }
            losses += batch.tallies.iter().map(|tally| u64::from(tally.count)).sum::<u64>();
            before = Some((batch.outbox, batch.number, batch.watermark));
        }
        (events, losses)
    }
}

#[test]
fn a_shard_without_events_closes_its_epoch_and_sleeps() {
    let mut world = World::new();
    assert_eq!(world.settle(START), Idle::Sleep, "nothing ever came");
    let rows = world.shard.take(START, &parcel([1, 2], 0), &TIMING);
    assert_eq!(rows.batches.len(), 1);
    world.write(rows);
    assert_eq!(world.settle(START), Idle::Wait(START.plus_ms(TIMING.heartbeat_ms)));
    let mut sent = 0;
    let mut now = START;
    loop {
        match world.settle(now) {
            Idle::Send(_) => sent += 1,
            Idle::Wait(until) => now = until,
            Idle::Sleep => break,
        }
    }
    assert_eq!(sent, 10, "nine heartbeats, and the closing batch");
    assert_eq!(BatchHead::read(world.batches.last().unwrap()).unwrap().watermark, Timestamp::MAX);
    assert_eq!(now, START.plus_ms(TIMING.idle_ms));
    // The clock has gone back behind the first epoch; the next epoch is larger all the same.
    let rows = world.shard.take(START.minus_ms(5_000), &parcel([3], 0), &TIMING);
    world.write(rows);
    assert_eq!(world.told().0, [1, 2, 3]);
}

#[test]
fn after_a_step_back_a_shard_has_a_new_epoch_with_the_right_time() {
    let mut world = World::new();
    let ahead = START.plus_ms(7_200_000);
    for (now, event) in [(START, 1), (ahead, 2), (START.plus_ms(3_000), 3)] {
        assert_eq!(world.shard.time(now), now);
        let rows = world.shard.take(now, &parcel([event], 2), &TIMING);
        world.write(rows);
    }
    let last = Batch::read(world.batches.last().unwrap()).unwrap();
    assert_eq!(last.events[0].at, START.plus_ms(3_000));
    // An idle shard notices it too, and sleeps when it has nothing more to report.
    let mut world = World::new();
    let rows = world.shard.take(ahead, &parcel([1, 2, 3], 6), &TIMING);
    world.write(rows);
    assert!(matches!(world.settle(START), Idle::Send(_)));
    assert_eq!(BatchHead::read(world.batches.last().unwrap()).unwrap().watermark, Timestamp::MAX);
    assert_eq!(world.settle(START), Idle::Sleep);
    assert_eq!(world.told(), (vec![1, 2, 3], 6));
}

#[test]
fn losses_alone_are_told() {
    let mut world = World::new();
    let rows = world.shard.take(START, &parcel([], 7), &TIMING);
    assert!(rows.batches.is_empty(), "a loss opens no epoch by itself");
    world.write(rows);
    world.restart();
    assert!(matches!(world.settle(START), Idle::Send(_)));
    assert_eq!(world.told(), (vec![], 7));
    assert!(matches!(world.settle(START), Idle::Send(_)), "the closing batch");
    assert_eq!(world.settle(START), Idle::Sleep);
    assert!(world.slots.is_empty());
}

#[test]
fn a_parcel_is_read_as_it_was_written() {
    let whole = parcel(0..100, 3);
    assert_eq!(Parcel::read(&whole.to_bytes(edge())).unwrap(), whole);
    assert!(Parcel::read(&whole.to_bytes(edge())[..100]).is_err());
    assert!(Parcel::default().is_empty() && !whole.is_empty());
}

#[derive(Clone, Debug)]
enum Op {
    Take(u8, u8),
    /// The rows were lost with the process, and no reply had gone out.
    TakeAndDie(u8, u8),
    Settle,
    Restart,
    Lease,
    Clock(i32),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        4 => (0..20u8, 0..3u8).prop_map(|(events, losses)| Op::Take(events, losses)),
        1 => (0..20u8, 0..3u8).prop_map(|(events, losses)| Op::TakeAndDie(events, losses)),
        4 => Just(Op::Settle),
        1 => Just(Op::Restart),
        2 => Just(Op::Lease),
        3 => (-2_000..20_000i32).prop_map(Op::Clock),
    ];
    proptest::collection::vec(op, 0..200)
}

proptest! {
    /// What is written is sent once and in order; what was not written is not; no id is leased
    /// twice.
    #[test]
    fn nothing_is_lost_and_nothing_told_twice(ops in ops()) {
        let mut world = World::new();
        let (mut now, mut next) = (START, 0_u64);
        let (mut taken, mut lost) = (Vec::new(), 0);
        let mut leased = BTreeSet::new();
        for op in ops {
            match op {
                Op::Take(events, losses) => {
                    let events = next..next + u64::from(events);
                    next = events.end;
                    taken.extend(events.clone());
                    lost += u64::from(losses);
                    let rows = world.shard.take(now, &parcel(events, losses.into()), &TIMING);
                    world.write(rows);
                }
                Op::TakeAndDie(events, losses) => {
                    let events = next..next + u64::from(events);
                    next = events.end;
                    world.shard.take(now, &parcel(events, losses.into()), &TIMING);
                    world.restart();
                }
                Op::Settle => drop(world.settle(now)),
                Op::Restart => world.restart(),
                Op::Lease => {
                    let (mut lease, left) = world.shard.lease(now, &mut world.random);
                    world.ids = left;
                    prop_assert!(lease.left() <= u32::from(LEASE_IDS));
                    while let Some(id) = lease.next(now) {
                        prop_assert!(leased.insert(id.to_bytes()), "{id:?} was leased twice");
                    }
                }
                Op::Clock(by) => now = Timestamp(now.0.saturating_add_signed(by.into())),
            }
        }
        for _ in 0..100 {
            now = now.plus_ms(TIMING.idle_ms);
            world.settle(now);
        }
        prop_assert_eq!(world.settle(now), Idle::Sleep);
        prop_assert_eq!(world.told(), (taken, lost));
        prop_assert!(world.slots.is_empty());
    }
}
