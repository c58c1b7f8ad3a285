//! All outboxes of a partition: how many are remembered, and which of them are waited for.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use shared::keys::registered_name;
use shared::limits::{BATCH_NUMBERS_MAX, HORIZON_MS};
use shared::wire::BatchEntry;
use shared::{EdgeId, Minute, OutboxId, Timestamp};

use super::outbox::{GivenUp, OutboxState};

/// The most runs beyond gaps that are kept of one edge with its shards, over all outboxes. An
/// outbox that sends in order has none, one that sends 100 batches at once has at most 100. A batch
/// that would make one more cuts the edge off.
pub(super) const RUNS_MAX: usize = 1 << 14;
/// The most runs that are kept of an edge that is out of service. Nobody waits for its missing
/// batches, so beyond this its oldest gaps are given up, and it is not cut off for them.
const RUNS_RETIRED_MAX: usize = 64;
/// The most outboxes that are remembered of one edge with its shards. An edge that is started anew
/// every minute does not reach it: a week has fewer minutes, and a closed outbox is forgotten after
/// a week. One more cuts the edge off: if an older outbox were forgotten instead, its batches could
/// be sent and applied once more.
pub(super) const OUTBOXES_PER_EDGE_MAX: usize = 1 << 14;

/// The most epochs that are over, of one edge with its shards: one is kept for each shard. Only an
/// edge that gives its shards ever new names reaches it, and one more outbox cuts that edge off.
const EPOCHS_PER_EDGE_MAX: usize = 1 << 14;

/// What became of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Taken {
    /// Its number is new.
    New,
    /// It has been applied before.
    Known,
    /// Another batch has been applied under its number.
    Conflict,
    /// Its number is larger than any outbox reaches.
    Malformed,
    /// Its edge has used up its quota, and is cut off. The number stays missing.
    OverQuota,
}

/// The batch from which on an edge, with its shards, is cut off: neither this one nor any later one
/// counts, and nobody waits for any. A single place in the log, so that a recount has to know
/// nothing more of the edge to leave out the same batches.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct CutOff {
    /// The message, by its sequence.
    pub sequence: u64,
    /// The first of its batches that does not count.
    pub entry: u16,
}

/// Numbers of an outbox that have not come although larger ones have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gap {
    /// The outbox.
    pub outbox: OutboxId,
    /// The missing numbers, in order.
    pub missing: Vec<Range<u64>>,
}

/// How complete the minutes of a partition are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Finality {
    /// Nothing older than this comes any more: the least watermark of the open outboxes, or the
    /// log's clock when none is open. An outbox is open when it is not closed and is waited for.
    pub watermark: Timestamp,
    /// The watermarks of the open outboxes, ascending.
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

/// All outboxes of a partition.
///
/// A closed outbox is remembered for the horizon. Then it is forgotten, and its edge's epochs up to
/// this one are over: a batch of such an epoch whose outbox is not remembered has been applied long
/// ago and is skipped. (An edge sends its epochs in order, and what it has held for longer than the
/// horizon is too late anyway.)
#[derive(Clone, Debug, Default)]
pub(super) struct Outboxes {
    states: BTreeMap<OutboxId, OutboxState>,
    /// By edge or shard, the last epoch that is over.
    epochs: BTreeMap<EdgeId, u64>,
    /// How many entries `epochs` has of each edge with its shards, by the registered name.
    epochs_per_edge: BTreeMap<EdgeId, usize>,
    /// Edges that are out of service and that nobody waits for, and the log's clock when they were
    /// retired.
    retired: BTreeMap<EdgeId, Timestamp>,
    /// By the registered name.
    cut_off: BTreeMap<EdgeId, CutOff>,
    /// Closed outboxes by the time of closing, in which order they are forgotten.
    closed: BTreeSet<(Timestamp, OutboxId)>,
    /// Open outboxes by their watermarks: each message asks for the least.
    open: BTreeSet<(Timestamp, OutboxId)>,
    /// How much is kept of each edge with its shards, by the registered name.
    kept: BTreeMap<EdgeId, Kept>,
    /// What was given up since [`Self::given_up`] was last called.
    given_up: Vec<GivenUp>,
    changed: BTreeSet<OutboxId>,
    changed_epochs: BTreeSet<EdgeId>,
    changed_retired: BTreeSet<EdgeId>,
    changed_cut_off: BTreeSet<EdgeId>,
    dropped: BTreeSet<OutboxId>,
}

/// How much is kept of an edge with its shards.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Kept {
    outboxes: usize,
    /// The runs beyond gaps of all its outboxes.
    runs: usize,
    /// The conflicts of all its outboxes, without the newest of each.
    conflicts: usize,
}

/// What a checkpoint writes of outboxes.
pub(super) struct OutboxChanges {
    pub(super) dropped: Vec<OutboxId>,
    pub(super) states: Vec<(OutboxId, OutboxState)>,
    pub(super) epochs: Vec<(EdgeId, u64)>,
    pub(super) retired: Vec<(EdgeId, Timestamp)>,
    pub(super) cut_off: Vec<(EdgeId, CutOff)>,
}

impl Outboxes {
    /// Takes a batch. `at`: its place in the log, from which on its edge is cut off if it has used
    /// up its quota.
    pub(super) fn take(&mut self, batch: &BatchEntry, at: CutOff, clock: Timestamp) -> Taken {
        let taken = self.take_number(batch.outbox, batch.number, batch.watermark, clock);
        if taken == Taken::OverQuota {
            self.cut_off(batch.outbox.edge, at);
        }
        let Some(state) = self.states.get_mut(&batch.outbox) else { return taken };
        let kept = self.kept.entry(registered_name(batch.outbox.edge)).or_default();
        match taken {
            Taken::New => {
                let end = state.end();
                state.contents.remember(batch.number, batch.digest, end, kept.outboxes);
            }
            Taken::Known if state.contents.is_conflict(batch, clock, &mut kept.conflicts) => {
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
        let state = self.states.get(&outbox);
        let is_over = || self.epochs.get(&outbox.edge).is_some_and(|over| outbox.epoch <= *over);
        if state.map_or_else(is_over, |state| state.has(number)) {
            return Taken::Known;
        }
        let makes_a_run = state.map_or(number > 0, |state| state.makes_a_run(number));
        let is_new = state.is_none();
        if self.is_cut_off(outbox.edge)
            || (is_new && !self.has_room(outbox.edge))
            || (makes_a_run && !self.has_run_left(outbox.edge))
        {
            return Taken::OverQuota;
        }
        self.put(outbox, number, watermark, clock);
        Taken::New
    }

    /// Takes a number that has not come before. The caller has made sure that its outbox may be
    /// remembered.
    fn put(&mut self, outbox: OutboxId, number: u64, watermark: Timestamp, clock: Timestamp) {
        let was_open = self.open_at(outbox);
        let kept = self.kept.entry(registered_name(outbox.edge)).or_default();
        let state = self.states.entry(outbox).or_insert_with(|| {
            kept.outboxes += 1;
            OutboxState::default()
        });
        let before = state.above.len();
        let taken = state.take(number, watermark);
        debug_assert!(taken, "it was not known");
        if watermark == Timestamp::MAX {
            state.ended_at.get_or_insert(clock);
        }
        kept.runs = (kept.runs + state.above.len()).saturating_sub(before);
        self.give_up(outbox);
        self.has_changed(outbox, clock);
        let is_open = self.open_at(outbox);
        if is_open != was_open {
            was_open.map(|watermark| self.open.remove(&(watermark, outbox)));
            is_open.map(|watermark| self.open.insert((watermark, outbox)));
        }
    }

    /// The watermark of an outbox that is open; none of any other.
    fn open_at(&self, outbox: OutboxId) -> Option<Timestamp> {
        let open = self.states.get(&outbox).filter(|state| state.closed_at.is_none());
        open.filter(|_| self.is_waited_for(outbox.edge)).map(|state| state.watermark)
    }

    /// Cuts an edge off, with its shards, from this place on. One that is cut off already stays so
    /// from its first place on.
    fn cut_off(&mut self, edge: EdgeId, at: CutOff) {
        let name = registered_name(edge);
        if let Entry::Vacant(vacant) = self.cut_off.entry(name) {
            vacant.insert(at);
            self.changed_cut_off.insert(name);
            self.open.retain(|(_, outbox)| registered_name(outbox.edge) != name);
        }
    }

    fn is_cut_off(&self, edge: EdgeId) -> bool {
        !self.cut_off.is_empty() && self.cut_off.contains_key(&registered_name(edge))
    }

    /// Notes that an outbox has changed, and when it was closed if it is now.
    fn has_changed(&mut self, outbox: OutboxId, clock: Timestamp) {
        let Some(state) = self.states.get_mut(&outbox) else { return };
        if state.watermark == Timestamp::MAX && state.closed_at.is_none() {
            state.closed_at = Some(clock);
            self.closed.insert((clock, outbox));
        }
        self.changed.insert(outbox);
    }

    /// Whether one more outbox of an edge can be remembered.
    fn has_room(&self, edge: EdgeId) -> bool {
        let epochs = self.epochs_per_edge.get(&registered_name(edge)).copied().unwrap_or(0);
        self.kept(edge).outboxes < OUTBOXES_PER_EDGE_MAX && epochs < EPOCHS_PER_EDGE_MAX
    }

    /// Whether an edge may have one more run. An edge that is out of service always may: its oldest
    /// gap is given up instead.
    fn has_run_left(&self, edge: EdgeId) -> bool {
        self.is_retired(edge) || self.kept(edge).runs < RUNS_MAX
    }

    fn kept(&self, edge: EdgeId) -> Kept {
        self.kept.get(&registered_name(edge)).copied().unwrap_or_default()
    }

    /// Whether an edge, or the one whose shard it is, is out of service.
    fn is_retired(&self, edge: EdgeId) -> bool {
        let is_retired = |edge| self.retired.contains_key(&edge);
        !self.retired.is_empty() && (is_retired(edge) || is_retired(registered_name(edge)))
    }

    /// Gives up the oldest gaps of an outbox whose edge is out of service and has too many.
    fn give_up(&mut self, outbox: OutboxId) {
        if !self.is_retired(outbox.edge) {
            return;
        }
        let Some(state) = self.states.get_mut(&outbox) else { return };
        let Some(kept) = self.kept.get_mut(&registered_name(outbox.edge)) else { return };
        // Each round gives up one gap of this outbox, and with it a run.
        while kept.runs > RUNS_RETIRED_MAX && !state.above.is_empty() {
            self.given_up.push(state.give_up());
            kept.runs -= 1;
        }
    }

    /// Takes an edge and its shards out of service: nobody waits for them any more, whatever they
    /// send. For an edge that is out of service already the first time stands. Of their gaps, the
    /// oldest are given up as far as there are too many.
    pub(super) fn retire(&mut self, edge: EdgeId, clock: Timestamp) {
        let Entry::Vacant(vacant) = self.retired.entry(edge) else { return };
        vacant.insert(clock);
        self.changed_retired.insert(edge);
        let is_its =
            |outbox: &OutboxId| [outbox.edge, registered_name(outbox.edge)].contains(&edge);
        self.open.retain(|(_, outbox)| !is_its(outbox));
        let with_gaps =
            self.states.iter().filter(|(outbox, state)| !state.above.is_empty() && is_its(outbox));
        let with_gaps: Vec<_> = with_gaps.map(|(outbox, _)| *outbox).collect();
        for outbox in with_gaps {
            self.give_up(outbox);
            self.has_changed(outbox, clock);
        }
    }

    /// Waits no more for a batch that is missing although a later one has come. Any other batch may
    /// still come, so for it nothing happens: an operator who errs in the number gives up nothing.
    /// The edge's limit of runs does not hold here, since a recount does not know of runs.
    pub(super) fn resolve(&mut self, outbox: OutboxId, number: u64, clock: Timestamp) {
        let Some(state) = self.states.get(&outbox) else { return };
        if number >= state.end() || state.has(number) || self.is_cut_off(outbox.edge) {
            return;
        }
        let after = state.before(number);
        self.put(outbox, number, Timestamp(0), clock);
        self.given_up.push(GivenUp { after, batches: 1 });
    }

    /// Returns what was given up since the last call.
    pub(super) fn given_up(&mut self) -> Vec<GivenUp> {
        std::mem::take(&mut self.given_up)
    }

    /// Forgets outboxes that were closed before the horizon.
    pub(super) fn forget_behind(&mut self, clock: Timestamp) {
        // In the order of closing: behind the first that stays, all stay.
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
            kept.conflicts -= state.contents.conflicts.len().saturating_sub(1);
            if kept.outboxes == 0 {
                self.kept.remove(&registered_name(outbox.edge));
            }
        }
        self.changed.remove(&outbox);
        self.dropped.insert(outbox);
        self.changed_epochs.insert(outbox.edge);
        match self.epochs.entry(outbox.edge) {
            Entry::Occupied(mut over) => *over.get_mut() = outbox.epoch.max(*over.get()),
            Entry::Vacant(vacant) => {
                vacant.insert(outbox.epoch);
                *self.epochs_per_edge.entry(registered_name(outbox.edge)).or_default() += 1;
            }
        }
    }

    fn is_waited_for(&self, edge: EdgeId) -> bool {
        !self.is_retired(edge) && !self.is_cut_off(edge)
    }

    /// How complete minutes are. No outbox keeps a minute from being final for longer than the
    /// horizon: after that its events are too late, whoever brings them.
    pub(super) fn finality(&self, clock: Timestamp) -> Finality {
        let horizon = clock.minus_ms(HORIZON_MS);
        let open: Vec<_> =
            self.open.iter().map(|(watermark, _)| (*watermark).max(horizon)).collect();
        Finality { watermark: open.first().copied().unwrap_or(clock), open }
    }

    /// [`Finality::watermark`] alone.
    pub(super) fn watermark(&self, clock: Timestamp) -> Timestamp {
        let least = self.open.first().map_or(clock, |(watermark, _)| *watermark);
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

    pub(super) fn all_cut_off(&self) -> &BTreeMap<EdgeId, CutOff> {
        &self.cut_off
    }

    pub(super) fn retired(&self) -> &BTreeMap<EdgeId, Timestamp> {
        &self.retired
    }

    pub(super) fn len(&self) -> usize {
        self.states.len()
    }

    pub(super) fn checkpoint(&mut self) -> OutboxChanges {
        let changed = std::mem::take(&mut self.changed);
        let epochs = std::mem::take(&mut self.changed_epochs);
        let retired = std::mem::take(&mut self.changed_retired);
        let cut_off = std::mem::take(&mut self.changed_cut_off);
        OutboxChanges {
            dropped: std::mem::take(&mut self.dropped).into_iter().collect(),
            states: changed.iter().map(|outbox| (*outbox, self.states[outbox].clone())).collect(),
            epochs: epochs.iter().map(|edge| (*edge, self.epochs[edge])).collect(),
            retired: retired.iter().map(|edge| (*edge, self.retired[edge])).collect(),
            cut_off: cut_off.iter().map(|edge| (*edge, self.cut_off[edge])).collect(),
        }
    }

    /// Takes the rows of a snapshot back; none when an outbox contradicts itself or is there twice.
    pub(super) fn load(
        states: Vec<(OutboxId, OutboxState)>,
        epochs: Vec<(EdgeId, u64)>,
        retired: Vec<(EdgeId, Timestamp)>,
        cut_off: Vec<(EdgeId, CutOff)>,
    ) -> Option<Self> {
        let count = states.len();
        let closed = |(outbox, state): &(OutboxId, OutboxState)| Some((state.closed_at?, *outbox));
        let mut loaded = Self {
            closed: states.iter().filter_map(closed).collect(),
            epochs: epochs.into_iter().collect(),
            retired: retired.into_iter().collect(),
            cut_off: cut_off.into_iter().collect(),
            states: states.into_iter().collect(),
            ..Self::default()
        };
        for edge in loaded.epochs.keys() {
            *loaded.epochs_per_edge.entry(registered_name(*edge)).or_default() += 1;
        }
        for (outbox, state) in &mut loaded.states {
            let kept = loaded.kept.entry(registered_name(outbox.edge)).or_default();
            kept.outboxes += 1;
            kept.runs += state.above.len();
            kept.conflicts += state.contents.conflicts.len().saturating_sub(1);
            // An earlier build may have kept more of an edge.
            state.contents.keep_newest(&mut kept.conflicts);
        }
        let open = |outbox: &OutboxId| Some((loaded.open_at(*outbox)?, *outbox));
        loaded.open = loaded.states.keys().filter_map(open).collect();
        let sound = loaded.states.values().all(OutboxState::is_sound);
        (sound && loaded.states.len() == count).then_some(loaded)
    }
}

#[cfg(test)]
mod tests;
