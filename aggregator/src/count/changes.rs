//! What an engine hands to its store, and what it needs back to go on.
//!
//! One rule holds for everything that is kept by the minute (cells, amounts, ad totals, what page
//! views have told, accounts with their revisions): a [`MinuteRows`] in [`Changes`] is *added* to
//! what the store has of that minute, row by row and field by field, and a [`MinuteRows`] in a
//! [`Snapshot`] is the whole of that minute. Everything else (dedup containers, outboxes, epochs,
//! edges that are retired or cut off, sources, page views) *replaces* the row with the same key.
//! All lists are sorted by their keys, so that two checkpoints of the same history are equal.

use std::sync::Arc;

use eventlog::Position;
use shared::counted::Amount;
use shared::name::Any;
use shared::{
    AdId, AnyId, BlockId, Currency, Dimensions, EdgeId, IssuerId, Kind, Minute, NameBuf, OutboxId,
    PageView, PublisherId, SourceId, Timestamp,
};

use super::accounts::MinuteAccount;
use super::bits::Container;
use super::outbox::OutboxState;
use super::outboxes::CutOff;
use super::page_views::{PageViewState, Told};
use super::sources::SourceState;
use crate::facts::Part;

/// Where a dedup container belongs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ContainerKey {
    /// Who signed the impressions.
    pub issuer: IssuerId,
    /// The block of the impressions.
    pub block: BlockId,
    /// What happened to them.
    pub kind: Kind,
    /// True of the valid events, false of those with a verdict.
    pub valid: bool,
    /// Which container of the block's sixteen, of 4 096 sequence numbers each: below 16.
    pub index: u8,
}

/// A cell: how many events of these dimensions a minute has.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Cell {
    /// Which cell.
    pub dimensions: Dimensions,
    /// How many events.
    pub count: u64,
}

/// An amount that adds up in a cell.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct CellAmount {
    /// Which cell.
    pub dimensions: Dimensions,
    /// Of what.
    pub amount: Amount,
    /// Of which currency.
    pub currency: Currency,
    /// Millionths of one unit.
    pub micros: i64,
}

/// How many events of a kind, valid or not, an ad has in a minute: the sum of its cells.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct AdTotal {
    /// The ad.
    pub ad: AdId,
    /// The kind of event.
    pub kind: Kind,
    /// Without a verdict.
    pub valid: bool,
    /// How many.
    pub count: u64,
}

/// What page views at a publisher have told in a minute.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PublisherTold {
    /// The publisher.
    pub publisher: PublisherId,
    /// How much.
    pub told: Told,
}

/// The rows of one minute: additions in [`Changes`], the whole in a [`Snapshot`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MinuteRows {
    /// Which minute.
    pub minute: Minute,
    /// By dimensions.
    pub cells: Vec<Cell>,
    /// By dimensions, amount and currency.
    pub amounts: Vec<CellAmount>,
    /// By ad, kind and validity.
    pub totals: Vec<AdTotal>,
    /// By publisher.
    pub told: Vec<PublisherTold>,
    /// Every field is added, [`MinuteAccount::revision`] too.
    pub account: MinuteAccount,
}

/// Everything that changed since the checkpoint before. To be written in one atomic write.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    /// The last message that was applied; none when there was none yet.
    pub position: Option<Position>,
    /// The log's clock.
    pub clock: Timestamp,
    /// [`shared::clock::LogClock::ahead`].
    pub ahead: Option<Timestamp>,
    /// The largest watermark so far: an event of an earlier minute that is still counted raises
    /// that minute's revision.
    pub settled: Timestamp,
    /// A [`Snapshot`] must bring the minutes from this one on, each of them whole.
    pub resident_from: Minute,
    /// Dedup containers to delete. None of them is in `containers`.
    pub dropped_containers: Vec<ContainerKey>,
    /// Dedup containers to put.
    pub containers: Vec<(ContainerKey, Container)>,
    /// Rows to add.
    pub minutes: Vec<MinuteRows>,
    /// A fact for each event that was counted, to add to those that the store has.
    pub facts: Vec<Arc<Part>>,
    /// From this minute on there is a fact for each counted event.
    pub facts_from: Minute,
    /// Names of ids that are digests, to put. For every such id in `minutes` and `facts` the store has the name
    /// already, or it is here.
    pub names: Vec<(AnyId, NameBuf<Any>)>,
    /// Outboxes to delete.
    pub dropped_outboxes: Vec<OutboxId>,
    /// Outboxes to put.
    pub outboxes: Vec<(OutboxId, OutboxState)>,
    /// For each edge the last of its epochs that is over, to put: batches of this epoch or an
    /// earlier one are skipped, unless their outbox is still remembered.
    pub epochs: Vec<(EdgeId, u64)>,
    /// Edges that are out of service, and the log's clock when they were retired, to put.
    pub retired: Vec<(EdgeId, Timestamp)>,
    /// Edges that are cut off, and from which batch on, to put.
    pub cut_off: Vec<(EdgeId, CutOff)>,
    /// Imported logs to put.
    pub sources: Vec<(SourceId, SourceState)>,
    /// Page views to put, and those to delete (`None`).
    pub page_views: Vec<(PageView, Option<PageViewState>)>,
}

/// What [`super::Engine::restore`] needs: everything that the store holds under a position, except
/// the minutes before `resident_from`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Snapshot {
    /// [`Changes::position`] of the last checkpoint.
    pub position: Option<Position>,
    /// [`Changes::clock`] of the last checkpoint.
    pub clock: Timestamp,
    /// [`Changes::ahead`] of the last checkpoint.
    pub ahead: Option<Timestamp>,
    /// [`Changes::settled`] of the last checkpoint.
    pub settled: Timestamp,
    /// [`Changes::resident_from`] of the last checkpoint, or a later minute: the minutes before it
    /// are left out.
    pub resident_from: Minute,
    /// [`Changes::facts_from`] of the last checkpoint; none when that was of a build that kept no
    /// facts.
    pub facts_from: Option<Minute>,
    /// All dedup containers.
    pub containers: Vec<(ContainerKey, Container)>,
    /// The whole minutes from `resident_from` on.
    pub minutes: Vec<MinuteRows>,
    /// All outboxes.
    pub outboxes: Vec<(OutboxId, OutboxState)>,
    /// The last epoch that is over, of every edge that has one.
    pub epochs: Vec<(EdgeId, u64)>,
    /// All edges that are out of service.
    pub retired: Vec<(EdgeId, Timestamp)>,
    /// All edges that are cut off.
    pub cut_off: Vec<(EdgeId, CutOff)>,
    /// All imported logs.
    pub sources: Vec<(SourceId, SourceState)>,
    /// All page views.
    pub page_views: Vec<(PageView, PageViewState)>,
}
