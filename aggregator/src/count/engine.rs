//! The engine of one partition.

use std::collections::BTreeMap;

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
use super::pages::{Pages, Told};
use super::sources::{SourceState, Sources};

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
    /// Events and tallies that got an outcome: the sum of the following three.
    pub events: u64,
    /// Valid, and seen for the first time.
    pub counted: u64,
    /// Seen before.
    pub duplicate: u64,
    /// By the code of the reason.
    pub reasons: [u64; REASON_CODES],
    /// Batches that had been applied before: skipped with all their events.
    pub redelivered: u64,
    /// Batches under whose number another had been applied: skipped too, and told.
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
    /// Dedup pages that the next checkpoint will bring.
    pub unsaved_pages: usize,
    /// Distinct ads and publishers.
    pub ids: usize,
    /// Outboxes known, open or closed.
    pub outboxes: usize,
    /// Imported logs known.
    pub sources: usize,
    /// Page views remembered.
    pub page_views: usize,
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
    /// The largest watermark so far: a minute before it was final once, even if an outbox that
    /// nobody had heard of has opened it again since.
    pub(super) settled: Timestamp,
    pub(super) dedup: Dedup,
    pub(super) minutes: Minutes,
    pub(super) outboxes: Outboxes,
    pub(super) sources: Sources,
    pub(super) pages: Pages,
    pub(super) scratch: Scratch,
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
            pages: Pages::default(),
            scratch: Scratch::default(),
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
        for (key, page) in snapshot.pages {
            if !engine.dedup.load(&key, &page) {
                return Err(EngineError::Snapshot("a dedup page is there twice, or cannot be"));
            }
        }
        engine.minutes.load(snapshot.resident_from, &snapshot.minutes)?;
        engine.outboxes =
            Outboxes::load(snapshot.outboxes, snapshot.epochs, snapshot.retired, snapshot.cut_off)
                .ok_or(EngineError::Snapshot("an outbox is there twice, or contradicts itself"))?;
        engine.sources = Sources::load(snapshot.sources);
        engine.pages = Pages::load(snapshot.views);
        Ok(engine)
    }

    /// Takes the next message: the one whose sequence follows, of the same log. Whatever is in it,
    /// all that it brings gets an outcome.
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

    /// Takes an operator's word, as [`Engine::apply`] takes a message.
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

    /// Notes batches that are waited for no more in the minutes that their events may have been of.
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

    /// Passes over bytes that are nothing of ours. What they should have been is missed by the batch
    /// numbers: a gap is told, and its minutes stay provisional.
    ///
    /// # Errors
    /// [`EngineError`], and then nothing has changed.
    pub fn pass_over(&mut self, position: Position) -> Result<(), EngineError> {
        self.follows(position)?;
        self.position = Some(position);
        Ok(())
    }

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

    /// What every message begins with: the clock goes on, and what is behind the horizon goes.
    pub(super) fn begin(&mut self, stamp: Timestamp) {
        self.settled = self.settled.max(self.outboxes.watermark(self.clock));
        self.advance(stamp);
        self.dedup.forget_behind(self.clock);
        self.outboxes.forget_behind(self.clock);
        self.pages.forget_behind(self.clock);
    }

    /// Everything that changed since the last checkpoint. From here on it counts as saved: write it
    /// in one atomic write, or throw the engine away. Lets go of the minutes that are no longer
    /// resident.
    #[must_use = "what is not written is lost"]
    pub fn checkpoint(&mut self) -> Changes {
        let kept = self.settings.resident_minutes.saturating_sub(1);
        let resident_from = Minute(self.clock.minute().0.saturating_sub(kept));
        let (minutes, names) = self.minutes.checkpoint(resident_from);
        let (dropped_pages, pages) = self.dedup.checkpoint();
        let outboxes = self.outboxes.checkpoint();
        Changes {
            position: self.position,
            clock: self.clock,
            ahead: self.ahead,
            settled: self.settled.max(self.outboxes.watermark(self.clock)),
            resident_from: self.minutes.resident_from(),
            dropped_pages,
            pages,
            minutes,
            names,
            dropped_outboxes: outboxes.dropped,
            outboxes: outboxes.states,
            epochs: outboxes.epochs,
            retired: outboxes.retired,
            cut_off: outboxes.cut_off,
            sources: self.sources.checkpoint(),
            views: self.pages.checkpoint(),
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

    /// From this minute on memory holds everything. What memory holds of an older minute is not yet
    /// saved, and comes on top of what the store holds.
    #[must_use]
    pub fn resident_from(&self) -> Minute {
        self.minutes.resident_from()
    }

    /// How many events an ad has from `from` (inclusive) to `to` (exclusive): memory's part.
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

    /// Every ad with events of this kind in this minute, the valid and the invalid ones once each,
    /// in no order: memory's part.
    pub fn ad_totals(
        &self,
        minute: Minute,
        kind: Kind,
        validity: Validity,
        each: &mut impl FnMut(AdId, u64),
    ) {
        self.minutes.ad_totals(minute, kind, validity, each);
    }

    /// Every cell of this minute, once, in no order: memory's part.
    pub fn cells(&self, minute: Minute, each: &mut impl FnMut(&Cell)) {
        self.minutes.cells(minute, each);
    }

    /// Every amount of this minute, once, in no order: memory's part.
    pub fn amounts(&self, minute: Minute, each: &mut impl FnMut(&CellAmount)) {
        self.minutes.amounts(minute, each);
    }

    /// The name of an id that is a digest: of every one that is not yet saved, and of some others.
    #[must_use]
    pub fn name(&self, id: AnyId) -> Option<&NameBuf<Any>> {
        self.minutes.name(id)
    }

    /// The accounts from `from` (inclusive) to `to` (exclusive) of those minutes that have one, in
    /// their order: memory's part.
    #[must_use]
    pub fn account(&self, from: Minute, to: Minute) -> Vec<(Minute, MinuteAccount)> {
        self.minutes.accounts(from, to)
    }

    /// What pages have told from `from` (inclusive) to `to` (exclusive), by publisher: memory's part.
    #[must_use]
    pub fn told(&self, from: Minute, to: Minute) -> BTreeMap<PublisherId, Told> {
        self.minutes.told(from, to)
    }

    /// The sum of the revisions from `from` (inclusive) to `to` (exclusive): memory's part.
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

    /// Outboxes of which a number is missing while a larger one has come.
    #[must_use]
    pub fn gaps(&self) -> Vec<Gap> {
        self.outboxes.gaps()
    }

    /// Outboxes of which a number came with two contents.
    pub fn conflicts(&self) -> impl Iterator<Item = (OutboxId, &OutboxState)> {
        self.outboxes.conflicts()
    }

    /// All outboxes that are remembered, open or closed.
    pub fn outboxes(&self) -> impl Iterator<Item = (OutboxId, &OutboxState)> {
        self.outboxes.all()
    }

    /// Edges that have used up what is kept of one, and from where on nothing of them counts.
    #[must_use]
    pub fn cut_off(&self) -> &BTreeMap<EdgeId, CutOff> {
        self.outboxes.all_cut_off()
    }

    /// Edges that are out of service, and the log's clock when that was said.
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
            unsaved_pages: self.dedup.unsaved_pages(),
            ids: self.minutes.ids.len(),
            outboxes: self.outboxes.len(),
            sources: self.sources.len(),
            page_views: self.pages.len(),
        }
    }

    /// Moves the log's clock on.
    pub(super) fn advance(&mut self, stamp: Timestamp) {
        let mut clock = LogClock { now: self.clock, ahead: self.ahead };
        clock.hear(stamp);
        (self.clock, self.ahead) = (clock.now, clock.ahead);
    }
}
