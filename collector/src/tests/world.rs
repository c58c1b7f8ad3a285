//! A small deployment with fixed keys, and what the tests want to know of a log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use eventlog::{Log, Reader};
use shared::event::{Country, Device, Fingerprint, Flags, Network, RuleSet};
use shared::keys::{IssuerKey, IssuerLimits, KeyStore, Secret};
use shared::random::Seeded;
use shared::token::{Signer, Token};
use shared::wire::batch::{Batch, Event, Tally};
use shared::wire::{Declared, Logged, MessageView};
use shared::{
    AdId, BlockId, Clock, Codes, Currency, EdgeId, Id, ImpressionId, IssuerId, Kind, Money,
    OutboxId, Outcome, PartitionMap, Partitions, Region, Timestamp,
};
use tokio::sync::watch;

use crate::{Collector, CollectorKeys, Metrics, Parts, Settings};

/// 2026-01-31T12:00:00Z.
pub(super) const NOW: Timestamp = Timestamp(1_769_860_800_000);
pub(super) const HOUR_MS: u64 = 3_600_000;
pub(super) const EDGE: EdgeId = Id::literal("edge-1");
pub(super) const ISSUER: IssuerId = Id::literal("house");
/// An edge of [`LIMITED`].
pub(super) const MODEST_EDGE: EdgeId = Id::literal("edge-3");
pub(super) const LIMITED_EDGE: EdgeId = Id::literal("edge-2");
/// May sign for the publisher `pub-1` only.
pub(super) const LIMITED: IssuerId = Id::literal("limited");
/// Signs for two advertisers, up to [`price`].
pub(super) const MODEST: IssuerId = Id::literal("modest");

/// A clock that is set.
#[derive(Debug)]
pub(super) struct SetClock(pub(super) AtomicU64);

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

/// Keys, and tokens made with them.
pub(super) struct World {
    pub(super) store: KeyStore,
}

impl World {
    pub(super) fn new() -> Self {
        let mut random = Seeded::new(1);
        let mut store = KeyStore::generate(&mut random);
        let since = NOW.minus_ms(30 * 24 * HOUR_MS);
        store.create(ISSUER, Vec::new(), since, &mut random).unwrap();
        store.create(LIMITED, vec![id("pub-1")], since, &mut random).unwrap();
        let limits = IssuerLimits {
            advertisers: vec![id("advertiser-1"), id("advertiser-2")],
            price_max: Some(price()),
            ..IssuerLimits::default()
        };
        store.create_limited(MODEST, limits, since, &mut random).unwrap();
        store.register_edge(EDGE, ISSUER, since).unwrap();
        store.register_edge(id("w"), ISSUER, since).unwrap();
        store.register_edge(LIMITED_EDGE, LIMITED, since).unwrap();
        store.register_edge(MODEST_EDGE, MODEST, since).unwrap();
        Self { store }
    }

    pub(super) fn keys(&self) -> CollectorKeys {
        CollectorKeys::of_store(&self.store).unwrap()
    }

    pub(super) fn key(&self, issuer: IssuerId) -> &IssuerKey {
        self.store.issuers.iter().find(|key| key.public.issuer == issuer).unwrap()
    }

    /// A token issued five minutes ago: an hour for the impression, two for the click.
    pub(super) fn token(&self, seq: u16) -> Vec<u8> {
        self.token_of(ISSUER, seq, |_| ())
    }

    /// A token of an issuer, changed before it is signed.
    pub(super) fn token_of(
        &self,
        issuer: IssuerId,
        seq: u16,
        change: impl FnOnce(&mut Token<'_>),
    ) -> Vec<u8> {
        let signer = Signer::new(self.key(issuer));
        // Several blocks, so that several partitions have something to do.
        let mut block = BlockId::open(NOW.minus_ms(300_000), &mut Seeded::new(3));
        block.0[9] = seq.to_be_bytes()[1] % 32;
        let id = ImpressionId { block, seq };
        let mut token = Token {
            test: false,
            pass_query: false,
            deployment: self.store.deployment,
            key: signer.id(),
            id,
            issued_at: NOW.minus_ms(300_000),
            impression_life_s: 3_600,
            click_life_s: 7_200,
            price: self.store.price_key(signer.id()).seal(id, price()),
            visitor: Fingerprint(7),
            ad: self::id("ad-1"),
            campaign: self::id("campaign-1"),
            advertiser: self::id("advertiser-1"),
            publisher: self::id("pub-1"),
            placement: self::id("top"),
            url: "https://shop.example/?a=1",
        };
        change(&mut token);
        signer.mint(&token).unwrap()
    }

    /// A token of a key that is in nobody's keyring.
    pub(super) fn foreign_token(&self) -> Vec<u8> {
        let mut other = Self::new();
        let secret = Secret::from_bytes([9; 32]);
        let public = ed25519_public(&secret);
        let key = &mut other.store.issuers[0];
        (key.public.id, key.public.public) = (shared::keys::PublicKey::id_of(&public), public);
        key.secret = secret;
        other.token(1)
    }
}

fn ed25519_public(secret: &Secret) -> [u8; 32] {
    // A store makes its keys from what its source of randomness gives.
    struct Fixed([u8; 32]);
    impl shared::Random for Fixed {
        fn fill(&mut self, bytes: &mut [u8]) {
            let length = bytes.len();
            bytes.copy_from_slice(&self.0[..length]);
        }
    }
    let mut random = Fixed(*secret.expose());
    let mut store = KeyStore::generate(&mut random);
    let id = store.create(id("x"), Vec::new(), NOW, &mut random).unwrap();
    store.issuers.iter().find(|key| key.public.id == id).unwrap().public.public
}

pub(super) use shared::name::literal as id;

pub(super) fn price() -> Money {
    Money { micros: 1_250, currency: "EUR".parse::<Currency>().unwrap() }
}

/// An event of now, from Germany.
pub(super) fn event(kind: Kind, token: &[u8]) -> Event<'_> {
    Event {
        kind,
        at: NOW,
        verdict: None,
        flags: Flags::default(),
        rules: RuleSet::UNKNOWN,
        page: None,
        codes: Codes::new(Country::from_bytes(*b"DE").unwrap(), Device::Phone),
        region: Region::UNKNOWN,
        network: Network([4, 10, 0, 1, 0, 0, 0]),
        visitor: Fingerprint(7),
        token,
    }
}

pub(super) fn batch(number: u64, events: Vec<Event<'_>>, tallies: Vec<Tally>) -> Bytes {
    let outbox = OutboxId { edge: EDGE, epoch: 1 };
    Batch { outbox, number, watermark: NOW, events, tallies }.to_bytes().into()
}

/// A collector over a log, and what can be turned from outside.
pub(super) struct Rig<L> {
    pub(super) log: Arc<L>,
    pub(super) collector: Arc<Collector<L>>,
    pub(super) keys: watch::Sender<Arc<CollectorKeys>>,
    pub(super) clock: Arc<SetClock>,
}

pub(super) fn map(partitions: u16) -> PartitionMap {
    PartitionMap::new(Partitions::new(partitions).unwrap())
}

pub(super) fn rig<L: Log>(log: L, world: &World, settings: Settings) -> Rig<L> {
    let log = Arc::new(log);
    let (sender, keys) = watch::channel(Arc::new(world.keys()));
    let clock = Arc::new(SetClock(AtomicU64::new(NOW.0)));
    let parts = Parts {
        log: Arc::clone(&log),
        map: map(log.partitions()),
        keys,
        clock: Arc::clone(&clock) as Arc<dyn Clock>,
        metrics: Arc::new(Metrics::default()),
        settings,
    };
    let collector = Arc::new(Collector::new(parts).unwrap());
    Rig { log, collector, keys: sender, clock }
}

/// One row as a reader of a partition sees it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Seen {
    pub(super) partition: u16,
    pub(super) kind: Kind,
    pub(super) outcome: Outcome,
    pub(super) block: (IssuerId, BlockId),
    pub(super) seq: u16,
    pub(super) ad: AdId,
    pub(super) price: Money,
    pub(super) proof: Vec<u8>,
}

/// What one partition heard of one batch or chunk, by its name: `edge/epoch/number` or
/// `source/first row`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct News {
    pub(super) declared: Declared,
    pub(super) rows: Vec<Seen>,
    pub(super) tallies: Vec<Tally>,
}

/// All that a reader of one partition takes, as the engine does: a number that it has seen is
/// skipped with all its rows. Also the number of entries that were skipped.
pub(super) async fn read_partition<L: Log>(
    log: &L,
    partition: u16,
) -> (BTreeMap<String, News>, usize) {
    let mut reader = log.reader(partition, None).await.unwrap();
    let (mut seen, mut skipped) = (BTreeMap::new(), 0);
    while let Some(delivered) = reader.try_next().unwrap() {
        let view = match Logged::read(&delivered.payload).unwrap() {
            Logged::Message(view) => view,
            Logged::Control(control) => {
                assert_eq!(control.partition, partition);
                continue;
            }
        };
        assert_eq!(view.partition, partition);
        let mut names = Vec::new();
        for batch in &view.batches {
            let OutboxId { edge, epoch } = batch.outbox;
            names.push((format!("{edge}/{epoch}/{}", batch.number), batch.declared.clone(), true));
        }
        for chunk in &view.chunks {
            let name = format!("{}/{}", chunk.source, chunk.first_row);
            names.push((name, chunk.declared.clone(), false));
        }
        let mut news = news(&view);
        for (entry, (name, declared, is_batch)) in names.into_iter().enumerate() {
            let mut of_entry = std::mem::take(&mut news[entry]);
            of_entry.declared = declared;
            if is_batch && seen.contains_key(&name) {
                skipped += 1;
            } else {
                seen.insert(name, of_entry);
            }
        }
    }
    (seen, skipped)
}

fn news(view: &MessageView<'_>) -> Vec<News> {
    let mut news = vec![News::default(); view.entries()];
    let cold = view.cold().unwrap();
    assert_eq!(cold.len(), view.rows().len());
    for (row, cold) in view.rows().zip(cold) {
        news[usize::from(row.entry)].rows.push(Seen {
            partition: view.partition,
            kind: row.kind(),
            outcome: row.outcome,
            block: view.blocks[usize::from(row.block)],
            seq: row.seq,
            ad: view.ids[usize::from(row.ad)].cast(),
            price: view.prices[usize::from(row.price)],
            proof: cold.proof.to_vec(),
        });
    }
    for tally in &view.tallies {
        news[usize::from(tally.entry)].tallies.push(tally.tally);
    }
    news
}

/// All partitions together. Checks what must hold for every log: each partition heard of the same
/// batches with the same declared counts, and what was declared is there once, as rows and tallies.
pub(super) async fn read_all<L: Log>(log: &L) -> BTreeMap<String, News> {
    let mut all = read_partition(log, 0).await.0;
    for partition in 1..log.partitions() {
        let (seen, _) = read_partition(log, partition).await;
        let names = |of: &BTreeMap<String, News>| of.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&seen), names(&all), "partition {partition} heard of other batches");
        for (name, news) in seen {
            let whole = all.get_mut(&name).unwrap();
            assert_eq!(news.declared, whole.declared, "{name} in partition {partition}");
            whole.rows.extend(news.rows);
            whole.tallies.extend(news.tallies);
        }
    }
    for (name, news) in &all {
        let declared: u64 = news.declared.iter().map(|(_, count)| u64::from(*count)).sum();
        let tallied: u64 = news.tallies.iter().map(|tally| u64::from(tally.count)).sum();
        assert_eq!(declared, news.rows.len() as u64 + tallied, "{name}: received = outcomes");
    }
    all
}
