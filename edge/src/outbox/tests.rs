#![allow(clippy::unwrap_used)]

mod crash;
mod drain;
mod full;
mod seal;

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use eventlog::segments::{Segments, SegmentsConfig, SegmentsError};
use parking_lot::Mutex;
use shared::ambient::Stopwatch;
use shared::random::Seeded;
use shared::wire::Batch;
use shared::{
    Clock, Codes, Country, Device, EdgeId, Fingerprint, Flags, Id, Kind, Network, Reason, Region,
    RuleSet, Timestamp,
};

use super::*;
use crate::decision::Draft;
use crate::metrics::Metrics;

const EDGE: EdgeId = Id::literal("edge-1");
/// 2026-01-01T00:00:00Z.
const START: Timestamp = Timestamp(1_767_225_600_000);

/// A clock that stands still until it is set.
#[derive(Debug)]
struct Hands(AtomicU64);

impl Hands {
    fn at(now: Timestamp) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(now.0)))
    }

    fn set(&self, now: Timestamp) {
        self.0.store(now.0, Ordering::SeqCst);
    }
}

impl Clock for Hands {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

fn settings(dir: &Path) -> OutboxSettings {
    // No heartbeats unless a test wants them.
    OutboxSettings { heartbeat: Duration::from_secs(3_600), ..OutboxSettings::new(dir, EDGE) }
}

fn open(dir: &Path, clock: &Arc<Hands>) -> (Outbox, Opened) {
    open_with(&settings(dir), clock)
}

fn open_with(settings: &OutboxSettings, clock: &Arc<Hands>) -> (Outbox, Opened) {
    let clock: Arc<dyn Clock> = Arc::clone(clock) as Arc<dyn Clock>;
    Outbox::open(settings, clock, &mut Seeded::new(9), Metrics::default()).unwrap()
}

/// Opens an outbox whose drain was stopped. Work that the drain had begun on another thread holds
/// the directory until it is done.
async fn open_when_free(settings: &OutboxSettings, clock: &Arc<Hands>) -> (Outbox, Opened) {
    let watch = Stopwatch::start();
    loop {
        let clock: Arc<dyn Clock> = Arc::clone(clock) as Arc<dyn Clock>;
        match Outbox::open(settings, clock, &mut Seeded::new(9), Metrics::default()) {
            Err(OutboxError::Segments(SegmentsError::Locked { .. })) => {
                assert!(watch.elapsed() < Duration::from_secs(10), "the directory is never free");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            opened => return opened.unwrap(),
        }
    }
}

/// An event that its token tells from others.
fn draft(number: u32) -> Draft {
    sized(number, 300)
}

fn sized(number: u32, bytes: usize) -> Draft {
    let mut token = vec![7; bytes];
    token[..4].copy_from_slice(&number.to_le_bytes());
    Draft {
        kind: Kind::Click,
        verdict: None,
        flags: Flags::default(),
        rules: RuleSet(7),
        page: None,
        codes: Codes::new(Country::UNKNOWN, Device::Phone),
        region: Region::UNKNOWN,
        network: Network::default(),
        visitor: Fingerprint::NONE,
        token,
    }
}

async fn append(outbox: &Outbox, drafts: impl IntoIterator<Item = Draft>) {
    outbox.append(drafts.into_iter().collect()).unwrap().await.unwrap();
}

/// All batches in the directory of an outbox that is not open.
fn batches(dir: &Path) -> Vec<Vec<u8>> {
    let (segments, _) = Segments::open(dir, SegmentsConfig::default(), [0; 16]).unwrap();
    let view = segments.view();
    let mut reader = view.reader(0, view.trimmed(0)).unwrap();
    let mut all = Vec::new();
    while let Some(record) = reader.try_next().unwrap() {
        all.push(record.payload.to_vec());
    }
    all
}

/// Sums up batches, and checks what must hold for any outbox: numbers without gaps from 0, at most
/// one closing batch and that at the end, stamps between the watermarks before and after, no
/// tallies of a minute that was declared complete.
fn audit(batches: &[Vec<u8>]) -> Audit {
    let mut audit = Audit::default();
    let mut epochs: BTreeMap<u64, (u64, Timestamp)> = BTreeMap::new();
    for bytes in batches {
        let batch = Batch::read(bytes).unwrap();
        let epoch = batch.outbox.epoch;
        let (next, before) = epochs.get(&epoch).copied().unwrap_or_default();
        assert_eq!(batch.number, next, "epoch {epoch}: numbers have no gaps");
        assert_ne!(before, Timestamp::MAX, "epoch {epoch}: nothing follows its closing batch");
        assert!(batch.watermark >= before, "epoch {epoch}: the watermark never goes back");
        epochs.insert(epoch, (next + 1, batch.watermark));
        for event in &batch.events {
            assert!(event.at >= before && event.at <= batch.watermark);
            let number = u32::from_le_bytes(event.token[..4].try_into().unwrap());
            assert!(audit.events.insert(number), "event {number} is there twice");
        }
        for tally in &batch.tallies {
            // What an earlier process left over comes with the first batch.
            assert!(next == 0 || tally.minute >= before.minute(), "a final minute");
            *audit.tallied.entry((tally.kind, tally.reason)).or_default() += u64::from(tally.count);
        }
    }
    audit.closed = epochs.values().filter(|(_, watermark)| *watermark == Timestamp::MAX).count();
    audit.epochs = epochs.len();
    audit
}

#[derive(Default, Debug)]
struct Audit {
    events: HashSet<u32>,
    tallied: BTreeMap<(Kind, Reason), u64>,
    epochs: usize,
    closed: usize,
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// A sink that keeps what it gets and fails as it is told to.
#[derive(Default)]
struct Store {
    got: Mutex<Vec<Vec<u8>>>,
    /// Takes nothing while set.
    down: std::sync::atomic::AtomicBool,
    /// So many times it takes the batch but reports that it has not.
    lost_acks: AtomicU64,
    /// Refuses the batch of this number (+ 1; 0: none).
    refused: AtomicU64,
}

impl BatchSink for Store {
    async fn submit(&self, batch: bytes::Bytes) -> Result<(), SinkError> {
        tokio::task::yield_now().await;
        if self.down.load(Ordering::SeqCst) {
            return Err(SinkError::Retry("down".to_owned()));
        }
        let number = Batch::read(&batch).unwrap().number;
        if number + 1 == self.refused.load(Ordering::SeqCst) {
            return Err(SinkError::Refused("not this one".to_owned()));
        }
        self.got.lock().push(batch.to_vec());
        let lost =
            self.lost_acks.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        if lost.is_ok() { Err(SinkError::Retry("the ack is lost".to_owned())) } else { Ok(()) }
    }
}

impl Store {
    /// Each batch once, in the order of epochs and numbers; a resend must be the same bytes.
    fn batches(&self) -> Vec<Vec<u8>> {
        let mut distinct: BTreeMap<(u64, u64), Vec<u8>> = BTreeMap::new();
        for bytes in self.got.lock().iter() {
            let batch = Batch::read(bytes).unwrap();
            let first = distinct.entry((batch.outbox.epoch, batch.number)).or_insert(bytes.clone());
            assert_eq!(first, bytes, "a resend is byte for byte the same");
        }
        distinct.into_values().collect()
    }
}

fn quick() -> DrainSettings {
    DrainSettings {
        retry_least: Duration::from_millis(1),
        retry_most: Duration::from_millis(20),
        refused_pause: Duration::from_millis(20),
        trim_pause: Duration::from_millis(10),
        ..DrainSettings::default()
    }
}

async fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    for _ in 0..1_000 {
        if check() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("not within 5 s: {what}");
}
