//! Which numbered batches have been applied, and what every outbox is past.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use shared::keys::registered_name;
use shared::limits::{BATCH_NUMBERS_MAX, HORIZON_MS};
use shared::wire::BatchEntry;
use shared::{Id, Minute, OutboxId, Timestamp};

use super::contents::Contents;

/// The most runs beyond gaps that are kept of all outboxes of one edge, with its shards. One that sends in order has
/// none, one that sends 100 batches at once has at most 100. A batch that would make one more is
/// refused.
pub(super) const RUNS_MAX: usize = 1 << 14;
/// Of an edge that is out of service so many are kept: nobody waits for what is missing, so the
/// oldest gaps are given up, and it is never refused for them.
const RUNS_RETIRED_MAX: usize = 64;
/// The most outboxes that are remembered of one edge, with its shards: one that is started every minute
/// for a week does not reach it. For one more the one that was closed first is forgotten; where none is
/// closed, its batches are refused.
pub(super) const OUTBOXES_PER_EDGE_MAX: usize = 1 << 14;

/// What became of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Taken {
    /// Its number is new.
    New,
    /// It has been applied before.
    Known,
    /// Another has been applied under its number.
    Conflict,
    /// No outbox reaches its number.
    Malformed,
    /// Its edge has used up what is kept of one. The number stays missing.
    OverQuota,
}

/// What a partition knows of an outbox.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct OutboxState {
    /// All numbers before this one have been applied.
    pub next: u64,
    /// The watermark of the last of them: nothing older comes any more. [`Timestamp::MAX`] when the
    /// outbox is closed, and zero while there is none.
    pub watermark: Timestamp,
    /// Runs of numbers above `next` that have been applied, in order, never touching.
    pub above: Vec<Run>,
    /// The log's clock when the outbox was closed.
    pub closed_at: Option<Timestamp>,
    /// What came under its numbers.
    pub contents: Contents,
}

/// Neighbouring numbers that have been applied beyond a gap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// The first.
    pub first: u64,
    /// The one after the last.
    pub end: u64,
    /// The largest watermark among them; it holds when the gap before them is filled.
    pub watermark: Timestamp,
}

/// Numbers of an outbox that have not come although larger ones have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gap {
    /// Whose.
    pub outbox: OutboxId,
    /// Which.
    pub missing: Vec<Range<u64>>,
}

/// Batches that are waited for no more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct GivenUp {
    /// Near this time their events were received; zero when nothing tells.
    pub(super) after: Timestamp,
    /// How many.
    pub(super) batches: u64,
}

/// How complete the minutes of a partition are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Finality {
    /// Nothing older than this comes any more: the least watermark of the open outboxes, or the
    /// log's clock when none is open.
    pub watermark: Timestamp,
    /// The watermarks of the open outboxes, in order.
    pub(super) open: Vec<Timestamp>,
}

impl Finality {
    /// True when every open outbox is past this minute.
    #[must_use]
    pub fn is_final(&self, minute: Minute) -> bool {
        self.watermark >= minute.end()
    }

    /// How many open outboxes are not past this minute.
    #[must_use]
    pub fn behind(&self, minute: Minute) -> usize {
        self.open.partition_point(|watermark| *watermark < minute.end())
    }

    /// How many outboxes are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.len()
    }
}

impl OutboxState {
    /// Takes a number; false when it has been applied before.
    fn take(&mut self, number: u64, watermark: Timestamp) -> bool {
        if number < self.next {
            return false;
        }
        // The first run that ends behind the number: it holds it, touches it, or lies beyond it.
        let at = self.above.partition_point(|run| run.end < number);
        let touches = self.above.get(at).is_some_and(|run| run.end == number);
        if self.above.get(at).is_some_and(|run| (run.first..run.end).contains(&number)) {
            return false;
        }
        // The run to put it at the end of, if any, and the one that begins right behind it.
        let behind = at + usize::from(touches);
        let follows = self.above.get(behind).is_some_and(|run| run.first == number + 1);
        let mut run = Run { first: number, end: number + 1, watermark };
        if follows {
            let next = self.above.remove(behind);
            run.end = next.end;
            run.watermark = run.watermark.max(next.watermark);
        }
        if touches {
            let before = &mut self.above[at];
            before.end = run.end;
            before.watermark = before.watermark.max(run.watermark);
        } else if number == self.next {
            self.next = run.end;
            self.watermark = self.watermark.max(run.watermark);
        } else {
            self.above.insert(at, run);
        }
        true
    }

    /// Whether taking a number makes one more run: it is new, and touches none that is there.
    fn makes_a_run(&self, number: u64) -> bool {
        let at = self.above.partition_point(|run| run.end < number);
        let near = [self.above.get(at), self.above.get(at + 1)];
        let alone = |run: &Run| !(run.first.saturating_sub(1)..=run.end).contains(&number);
        number > self.next && near.into_iter().flatten().all(alone)
    }

    /// Gives up the oldest gap, of which there is one: what is missing there is waited for no more.
    fn give_up(&mut self) -> GivenUp {
        let given_up =
            GivenUp { after: self.before(self.next), batches: self.above[0].first - self.next };
        let run = self.above.remove(0);
        self.next = run.end;
        self.watermark = self.watermark.max(run.watermark);
        given_up
    }

    /// The watermark that stands before a number, or where none does, behind it: near it lie the
    /// events that the number would have brought. Zero where there is none either, or it tells no time.
    fn before(&self, number: u64) -> Timestamp {
        let at = self.above.partition_point(|run| run.end <= number);
        let before = at.checked_sub(1).map_or(self.watermark, |run| self.above[run].watermark);
        let behind = self.above.get(at).map_or(Timestamp(0), |run| run.watermark);
        let known = if before == Timestamp(0) { behind } else { before };
        if known == Timestamp::MAX { Timestamp(0) } else { known }
    }

    /// Whether what is missing may have had events between these times: they are not older than the
    /// watermark before the gap, nor younger than the one behind it.
    #[must_use]
    pub fn misses_between(&self, from: Timestamp, to: Timestamp) -> bool {
        let before =
            std::iter::once(self.watermark).chain(self.above.iter().map(|run| run.watermark));
        before.zip(&self.above).any(|(before, run)| before < to && run.watermark >= from)
    }

    /// One more than the largest number that has come.
    fn end(&self) -> u64 {
        self.above.last().map_or(self.next, |run| run.end)
    }

    /// Numbers that have not come although larger ones have.
    #[must_use]
    pub fn missing(&self) -> Vec<Range<u64>> {
        let ends = std::iter::once(self.next).chain(self.above.iter().map(|run| run.end));
        ends.zip(&self.above).map(|(end, run)| end..run.first).collect()
    }

    /// Whether it can be what a checkpoint wrote.
    fn is_sound(&self) -> bool {
        let mut end = self.next;
        let in_order = self.above.iter().all(|run| {
            let sound = end < run.first && run.first < run.end && run.end <= BATCH_NUMBERS_MAX;
            end = run.end;
            sound
        });
        in_order
            && (self.watermark == Timestamp::MAX) == self.closed_at.is_some()
            && self.contents.is_sound()
    }
}

/// All outboxes of a partition.
///
/// A closed outbox is remembered for the horizon, and then its edge's epochs up to this one are
/// over: a batch of an epoch that is over, and is not among the outboxes, has been applied long ago
/// and is skipped. (An edge sends its epochs in order, and what an edge has held for longer than
/// the horizon is too late anyway.)
#[derive(Clone, Debug, Default)]
pub(super) struct Outboxes {
    states: BTreeMap<OutboxId, OutboxState>,
    epochs: BTreeMap<Id, u64>,
    /// Edges that nobody waits for, and the log's clock when that was said.
    retired: BTreeMap<Id, Timestamp>,
    /// By the time of closing.
    closed: BTreeSet<(Timestamp, OutboxId)>,
    kept: BTreeMap<Id, Kept>,
    /// Since it was last asked for.
    given_up: Vec<GivenUp>,
    changed: BTreeSet<OutboxId>,
    changed_epochs: BTreeSet<Id>,
    changed_retired: BTreeSet<Id>,
    dropped: BTreeSet<OutboxId>,
}

/// How much is kept of an edge.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Kept {
    outboxes: usize,
    /// Of all its outboxes.
    runs: usize,
}

/// What a checkpoint writes of outboxes.
pub(super) struct OutboxChanges {
    pub(super) dropped: Vec<OutboxId>,
    pub(super) states: Vec<(OutboxId, OutboxState)>,
    pub(super) epochs: Vec<(Id, u64)>,
    pub(super) retired: Vec<(Id, Timestamp)>,
}

impl Outboxes {
    /// Takes a batch.
    pub(super) fn take(&mut self, batch: &BatchEntry, clock: Timestamp) -> Taken {
        let taken = self.take_number(batch.outbox, batch.number, batch.watermark, clock);
        let Some(state) = self.states.get_mut(&batch.outbox) else { return taken };
        match taken {
            Taken::New => {
                let end = state.end();
                state.contents.remember(batch.number, batch.digest, end);
            }
            Taken::Known if state.contents.is_conflict(batch, clock) => {
                self.changed.insert(batch.outbox);
                return Taken::Conflict;
            }
            _ => {}
        }
        taken
    }

    fn take_number(
        &mut self,
        outbox: OutboxId,
        number: u64,
        watermark: Timestamp,
        clock: Timestamp,
    ) -> Taken {
        if number >= BATCH_NUMBERS_MAX {
            return Taken::Malformed;
        }
        let makes_a_run = self.states.get(&outbox).map(|state| state.makes_a_run(number));
        let makes_a_run = match makes_a_run {
            Some(makes_a_run) => makes_a_run,
            None if self.epochs.get(&outbox.edge).is_some_and(|over| outbox.epoch <= *over) => {
                return Taken::Known;
            }
            None if !self.has_room(outbox.edge) => return Taken::OverQuota,
            None => number > 0,
        };
        if makes_a_run && !self.has_run_left(outbox.edge) {
            return Taken::OverQuota;
        }
        let kept = self.kept.entry(registered_name(outbox.edge)).or_default();
        let state = self.states.entry(outbox).or_insert_with(|| {
            kept.outboxes += 1;
            OutboxState::default()
        });
        let before = state.above.len();
        if !state.take(number, watermark) {
            return Taken::Known;
        }
        kept.runs = (kept.runs + state.above.len()).saturating_sub(before);
        self.give_up(outbox);
        self.has_changed(outbox, clock);
        Taken::New
    }

    /// Notes a change, and whether it has closed the outbox.
    fn has_changed(&mut self, outbox: OutboxId, clock: Timestamp) {
        let Some(state) = self.states.get_mut(&outbox) else { return };
        if state.watermark == Timestamp::MAX && state.closed_at.is_none() {
            state.closed_at = Some(clock);
            self.closed.insert((clock, outbox));
        }
        self.changed.insert(outbox);
    }

    /// Whether one more outbox of an edge can be remembered. Forgets the one that was closed first, if
    /// need be.
    fn has_room(&mut self, edge: Id) -> bool {
        if self.kept(edge).outboxes < OUTBOXES_PER_EDGE_MAX {
            return true;
        }
        let name = registered_name(edge);
        let first = self.closed.iter().find(|(_, closed)| registered_name(closed.edge) == name);
        let Some((closed_at, outbox)) = first.copied() else { return false };
        self.closed.remove(&(closed_at, outbox));
        self.forget(outbox);
        true
    }

    /// Whether an edge may have one more run. One that is out of service always may: its oldest gap
    /// is given up then.
    fn has_run_left(&self, edge: Id) -> bool {
        self.is_retired(edge) || self.kept(edge).runs < RUNS_MAX
    }

    fn kept(&self, edge: Id) -> Kept {
        self.kept.get(&registered_name(edge)).copied().unwrap_or_default()
    }

    /// Whether an edge, or the one whose shard it is, is out of service.
    fn is_retired(&self, edge: Id) -> bool {
        let is = |edge| self.retired.contains_key(&edge);
        !self.retired.is_empty() && (is(edge) || is(registered_name(edge)))
    }

    /// Gives up the oldest gaps of an outbox whose edge is out of service and has too many.
    fn give_up(&mut self, outbox: OutboxId) {
        if !self.is_retired(outbox.edge) {
            return;
        }
        let Some(state) = self.states.get_mut(&outbox) else { return };
        let Some(kept) = self.kept.get_mut(&registered_name(outbox.edge)) else { return };
        while kept.runs > RUNS_RETIRED_MAX && !state.above.is_empty() {
            self.given_up.push(state.give_up());
            kept.runs -= 1;
        }
    }

    /// Waits for an edge and its shards no more, whatever they send; the first word stands. What they
    /// have left behind in gaps is let go of.
    pub(super) fn retire(&mut self, edge: Id, clock: Timestamp) {
        let Entry::Vacant(vacant) = self.retired.entry(edge) else { return };
        vacant.insert(clock);
        self.changed_retired.insert(edge);
        let with_gaps = self.states.iter().filter(|(outbox, state)| {
            !state.above.is_empty() && [outbox.edge, registered_name(outbox.edge)].contains(&edge)
        });
        let with_gaps: Vec<_> = with_gaps.map(|(outbox, _)| *outbox).collect();
        for outbox in with_gaps {
            self.give_up(outbox);
            self.has_changed(outbox, clock);
        }
    }

    /// Waits for a batch no more. Of an outbox that is not known, or of a number that none reaches,
    /// nobody waits for anything.
    pub(super) fn resolve(&mut self, outbox: OutboxId, number: u64, clock: Timestamp) {
        let Some(state) = self.states.get(&outbox) else { return };
        let after = state.before(number);
        if self.take_number(outbox, number, Timestamp(0), clock) == Taken::New {
            self.given_up.push(GivenUp { after, batches: 1 });
        }
    }

    /// What has been given up since this was last asked.
    pub(super) fn given_up(&mut self) -> Vec<GivenUp> {
        std::mem::take(&mut self.given_up)
    }

    /// Lets go of outboxes that were closed before the horizon.
    pub(super) fn forget_behind(&mut self, clock: Timestamp) {
        while let Some((closed_at, outbox)) = self.closed.first().copied() {
            if closed_at.plus_ms(HORIZON_MS) >= clock {
                return;
            }
            self.closed.pop_first();
            self.forget(outbox);
        }
    }

    /// Forgets a closed outbox: its edge's epochs up to it are over.
    fn forget(&mut self, outbox: OutboxId) {
        if let Some(state) = self.states.remove(&outbox)
            && let Some(kept) = self.kept.get_mut(&registered_name(outbox.edge))
        {
            kept.outboxes -= 1;
            kept.runs -= state.above.len();
            if kept.outboxes == 0 {
                self.kept.remove(&registered_name(outbox.edge));
            }
        }
        self.changed.remove(&outbox);
        self.dropped.insert(outbox);
        let over = self.epochs.entry(outbox.edge).or_insert(outbox.epoch);
        *over = outbox.epoch.max(*over);
        self.changed_epochs.insert(outbox.edge);
    }

    /// Those that are waited for.
    fn open(&self) -> impl Iterator<Item = &OutboxState> {
        let open = self
            .states
            .iter()
            .filter(|(outbox, state)| state.closed_at.is_none() && !self.is_retired(outbox.edge));
        open.map(|(_, state)| state)
    }

    /// What is older than the horizon is too late whoever brings it: no outbox holds a minute open
    /// for longer.
    pub(super) fn finality(&self, clock: Timestamp) -> Finality {
        let horizon = clock.minus_ms(HORIZON_MS);
        let mut open: Vec<_> = self.open().map(|state| state.watermark.max(horizon)).collect();
        open.sort_unstable();
        Finality { watermark: open.first().copied().unwrap_or(clock), open }
    }

    /// [`Finality::watermark`] alone.
    pub(super) fn watermark(&self, clock: Timestamp) -> Timestamp {
        let least = self.open().map(|state| state.watermark).min().unwrap_or(clock);
        least.max(clock.minus_ms(HORIZON_MS))
    }

    pub(super) fn gaps(&self) -> Vec<Gap> {
        let with_gaps = self.states.iter().filter(|(_, state)| !state.above.is_empty());
        let gap = |(outbox, state): (&OutboxId, &OutboxState)| Gap {
            outbox: *outbox,
            missing: state.missing(),
        };
        with_gaps.map(gap).collect()
    }

    pub(super) fn conflicts(&self) -> impl Iterator<Item = (OutboxId, &OutboxState)> {
        self.all().filter(|(_, state)| state.contents.conflicts_all > 0)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (OutboxId, &OutboxState)> {
        self.states.iter().map(|(outbox, state)| (*outbox, state))
    }

    pub(super) fn retired(&self) -> &BTreeMap<Id, Timestamp> {
        &self.retired
    }

    pub(super) fn len(&self) -> usize {
        self.states.len()
    }

    pub(super) fn checkpoint(&mut self) -> OutboxChanges {
        let changed = std::mem::take(&mut self.changed);
        let epochs = std::mem::take(&mut self.changed_epochs);
        let retired = std::mem::take(&mut self.changed_retired);
        OutboxChanges {
            dropped: std::mem::take(&mut self.dropped).into_iter().collect(),
            states: changed.iter().map(|outbox| (*outbox, self.states[outbox].clone())).collect(),
            epochs: epochs.iter().map(|edge| (*edge, self.epochs[edge])).collect(),
            retired: retired.iter().map(|edge| (*edge, self.retired[edge])).collect(),
        }
    }

    /// Takes the rows of a snapshot back; none when one contradicts itself or is there twice.
    pub(super) fn load(
        states: Vec<(OutboxId, OutboxState)>,
        epochs: Vec<(Id, u64)>,
        retired: Vec<(Id, Timestamp)>,
    ) -> Option<Self> {
        let count = states.len();
        let closed = |(outbox, state): &(OutboxId, OutboxState)| Some((state.closed_at?, *outbox));
        let mut loaded = Self {
            closed: states.iter().filter_map(closed).collect(),
            epochs: epochs.into_iter().collect(),
            retired: retired.into_iter().collect(),
            states: states.into_iter().collect(),
            ..Self::default()
        };
        for (outbox, state) in &loaded.states {
            let kept = loaded.kept.entry(registered_name(outbox.edge)).or_default();
            kept.outboxes += 1;
            kept.runs += state.above.len();
        }
        let sound = loaded.states.values().all(OutboxState::is_sound);
        (sound && loaded.states.len() == count).then_some(loaded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_all(numbers: &[u64]) -> (OutboxState, Vec<bool>) {
        let mut state = OutboxState::default();
        let taken = numbers.iter().map(|n| state.take(*n, Timestamp(100 + n))).collect();
        assert!(state.is_sound(), "{state:?}");
        (state, taken)
    }

    #[test]
    fn watermarks_pass_no_gap() {
        let (state, taken) = take_all(&[0, 1, 3, 4, 7, 6, 3]);
        assert_eq!(taken, [true, true, true, true, true, true, false]);
        assert_eq!((state.next, state.watermark), (2, Timestamp(101)));
        assert_eq!(state.missing(), [2..3, 5..6]);
        let (state, _) = take_all(&[0, 1, 3, 4, 7, 6, 2]);
        assert_eq!((state.next, state.watermark), (5, Timestamp(104)));
        assert_eq!(state.missing(), [Range { start: 5, end: 6 }]);
        let (state, _) = take_all(&[1, 0, 3, 4, 7, 6, 5, 2]);
        assert_eq!((state.next, state.watermark, state.above.len()), (8, Timestamp(107), 0));
    }

    #[test]
    fn every_order_of_seven_numbers_ends_alike() {
        let mut orders = vec![vec![]];
        for n in 0..7_u64 {
            let longer = orders.iter().flat_map(|order: &Vec<u64>| {
                (0..=order.len()).map(move |at| [&order[..at], &[n], &order[at..]].concat())
            });
            orders = longer.collect();
        }
        assert_eq!(orders.len(), 5_040);
        for order in orders {
            let twice: Vec<u64> = order.iter().flat_map(|n| [*n, *n]).collect();
            let (state, taken) = take_all(&twice);
            assert_eq!((state.next, state.watermark), (7, Timestamp(106)), "{order:?}");
            assert!(taken.chunks(2).all(|pair| pair == [true, false]), "{order:?}");
        }
    }
}
