#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use super::*;

const KIND: Kind = Kind::Click;
const WHY: Reason = Reason::BadSeal;

fn at(minute: u32) -> Timestamp {
    Minute(minute).start()
}

/// The slots as a file would hold them.
#[derive(Clone)]
struct Paper(Vec<[u8; SLOT_BYTES]>);

impl Paper {
    fn new() -> Self {
        Self(vec![[0; SLOT_BYTES]; SLOTS])
    }

    fn write(&mut self, table: &TallyTable, changed: &[usize]) {
        for at in changed {
            self.0[*at] = Slot::to_bytes(table.slot(*at));
        }
    }

    fn recover(&self, last: Option<(u64, u64)>) -> TallyTable {
        let slots = self.0.iter().map(|bytes| Slot::from_bytes(bytes).unwrap()).collect();
        TallyTable::recover(slots, last).0
    }
}

fn sum(tallies: &[Tally]) -> u64 {
    tallies.iter().map(|tally| u64::from(tally.count)).sum()
}

/// Every moment at which the process may die during a hand-over, while counting goes on: what the
/// log has, plus what the next process finds, is what was counted.
#[test]
fn a_crash_at_any_point_of_a_hand_over_reports_once() {
    for written in 0..=3 {
        let mut paper = Paper::new();
        let mut table = TallyTable::default();
        let mut log: Option<(u64, u64)> = Some((7, 4));
        let mut in_log = 0;
        let mut counted = 0;
        let mut add = |table: &mut TallyTable, paper: &mut Paper, minute, count| {
            let changed = table.add(at(minute), KIND, WHY, count);
            paper.write(table, &[changed]);
            counted += u64::from(count);
        };
        add(&mut table, &mut paper, 10, 3);
        add(&mut table, &mut paper, 11, 4);
        let (tallies, changed) = table.mark(7, 5);
        // Some slots may be written and others not when it dies here.
        let marked = if written == 0 { changed.len() / 2 } else { changed.len() };
        paper.write(&table, &changed[..marked]);
        if written >= 1 {
            add(&mut table, &mut paper, 11, 5);
        }
        if written >= 2 {
            log = Some((7, 5));
            in_log = sum(&tallies);
            add(&mut table, &mut paper, 12, 6);
        }
        if written >= 3 {
            let changed = table.reported();
            paper.write(&table, &changed);
            add(&mut table, &mut paper, 11, 1);
        }
        let found = paper.recover(log);
        assert_eq!(in_log + found.total(), counted, "died after step {written}");
        // And the process after that one reports the rest in its first batch.
        let mut found = found;
        let (rest, _) = found.mark(8, 0);
        assert_eq!(in_log + sum(&rest), counted, "died after step {written}");
    }
}

#[test]
fn a_batch_that_was_not_written_takes_nothing() {
    let mut table = TallyTable::default();
    table.add(at(5), KIND, WHY, 2);
    let (tallies, _) = table.mark(1, 0);
    assert_eq!(sum(&tallies), 2);
    table.add(at(5), KIND, WHY, 1);
    table.kept();
    assert_eq!(table.total(), 3);
    let (again, _) = table.mark(1, 0);
    assert_eq!(sum(&again), 3);
    table.reported();
    assert!(table.is_empty());
}

#[test]
fn a_full_table_merges_into_the_newest_of_a_kind_and_loses_nothing() {
    let mut table = TallyTable::default();
    let mut counted: BTreeMap<(Kind, Reason), u64> = BTreeMap::new();
    for minute in 0..2 * u32::try_from(SLOTS).unwrap() {
        let kind = Kind::ALL[minute as usize % 4];
        let reason = Reason::ALL[minute as usize / 4 % Reason::ALL.len()];
        // The first thousands are all of one kind and reason, and use up the slots that are free
        // for all.
        let (kind, reason) = if minute < 5_000 { (KIND, WHY) } else { (kind, reason) };
        table.add(at(minute), kind, reason, 2);
        *counted.entry((kind, reason)).or_default() += 2;
    }
    let (tallies, _) = table.mark(1, 0);
    assert!(tallies.len() <= SLOTS);
    let mut found: BTreeMap<(Kind, Reason), u64> = BTreeMap::new();
    for tally in &tallies {
        *found.entry((tally.kind, tally.reason)).or_default() += u64::from(tally.count);
    }
    assert_eq!(found, counted);
    let newest = tallies.iter().filter(|tally| (tally.kind, tally.reason) == (KIND, WHY));
    let newest = newest.max_by_key(|tally| tally.minute).unwrap();
    assert!(newest.count > 2, "the newest slot of its sort took the rest");
}

#[test]
fn nothing_is_counted_into_a_minute_that_was_declared_complete() {
    let mut table = TallyTable::default();
    table.add(at(5), KIND, WHY, 1);
    assert!(!table.is_due(at(5).plus_ms(59_999)));
    assert!(table.is_due(at(6)), "a batch that completes minute 5 takes its counts");
    table.raise_floor(at(6));
    table.mark(1, 0);
    table.reported();
    // A request that read its clock before the batch was sealed.
    table.add(at(5).plus_ms(59_999), KIND, WHY, 1);
    let (tallies, _) = table.mark(1, 1);
    assert_eq!(tallies[0].minute, Minute(6));
}

#[test]
fn more_than_a_batch_can_say_is_said_in_two() {
    let mut table = TallyTable::default();
    table.add(at(5), KIND, WHY, u32::MAX);
    table.add(at(5), KIND, WHY, 7);
    let (first, _) = table.mark(1, 0);
    table.reported();
    let (second, _) = table.mark(1, 1);
    let most = u64::from(u32::MAX) - (1 << 16);
    assert_eq!((sum(&first), sum(&second)), (most, 7 + (1 << 16)));

    // Of many minutes the oldest are reported first, and no batch reports more than a minute's
    // count can hold.
    let mut table = TallyTable::default();
    for minute in [9, 8, 7] {
        table.add(at(minute), KIND, WHY, u32::MAX / 2);
    }
    let (first, _) = table.mark(1, 0);
    table.reported();
    assert_eq!((first[0].minute, first[1].minute, sum(&first)), (Minute(7), Minute(8), most));
    let (second, _) = table.mark(1, 1);
    assert_eq!(second.last().unwrap().minute, Minute(9));
    assert_eq!(sum(&first) + sum(&second), 3 * u64::from(u32::MAX / 2));
}

#[test]
fn bytes_that_are_no_slot_are_refused() {
    let mut table = TallyTable::default();
    let changed = table.add(at(5), KIND, WHY, 9);
    table.mark(3, 4);
    let bytes = Slot::to_bytes(table.slot(changed));
    assert_eq!(Slot::from_bytes(&bytes).unwrap().as_ref(), table.slot(changed));
    for (at, value) in [(4, 9), (5, 0), (5, 99), (6, 2), (7, 0), (7, 2), (8, 1)] {
        let mut wrong = bytes;
        wrong[at] = value;
        assert!(Slot::from_bytes(&wrong).is_err(), "byte {at} is {value}");
    }
}
