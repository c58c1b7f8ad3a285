#![allow(clippy::unwrap_used)]

use eventlog::Position;
use shared::counted::{Amount, Codes};
use shared::event::REASON_CODES;
use shared::{
    BlockId, Country, Currency, Device, Dimensions, Id, OutboxId, PageView, SourceId, Validity,
};

use super::*;
use crate::count::{
    AdTotal, CONTAINER_BITS, Cell, CellAmount, Container, ContainerKey, CutOff, OutboxState,
    PageViewState, PublisherTold, SourceState,
};
use crate::store::memory::{MemStore, MemStores};
use crate::store::{CheckpointStore, Stores};

const OWN: PartitionAndCount = PartitionAndCount { partition: 3, partitions: 16 };
const NOW: Minute = Minute(1_000_000);
const PAGE_VIEW: PageViewState = PageViewState { seq: 9, hour: 7, edge: Id::literal("edge") };

fn dimensions(ad: &str, kind: Kind, valid: bool) -> Dimensions {
    let codes = Codes::new(Country::UNKNOWN, Device::Tv);
    Dimensions::new([Id::literal(ad), Id::literal("pub")], codes, kind, valid)
}

/// `n` impressions of ad `a` (with a price), one click and one click with a verdict of ad `b`.
fn minute(minute: Minute, n: u64) -> MinuteRows {
    let impressions = dimensions("a", Kind::Impression, true);
    let click = dimensions("b", Kind::Click, true);
    let spend = |code: &[u8; 3]| CellAmount {
        dimensions: impressions,
        amount: Amount::Spend,
        currency: Currency::from_bytes(*code).unwrap(),
        micros: 5,
    };
    MinuteRows {
        minute,
        cells: vec![
            Cell { dimensions: impressions, count: n },
            Cell { dimensions: Dimensions { valid: false, ..click }, count: 1 },
            Cell { dimensions: click, count: 1 },
        ],
        amounts: vec![spend(b"EUR"), spend(b"USD")],
        totals: vec![
            AdTotal { ad: Id::literal("a"), kind: Kind::Impression, valid: true, count: n },
            AdTotal { ad: Id::literal("b"), kind: Kind::Click, valid: false, count: 1 },
            AdTotal { ad: Id::literal("b"), kind: Kind::Click, valid: true, count: 1 },
        ],
        told: vec![PublisherTold {
            publisher: Id::literal("p"),
            told: Told { sent: n, counted: n - 1 },
        }],
        account: MinuteAccount { declared: 9, counted: n + 1, revision: 2, ..Default::default() },
    }
}

fn changes(sequence: u64, minutes: Vec<MinuteRows>) -> Changes {
    let container = ContainerKey {
        issuer: Id::literal("edge"),
        block: BlockId([sequence.to_le_bytes()[0]; 10]),
        kind: Kind::Click,
        valid: true,
        index: 1,
    };
    let outbox = OutboxId { edge: Id::literal("edge"), epoch: sequence };
    Changes {
        position: Some(Position { identity: [1; 16], sequence, digest: [2; 16] }),
        clock: NOW.start(),
        settled: NOW.start().minus_ms(5),
        resident_from: Minute(NOW.0 - 120),
        containers: vec![(container, Container::from(&[sequence; CONTAINER_BITS / 64]))],
        minutes,
        page_views: vec![(PageView(sequence), Some(PAGE_VIEW))],
        outboxes: vec![(outbox, OutboxState { next: 7, ..OutboxState::default() })],
        epochs: vec![(Id::literal("edge"), sequence)],
        retired: vec![(Id::literal("gone"), Timestamp(sequence))],
        cut_off: vec![(Id::literal("bad"), CutOff { sequence, entry: 300 })],
        sources: vec![(
            SourceId([4; 16]),
            SourceState {
                rows: sequence,
                digest: [1; 32],
                counted: 1,
                duplicate: 0,
                reasons: [0; REASON_CODES],
            },
        )],
        ..Changes::default()
    }
}

async fn stored(all: &[Changes]) -> MemStore {
    let store = MemStores::new().open(3).await.unwrap();
    for changes in all {
        store.write(batch(OWN, changes)).await.unwrap();
    }
    store
}

#[tokio::test]
async fn what_was_saved_comes_back_and_minutes_stay_in_the_store() {
    let store = MemStores::new().open(3).await.unwrap();
    assert!(restore(&store.view().unwrap(), OWN).await.unwrap().is_none());
    let soon = Minute(NOW.0 + 2);
    let first = changes(1, vec![minute(Minute(5), 10), minute(soon, 1)]);
    let mut second = changes(2, vec![minute(Minute(5), 20)]);
    second.dropped_containers = vec![first.containers[0].0];
    second.dropped_outboxes = vec![first.outboxes[0].0];
    second.page_views.insert(0, (PageView(1), None));
    let store = stored(&[first, second.clone()]).await;
    let view = store.view().unwrap();
    let restored = restore(&view, OWN).await.unwrap().unwrap();
    let expected = Snapshot {
        position: second.position,
        clock: second.clock,
        ahead: second.ahead,
        settled: second.settled,
        resident_from: Minute(soon.0 + 1),
        facts_from: Some(Minute(0)),
        containers: second.containers,
        minutes: vec![],
        outboxes: second.outboxes,
        epochs: vec![(Id::literal("edge"), 2)],
        retired: second.retired,
        cut_off: second.cut_off,
        sources: second.sources,
        page_views: vec![(PageView(2), PAGE_VIEW)],
    };
    assert_eq!(restored.snapshot, expected);

    let range = Minute(5)..Minute(6);
    let (a, b) = (Id::literal("a"), Id::literal("b"));
    let all = Minute(0)..Minute(u32::MAX);
    for (ad, kind, validity, range, count) in [
        (a, Kind::Impression, Validity::Valid, &range, 30),
        (a, Kind::Impression, Validity::Invalid, &range, 0),
        (b, Kind::Click, Validity::Valid, &range, 2),
        (b, Kind::Click, Validity::Invalid, &range, 2),
        (b, Kind::Click, Validity::All, &range, 4),
        (b, Kind::Click, Validity::Valid, &(Minute(0)..Minute(5)), 0),
        (b, Kind::Click, Validity::Valid, &all, 3),
        (b, Kind::Click, Validity::All, &all, 6),
    ] {
        let found = ad_count(&view, ad, kind, validity, range.clone()).await.unwrap();
        assert_eq!(found, count, "{ad:?} {kind} {validity} {range:?}");
    }
    for (kind, valid, should) in [
        (Kind::Impression, true, vec![(a, 30)]),
        (Kind::Impression, false, vec![]),
        (Kind::Click, true, vec![(b, 2)]),
        (Kind::Click, false, vec![(b, 2)]),
    ] {
        let mut seen = Vec::new();
        totals(&view, Minute(5), kind, valid, |ad, n| seen.push((ad, n))).await.unwrap();
        assert_eq!(seen, should, "{kind} {valid}");
    }
    let told = told(&view, Minute(0)..Minute(6)).await.unwrap();
    assert_eq!(told, [(Id::literal("p"), Told { sent: 30, counted: 28 })].into());
    assert_eq!(revision(&view, Minute(0)..Minute(6)).await.unwrap(), 4);
    let accounts = accounts(&view, Minute(0)..Minute(6)).await.unwrap();
    let account = MinuteAccount { declared: 18, counted: 32, ..MinuteAccount::default() };
    assert_eq!(accounts, [(Minute(5), account)]);
}

/// A log with a wild clock, or a tally of the year 10 000, that an earlier build took.
#[tokio::test]
async fn one_far_minute_makes_a_start_read_no_cells() {
    let far = Minute(4_223_376_000 / 60 * 60);
    let store = stored(&[
        changes(1, vec![minute(Minute(NOW.0 - 1), 1), minute(far, 1)]),
        changes(2, vec![minute(far, 2)]),
    ])
    .await;
    let view = Watched { view: store.view().unwrap(), read: parking_lot::Mutex::new(Vec::new()) };
    let restored = restore(&view, OWN).await.unwrap().unwrap();
    assert_eq!(restored.snapshot.resident_from, Minute(far.0 + 1));
    assert_eq!(restored.snapshot.minutes, []);
    let read = view.read.into_inner();
    assert!(read.contains(&keys::ACCOUNT), "{read:?}");
    assert!(!read.contains(&keys::CELLS) && !read.contains(&keys::TOTALS), "{read:?}");
    // What is asked of it is still there.
    let range = far..Minute(far.0 + 1);
    let a = Id::literal("a");
    let count = ad_count(&view.view, a, Kind::Impression, Validity::Valid, range).await.unwrap();
    assert_eq!(count, 3);
}

/// Notes the families that are read.
struct Watched<V> {
    view: V,
    read: parking_lot::Mutex<Vec<u8>>,
}

impl<V: View> View for Watched<V> {
    async fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        take: &mut crate::store::TakeRow<'_>,
    ) -> Result<(), StoreError> {
        self.read.lock().extend(from.first());
        self.view.scan(from, to, take).await
    }
}

/// Reads everything: what a start reads, and then what questions read.
async fn read_all<V: View>(view: &V) -> Result<(), StoreError> {
    restore(view, OWN).await?;
    let all = Minute(0)..Minute(u32::MAX);
    cells(view, &all, None, usize::MAX, |_, _, _| {}).await?;
    for (kind, valid) in kinds() {
        totals(view, Minute(NOW.0 + 600), kind, valid, |_, _| {}).await?;
    }
    told(view, all.clone()).await?;
    revision(view, all).await.map(drop)
}

#[tokio::test]
async fn another_partition_or_a_damaged_row_is_refused_by_name() {
    let full = changes(1, vec![minute(Minute(NOW.0 + 600), 1)]);
    let store = stored(std::slice::from_ref(&full)).await;
    for own in
        [PartitionAndCount { partition: 4, ..OWN }, PartitionAndCount { partitions: 8, ..OWN }]
    {
        let error = restore(&store.view().unwrap(), own).await.unwrap_err().to_string();
        assert!(error.contains("partition 3 of 16"), "{error}");
    }
    let keys: Vec<_> = batch(OWN, &full)
        .into_iter()
        .map(|change| match change {
            Change::Put(key, _) | Change::Add(key, _) | Change::Delete(key) => key,
        })
        .collect();
    for key in keys {
        let stores = MemStores::new();
        let store = stores.open(3).await.unwrap();
        store.write(batch(OWN, &full)).await.unwrap();
        store.flush().await.unwrap();
        stores.damage(3, &key, &[9, 9]);
        let error = read_all(&store.view().unwrap()).await.unwrap_err();
        assert!(matches!(error, StoreError::Damaged(_)), "{error}");
        let error = error.to_string();
        assert!(error.contains(&keys::describe(&key)), "{error} does not name {key:?}");
        stores.damage(3, &[&key[..], &[0]].concat(), &[1]);
        assert!(read_all(&store.view().unwrap()).await.is_err(), "a key that is none");
    }
    let store = MemStores::new().open(3).await.unwrap();
    store.write(batch(OWN, &full).split_off(1)).await.unwrap();
    let error = restore(&store.view().unwrap(), OWN).await.unwrap_err().to_string();
    assert!(error.contains("the meta row: missing"), "{error}");
}
