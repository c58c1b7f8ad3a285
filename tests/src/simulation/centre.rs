//! Collector, log and engines: the real ones, except for the disks. A checkpoint is written whole
//! or not at all; what was not in a checkpoint is gone when an engine is killed, and is read from
//! the log again.

use std::collections::BTreeMap;
use std::sync::Arc;

use aggregator::count::{
    Changes, Container, ContainerKey, CutOff, Engine, MinuteRows, OutboxState, PageViewState,
    Settings, Snapshot, SourceState,
};
use aggregator::facts::blocks;
use bytes::Bytes;
use collector::clock::{Agreement, Newest};
use collector::coalesce::Coalescer;
use collector::verify::{Verifier, inspect};
use collector::{CollectorKeys, Refusal, Sender};
use eventlog::fake::{Faults, MemLog};
use eventlog::position::digest;
use eventlog::{Log, LogError, Reader};
use futures::executor::block_on;
use shared::clock::{Steady, Step};
use shared::import::ImportChunk;
use shared::wire::MessageView;
use shared::{EdgeId, Minute, OutboxId, PageView, PartitionMap, SourceId, Timestamp};

use super::edge::reading;
use super::facts::{self, Facts};
use super::hostile;
use super::oracle::Oracle;
use super::queue::Queue;
use super::world::START;

/// Who waits for an acknowledgement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ack {
    /// An edge, for the batch at this place on its disk.
    Batch(usize, usize),
    /// The work queue, for what it gave out under this number.
    Queue(usize),
    /// An importer.
    Chunk,
    /// A hostile sender, which does not care.
    Nobody,
}

/// The store of a partition.
#[derive(Default)]
struct Store {
    meta: Snapshot,
    containers: BTreeMap<ContainerKey, Container>,
    minutes: BTreeMap<Minute, MinuteRows>,
    facts: Facts,
    outboxes: BTreeMap<OutboxId, OutboxState>,
    epochs: BTreeMap<EdgeId, u64>,
    retired: BTreeMap<EdgeId, Timestamp>,
    cut_off: BTreeMap<EdgeId, CutOff>,
    sources: BTreeMap<SourceId, SourceState>,
    page_views: BTreeMap<PageView, PageViewState>,
    /// The oracle that belongs to the snapshot.
    oracle: Oracle,
}

/// One partition.
pub(super) struct Partition {
    /// Its engine.
    pub(super) engine: Engine,
    /// The oracle: the counts that the engine must have.
    pub(super) oracle: Oracle,
    store: Store,
    number: u16,
}

/// Everything behind the edges.
pub(super) struct Centre<'v> {
    /// The log.
    pub(super) log: MemLog,
    /// Its readers.
    pub(super) partitions: Vec<Partition>,
    /// Between edges and collectors.
    pub(super) queue: Queue,
    /// The batches of a hostile sender that were let in, each once.
    pub(super) lies: Vec<Vec<u8>>,
    /// How often the hostile sender was not let in.
    pub(super) turned_away: u64,
    collectors: Vec<Collector>,
    map: PartitionMap,
    keys: CollectorKeys,
    verifier: &'v Verifier,
}

/// A collector: what it has coalesced, and how far its clock is off, in ms.
struct Collector {
    gather: Coalescer<Ack>,
    skew_ms: i64,
    /// How far its wall clock was set off, in ms.
    step_ms: i64,
    started_wrong: bool,
    steady: Steady,
    agreement: Agreement,
}

/// How many collectors there are.
pub(super) const COLLECTORS: usize = 2;
const SETTINGS: Settings = Settings { resident_minutes: 5 };

impl<'v> Centre<'v> {
    /// Nothing has come yet.
    pub(super) fn new(map: &PartitionMap, keys: CollectorKeys, verifier: &'v Verifier) -> Self {
        let numbers = map.partitions().all();
        Self {
            log: MemLog::new(map.partitions().count(), [7; 16]),
            partitions: numbers.map(Partition::new).collect(),
            queue: Queue::default(),
            lies: Vec::new(),
            turned_away: 0,
            collectors: (0..COLLECTORS).map(|_| Collector::new(map)).collect(),
            map: map.clone(),
            keys,
            verifier,
        }
    }

    /// A batch comes to a collector; false when it is not let in.
    pub(super) fn batch(
        &mut self,
        collector: usize,
        sender: Sender,
        bytes: &[u8],
        ack: Ack,
        now: Timestamp,
    ) -> bool {
        let Some(now) = self.agreed(collector, now) else { return true };
        let inspected = inspect(bytes).expect("whatever is sent can be read");
        let is_hostile =
            matches!(sender, Sender::Edge(hostile::EDGE) | Sender::Issuer(hostile::ISSUER));
        match collector::sender::check(sender, &inspected, &self.keys, now) {
            Ok(()) => {}
            // An edge that was started while its clock was wrong waits until its time has come.
            // Here the refusal comes at once.
            Err(Refusal::EpochAhead) if !is_hostile => {}
            Err(refusal) => {
                assert!(is_hostile, "an honest edge is not let in: {refusal:?}");
                self.turned_away += 1;
                return false;
            }
        }
        if is_hostile && !self.lies.iter().any(|known| known == bytes) {
            self.lies.push(bytes.to_vec());
        }
        let bytes = Bytes::copy_from_slice(bytes);
        let collector = &mut self.collectors[collector];
        let keys = Arc::new(self.keys.clone());
        let judged = self.verifier.batch(bytes, inspected.events, keys, now);
        collector.gather.batch(&block_on(judged).expect("it can be read"), ack);
        true
    }

    /// A collector takes a batch from the queue.
    pub(super) fn take(&mut self, collector: usize, ahead: usize, now: Timestamp) {
        if self.agreed(collector, now).is_some()
            && let Some((number, edge, bytes)) = self.queue.take(ahead)
            && !self.batch(collector, Sender::Edge(edge), &bytes, Ack::Queue(number), now)
        {
            // The batch becomes a dead letter.
            self.queue.done(number);
        }
    }

    /// A piece of a log comes to a collector.
    pub(super) fn chunk(&mut self, collector: usize, chunk: &ImportChunk, now: Timestamp) {
        chunk.check().expect("the importer keeps the bounds");
        let Some(now) = self.agreed(collector, now) else { return };
        let collector = &mut self.collectors[collector];
        let judged = self.verifier.chunk(chunk, &self.keys, now);
        collector.gather.chunk(&judged, Ack::Chunk);
    }

    /// Appends what a collector has coalesced to the log; returns who gets an acknowledgement.
    pub(super) fn flush(&mut self, collector: usize, now: Timestamp, faults: Faults) -> Vec<Ack> {
        let collector = &mut self.collectors[collector];
        if collector.gather.is_empty() {
            return Vec::new();
        }
        let stamp = collector.clock(now).unwrap_or_else(|step| step.expected);
        let flush = collector.gather.finish(stamp);
        self.log.set_faults(faults);
        let written = block_on(self.log.append(flush.messages));
        self.log.set_faults(Faults::default());
        if written.is_ok() { flush.acks } else { Vec::new() }
    }

    /// kill -9 of a collector: what was not flushed is gone, and nobody is told. The new process
    /// hears an operator's word on the clock, if there is one.
    pub(super) fn crash_collector(
        &mut self,
        collector: usize,
        now: Timestamp,
        word: Option<Timestamp>,
    ) {
        let old = &self.collectors[collector];
        let started_wrong = old.started_wrong || old.step_ms != 0;
        let steady = Steady::new(reading(now, old.skew_ms + old.step_ms));
        self.collectors[collector] = Collector {
            skew_ms: old.skew_ms,
            step_ms: old.step_ms,
            started_wrong,
            steady,
            agreement: Agreement::new(word),
            gather: Coalescer::new(self.map.clone()),
        };
    }

    /// A collector's wall clock is set.
    pub(super) fn step(&mut self, collector: usize, ms: i64) {
        self.collectors[collector].step_ms = ms;
    }

    /// Whether a collector ever started while its clock was wrong.
    pub(super) fn started_wrong(&self) -> bool {
        self.collectors.iter().any(|collector| collector.started_wrong)
    }

    /// A collector's time, unless it takes nothing.
    fn agreed(&mut self, collector: usize, now: Timestamp) -> Option<Timestamp> {
        let last = block_on(self.log.last(0)).expect("partition 0 is there");
        let stamp = last.map(|last| MessageView::read(&last).expect("we wrote it").stamp);
        let newest = Newest { stamp: stamp.unwrap_or_default(), live: false };
        let collector = &mut self.collectors[collector];
        let now = collector.clock(now).ok()?;
        collector.agreement.check(now, newest).ok()?;
        Some(now)
    }

    /// A collector's clock jumps.
    pub(super) fn skew(&mut self, collector: usize, ms: i64) {
        self.collectors[collector].skew_ms = ms;
    }

    /// An edge is out of service from now on.
    pub(super) fn retire(&mut self, edge: EdgeId) {
        self.keys.retired_edges.insert(edge, Timestamp(0));
    }

    /// The rows of a log that all partitions have taken.
    pub(super) fn rows(&self, source: SourceId) -> u64 {
        self.partitions.iter().map(|partition| partition.rows(source)).min().unwrap_or(0)
    }
}

impl Collector {
    fn new(map: &PartitionMap) -> Self {
        Self {
            gather: Coalescer::new(map.clone()),
            skew_ms: 0,
            step_ms: 0,
            started_wrong: false,
            steady: Steady::new(reading(START, 0)),
            agreement: Agreement::new(None),
        }
    }

    fn clock(&mut self, now: Timestamp) -> Result<Timestamp, Step> {
        let read = self.steady.read(reading(now, self.skew_ms + self.step_ms));
        // A wrong clock that stays so is believed in the end, as if the process had started with
        // it.
        self.started_wrong |= self.step_ms != 0 && read.is_ok();
        read
    }
}

impl Partition {
    fn new(number: u16) -> Self {
        let engine = Engine::new(number, SETTINGS);
        Self { engine, oracle: Oracle::default(), store: Store::default(), number }
    }

    /// Applies up to `most` messages; none from a log that has lost messages which were applied.
    pub(super) fn apply(&mut self, log: &MemLog, most: usize) -> Result<(), String> {
        let after = self.engine.position();
        let opened = block_on(log.reader(self.number, after));
        if self.is_cut_off(log) {
            return match opened {
                Err(LogError::StepBack { .. } | LogError::Mismatch { .. }) => Ok(()),
                Err(error) => Err(format!("cut off, and told otherwise: {error}")),
                Ok(_) => Err("the log has lost what was applied, and is read on".to_owned()),
            };
        }
        let mut reader = opened.map_err(|error| error.to_string())?;
        for _ in 0..most {
            let next = reader.try_next().map_err(|error| error.to_string())?;
            let Some(delivered) = next else { break };
            let message = MessageView::read(&delivered.payload).map_err(|e| e.to_string())?;
            self.oracle.apply(&message);
            self.engine.apply(&message, delivered.position).map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    /// Whether the log no longer has the message at the engine's position.
    pub(super) fn is_cut_off(&self, log: &MemLog) -> bool {
        let Some(position) = self.engine.position() else { return false };
        let index = usize::try_from(position.sequence - 1).unwrap_or(usize::MAX);
        let there = log.messages(self.number).get(index).map(|message| digest(message));
        position.identity != log.identity() || there != Some(position.digest)
    }

    /// The log loses messages that were applied, and a checkpoint has them.
    pub(super) fn vanish(&mut self, log: &MemLog, back: u64) -> Result<(), String> {
        self.checkpoint(log, false)?;
        if let Some(position) = self.engine.position() {
            log.vanish(self.number, (position.sequence - 1).saturating_sub(back));
        }
        Ok(())
    }

    /// A checkpoint; `lost` when the process dies before it is durable.
    pub(super) fn checkpoint(&mut self, log: &MemLog, lost: bool) -> Result<(), String> {
        let changes = self.engine.checkpoint();
        if lost {
            return self.crash(log);
        }
        self.store.write(changes);
        self.store.oracle = self.oracle.clone();
        Ok(())
    }

    /// kill -9 of the aggregator: back to the last checkpoint, and the oracle with it.
    pub(super) fn crash(&mut self, _: &MemLog) -> Result<(), String> {
        let snapshot = self.store.snapshot();
        self.engine = if snapshot.position.is_some() {
            Engine::restore(self.number, SETTINGS, snapshot).map_err(|error| error.to_string())?
        } else {
            Engine::new(self.number, SETTINGS)
        };
        self.oracle = self.store.oracle.clone();
        Ok(())
    }

    /// The rows of a log that it has taken.
    pub(super) fn rows(&self, source: SourceId) -> u64 {
        self.engine.source(source).map_or(0, |state| state.rows)
    }

    /// All facts: those of the store, and those that no checkpoint has written yet.
    pub(super) fn facts(&self) -> Facts {
        let mut all = self.store.facts.clone();
        let parts = self.engine.facts(&(Minute(0)..Minute(u32::MAX)));
        parts.iter().for_each(|part| facts::add(&mut all, part.block()));
        all
    }

    /// What the store has of a minute that is not resident.
    pub(super) fn stored(&self, minute: Minute) -> Option<&MinuteRows> {
        self.store.minutes.get(&minute)
    }
}

impl Store {
    fn write(&mut self, changes: Changes) {
        self.meta.position = changes.position;
        self.meta.clock = changes.clock;
        self.meta.ahead = changes.ahead;
        self.meta.settled = changes.settled;
        self.meta.resident_from = changes.resident_from;
        for key in &changes.dropped_containers {
            self.containers.remove(key);
        }
        self.containers.extend(changes.containers);
        for key in &changes.dropped_outboxes {
            self.outboxes.remove(key);
        }
        self.outboxes.extend(changes.outboxes);
        self.epochs.extend(changes.epochs);
        self.retired.extend(changes.retired);
        self.cut_off.extend(changes.cut_off);
        self.sources.extend(changes.sources);
        for (page, state) in changes.page_views {
            match state {
                Some(state) => drop(self.page_views.insert(page, state)),
                None => drop(self.page_views.remove(&page)),
            }
        }
        blocks(&changes.facts).iter().for_each(|(_, block)| facts::add(&mut self.facts, block));
        for rows in changes.minutes {
            let minute = rows.minute;
            let fresh = MinuteRows { minute, ..MinuteRows::default() };
            add(self.minutes.entry(minute).or_insert(fresh), rows);
        }
    }

    fn snapshot(&self) -> Snapshot {
        let from = self.meta.resident_from;
        Snapshot {
            position: self.meta.position,
            clock: self.meta.clock,
            ahead: self.meta.ahead,
            settled: self.meta.settled,
            resident_from: from,
            facts_from: Some(Minute(0)),
            containers: self
                .containers
                .iter()
                .map(|(key, container)| (*key, container.clone()))
                .collect(),
            minutes: self.minutes.range(from..).map(|(_, rows)| rows.clone()).collect(),
            outboxes: self.outboxes.iter().map(|(id, state)| (*id, state.clone())).collect(),
            epochs: self.epochs.iter().map(|(id, epoch)| (*id, *epoch)).collect(),
            retired: self.retired.iter().map(|(id, since)| (*id, *since)).collect(),
            cut_off: self.cut_off.iter().map(|(id, at)| (*id, *at)).collect(),
            sources: self.sources.iter().map(|(id, state)| (*id, *state)).collect(),
            page_views: self.page_views.iter().map(|(page, state)| (*page, *state)).collect(),
        }
    }
}

/// Adds a minute's rows field by field.
fn add(to: &mut MinuteRows, rows: MinuteRows) {
    let mut cells: BTreeMap<_, u64> = BTreeMap::new();
    for cell in to.cells.drain(..).chain(rows.cells) {
        *cells.entry(cell.dimensions).or_default() += cell.count;
    }
    to.cells = cells
        .into_iter()
        .map(|(dimensions, count)| aggregator::count::Cell { dimensions, count })
        .collect();
    let mut amounts: BTreeMap<_, i64> = BTreeMap::new();
    for row in to.amounts.drain(..).chain(rows.amounts) {
        *amounts.entry((row.dimensions, row.amount, row.currency)).or_default() += row.micros;
    }
    to.amounts = amounts
        .into_iter()
        .map(|((dimensions, amount, currency), micros)| aggregator::count::CellAmount {
            dimensions,
            amount,
            currency,
            micros,
        })
        .collect();
    let mut totals: BTreeMap<_, u64> = BTreeMap::new();
    for row in to.totals.drain(..).chain(rows.totals) {
        *totals.entry((row.ad, row.kind, row.valid)).or_default() += row.count;
    }
    to.totals = totals
        .into_iter()
        .map(|((ad, kind, valid), count)| aggregator::count::AdTotal { ad, kind, valid, count })
        .collect();
    let mut told: BTreeMap<_, aggregator::count::Told> = BTreeMap::new();
    for row in to.told.drain(..).chain(rows.told) {
        told.entry(row.publisher).or_default().add(row.told);
    }
    to.told = told
        .into_iter()
        .map(|(publisher, told)| aggregator::count::PublisherTold { publisher, told })
        .collect();
    to.account.add(&rows.account);
}
