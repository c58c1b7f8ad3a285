//! Runs a list of operations and checks the system's invariants.

use std::collections::BTreeMap;
use std::sync::Arc;

use catalogue::Catalogue;
use collector::verify::{Checks, Verifier};
use collector::{CollectorKeys, Sender};
use edge::policy::LINK_DAYS;
use edge::privacy::PrivacyPolicy;
use edge::verdict::Rules;
use edge::{Durability, Policy};
use eventlog::fake::Faults;
use shared::import::{ImportChunk, ImportEvent, named_source};
use shared::keys::KeyStore;
use shared::limits::CLOCK_HOLD_MS_MAX;
use shared::name::literal;
use shared::random::Seeded;
use shared::token::from_text;
use shared::wire::Batch;
use shared::{
    Country, EdgeId, Id, IssuerId, Kind, Minute, PartitionMap, Partitions, RuleSet, SourceId,
    Timestamp,
};

use super::centre::{Ack, COLLECTORS, Centre, Partition};
use super::edge::{Cut, Edge};
use super::hostile::{self, Hostile, Knows};
use super::operation::Operation;

pub(super) const START: Timestamp = Timestamp(1_790_000_000_000);
const PARTITIONS: u16 = 4;
/// The issuer whose key signs.
pub(super) const ISSUER: IssuerId = Id::literal("sim");
/// Its edges.
const EDGES: [EdgeId; 2] = [Id::literal("paris"), Id::literal("tokyo")];
const SOURCES: [&str; 2] = ["first.csv", "second.csv"];
/// Two ads of one advertiser.
pub(crate) const CATALOGUE: &str = r#"{
    "lifetimes": {"impression_s": 3600, "click_s": 86400},
    "ads": [
        {"id": "boots", "campaign": "autumn", "advertiser": "shop", "html": "<b>boots</b>",
         "width": 300, "height": 250, "url": "https://shop.example/boots", "weight": 3,
         "price_micros": 1500, "currency": "EUR"},
        {"id": "hats", "campaign": "autumn", "advertiser": "shop", "html": "<b>hats</b>",
         "width": 300, "height": 250, "url": "https://shop.example/hats", "weight": 1,
         "price_micros": 700, "currency": "EUR"}
    ],
    "placements": [{"id": "top", "publisher": "news", "ads": ["boots", "hats"]}]
}"#;

/// An invariant that did not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// The operation after which it did not hold; one past the last stands for the end.
    pub step: usize,
    /// The invariant, and how it failed.
    pub what: String,
}

/// What a run did, so that a test can see that it did something.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// Events counted.
    pub counted: u64,
    /// Duplicates.
    pub duplicate: u64,
    /// Events with a reason.
    pub reasons: u64,
    /// Of these, what tests would have counted.
    pub tests: u64,
    /// Events whose edge was ahead of the collector.
    pub clock_ahead: u64,
    /// Partitions that were stopped because their log had lost messages.
    pub stopped: u64,
    /// Batches of a hostile sender that were let in; all are accounted for.
    pub lies: u64,
    /// Batches of a hostile sender that were not let in.
    pub turned_away: u64,
}

impl std::ops::AddAssign for Summary {
    fn add_assign(&mut self, other: Self) {
        self.counted += other.counted;
        self.duplicate += other.duplicate;
        self.reasons += other.reasons;
        self.tests += other.tests;
        self.clock_ahead += other.clock_ahead;
        self.stopped += other.stopped;
        self.lies += other.lies;
        self.turned_away += other.turned_away;
    }
}

/// Makes worlds, and keeps what they share and is costly to start.
pub struct Simulator {
    verifier: Verifier,
    map: PartitionMap,
}

/// All parts, and what is remembered to check them against.
pub(super) struct World<'v> {
    now: Timestamp,
    random: Seeded,
    policy: Policy,
    tokens: Vec<String>,
    hostile: Hostile,
    /// The partition of every block.
    pub(super) map: &'v PartitionMap,
    /// Who may sign.
    pub(super) keys: KeyStore,
    /// All edges.
    pub(super) edges: Vec<Edge>,
    /// Everything behind the edges.
    pub(super) centre: Centre<'v>,
    /// The rows that each log has, as far as any importer has sent them.
    pub(super) sent_rows: BTreeMap<SourceId, u64>,
    /// The counts of final minutes, by partition, minute and revision.
    pub(super) finals: BTreeMap<(usize, Minute, u64), u64>,
}

impl Simulator {
    /// Starts what all worlds share.
    ///
    /// # Errors
    /// When threads cannot be started.
    pub fn new() -> Result<Self, String> {
        let partitions = Partitions::new(PARTITIONS).ok_or("a number of partitions")?;
        let map = PartitionMap::new(partitions);
        let verifier = Verifier::new(1, 10_000, map.clone(), Checks::default())?;
        Ok(Self { verifier, map })
    }

    /// Runs a list.
    ///
    /// # Errors
    /// The first invariant that did not hold.
    pub fn run(&self, seed: u64, operations: &[Operation]) -> Result<Summary, Failure> {
        let mut world = World::new(seed, &self.map, &self.verifier);
        for (step, operation) in operations.iter().enumerate() {
            let fail = |what| Failure { step, what };
            world.step(*operation).map_err(fail)?;
            world.check().map_err(fail)?;
        }
        let fail = |what| Failure { step: operations.len(), what };
        world.finish().map_err(fail)
    }
}

impl<'v> World<'v> {
    fn new(seed: u64, map: &'v PartitionMap, verifier: &'v Verifier) -> Self {
        let mut random = Seeded::new(seed ^ 0x5eed);
        let issuer = ISSUER;
        let mut keys = KeyStore::generate(&mut random);
        keys.create(issuer, Vec::new(), START.minus_ms(40 * 86_400_000), &mut random)
            .expect("the first key");
        for edge in EDGES {
            keys.register_edge(edge, issuer, START).expect("a free name");
        }
        keys.create(hostile::ISSUER, Vec::new(), START.minus_ms(86_400_000), &mut random)
            .expect("the first key");
        keys.register_edge(hostile::EDGE, hostile::ISSUER, START).expect("a free name");
        let policy = Policy {
            public_url: "https://edge.example".parse().expect("a good URL"),
            link_days: LINK_DAYS,
            beacons: Durability::Durable,
            clicks: Durability::Durable,
            // Its visitors click at once.
            verdicts: Rules { click_too_soon_ms: 0, ..Rules::default() },
            rule_set: RuleSet::UNKNOWN,
            privacy: PrivacyPolicy::default(),
            keys: Arc::new(edge::Keys::of_store(&keys, issuer).expect("it has a key")),
            catalogue: Arc::new(Catalogue::from_json(CATALOGUE).expect("a good catalogue")),
        };
        let collector_keys = CollectorKeys::of_store(&keys).expect("good keys");
        Self {
            now: START,
            random,
            policy,
            map,
            hostile: Hostile::new(&keys),
            keys,
            edges: EDGES.map(|name| Edge::new(name, START)).into(),
            tokens: Vec::new(),
            centre: Centre::new(map, collector_keys, verifier),
            sent_rows: BTreeMap::new(),
            finals: BTreeMap::new(),
        }
    }

    fn step(&mut self, operation: Operation) -> Result<(), String> {
        use Operation as Op;
        let now = self.now;
        match operation {
            Op::Serve { edge } => self.serve(edge, false),
            Op::ServeTest { edge } => self.serve(edge, true),
            Op::Click { edge, token } => self.comes_back(edge, token, Some(false), Kind::Click),
            Op::Head { edge, token } => self.comes_back(edge, token, Some(true), Kind::Click),
            Op::Impression { edge, token } => self.comes_back(edge, token, None, Kind::Impression),
            Op::Viewable { edge, token } => self.comes_back(edge, token, None, Kind::Viewable),
            Op::Forge { edge, token, bit } => return self.forge(edge, token, bit),
            Op::Seal { edge } => self.edges[edge].seal(now, None),
            Op::SealDiesBefore { edge } => self.dies(edge, Cut::BeforeWrite),
            Op::SealDiesAfter { edge } => self.dies(edge, Cut::AfterWrite),
            Op::CrashEdge { edge } => self.edges[edge].restart(now),
            Op::Cut { edge } => self.edges[edge].cut = true,
            Op::Mend { edge } => self.edges[edge].cut = false,
            Op::Retire { edge } => self.centre.retire(self.edges[edge].name),
            Op::Send { edge, ahead, collector } => {
                self.send(edge, self.edges[edge].acked + ahead, collector);
            }
            Op::Resend { edge, batch, collector } => {
                let batches = self.edges[edge].disk.len();
                self.send(edge, batch % batches, collector);
            }
            Op::Publish { edge, ahead } => self.publish(edge, ahead, true),
            Op::PublishLosesAck { edge, ahead } => self.publish(edge, ahead, false),
            Op::Take { collector, ahead } => self.centre.take(collector, ahead, now),
            Op::Redeliver { nth } => self.centre.queue.redeliver(nth),
            Op::Flush { collector } => self.flush(collector, Faults::default(), true),
            Op::FlushLosesDone { collector } => self.flush(collector, Faults::default(), false),
            Op::FlushLosesAck { collector } => {
                self.flush(collector, Faults { lose_ack: 1, ..Faults::default() }, true);
            }
            Op::FlushHalf { collector } => {
                self.flush(collector, Faults { write_half: 1, ..Faults::default() }, true);
            }
            Op::FlushFails { collector } => {
                self.flush(collector, Faults { fail_before_write: 1, ..Faults::default() }, true);
            }
            Op::CrashCollector { collector } => self.centre.crash_collector(collector, now, None),
            Op::Apply { partition, most } => {
                return self.partition(partition, |p, log| p.apply(log, most));
            }
            Op::Checkpoint { partition } => {
                return self.partition(partition, |p, log| p.checkpoint(log, false));
            }
            Op::CheckpointDies { partition } => {
                return self.partition(partition, |p, log| p.checkpoint(log, true));
            }
            Op::CrashEngine { partition } => return self.partition(partition, Partition::crash),
            Op::Tick { ms } => self.now = now.plus_ms(ms),
            Op::Vanish { partition, back } => {
                // What is appended in the place of what is gone has another stamp.
                self.now = now.plus_ms(1);
                return self.partition(partition, |p, log| p.vanish(log, back));
            }
            Op::Recreate => return self.recreate(),
            Op::Skew { edge, ms } => self.edges[edge].skew_ms = ms,
            Op::SkewCollector { collector, ms } => self.centre.skew(collector, ms),
            Op::StepEdge { edge, ms } => self.edges[edge].step_ms = ms,
            Op::StepCollector { collector, ms } => self.centre.step(collector, ms),
            Op::Lie { what, collector, queue } => self.lie(what, collector, queue),
            Op::Import { source, rows, back, collector } => {
                self.import(source, rows, back, collector);
            }
        }
        Ok(())
    }

    fn partition(
        &mut self,
        partition: usize,
        act: impl FnOnce(&mut Partition, &eventlog::fake::MemLog) -> Result<(), String>,
    ) -> Result<(), String> {
        let at = partition % self.centre.partitions.len();
        act(&mut self.centre.partitions[at], &self.centre.log)
    }

    fn comes_back(&mut self, edge: usize, token: usize, head: Option<bool>, kind: Kind) {
        let Some(token) = nth(&self.tokens, token) else { return };
        let (edge, random) = (&mut self.edges[edge], &mut self.random);
        match head {
            Some(head) => edge.click(token, head, &self.policy, self.now, random),
            None => edge.beacon(token, kind, &self.policy, self.now, random),
        };
    }

    /// Sends a token with one bit altered: no redirect, no event, one more of some reason.
    fn forge(&mut self, edge: usize, token: usize, bit: usize) -> Result<(), String> {
        let Some(token) = nth(&self.tokens, token) else { return Ok(()) };
        let mut bytes = from_text(token.as_bytes()).expect("we served it");
        let bit = bit % (bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        let forged = shared::token::to_text(&bytes);
        let edge = &mut self.edges[edge];
        let decision = edge.click(&forged, false, &self.policy, self.now, &mut self.random);
        let refused = decision.events.is_empty() && decision.tallies.len() == 1;
        if refused && (400..500).contains(&decision.reply.status) {
            return Ok(());
        }
        Err(format!("a token with bit {bit} altered was answered {:?}", decision.reply))
    }

    fn dies(&mut self, edge: usize, cut: Cut) {
        self.edges[edge].seal(self.now, Some(cut));
        self.edges[edge].restart(self.now);
    }

    fn serve(&mut self, edge: usize, test: bool) {
        let token = self.edges[edge].serve(test, &self.policy, self.now, &mut self.random);
        self.tokens.push(token);
    }

    /// Makes the log anew, while what was applied is from the old one. A partition that has applied
    /// nothing would not notice: if there is one, nothing happens.
    fn recreate(&mut self) -> Result<(), String> {
        if self.centre.partitions.iter().all(|p| p.engine.position().is_some()) {
            for partition in &mut self.centre.partitions {
                partition.checkpoint(&self.centre.log, false)?;
            }
            self.centre.log.recreate([8; 16]);
        }
        Ok(())
    }

    fn send(&mut self, edge: usize, batch: usize, collector: usize) {
        let from = &mut self.edges[edge];
        if let Some(bytes) = from.batch(batch, self.now).filter(|_| !from.cut) {
            let sender = Sender::Issuer(ISSUER);
            self.centre.batch(collector, sender, &bytes, Ack::Batch(edge, batch), self.now);
        }
    }

    fn publish(&mut self, edge: usize, ahead: usize, heard: bool) {
        let from = &mut self.edges[edge];
        let batch = from.acked + ahead;
        if let Some(bytes) = from.batch(batch, self.now).filter(|_| !from.cut) {
            self.centre.queue.put(from.name, &bytes);
            if heard {
                self.edges[edge].acknowledged(batch);
            }
        }
    }

    fn lie(&mut self, what: u64, collector: usize, queue: bool) {
        let victim = &self.edges[(what % 2) as usize];
        let last = victim.disk.last().expect("it has sealed when it started");
        let last = Batch::read(last).expect("an edge seals whole batches");
        let batch = self.hostile.batch(
            what,
            &Knows {
                now: self.now,
                tokens: &self.tokens,
                victim: (last.outbox, last.number + 1),
                sent: &self.centre.lies,
            },
        );
        if queue {
            self.centre.queue.put(hostile::EDGE, &batch);
        } else {
            let sender = Sender::Issuer(hostile::ISSUER);
            self.centre.batch(collector, sender, &batch, Ack::Nobody, self.now);
        }
    }

    fn flush(&mut self, collector: usize, faults: Faults, queue_hears: bool) {
        for ack in self.centre.flush(collector, self.now, faults) {
            match ack {
                Ack::Batch(edge, batch) => self.edges[edge].acknowledged(batch),
                Ack::Queue(number) if queue_hears => self.centre.queue.done(number),
                Ack::Queue(_) | Ack::Chunk | Ack::Nobody => {}
            }
        }
    }

    /// Sets all clocks right, and time so far that nothing is held back any more.
    fn set_clocks_right(&mut self) {
        let sealed = self.edges.iter().flat_map(|edge| &edge.disk);
        let sealed = sealed.map(|bytes| Batch::read(bytes).expect("an edge sealed it").watermark);
        let mut sealed: Vec<_> = sealed.collect();
        sealed.sort_unstable();
        for watermark in sealed {
            if watermark <= self.now.plus_ms(CLOCK_HOLD_MS_MAX) {
                self.now = self.now.max(watermark);
            }
        }
        for collector in 0..COLLECTORS {
            self.centre.step(collector, 0);
            self.centre.crash_collector(collector, self.now, Some(self.now));
        }
        for edge in &mut self.edges {
            edge.step_ms = 0;
        }
    }

    fn import(&mut self, source: usize, rows: u64, back: u64, collector: usize) {
        let source = named_source(SOURCES[source % SOURCES.len()]);
        let first_row = self.centre.rows(source).saturating_sub(back);
        let end_row = first_row + rows;
        let chunk = ImportChunk {
            source,
            first_row,
            end_row,
            digest: *blake3::hash(&end_row.to_le_bytes()).as_bytes(),
            events: (first_row..end_row).flat_map(logged).collect(),
        };
        let sent = self.sent_rows.entry(source).or_default();
        *sent = end_row.max(*sent);
        self.centre.chunk(collector, &chunk, self.now);
    }

    /// Delivers everything from all disks; then what the edges hold must be what is counted.
    fn finish(mut self) -> Result<Summary, String> {
        let wrong = self.started_wrong();
        for edge in &mut self.edges {
            edge.cut = false;
            edge.seal(self.now, None);
        }
        self.set_clocks_right();
        for edge in &mut self.edges {
            edge.restart(self.now);
        }
        self.send_everything()?;
        for (at, source) in SOURCES.map(named_source).into_iter().enumerate() {
            let sent = self.sent_rows.get(&source).copied().unwrap_or(0);
            let first = self.centre.rows(source);
            if sent > first {
                self.import(at, sent - first, 0, 0);
                self.flush(0, Faults::default(), true);
            }
        }
        for partition in &mut self.centre.partitions {
            partition.apply(&self.centre.log, usize::MAX)?;
        }
        self.check()?;
        let summary = self.check_conservation()?;
        if summary.clock_ahead > 0 && !wrong {
            let ahead = summary.clock_ahead;
            return Err(format!("{ahead} events are ahead, and nobody started with a wrong clock"));
        }
        Ok(summary)
    }

    /// Whether any process ever started while its clock was wrong, when nothing could tell it so.
    fn started_wrong(&self) -> bool {
        self.centre.started_wrong() || self.edges.iter().any(|edge| edge.started_wrong)
    }

    fn send_everything(&mut self) -> Result<(), String> {
        // Far more turns than any list needs: beyond them something is never taken.
        let mut left = 100_000_u32;
        let mut one_more = |what: &str| {
            left = left.checked_sub(1).ok_or_else(|| format!("{what} is never taken"))?;
            Ok::<_, String>(())
        };
        while !self.centre.queue.is_empty() {
            one_more("a batch in the queue")?;
            self.centre.queue.redeliver(0);
            self.centre.take(0, 0, self.now);
            self.flush(0, Faults::default(), true);
        }
        for edge in 0..self.edges.len() {
            while self.edges[edge].acked < self.edges[edge].disk.len() {
                one_more("an edge's batch")?;
                self.send(edge, self.edges[edge].acked, 1);
                self.flush(1, Faults::default(), true);
            }
        }
        // A batch of a hostile sender that only some partitions have is in doubt until all do.
        let sender = Sender::Issuer(hostile::ISSUER);
        for lie in self.centre.lies.clone() {
            self.centre.batch(1, sender, &lie, Ack::Nobody, self.now);
            self.flush(1, Faults::default(), true);
        }
        Ok(())
    }
}

/// The events of a row of a log: every third row is an impression with a click.
pub(super) fn logged(row: u64) -> impl Iterator<Item = ImportEvent> {
    let kinds: &[Kind] =
        if row.is_multiple_of(3) { &[Kind::Impression, Kind::Click] } else { &[Kind::Click] };
    let at = Timestamp(1_574_553_600_000 + row * 7_000);
    kinds.iter().map(move |kind| ImportEvent {
        row,
        kind: *kind,
        at,
        ad: literal(if row.is_multiple_of(2) { "even" } else { "odd" }),
        publisher: None,
        placement: None,
        country: Country::UNKNOWN,
        device: None,
        ip: None,
        user: None,
    })
}

fn nth(tokens: &[String], at: usize) -> Option<&str> {
    // Counts from the latest token, since later ones have not expired.
    let at = tokens.len().checked_sub(1 + at % tokens.len().max(1))?;
    tokens.get(at).map(String::as_str)
}
