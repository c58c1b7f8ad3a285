//! What every [`CheckpointStore`] must do, as a test.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a test")]

use shared::{Id, Kind, Minute};

use super::{Change, CheckpointStore, Stop, StoreError, Stores, View, codec, keys};

/// How a test makes its adapter die and come back.
pub trait Harness {
    /// The adapter.
    type Stores: Stores;

    /// Opens the stores in the same place as before.
    fn stores(&mut self) -> impl Future<Output = Self::Stores>;

    /// The process dies: nothing is flushed or closed in order.
    fn crash(
        &mut self,
        stores: Self::Stores,
        open: Vec<<Self::Stores as Stores>::Store>,
    ) -> impl Future<Output = ()>;
}

type Row = (Vec<u8>, Vec<u8>);

async fn all(store: &impl CheckpointStore) -> Vec<Row> {
    view_all(&store.view().unwrap()).await
}

async fn view_all(view: &impl View) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut take = |key: &[u8], value: &[u8]| {
        rows.push((key.to_vec(), value.to_vec()));
        Ok(())
    };
    view.scan(&[], &[0xff], &mut take).await.unwrap();
    rows
}

fn totals(n: u64) -> Change {
    let ads = [(Id::literal("a"), n), (Id::literal("b"), 1)];
    Change::Add(keys::totals(Minute(7), Kind::Click, true), codec::totals_value(&ads))
}

fn revision(minute: u32, n: u64) -> Change {
    Change::Add(keys::minute(keys::REVISION, Minute(minute)), codec::number_value(n))
}

fn put(key: u8, value: u8) -> Change {
    Change::Put(vec![b'e', key], vec![1, value])
}

/// Runs the suite.
pub async fn run(harness: &mut impl Harness) {
    visible_and_of_one_moment(harness).await;
    sums(harness).await;
    crash_leaves_whole_batches(harness).await;
    close_keeps_everything(harness).await;
    partitions_are_apart(harness).await;
}

async fn visible_and_of_one_moment(harness: &mut impl Harness) {
    let stores = harness.stores().await;
    let store = stores.open(0).await.unwrap();
    assert_eq!(all(&store).await, []);
    store.write(vec![put(1, 1), put(2, 2), revision(3, 5)]).await.unwrap();
    let before = store.view().unwrap();
    let rows = view_all(&before).await;
    assert_eq!(rows.len(), 3, "a batch is visible when its write returns");
    assert!(rows.is_sorted(), "in the order of the keys");
    let deletes = vec![Change::Delete(vec![b'e', 1]), Change::Delete(vec![b'e', 9]), put(2, 7)];
    store.write(deletes).await.unwrap();
    store.write(vec![revision(3, 5), put(5, 5)]).await.unwrap();
    store.flush().await.unwrap();
    assert_eq!(view_all(&before).await, rows, "a view does not move");
    let now = all(&store).await;
    let revised = (keys::minute(keys::REVISION, Minute(3)), codec::number_value(10));
    assert_eq!(now, [(vec![b'e', 2], vec![1, 7]), (vec![b'e', 5], vec![1, 5]), revised]);
    ranges(&store).await;
    harness.crash(stores, vec![store]).await;
}

async fn ranges(store: &impl CheckpointStore) {
    let view = store.view().unwrap();
    let mut seen = Vec::new();
    let mut take = |key: &[u8], _: &[u8]| {
        seen.push(key[1]);
        Ok(())
    };
    view.scan(&[b'e', 2], &[b'e', 5], &mut take).await.unwrap();
    view.scan(&[b'e', 5], &[b'e', 2], &mut take).await.unwrap();
    view.scan(&[b'e', 5], &[b'e', 5], &mut take).await.unwrap();
    assert_eq!(seen, [2], "from is in, to is out, and a reversed range is empty");
    let stop = StoreError::Damaged("stop".into());
    let refused = view.scan(&[], &[0xff], &mut |_, _| Err(stop.clone().into())).await;
    let Err(StoreError::Damaged(what)) = refused else { panic!("{refused:?}") };
    assert!(what.contains("stop"), "the taker's error comes back");
    let mut rows = 0;
    let mut one = |_: &[u8], _: &[u8]| {
        rows += 1;
        Err(Stop::Enough)
    };
    view.scan(&[], &[0xff], &mut one).await.unwrap();
    assert_eq!(rows, 1, "one was enough");
}

async fn sums(harness: &mut impl Harness) {
    let stores = harness.stores().await;
    let store = stores.open(1).await.unwrap();
    for round in 0..30 {
        store.write(vec![totals(round), revision(1, 1), put(1, 1)]).await.unwrap();
        if round % 3 == 0 {
            store.flush().await.unwrap();
        }
    }
    let expected = |n: u64| {
        let ads = [(Id::literal("a"), (0..n).sum()), (Id::literal("b"), n)];
        (keys::totals(Minute(7), Kind::Click, true), codec::totals_value(&ads))
    };
    assert!(all(&store).await.contains(&expected(30)));
    store.flush().await.unwrap();
    harness.crash(stores, vec![store]).await;
    let stores = harness.stores().await;
    let store = stores.open(1).await.unwrap();
    assert!(all(&store).await.contains(&expected(30)), "and after a crash, each once");
    store.write(vec![totals(30)]).await.unwrap();
    assert!(all(&store).await.contains(&expected(31)));
    store.close().await.unwrap();
}

async fn crash_leaves_whole_batches(harness: &mut impl Harness) {
    let batch = |n: u8| (0..200).map(|key| put(key, n)).chain([revision(1, 1)]).collect::<Vec<_>>();
    for flushed in 0..6_u8 {
        let partition = 10 + u16::from(flushed);
        let stores = harness.stores().await;
        let store = stores.open(partition).await.unwrap();
        for n in 1..=6 {
            store.write(batch(n)).await.unwrap();
            if n == flushed {
                store.flush().await.unwrap();
            }
        }
        harness.crash(stores, vec![store]).await;
        let stores = harness.stores().await;
        let store = stores.open(partition).await.unwrap();
        let rows = all(&store).await;
        let last = rows.first().map_or(0, |(_, value)| value[1]);
        assert!(last >= flushed, "what was flushed is there: {last} of {flushed}");
        if last > 0 {
            assert_eq!(rows.len(), 201, "whole");
            assert!(rows[..200].iter().all(|(_, value)| value[1] == last), "of one batch");
            let (_, revision) = &rows[200];
            assert_eq!(*revision, codec::number_value(u64::from(last)), "with its sums");
        }
        store.close().await.unwrap();
    }
}

async fn close_keeps_everything(harness: &mut impl Harness) {
    let stores = harness.stores().await;
    let store = stores.open(2).await.unwrap();
    store.write(vec![put(1, 1), revision(1, 2)]).await.unwrap();
    let rows = all(&store).await;
    store.close().await.unwrap();
    drop((store, stores));
    let stores = harness.stores().await;
    let store = stores.open(2).await.unwrap();
    assert_eq!(all(&store).await, rows);
    store.close().await.unwrap();
}

async fn partitions_are_apart(harness: &mut impl Harness) {
    let stores = harness.stores().await;
    let (a, b) = (stores.open(3).await.unwrap(), stores.open(4).await.unwrap());
    a.write(vec![put(1, 3)]).await.unwrap();
    b.write(vec![put(1, 4)]).await.unwrap();
    assert_eq!(all(&a).await, [(vec![b'e', 1], vec![1, 3])]);
    assert_eq!(all(&b).await, [(vec![b'e', 1], vec![1, 4])]);
    harness.crash(stores, vec![a, b]).await;
}
