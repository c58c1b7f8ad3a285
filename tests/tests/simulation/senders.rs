//! Nothing that an authenticated sender writes stops a partition, spoils the account or changes what
//! another has counted: whatever batches it sends, by its issuer's signature or as an edge of NATS,
//! through the real collector into the real engines. (What messages may be, whoever wrote them, is a
//! test of the engine: `aggregator/src/count/tests/hostile.rs`.)

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aggregator::count::{Engine, Settings as EngineSettings};
use bytes::Bytes;
use collector::{
    Collector, CollectorKeys, Metrics, Parts, Quotas, Receipt, Sender, Settings, SubmitError,
};
use eventlog::fake::MemLog;
use eventlog::{Log, Reader};
use futures::future::join_all;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use shared::event::VERDICTS;
use shared::keys::KeyStore;
use shared::limits::{BATCH_BYTES_MAX, PAGE_SEQ_MAX};
use shared::name::{Named, literal};
use shared::random::Seeded;
use shared::token::{Signer, Token};
use shared::wire::batch::Event;
use shared::wire::{Batch, Logged, Tally};
use shared::{
    BlockId, Clock, Codes, Country, Device, EdgeId, Fingerprint, Flags, Id, ImpressionId, IssuerId,
    Kind, Minute, Money, Name, Network, OutboxId, PageSeq, PageView, PartitionMap, Partitions,
    Reason, Region, RuleSet, Timestamp,
};
use tokio::sync::watch;

const NOW: Timestamp = Timestamp(1_790_000_000_000);
const PARTITIONS: u16 = 3;
const HONEST: IssuerId = Id::literal("honest");
const HOSTILE: IssuerId = Id::literal("hostile");
/// The first belongs to the honest issuer, the last to nobody.
const EDGES: [EdgeId; 5] = [
    Id::literal("honest-edge"),
    Id::literal("hostile-a"),
    Id::literal("hostile-b"),
    Id::literal("hostile-b--1"),
    Id::literal("nobody"),
];
/// So small that the hostile issuer reaches them; the honest one needs one of each.
const QUOTAS: Quotas = Quotas {
    bytes_per_s: 0,
    bytes_burst: 0,
    blocks_per_hour: 1,
    blocks_burst: 6,
    outboxes_per_hour: 1,
    outboxes_burst: 3,
};
/// The largest message of the log, in bytes: a hostile batch alone may be larger.
const MESSAGE_BYTES_MAX: usize = 16 << 10;

#[derive(Clone, Debug)]
struct Step {
    /// How much time passes before it.
    ms: u64,
    hostile: Vec<BatchOp>,
    /// The honest issuer's next batch: which of its impressions are clicked in it, some again.
    honest: Vec<u16>,
}

#[derive(Clone, Debug)]
struct BatchOp {
    /// As an edge over NATS, or by the issuer's signature.
    by_nats: Option<usize>,
    edge: usize,
    epoch: u64,
    number: u64,
    watermark: u64,
    /// Each event, and how many times it is in the batch.
    events: Vec<(EventOp, usize)>,
    tallies: Vec<(u32, usize, u32)>,
}

#[derive(Clone, Debug)]
struct EventOp {
    token: TokenOp,
    kind: usize,
    at: u64,
    verdict: Option<usize>,
    page: Option<(u64, u16)>,
}

#[derive(Clone, Debug)]
enum TokenOp {
    /// Signed by the hostile issuer, whatever it says.
    Own {
        opened: u32,
        block: u8,
        seq: u16,
        issued: u64,
        life_s: u32,
        honest_ad: bool,
        theirs: bool,
    },
    /// A token of the honest issuer, which is public.
    Public(u16),
    /// One of these, with a byte changed.
    Changed(u16, usize),
    Garbage(Vec<u8>),
}

fn time() -> impl Strategy<Value = u64> {
    let now = NOW.0;
    let far = prop_oneof![Just(0), Just(u64::MAX), any::<u64>()];
    prop_oneof![6 => now..now + 60_000, 2 => now - 200_000..now + 200_000, 1 => far]
}

fn minute() -> impl Strategy<Value = u32> {
    let now = NOW.minute().0;
    prop_oneof![9 => now - 3..now, 1 => now..now + 3, 1 => Just(now - 7 * 24 * 60), 1 => any::<u32>()]
}

fn token() -> impl Strategy<Value = TokenOp> {
    let now = NOW.0;
    let issued = prop_oneof![6 => now - 120_000..now, 1 => 0..1_u64 << 48];
    let own = (minute(), 0..20_u8, 0..4_u16, issued, 0..90_000_u32, any::<(bool, bool)>());
    let own = own.prop_map(|(opened, block, seq, issued, life_s, (honest_ad, theirs))| {
        TokenOp::Own { opened, block, seq, issued, life_s, honest_ad, theirs: theirs && honest_ad }
    });
    prop_oneof![
        6 => own,
        3 => (0..40_u16).prop_map(TokenOp::Public),
        1 => (0..40_u16, 0..250_usize).prop_map(|(seq, at)| TokenOp::Changed(seq, at)),
        1 => vec(any::<u8>(), 0..300).prop_map(TokenOp::Garbage),
    ]
}

fn event() -> impl Strategy<Value = EventOp> {
    let verdict = prop_oneof![4 => Just(None), 1 => (0..VERDICTS.len()).prop_map(Some)];
    let page = (any::<u64>(), 1..=PAGE_SEQ_MAX);
    let page = prop_oneof![1 => Just(None), 1 => page.prop_map(Some)];
    (token(), 0..Kind::ALL.len(), time(), verdict, page)
        .prop_map(|(token, kind, at, verdict, page)| EventOp { token, kind, at, verdict, page })
}

fn batch() -> impl Strategy<Value = BatchOp> {
    let number = prop_oneof![6 => 0..20_u64, 1 => Just(u64::MAX >> 1), 1 => any::<u64>()];
    let epoch = prop_oneof![6 => 0..4_u64, 1 => Just(NOW.0), 1 => any::<u64>()];
    let times = prop_oneof![6 => Just(1), 1 => Just(200)];
    let count = prop_oneof![6 => 0..9_u32, 1 => Just(u32::MAX), 1 => any::<u32>()];
    let reasons = (1..=u8::MAX).filter(|code| Reason::from_code(*code).is_some()).count();
    let tallies = vec((minute(), 0..reasons, count), 0..3);
    let edge = prop_oneof![6 => 1..4_usize, 1 => Just(0), 1 => Just(4)];
    (0..11_usize, edge, epoch, number, time(), vec((event(), times), 0..5), tallies).prop_map(
        |(way, edge, epoch, number, watermark, events, tallies)| BatchOp {
            // Over NATS mostly as the edge that the batch names, unless that is another's.
            by_nats: match way {
                0..4 => None,
                4..8 => Some(edge.clamp(1, 3)),
                _ => Some(way - 7),
            },
            edge,
            epoch,
            number,
            watermark,
            events,
            tallies,
        },
    )
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let ms = prop_oneof![6 => 0..20_000_u64, 1 => Just(3_600_000)];
    let step = (ms, vec(batch(), 0..6), vec(0..40_u16, 0..4));
    vec(step.prop_map(|(ms, hostile, honest)| Step { ms, hostile, honest }), 1..8)
}

struct SetClock(AtomicU64);

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

fn named<T: Named>(name: &str) -> Name<'_, T> {
    Name::new(name).unwrap()
}

/// A deployment with an issuer that may sell for its own publisher alone, and another one.
struct Deployment {
    keys: KeyStore,
}

impl Deployment {
    fn new() -> Self {
        let mut random = Seeded::new(1);
        let mut keys = KeyStore::generate(&mut random);
        let since = NOW.minus_ms(40 * 24 * 3_600_000);
        for (issuer, edges) in [(HONEST, &EDGES[..1]), (HOSTILE, &EDGES[1..3])] {
            let publisher = named(issuer.as_str()).to_buf();
            keys.create(issuer, vec![publisher], since, &mut random).unwrap();
            for edge in edges {
                keys.register_edge(*edge, issuer, since).unwrap();
            }
        }
        Self { keys }
    }

    /// A token that this issuer signs, with a change; `None` when it cannot be signed.
    fn mint(&self, issuer: IssuerId, change: impl FnOnce(&mut Token<'_>)) -> Option<Vec<u8>> {
        let signer = Signer::new(self.keys.signing(issuer, NOW).unwrap());
        let name = issuer.to_string();
        let mut token = Token {
            test: false,
            pass_query: false,
            deployment: self.keys.deployment,
            key: signer.id(),
            id: ImpressionId { block: BlockId::open(NOW, &mut Seeded::new(2)), seq: 0 },
            issued_at: NOW,
            impression_life_s: 80_000,
            click_life_s: 80_000,
            price: [0; 11],
            visitor: Fingerprint(7),
            ad: named(&name),
            campaign: named(&name),
            advertiser: named(&name),
            publisher: named(&name),
            placement: named(&name),
            url: "https://shop.example/",
        };
        change(&mut token);
        let cover = self.keys.price_key(signer.id());
        token.price = cover.seal(token.id, Money::ZERO);
        signer.mint(&token).ok()
    }

    fn public(&self, seq: u16) -> Vec<u8> {
        self.mint(HONEST, |token| token.id.seq = seq).unwrap()
    }

    fn token(&self, op: &TokenOp) -> Vec<u8> {
        match op {
            TokenOp::Own { opened, block, seq, issued, life_s, honest_ad, theirs } => {
                let mut id = [*block; 10];
                let opened = opened.saturating_sub(Minute::BLOCK_EPOCH.0) & 0xff_ffff;
                id[..3].copy_from_slice(&opened.to_be_bytes()[1..]);
                let minted = self.mint(HOSTILE, |token| {
                    token.id = ImpressionId { block: BlockId(id), seq: *seq };
                    token.issued_at = Timestamp(*issued);
                    (token.impression_life_s, token.click_life_s) = (*life_s, *life_s);
                    token.ad = literal(if *honest_ad { "honest" } else { "hostile" });
                    token.publisher = literal(if *theirs { "honest" } else { "hostile" });
                });
                minted.unwrap_or_default()
            }
            TokenOp::Public(seq) => self.public(*seq),
            TokenOp::Changed(seq, at) => {
                let mut token = self.public(*seq);
                let at = at % token.len();
                token[at] ^= 1;
                token
            }
            TokenOp::Garbage(bytes) => bytes.clone(),
        }
    }

    fn batch(&self, op: &BatchOp) -> Bytes {
        let tokens: Vec<_> = op.events.iter().map(|(op, _)| self.token(&op.token)).collect();
        let mut events = Vec::new();
        for ((op, times), token) in op.events.iter().zip(&tokens) {
            let event = Event {
                verdict: op.verdict.map(|verdict| VERDICTS[verdict]),
                page: op.page.map(|(page, seq)| PageSeq { page: PageView(page), seq }),
                ..event_of(Kind::ALL[op.kind], Timestamp(op.at), token)
            };
            events.extend(std::iter::repeat_n(event, *times));
        }
        let reasons: Vec<_> = (1..=u8::MAX).filter_map(Reason::from_code).collect();
        let tally = |(minute, reason, count): &(u32, usize, u32)| Tally {
            minute: Minute(*minute),
            kind: Kind::Click,
            reason: reasons[*reason],
            count: *count,
        };
        let outbox = OutboxId { edge: EDGES[op.edge], epoch: op.epoch };
        let (number, watermark) = (op.number, Timestamp(op.watermark));
        let tallies = op.tallies.iter().map(tally).collect();
        Batch { outbox, number, watermark, events, tallies }.to_bytes().into()
    }

    fn honest(&self, number: u64, now: Timestamp, clicked: &[u16]) -> Bytes {
        let tokens: Vec<_> = clicked.iter().map(|seq| self.public(*seq)).collect();
        let events = tokens.iter().map(|token| event_of(Kind::Click, now, token)).collect();
        let outbox = OutboxId { edge: EDGES[0], epoch: 1 };
        let tallies = Vec::new();
        Batch { outbox, number, watermark: now, events, tallies }.to_bytes().into()
    }
}

fn event_of(kind: Kind, at: Timestamp, token: &[u8]) -> Event<'_> {
    Event {
        kind,
        at,
        verdict: None,
        flags: Flags::default(),
        rules: RuleSet::UNKNOWN,
        page: None,
        codes: Codes::new(Country::UNKNOWN, Device::Phone),
        region: Region::UNKNOWN,
        network: Network::default(),
        visitor: Fingerprint(7),
        token,
    }
}

type Submitted = Result<Receipt, SubmitError>;

/// The collector, and the batches that it has taken.
struct Door {
    collector: Collector<MemLog>,
    clock: Arc<SetClock>,
    /// The most events that may be declared, by batch: of several with one number, those of the
    /// largest.
    taken: BTreeMap<(OutboxId, u64), u64>,
    /// How often it refused, by the kind of refusal.
    refused: BTreeMap<&'static str, u64>,
}

impl Door {
    fn open(log: &MemLog, deployment: &Deployment) -> Self {
        let clock = Arc::new(SetClock(AtomicU64::new(NOW.0)));
        let keys = Arc::new(CollectorKeys::of_store(&deployment.keys).unwrap());
        let collector = Collector::new(Parts {
            log: Arc::new(log.clone()),
            map: PartitionMap::new(Partitions::new(PARTITIONS).unwrap()),
            keys: watch::channel(keys).1,
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            metrics: Arc::new(Metrics::default()),
            settings: Settings {
                verify_threads: 1,
                flush_ms: 1,
                quotas: QUOTAS,
                ..Settings::default()
            },
        });
        let collector = collector.unwrap();
        Self { collector, clock, taken: BTreeMap::new(), refused: BTreeMap::new() }
    }

    async fn send(&self, by_nats: Option<usize>, issuer: IssuerId, batch: Bytes) -> Submitted {
        match by_nats {
            Some(edge) => self.collector.submit_from_edge(EDGES[edge].as_str(), batch).await,
            None => self.collector.submit_from(Sender::Issuer(issuer), "test", batch).await,
        }
    }

    fn note(&mut self, batch: &[u8], submitted: &Submitted) {
        match submitted {
            Ok(_) => {
                let batch = Batch::read(batch).unwrap();
                let tallied: u64 = batch.tallies.iter().map(|tally| u64::from(tally.count)).sum();
                let declared = self.taken.entry((batch.outbox, batch.number)).or_default();
                *declared = (*declared).max(batch.events.len() as u64 + tallied);
            }
            Err(error) => {
                let how = match error {
                    SubmitError::Retry(why) => panic!("the log is there: {why}"),
                    SubmitError::Refused(_) => "dead letter",
                    SubmitError::TooManyLetters(..) => "too many dead letters",
                    SubmitError::NotAllowed(why, _) => why.name(),
                    SubmitError::OverQuota { .. } => "over quota",
                };
                *self.refused.entry(how).or_default() += 1;
            }
        }
    }

    async fn step(&mut self, deployment: &Deployment, number: u64, step: &Step) {
        let now = self.clock.0.fetch_add(step.ms, Ordering::SeqCst) + step.ms;
        let mut batches: Vec<_> =
            step.hostile.iter().map(|op| (op.by_nats, HOSTILE, deployment.batch(op))).collect();
        // The honest batch comes in the middle of the hostile ones.
        let honest = batches.len() / 2;
        let batch = deployment.honest(number, Timestamp(now), &step.honest);
        batches.insert(honest, (None, HONEST, batch));
        let sent =
            batches.iter().map(|(by_nats, of, batch)| self.send(*by_nats, *of, batch.clone()));
        let submitted = join_all(sent).await;
        assert!(submitted[honest].is_ok(), "{:?}", submitted[honest]);
        for ((_, _, batch), submitted) in batches.iter().zip(&submitted) {
            self.note(batch, submitted);
        }
    }
}

/// Applies all that a partition has.
async fn count(log: &MemLog, partition: u16) -> Engine {
    let mut engine = Engine::new(partition, EngineSettings { resident_minutes: 20_000 });
    let mut reader = log.reader(partition, None).await.unwrap();
    while let Some(delivered) = reader.try_next().unwrap() {
        match Logged::read(&delivered.payload).unwrap() {
            Logged::Message(message) => drop(engine.apply(&message, delivered.position).unwrap()),
            Logged::Control(control) => engine.control(&control, delivered.position).unwrap(),
        }
    }
    engine
}

/// Runs the steps; returns how often the collector refused, by the kind of refusal, and how many
/// hostile events were counted.
async fn run(deployment: &Deployment, steps: &[Step]) -> (BTreeMap<&'static str, u64>, u64) {
    let log = MemLog::new(PARTITIONS, [1; 16]);
    log.set_message_bytes_max(MESSAGE_BYTES_MAX);
    let mut door = Door::open(&log, deployment);
    for (number, step) in (0..).zip(steps) {
        door.step(deployment, number, step).await;
    }
    door.collector.close().await;

    let clicked: BTreeSet<u16> = steps.iter().flat_map(|step| &step.honest).copied().collect();
    let most: u64 = door.taken.values().sum();
    let (mut declared, mut outcomes) = (Vec::new(), 0);
    let (mut counted, mut hostile) = (0, 0);
    for partition in 0..PARTITIONS {
        let engine = count(&log, partition).await;
        let accounts = engine.account(Minute(0), Minute(u32::MAX));
        outcomes += accounts.iter().map(|(_, account)| account.outcomes()).sum::<u64>();
        declared.push(accounts.iter().map(|(_, account)| account.declared).sum::<u64>());
        for (minute, _) in &accounts {
            engine.cells(*minute, &mut |cell| match cell.dimensions.publisher.text() {
                Some("honest") if cell.dimensions.valid => counted += cell.count,
                Some("honest") => panic!("nobody gave a verdict on it: {cell:?}"),
                _ => hostile += cell.count,
            });
        }
        assert!(engine.outboxes().any(|(outbox, _)| outbox.edge == EDGES[0]));
    }
    assert_eq!(counted, clicked.len() as u64, "an honest sender's counts are exact");
    assert_eq!(declared, vec![outcomes; usize::from(PARTITIONS)], "received = outcomes");
    assert!(outcomes <= most, "{outcomes} outcomes of {most} events taken");
    (door.refused, hostile)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..Default::default() })]

    #[test]
    fn whatever_a_sender_writes_another_is_counted_exactly(steps in steps()) {
        runtime().block_on(run(&Deployment::new(), &steps));
    }
}

/// The property above would hold for nothing: here the hostile batches are taken and counted, and
/// refused in every way.
#[test]
fn the_hostile_sender_is_heard() {
    let mut random = proptest::test_runner::TestRunner::deterministic();
    let deployment = Deployment::new();
    let (mut refused, mut hostile) = (BTreeMap::new(), 0);
    for _ in 0..60 {
        let steps = steps().new_tree(&mut random).unwrap().current();
        let (ways, counted) = runtime().block_on(run(&deployment, &steps));
        hostile += counted;
        for (how, times) in ways {
            *refused.entry(how).or_insert(0) += times;
        }
    }
    let ways: Vec<_> = refused.keys().copied().collect();
    let all = [
        "batch_too_large",
        "dead letter",
        "epoch_ahead",
        "foreign_edge",
        "over quota",
        "unregistered_edge",
    ];
    assert!(hostile > 30 && ways == all, "{hostile} counted; {refused:?}");
    const { assert!(MESSAGE_BYTES_MAX < BATCH_BYTES_MAX) };
}
