#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use shared::{Id, Kind, Minute};

use super::*;
use crate::store::contract::{self, Harness};
use crate::store::keys;
use crate::store::rows::{FactsIndex, Level, SegmentRow, Swap};

pub(super) fn fast() -> SlateSettings {
    SlateSettings {
        cache_bytes: 1 << 20,
        table_bytes: 32 << 10,
        compact_every: Duration::from_millis(50),
        collect_every: Duration::from_secs(1),
    }
}

struct Local(tempfile::TempDir);

impl Harness for Local {
    type Stores = SlateStores;

    async fn stores(&mut self) -> SlateStores {
        SlateStores::local(self.0.path(), fast()).unwrap()
    }

    /// A process that dies leaves its files as they are: the directory is copied while the stores
    /// are open, and the copy takes its place.
    async fn crash(&mut self, stores: SlateStores, open: Vec<SlateStore>) {
        let copy = tempfile::tempdir().unwrap();
        copy_dir(self.0.path(), copy.path());
        for store in &open {
            store.close().await.unwrap();
        }
        drop((open, stores));
        self.0 = copy;
    }
}

/// A store names segments; which they are is read beside it. `objects`: where it is.
pub(super) async fn names_of_segments_are_read(
    stores: &SlateStores,
    objects: Arc<dyn ObjectStore>,
) {
    let store = stores.open(3).await.unwrap();
    let row = |id| {
        let (level, start) = (Level::Hour, Minute(60));
        SegmentRow { partition: 3, level, start, id, rows: 5, bytes: 9 }
    };
    let mut index = FactsIndex::default();
    for made in 1..=3 {
        let segments = (made > 1).then(|| row(made - 1)).into_iter().collect();
        let rows = index.swap(Swap { blocks: None, segments, made: row(made) });
        store.write(rows).await.unwrap();
        store.flush().await.unwrap();
        let found = reader::segments(&objects, "here", 3).await.unwrap();
        assert_eq!(found, [row(made)]);
    }
    assert_eq!(reader::partitions(&objects).await.unwrap(), [3]);
    assert_eq!(reader::segments(&objects, "here", 4).await.unwrap(), []);
    // The store has lost nothing by it.
    store.write(vec![Change::Put(vec![b'p'], vec![1])]).await.unwrap();
    store.flush().await.unwrap();
    store.close().await.unwrap();
    assert_eq!(reader::segments(&objects, "here", 3).await.unwrap(), [row(3)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn segments_are_read_beside_the_process_that_has_them() {
    let dir = tempfile::tempdir().unwrap();
    let stores = SlateStores::local(dir.path(), fast()).unwrap();
    let objects = LocalFileSystem::new_with_prefix(dir.path()).unwrap();
    names_of_segments_are_read(&stores, Arc::new(objects)).await;
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else if std::fs::copy(entry.path(), &target).is_err() {
            // A temporary file that was renamed meanwhile.
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_the_contract() {
    contract::run(&mut Local(tempfile::tempdir().unwrap())).await;
}

#[tokio::test]
async fn one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let first = SlateStores::local(dir.path(), fast()).unwrap();
    let error = SlateStores::local(dir.path(), fast()).unwrap_err();
    assert_eq!(error, StoreError::Locked(dir.path().display().to_string()));
    drop(first);
    SlateStores::local(dir.path(), fast()).unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = SlateStores::local(&file, fast()).unwrap_err();
    assert!(matches!(error, StoreError::Unusable(_)), "{error}");
}

#[test]
fn what_was_not_written_to_its_end_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("facts/00");
    std::fs::create_dir_all(&folder).unwrap();
    for name in ["a.parquet#1", "a.parquet#12", "a.parquet", "a#b", "b#"] {
        std::fs::write(folder.join(name), "some bytes").unwrap();
    }
    drop(SlateStores::local(dir.path(), fast()).unwrap());
    let mut found = Vec::new();
    files(&folder, &mut found);
    let names = found.iter().map(|(path, _)| path.file_name().unwrap().to_str().unwrap());
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    assert_eq!(names, ["a#b", "a.parquet", "b#"]);
}

fn files(dir: &Path, found: &mut Vec<(PathBuf, u64)>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(meta) if meta.is_dir() => files(&entry.path(), found),
            Ok(meta) => found.push((entry.path(), meta.len())),
            Err(_) => {}
        }
    }
}

/// A row of about 500 bytes that does not compress, and a sum.
fn checkpoint(round: u64) -> Vec<Change> {
    let mut noise = round.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut rows = Vec::new();
    for key in 0..20_u8 {
        let mut value = vec![1];
        value.extend((0..500).map(|_| {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            noise.to_le_bytes()[0]
        }));
        rows.push(Change::Put(vec![b'p', key], value));
    }
    let totals = codec::totals_value(&[(Id::literal("ad"), 1)]);
    rows.push(Change::Add(keys::totals(Minute(1), Kind::Click, true), totals));
    rows
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disk_use_stays_bounded() {
    const ROUNDS: u64 = 400;
    let dir = tempfile::tempdir().unwrap();
    let stores = SlateStores::local(dir.path(), fast()).unwrap();
    let store = stores.open(0).await.unwrap();
    let mut logical = 0;
    for round in 0..ROUNDS {
        let rows = checkpoint(round);
        logical += rows.iter().map(Change::bytes).sum::<usize>() as u64;
        store.write(rows).await.unwrap();
        store.flush().await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let used = || {
        let mut found = Vec::new();
        files(dir.path(), &mut found);
        (found.len(), found.iter().map(|(_, bytes)| bytes).sum::<u64>())
    };
    // Files are removed once they are a second old; that shall happen within ten.
    for _ in 0..100 {
        if used().1 < logical / 10 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (files, bytes) = used();
    assert!(bytes < logical / 10, "{bytes} bytes in {files} files for {logical} written");
    assert!(files < 150, "{files} files");
    let mut sum = 0;
    let view = store.view().unwrap();
    let add = |_, n| sum += n;
    crate::store::rows::totals(&view, Minute(1), Kind::Click, true, add).await.unwrap();
    assert_eq!(sum, ROUNDS, "compaction adds up what it merges");
    store.close().await.unwrap();
}

/// How many rows a store has, opened in a copy of a directory in which one file is changed.
async fn rows_with(
    dir: &Path,
    path: &Path,
    change: impl Fn(&mut Vec<u8>),
) -> Result<usize, StoreError> {
    let copy = tempfile::tempdir().unwrap();
    copy_dir(dir, copy.path());
    let path = copy.path().join(path.strip_prefix(dir).unwrap());
    let mut bytes = std::fs::read(&path).unwrap();
    change(&mut bytes);
    std::fs::write(&path, bytes).unwrap();
    let stores = SlateStores::local(copy.path(), fast()).unwrap();
    let store = stores.open(0).await?;
    let view = store.view()?;
    let mut rows = 0;
    let read = view
        .scan(&[], &[0xff], &mut |_, _| {
            rows += 1;
            Ok(())
        })
        .await;
    let _ = store.close().await;
    read.map(|()| rows)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_said_and_never_waited_for() {
    const PLACES: usize = 15;
    let dir = tempfile::tempdir().unwrap();
    let stores = SlateStores::local(dir.path(), fast()).unwrap();
    let store = stores.open(0).await.unwrap();
    for round in 0..12 {
        store.write(checkpoint(round)).await.unwrap();
        store.flush().await.unwrap();
    }
    // Of a compaction too.
    tokio::time::sleep(Duration::from_millis(300)).await;
    store.close().await.unwrap();
    drop((store, stores));
    let mut found = Vec::new();
    files(dir.path(), &mut found);
    found.retain(|(_, bytes)| *bytes > 0);
    let mut refused = std::collections::BTreeMap::<_, usize>::new();
    for (path, bytes) in found {
        let bytes = usize::try_from(bytes).unwrap();
        let kind = path.extension().unwrap_or_default().to_owned();
        for place in (0..bytes).step_by(bytes.div_ceil(PLACES)) {
            let read = rows_with(dir.path(), &path, |file| file[place] ^= 0x10);
            let read = tokio::time::timeout(Duration::from_secs(20), read).await;
            match read.unwrap_or_else(|_| panic!("{} waits: {place}", path.display())) {
                Err(StoreError::Damaged(what)) => {
                    assert!(what.contains("partition-00"), "{what}");
                    *refused.entry(kind.clone()).or_default() += 1;
                }
                // A part that is no longer needed.
                Ok(rows) => assert_eq!(rows, 21, "never fewer rows: {}, {place}", path.display()),
                Err(other) => panic!("{other}: {}, {place}", path.display()),
            }
        }
    }
    for kind in ["compactions", "manifest", "sst"] {
        assert!(refused.contains_key(std::ffi::OsStr::new(kind)), "{kind}: {refused:?}");
    }
}

/// SlateDB takes an empty file of its log for the mark of a writer, and a missing one for none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_the_log_that_is_missing_or_empty_is_told() {
    let dir = tempfile::tempdir().unwrap();
    // Nothing of a start gets into a table before it ends.
    let settings = SlateSettings { table_bytes: 1 << 20, ..fast() };
    for last in [false, true] {
        let stores = SlateStores::local(dir.path(), settings).unwrap();
        let store = stores.open(0).await.unwrap();
        for round in 0..5 {
            store.write(checkpoint(round)).await.unwrap();
            store.flush().await.unwrap();
        }
        if last {
            // As a crash leaves it.
            let copy = tempfile::tempdir().unwrap();
            copy_dir(dir.path(), copy.path());
            look_at_each(copy.path()).await;
        }
        store.close().await.unwrap();
    }
}

async fn look_at_each(dir: &Path) {
    let mut found = Vec::new();
    files(&dir.join("partition-00/wal"), &mut found);
    found.sort();
    let (mut told, mut rows) = (0, 0);
    for (path, _) in found.iter().filter(|(_, bytes)| *bytes > 0) {
        for removed in [false, true] {
            let copy = tempfile::tempdir().unwrap();
            copy_dir(dir, copy.path());
            let path = copy.path().join(path.strip_prefix(dir).unwrap());
            match removed {
                true => std::fs::remove_file(path).unwrap(),
                false => std::fs::write(path, "").unwrap(),
            }
            match SlateStores::local(copy.path(), fast()).unwrap().open(0).await {
                Err(StoreError::Damaged(what)) => {
                    assert!(what.contains("missing or empty"), "{what}");
                    told += 1;
                }
                // The last one, or one whose rows are in a table by now: the counts are those of an
                // earlier moment, or the same.
                Ok(store) => {
                    rows += 1;
                    store.close().await.unwrap();
                }
                Err(other) => panic!("{other}"),
            }
        }
    }
    assert!(told > 0 && rows > 0, "{told} told, {rows} not");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_earlier_build_wrote_without_seals_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let stores = SlateStores::local(dir.path(), fast()).unwrap();
    let store = stores.open(0).await.unwrap();
    store.write(checkpoint(0)).await.unwrap();
    store.close().await.unwrap();
    drop((store, stores));
    let mut found = Vec::new();
    files(dir.path(), &mut found);
    for (path, _) in found {
        if path.extension().is_some_and(|kind| kind == "manifest" || kind == "compactions") {
            let bytes = std::fs::read(&path).unwrap();
            assert!(bytes.ends_with(b"sealed 1"), "{}", path.display());
            std::fs::write(&path, &bytes[..bytes.len() - 40]).unwrap();
        }
    }
    let stores = SlateStores::local(dir.path(), fast()).unwrap();
    let store = stores.open(0).await.unwrap();
    let mut rows = 0;
    let take = &mut |_: &[u8], _: &[u8]| {
        rows += 1;
        Ok(())
    };
    store.view().unwrap().scan(&[], &[0xff], take).await.unwrap();
    assert_eq!(rows, 21);
}

#[derive(Debug)]
struct Stopped(shared::Timestamp);

impl Clock for Stopped {
    fn now(&self) -> shared::Timestamp {
        self.0
    }
}

/// A store whose clock is set.
fn at(dir: &Path, now: u64) -> SlateStores {
    let clock = Arc::new(Stopped(shared::Timestamp(now)));
    SlateStores { clock, ..SlateStores::local(dir, fast()).unwrap() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_saved_under_a_clock_that_was_ahead_refuses_nobody() {
    const NOW: u64 = 1_790_000_000_000;
    const DAY: u64 = 86_400_000;
    let dir = Local(tempfile::tempdir().unwrap());
    let mut at_once = Vec::new();
    for (round, now) in [NOW, NOW + 30 * DAY, NOW, NOW - 400 * DAY, NOW].into_iter().enumerate() {
        let stores = at(dir.0.path(), now);
        let store = stores.open(3).await.unwrap();
        for number in 0..60_u32 {
            let key = [&[round as u8][..], &number.to_be_bytes()].concat();
            let random: Vec<_> =
                (0..1_000).map(|at: u32| (at * number) as u8 ^ (at >> 3) as u8).collect();
            store.write(vec![Change::Put(key.clone(), random)]).await.unwrap();
            store.flush().await.unwrap();
            at_once.push(key);
            // So that tables are made, compacted and collected meanwhile.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut found = Vec::new();
        let mut take = |key: &[u8], _: &[u8]| {
            found.push(key.to_vec());
            Ok(())
        };
        store.view().unwrap().scan(&[0], &[9], &mut take).await.unwrap();
        assert_eq!(found, at_once, "round {round}");
        if round != 1 {
            store.close().await.unwrap();
        }
    }
}
