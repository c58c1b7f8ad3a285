//! The engine of one partition.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use eventlog::Position;
use shared::clock::LogClock;
use shared::event::REASON_CODES;
use shared::limits::{CLOCK_AHEAD_MS_MAX, HORIZON_MS};
use shared::name::Any;
use shared::wire::{Control, MessageView, Word};
use shared::{
    AdId, AnyId, EdgeId, Kind, Minute, NameBuf, OutboxId, PublisherId, SourceId, Timestamp,
    Validity,
};

use super::accounts::MinuteAccount;
use super::apply::Scratch;
use super::cells::Minutes;
use super::changes::{Cell, CellAmount, Changes, Snapshot};
use super::dedup::Dedup;
use super::error::EngineError;
use super::outbox::{GivenUp, OutboxState};
use super::outboxes::{CutOff, Finality, Gap, Outboxes};
use super::page_views::{PageViews, Told};
use super::sources::{SourceState, Sources};
use crate::facts::{Part, Tail};

/// How an engine keeps its state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// How many whole minutes stay in memory after a checkpoint, up to that of the log's clock.
    pub resident_minutes: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { resident_minutes: 120 }
    }
}

/// What a message did: for metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Applied {
    /// Events and tallied events that got an outcome: the sum of `counted`, `duplicate` and all
    /// `reasons`.
    pub events: u64,
    /// Valid, and seen for the first time.
    pub counted: u64,
    /// Seen before.
    pub duplicate: u64,
    /// By the code of the reason.
    pub reasons: [u64; REASON_CODES],
    /// Batches that had been applied before: skipped with all their events.
    pub redelivered: u64,
    /// Batches under whose number another had been applied: skipped too, and kept as conflicts.
    pub conflicts: u64,
}

/// What an engine holds in memory: for metrics, and for deciding when to checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Size {
    /// Bytes of dedup state, all overhead included.
    pub dedup_bytes: usize,
    /// Bytes of cells, amounts and totals, saved and unsaved.
    pub cell_bytes: usize,
    /// Cells that are saved and resident.
    pub resident_cells: usize,
    /// Cells that the next checkpoint will bring.
    pub unsaved_cells: usize,
    /// Dedup containers that the next checkpoint will bring.
    pub unsaved_containers: usize,
    /// Distinct ads and publishers.
    pub ids: usize,
    /// Outboxes known, open or closed.
    pub outboxes: usize,
    /// Imported logs known.
    pub sources: usize,
    /// Page views remembered.
    pub page_views: usize,
    /// Facts that the next checkpoint will bring, and their bytes.
    pub facts: usize,
    /// Their bytes.
    pub facts_bytes: usize,
}

/// The count engine of one partition.
#[derive(Debug)]
pub struct Engine {
    pub(super) partition: u16,
    settings: Settings,
    position: Option<Position>,
    pub(super) clock: Timestamp,
    /// Where stamps that are too far ahead of it began.
    ahead: Option<Timestamp>,
    /// The largest watermark so far. Every minute before it was final once, even if a new outbox
    /// has moved the watermark back since.
    pub(super) settled: Timestamp,
    pub(super) dedup: Dedup,
    pub(super) minutes: Minutes,
    pub(super) outboxes: Outboxes,
    pub(super) sources: Sources,
    pub(super) page_views: PageViews,
    pub(super) scratch: Scratch,
    pub(super) tail: Tail,
    facts_from: Minute,
}

impl Engine {
    /// An engine that has seen nothing.
    #[must_use]
    pub fn new(partition: u16, settings: Settings) -> Self {
        Self {
            partition,
            settings,
            position: None,
            clock: Timestamp(0),
            ahead: None,
            settled: Timestamp(0),
            dedup: Dedup::default(),
            minutes: Minutes::new(),
            outboxes: Outboxes::default(),
            sources: Sources::default(),
            page_views: PageViews::default(),
            scratch: Scratch::default(),
            tail: Tail::default(),
            facts_from: Minute(0),
        }
    }

    /// Goes on from what a store holds.
    ///
    /// # Errors
    /// [`EngineError::Snapshot`] when the snapshot contradicts itself.
    pub fn restore(
        partition: u16,
        settings: Settings,
        snapshot: Snapshot,
    ) -> Result<Self, EngineError> {
        let mut engine = Self::new(partition, settings);
        engine.position = snapshot.position;
        engine.clock = snapshot.clock;
        engine.ahead = snapshot.ahead;
        engine.settled = snapshot.settled;
        for (key, container) in snapshot.containers {
            if !engine.dedup.load(&key, &container) {
                return Err(EngineError::Snapshot("a dedup page is there twice, or cannot be"));
            }
        }
        // An earlier build kept no facts. Nothing was counted by it from the resident minutes on.
        engine.facts_from = snapshot.facts_from.unwrap_or(snapshot.resident_from);
        engine.minutes.load(snapshot.resident_from, &snapshot.minutes)?;
        engine.outboxes =
            Outboxes::load(snapshot.outboxes, snapshot.epochs, snapshot.retired, snapshot.cut_off)
                .ok_or(EngineError::Snapshot("an outbox is there twice, or contradicts itself"))?;
        engine.sources = Sources::load(snapshot.sources);
        engine.page_views = PageViews::load(snapshot.page_views);
        Ok(engine)
    }

    /// Applies the next message of the log, whose sequence is one more than that of the last. Every
    /// event in it gets an outcome, whatever the message says.
    ///
    /// # Errors
    /// [`EngineError`], and then nothing has changed.
    pub fn apply(
        &mut self,
        message: &MessageView<'_>,
        position: Position,
    ) -> Result<Applied, EngineError> {
        self.follows(position)?;
        if message.partition != self.partition {
            let (expected, got) = (self.partition, message.partition);
            return Err(EngineError::Partition { expected, got });
        }
        let applied = self.take(message, position.sequence);
        self.position = Some(position);
        Ok(applied)
    }

    /// Applies an operator's word, as [`Engine::apply`] does a message.
    ///
    /// # Errors
    /// [`EngineError`], and then nothing has changed.
    pub fn control(&mut self, control: &Control, position: Position) -> Result<(), EngineError> {
        self.follows(position)?;
        if control.partition != self.partition {
            let (expected, got) = (self.partition, control.partition);
            return Err(EngineError::Partition { expected, got });
        }
        self.begin(control.stamp);
        match control.word {
            Word::Retire { edge } => self.outboxes.retire(edge, self.clock),
            Word::Resolve { outbox, number } => self.outboxes.resolve(outbox, number, self.clock),
        }
        self.account_for_given_up();
        self.position = Some(position);
        Ok(())
    }

    /// Notes batches that are waited for no more in the account of the minute near which their
    /// events were received; where nothing tells that, in the minute of the log's clock. Like any
    /// event they stand no further back than the horizon, and no further ahead than clocks may
    /// differ.
    pub(super) fn account_for_given_up(&mut self) {
        for GivenUp { after, batches } in self.outboxes.given_up() {
            let after = if after == Timestamp(0) { self.clock } else { after };
            let first = self.clock.minus_ms(HORIZON_MS);
            let minute = after.clamp(first, self.clock.plus_ms(CLOCK_AHEAD_MS_MAX)).minute();
            let place = self.minutes.place(minute);
            let account = &mut self.minutes.unsaved(place).account;
            account.given_up = account.given_up.saturating_add(batches);
        }
    }

    /// Passes over a message in the log that no program of ours wrote. Should it have replaced one
    /// of ours, the numbers of its batches are missing: they are told as a gap, and the minutes of
    /// the gap do not become final.
    ///
    /// # Errors
    /// [`EngineError`], and then nothing has changed.
    pub fn pass_over(&mut self, position: Position) -> Result<(), EngineError> {
        self.follows(position)?;
        self.position = Some(position);
        Ok(())
    }

    /// Checks that this position is the one behind the last, in the same log.
    fn follows(&self, position: Position) -> Result<(), EngineError> {
        let expected = self.position.map_or(1, |last| last.sequence.saturating_add(1));
        if position.sequence != expected {
            return Err(EngineError::Sequence { expected, got: position.sequence });
        }
        if self.position.is_some_and(|last| last.identity != position.identity) {
            return Err(EngineError::Identity);
        }
        Ok(())
    }

    /// Done first for every message: moves the clock on, and forgets what is now behind the
    /// horizon.
    pub(super) fn begin(&mut self, stamp: Timestamp) {
        self.settled = self.settled.max(self.outboxes.watermark(self.clock));
        self.advance(stamp);
        self.dedup.forget_behind(self.clock);
        self.outboxes.forget_behind(self.clock);
        self.page_views.forget_behind(self.clock);
    }

    /// Everything that changed since the last checkpoint. The engine takes it as saved from here
    /// on, so the caller must write it in one atomic write, or drop the engine. Minutes that are no
    /// longer resident are dropped from memory.
    #[must_use = "what is not written is lost"]
    pub fn checkpoint(&mut self) -> Changes {
        let kept = self.settings.resident_minutes.saturating_sub(1);
        let resident_from = Minute(self.clock.minute().0.saturating_sub(kept));
        let (minutes, mut names) = self.minutes.checkpoint(resident_from);
        let (facts, of_facts) = self.tail.checkpoint();
        names.extend(of_facts);
        names.sort_unstable();
        names.dedup();
        let (dropped_containers, containers) = self.dedup.checkpoint();
        let outboxes = self.outboxes.checkpoint();
        Changes {
            position: self.position,
            clock: self.clock,
            ahead: self.ahead,
            settled: self.settled.max(self.outboxes.watermark(self.clock)),
            resident_from: self.minutes.resident_from(),
            dropped_containers,
            containers,
            minutes,
            facts,
            facts_from: self.facts_from,
            names,
            dropped_outboxes: outboxes.dropped,
            outboxes: outboxes.states,
            epochs: outboxes.epochs,
            retired: outboxes.retired,
            cut_off: outboxes.cut_off,
            sources: self.sources.checkpoint(),
            page_views: self.page_views.checkpoint(),
        }
    }

    /// The last message applied.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// The log's clock ([`LogClock`]); zero before the first message.
    #[must_use]
    pub fn clock(&self) -> Timestamp {
        self.clock
    }

    /// From this minute on memory holds everything. Of an older minute memory holds only what is
    /// not saved yet, to be added to what the store holds.
    #[must_use]
    pub fn resident_from(&self) -> Minute {
        self.minutes.resident_from()
    }

    /// How many events of a kind an ad has from `from` (inclusive) to `to` (exclusive), as far as
    /// they are in memory.
    #[must_use]
    pub fn ad_count(
        &self,
        ad: AdId,
        kind: Kind,
        validity: Validity,
        from: Minute,
        to: Minute,
    ) -> u64 {
        self.minutes.ad_count(ad, kind, validity, from, to)
    }

    /// Hands every ad with events of this kind in this minute to `each`, in no order, as far as
    /// they are in memory. An ad with valid and invalid events comes once for each.
    pub fn ad_totals(
        &self,
        minute: Minute,
        kind: Kind,
        validity: Validity,
        each: &mut impl FnMut(AdId, u64),
    ) {
        self.minutes.ad_totals(minute, kind, validity, each);
    }

    /// Hands every cell of this minute that is in memory to `each`, once, in no order.
    pub fn cells(&self, minute: Minute, each: &mut impl FnMut(&Cell)) {
        self.minutes.cells(minute, each);
    }

    /// Hands every amount of this minute that is in memory to `each`, once, in no order.
    pub fn amounts(&self, minute: Minute, each: &mut impl FnMut(&CellAmount)) {
        self.minutes.amounts(minute, each);
    }

    /// The name of an id that is a digest, if it is in memory: every name that is not saved yet is.
    #[must_use]
    pub fn name(&self, id: AnyId) -> Option<&NameBuf<Any>> {
        self.minutes.name(id).or_else(|| self.tail.name(id))
    }

    /// Which partition it counts.
    #[must_use]
    pub fn partition(&self) -> u16 {
        self.partition
    }

    /// The facts that no checkpoint has written yet, of messages that have some in the range.
    #[must_use]
    pub fn facts(&self, range: &Range<Minute>) -> Vec<Arc<Part>> {
        self.tail.parts(range)
    }

    /// From this minute on there is a fact for each counted event.
    #[must_use]
    pub fn facts_from(&self) -> Minute {
        self.facts_from
    }

    /// Facts of minutes before this one are not told any more.
    pub(crate) fn forget_facts_before(&mut self, minute: Minute) {
        self.facts_from = self.facts_from.max(minute);
    }

    /// The accounts in memory of the minutes from `from` (inclusive) to `to` (exclusive), in the
    /// order of the minutes.
    #[must_use]
    pub fn account(&self, from: Minute, to: Minute) -> Vec<(Minute, MinuteAccount)> {
        self.minutes.accounts(from, to)
    }

    /// What page views have told from `from` (inclusive) to `to` (exclusive), by publisher, as far
    /// as it is in memory.
    #[must_use]
    pub fn told(&self, from: Minute, to: Minute) -> BTreeMap<PublisherId, Told> {
        self.minutes.told(from, to)
    }

    /// The sum of the revisions from `from` (inclusive) to `to` (exclusive), as far as they are in
    /// memory.
    #[must_use]
    pub fn revision(&self, from: Minute, to: Minute) -> u64 {
        self.account(from, to).iter().map(|(_, account)| account.revision).sum()
    }

    /// How complete the minutes are.
    #[must_use]
    pub fn finality(&self) -> Finality {
        self.outboxes.finality(self.clock)
    }

    /// How far an imported log has been taken.
    #[must_use]
    pub fn source(&self, source: SourceId) -> Option<SourceState> {
        self.sources.get(source)
    }

    /// The outboxes of which a number has not come although a larger one has.
    #[must_use]
    pub fn gaps(&self) -> Vec<Gap> {
        self.outboxes.gaps()
    }

    /// The outboxes of which a number came with two contents.
    pub fn conflicts(&self) -> impl Iterator<Item = (OutboxId, &OutboxState)> {
        self.outboxes.conflicts()
    }

    /// All outboxes that are remembered, open or closed.
    pub fn outboxes(&self) -> impl Iterator<Item = (OutboxId, &OutboxState)> {
        self.outboxes.all()
    }

    /// Edges that have used up their quota, each with the batch from which on nothing of it counts.
    #[must_use]
    pub fn cut_off(&self) -> &BTreeMap<EdgeId, CutOff> {
        self.outboxes.all_cut_off()
    }

    /// Edges that are out of service, and the log's clock when they were retired.
    #[must_use]
    pub fn retired(&self) -> &BTreeMap<EdgeId, Timestamp> {
        self.outboxes.retired()
    }

    /// What is in memory.
    #[must_use]
    pub fn size(&self) -> Size {
        let (cell_bytes, resident_cells, unsaved_cells) = self.minutes.size();
        Size {
            dedup_bytes: self.dedup.bytes(),
            cell_bytes,
            resident_cells,
            unsaved_cells,
            unsaved_containers: self.dedup.unsaved_containers(),
            ids: self.minutes.ids.len(),
            outboxes: self.outboxes.len(),
            sources: self.sources.len(),
            page_views: self.page_views.len(),
            facts: self.tail.rows(),
            facts_bytes: self.tail.bytes(),
        }
    }

    /// Moves the log's clock on.
    pub(super) fn advance(&mut self, stamp: Timestamp) {
        let mut clock = LogClock { now: self.clock, ahead: self.ahead };
        clock.hear(stamp);
        (self.clock, self.ahead) = (clock.now, clock.ahead);
    }
}
