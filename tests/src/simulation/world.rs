//! Runs a list of operations and holds the system to its invariants.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aggregator::count::MinuteAccount;
use collector::verify::Verifier;
use collector::{CollectorKeys, Metrics};
use edge::catalogue::Catalogue;
use edge::{Durability, Policy};
use eventlog::fake::Faults;
use shared::import::{ImportChunk, ImportEvent, named_source};
use shared::keys::KeyStore;
use shared::random::Seeded;
use shared::token::{Unverified, from_text};
use shared::wire::Batch;
use shared::{Country, Id, Kind, Minute, PartitionMap, Partitions, Reason, SourceId, Timestamp};

use super::centre::{Ack, Centre, Partition};
use super::edge::{Cut, Edge};
use super::operation::Operation;
use super::oracle::Account;

const START: Timestamp = Timestamp(1_790_000_000_000);
const PARTITIONS: u16 = 4;
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
    /// After which operation; one past the last: in the end.
    pub step: usize,
    /// Which, and how.
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
}

/// Makes worlds; keeps what is costly to start.
pub struct Simulator {
    verifier: Verifier,
    map: PartitionMap,
}

struct World<'v> {
    now: Timestamp,
    random: Seeded,
    policy: Policy,
    keys: KeyStore,
    edges: Vec<Edge>,
    tokens: Vec<String>,
    centre: Centre<'v>,
    /// The rows that each log has, as far as any importer has sent them.
    sent_rows: BTreeMap<SourceId, u64>,
    /// What a final minute had at a revision, by partition.
    finals: BTreeMap<(usize, Minute, u64), u64>,
}

impl Simulator {
    /// Starts what all worlds share.
    ///
    /// # Errors
    /// When threads cannot be started.
    pub fn new() -> Result<Self, String> {
        let partitions = Partitions::new(PARTITIONS).ok_or("a number of partitions")?;
        let map = PartitionMap::new(partitions);
        let metrics = Arc::new(Metrics::default());
        let verifier = Verifier::new(1, 10_000, map.clone(), metrics)?;
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
    fn new(seed: u64, map: &PartitionMap, verifier: &'v Verifier) -> Self {
        let mut random = Seeded::new(seed ^ 0x5eed);
        let issuer = Id::literal("sim");
        let mut keys = KeyStore::generate(&mut random);
        keys.create(issuer, Vec::new(), START.minus_ms(600_000), &mut random)
            .expect("the first key");
        let policy = Policy {
            public_url: "https://edge.example".parse().expect("a good URL"),
            beacons: Durability::Durable,
            keys: Arc::new(edge::Keys::of_store(&keys, issuer).expect("it has a key")),
            catalogue: Arc::new(Catalogue::from_json(CATALOGUE).expect("a good catalogue")),
        };
        let collector_keys = CollectorKeys::of_store(&keys).expect("good keys");
        Self {
            now: START,
            random,
            policy,
            keys,
            edges: ["paris", "tokyo"].map(|name| Edge::new(Id::literal(name), START)).into(),
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
            Op::Serve { edge } => {
                let token = self.edges[edge].serve(&self.policy, now, &mut self.random);
                self.tokens.push(token);
            }
            Op::Click { edge, token } => self.comes_back(edge, token, Some(false), Kind::Click),
            Op::Head { edge, token } => self.comes_back(edge, token, Some(true), Kind::Click),
            Op::Impression { edge, token } => self.comes_back(edge, token, None, Kind::Impression),
            Op::Viewable { edge, token } => self.comes_back(edge, token, None, Kind::Viewable),
            Op::Forge { edge, token, bit } => return self.forge(edge, token, bit),
            Op::Seal { edge } => self.edges[edge].seal(now, None),
            Op::SealDiesBefore { edge } => self.dies(edge, Cut::BeforeWrite),
            Op::SealDiesAfter { edge } => self.dies(edge, Cut::AfterWrite),
            Op::CrashEdge { edge } => self.edges[edge].restart(now),
            Op::Send { edge, ahead } => self.send(edge, self.edges[edge].acked + ahead),
            Op::Resend { edge, batch } => {
                let batches = self.edges[edge].disk.len();
                self.send(edge, batch % batches);
            }
            Op::Flush => self.flush(Faults::default()),
            Op::FlushLosesAck => self.flush(Faults { lose_ack: 1, ..Faults::default() }),
            Op::FlushHalf => self.flush(Faults { write_half: 1, ..Faults::default() }),
            Op::FlushFails => self.flush(Faults { fail_before_write: 1, ..Faults::default() }),
            Op::CrashCollector => self.centre.crash_collector(),
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
            Op::Skew { edge, ms } => self.edges[edge].skew_ms = ms,
            Op::Import { source, rows, back } => self.import(source, rows, back),
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

    /// Whatever bit is altered: no redirect, no event, one more of some reason.
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

    fn send(&mut self, edge: usize, batch: usize) {
        if let Some(bytes) = self.edges[edge].disk.get(batch) {
            self.centre.batch(bytes, Ack::Batch(edge, batch), self.now);
        }
    }

    fn flush(&mut self, faults: Faults) {
        for ack in self.centre.flush(self.now, faults) {
            let Ack::Batch(edge, batch) = ack else { continue };
            let edge = &mut self.edges[edge];
            // Only what is contiguous is forgotten; the rest is sent again.
            if batch == edge.acked {
                edge.acked += 1;
            }
        }
    }

    fn import(&mut self, source: usize, rows: u64, back: u64) {
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
        self.centre.chunk(&chunk, self.now);
    }

    fn check(&mut self) -> Result<(), String> {
        for (at, partition) in self.centre.partitions.iter().enumerate() {
            check_partition(partition).map_err(|what| format!("partition {at}: {what}"))?;
            let finality = partition.engine.finality();
            for (minute, account) in accounts(partition) {
                if !finality.is_final(minute) {
                    continue;
                }
                let key = (at, minute, account.revision);
                let before = *self.finals.entry(key).or_insert(account.counted);
                if before != account.counted {
                    return Err(format!(
                        "partition {at}: final minute {minute:?} had {before} and has {} events, \
                         both at revision {}",
                        account.counted, account.revision
                    ));
                }
            }
        }
        Ok(())
    }

    /// Everything is delivered, from all disks; then what the edges hold must be what is counted.
    fn finish(mut self) -> Result<Summary, String> {
        for edge in &mut self.edges {
            edge.seal(self.now, None);
            edge.restart(self.now);
        }
        self.send_everything();
        for source in SOURCES.map(named_source) {
            let sent = self.sent_rows.get(&source).copied().unwrap_or(0);
            let first = self.centre.rows(source);
            if sent > first {
                let source = SOURCES.iter().position(|name| named_source(name) == source);
                self.import(source.unwrap_or(0), sent - first, 0);
                self.flush(Faults::default());
            }
        }
        for partition in &mut self.centre.partitions {
            partition.apply(&self.centre.log, usize::MAX)?;
        }
        self.check()?;
        self.check_conservation()
    }

    fn send_everything(&mut self) {
        for edge in 0..self.edges.len() {
            while self.edges[edge].acked < self.edges[edge].disk.len() {
                self.send(edge, self.edges[edge].acked);
                self.flush(Faults::default());
            }
        }
    }

    fn check_conservation(&self) -> Result<Summary, String> {
        let mut sum = MinuteAccount::default();
        let (mut declared, mut imported_unique) = (Vec::new(), 0);
        for partition in &self.centre.partitions {
            if let Some(gap) = partition.engine.gaps().first() {
                return Err(format!("everything was delivered, and there is {gap:?}"));
            }
            let mut own = 0;
            for (_, account) in accounts(partition) {
                sum.add(&account);
                own += account.declared;
            }
            declared.push(own);
        }
        let expected = self.expected();
        for (source, rows) in &self.sent_rows {
            same("rows of a log", *rows, self.centre.rows(*source))?;
            imported_unique += (0..*rows).flat_map(logged).count() as u64;
        }
        for own in &declared {
            same("declared, in every partition", expected.received, *own)?;
        }
        same("received and outcomes", expected.received + sum.imported, sum.outcomes())?;
        let accepted: u64 = self.edges.iter().map(|edge| edge.accepted).sum();
        let untold: u64 = self.edges.iter().map(Edge::untold).sum();
        let tallied: u64 = self.edges.iter().map(|edge| edge.tallied).sum();
        same("tallied", tallied, expected.tallied + untold)?;
        if accepted > expected.events {
            return Err(format!("{accepted} events accepted, {} on disk", expected.events));
        }
        let unique = expected.valid.len() as u64 + imported_unique;
        let late = sum.reason(Reason::TooLate);
        if late == 0 {
            same("unique valid events and counted ones", unique, sum.counted)?;
        } else if sum.counted > unique || sum.counted + late < unique {
            return Err(format!("{unique} unique, {} counted, {late} too late", sum.counted));
        }
        let reasons = sum.reasons.iter().sum();
        Ok(Summary { counted: sum.counted, duplicate: sum.duplicate, reasons })
    }

    /// What the edges' disks say, looked at without any of the centre's code but the judge's rules.
    fn expected(&self) -> Expected {
        let mut expected = Expected::default();
        let keyring = self.keys.keyring().expect("good keys");
        for bytes in self.edges.iter().flat_map(|edge| &edge.disk) {
            let batch = Batch::read(bytes).expect("an edge seals whole batches");
            let tallied: u64 = batch.tallies.iter().map(|tally| u64::from(tally.count)).sum();
            expected.tallied += tallied;
            expected.events += batch.events.len() as u64;
            expected.received += tallied + batch.events.len() as u64;
            for event in batch.events {
                let token = Unverified::read(event.token, self.keys.deployment)
                    .and_then(|token| token.verify(&keyring, event.at));
                let (token, _) = token.expect("an edge takes good tokens only");
                if event.verdict.is_none() && token.check_time(event.kind, event.at).is_ok() {
                    expected.valid.insert((token.id, event.kind));
                }
            }
        }
        expected
    }
}

#[derive(Default)]
struct Expected {
    received: u64,
    events: u64,
    tallied: u64,
    valid: BTreeSet<(shared::ImpressionId, Kind)>,
}

/// The engine says what the oracle says, in memory and store together.
fn check_partition(partition: &Partition) -> Result<(), String> {
    let Partition { engine, oracle, .. } = partition;
    same("the log's clock", oracle.clock, engine.clock())?;
    same("the watermark", oracle.watermark(), engine.finality().watermark)?;
    let says: BTreeMap<Minute, Account> = accounts(partition)
        .map(|(minute, account)| {
            let MinuteAccount { declared, imported, counted, duplicate, reasons, .. } = account;
            (minute, Account { declared, imported, counted, duplicate, reasons })
        })
        .filter(|(_, account)| *account != Account::default())
        .collect();
    let mut should = oracle.accounts.clone();
    should.retain(|_, account| *account != Account::default());
    same("the accounts", &should, &says)?;
    let mut spend = 0;
    for minute in says.keys() {
        let stored = stored(partition, *minute);
        let mut totals: BTreeMap<(Minute, Id, Kind), u64> = BTreeMap::new();
        for total in stored.iter().flat_map(|rows| &rows.totals) {
            *totals.entry((*minute, total.ad, total.kind)).or_default() += total.count;
        }
        for kind in Kind::ALL {
            engine.ad_totals(*minute, *kind, &mut |ad, count| {
                *totals.entry((*minute, ad, *kind)).or_default() += count;
            });
        }
        let ends =
            ((*minute, Id::NONE, Kind::Served), (Minute(minute.0 + 1), Id::NONE, Kind::Served));
        let should = oracle.totals.range(ends.0..ends.1).map(|(key, n)| (*key, *n)).collect();
        same("the totals", &should, &totals)?;
        spend += stored.iter().flat_map(|rows| &rows.spend).map(|row| row.micros).sum::<i64>();
        engine.spend(*minute, &mut |row| spend += row.micros);
    }
    same("the spend", oracle.spend, spend)?;
    for (source, rows) in &oracle.rows {
        same("the rows of a log", *rows, engine.source(*source).map_or(0, |state| state.rows))?;
    }
    Ok(())
}

/// What the store adds to what memory has of a minute.
fn stored(partition: &Partition, minute: Minute) -> Option<&aggregator::count::MinuteRows> {
    let resident = minute >= partition.engine.resident_from();
    if resident { None } else { partition.stored(minute) }
}

/// The accounts of all minutes, memory and store together.
fn accounts(partition: &Partition) -> impl Iterator<Item = (Minute, MinuteAccount)> {
    let mut accounts: BTreeMap<Minute, MinuteAccount> =
        partition.engine.account(Minute(0), Minute(u32::MAX)).into_iter().collect();
    for minute in partition.oracle.accounts.keys() {
        if let Some(rows) = stored(partition, *minute) {
            accounts.entry(*minute).or_default().add(&rows.account);
        }
    }
    accounts.into_iter()
}

/// What a row of a log says: every third is an impression with a click.
fn logged(row: u64) -> impl Iterator<Item = ImportEvent> {
    let kinds: &[Kind] =
        if row.is_multiple_of(3) { &[Kind::Impression, Kind::Click] } else { &[Kind::Click] };
    let at = Timestamp(1_574_553_600_000 + row * 7_000);
    kinds.iter().map(move |kind| ImportEvent {
        row,
        kind: *kind,
        at,
        ad: Id::literal(if row.is_multiple_of(2) { "even" } else { "odd" }),
        publisher: None,
        placement: None,
        country: Country::UNKNOWN,
        device: None,
        ip: None,
        user: None,
    })
}

fn nth(tokens: &[String], at: usize) -> Option<&str> {
    // The latest are the most interesting: they are not expired.
    let at = tokens.len().checked_sub(1 + at % tokens.len().max(1))?;
    tokens.get(at).map(String::as_str)
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, should: T, is: T) -> Result<(), String> {
    if should == is {
        return Ok(());
    }
    Err(format!("{what}: should be {should:?}, is {is:?}"))
}
