//! The engine of one partition.

use eventlog::Position;
use shared::event::REASON_CODES;
use shared::wire::MessageView;
use shared::{Id, Kind, Minute, SourceId, Timestamp};

use super::accounts::MinuteAccount;
use super::changes::{Cell, Changes, Snapshot, Spend};
use super::error::EngineError;
use super::outboxes::{Finality, Gap};
use super::sources::SourceState;

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
}

/// What an engine holds in memory: for metrics, and for deciding when to checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Size {
    /// Bytes of dedup state, all overhead included.
    pub dedup_bytes: usize,
    /// Bytes of cells, spend and totals, saved and unsaved.
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
}

/// The count engine of one partition.
#[derive(Debug)]
pub struct Engine {
    partition: u16,
    settings: Settings,
}

impl Engine {
    /// An engine that has seen nothing.
    #[must_use]
    pub fn new(partition: u16, settings: Settings) -> Self {
        Self { partition, settings }
    }

    /// Goes on from what a store holds.
    ///
    /// # Errors
    /// [`EngineError::Snapshot`] when the snapshot contradicts itself; [`EngineError::TooManyIds`].
    pub fn restore(
        partition: u16,
        settings: Settings,
        _snapshot: Snapshot,
    ) -> Result<Self, EngineError> {
        Ok(Self { partition, settings })
    }

    /// Takes the next message.
    ///
    /// # Errors
    /// [`EngineError`], and then nothing has changed.
    pub fn apply(
        &mut self,
        _message: &MessageView<'_>,
        _position: Position,
    ) -> Result<Applied, EngineError> {
        Ok(Applied::default())
    }

    /// Everything that changed since the last checkpoint. From here on it counts as saved: write it
    /// in one atomic write, or throw the engine away. Lets go of the minutes that are no longer
    /// resident.
    #[must_use = "what is not written is lost"]
    pub fn checkpoint(&mut self) -> Changes {
        let _ = (self.partition, self.settings);
        Changes::default()
    }

    /// The last message applied.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        None
    }

    /// The log's clock: the largest stamp so far, where one message moves it by at most
    /// [`shared::limits::CLOCK_JUMP_MS_MAX`]; zero before the first message.
    #[must_use]
    pub fn clock(&self) -> Timestamp {
        Timestamp(0)
    }

    /// From this minute on memory holds everything. What memory holds of an older minute is not yet
    /// saved, and comes on top of what the store holds.
    #[must_use]
    pub fn resident_from(&self) -> Minute {
        Minute(0)
    }

    /// How many valid events an ad has from `from` (inclusive) to `to` (exclusive): memory's part.
    #[must_use]
    pub fn ad_count(&self, _ad: Id, _kind: Kind, _from: Minute, _to: Minute) -> u64 {
        0
    }

    /// Every ad with valid events of this kind in this minute, once, in no order: memory's part.
    pub fn ad_totals(&self, _minute: Minute, _kind: Kind, _each: &mut impl FnMut(Id, u64)) {}

    /// Every cell of this minute, once, in no order: memory's part.
    pub fn cells(&self, _minute: Minute, _each: &mut impl FnMut(&Cell)) {}

    /// Every spend of this minute, once, in no order: memory's part.
    pub fn spend(&self, _minute: Minute, _each: &mut impl FnMut(&Spend)) {}

    /// The accounts from `from` (inclusive) to `to` (exclusive) of those minutes that have one:
    /// memory's part.
    #[must_use]
    pub fn account(&self, _from: Minute, _to: Minute) -> Vec<(Minute, MinuteAccount)> {
        Vec::new()
    }

    /// The sum of the revisions from `from` (inclusive) to `to` (exclusive): memory's part.
    #[must_use]
    pub fn revision(&self, from: Minute, to: Minute) -> u64 {
        self.account(from, to).iter().map(|(_, account)| account.revision).sum()
    }

    /// How complete the minutes are.
    #[must_use]
    pub fn finality(&self) -> Finality {
        Finality::default()
    }

    /// How far an imported log has been taken.
    #[must_use]
    pub fn source(&self, _source: SourceId) -> Option<SourceState> {
        None
    }

    /// Outboxes of which a number is missing while a larger one has come.
    #[must_use]
    pub fn gaps(&self) -> Vec<Gap> {
        Vec::new()
    }

    /// What is in memory.
    #[must_use]
    pub fn size(&self) -> Size {
        Size::default()
    }
}
