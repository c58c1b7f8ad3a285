//! Whatever happens, each event is in exactly one file.

use std::sync::atomic::{AtomicI64, Ordering};

use eventlog::{LocalLog, LocalLogConfig};
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use super::*;

/// An object store of which one call fails: before it has done anything, or after.
#[derive(Debug)]
struct Failing {
    inner: InMemory,
    /// Calls until the one that fails.
    left: AtomicI64,
    after: bool,
}

impl std::fmt::Display for Failing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("failing")
    }
}

impl Failing {
    async fn call<T>(&self, work: impl Future<Output = Result<T>> + Send) -> Result<T> {
        let fails = self.left.fetch_sub(1, Ordering::SeqCst) == 0;
        let error = || Error::Generic { store: "failing", source: "cut off".into() };
        if fails && !self.after {
            return Err(error());
        }
        let done = work.await;
        if fails { Err(error()) } else { done }
    }
}

#[async_trait::async_trait]
impl ObjectStore for Failing {
    async fn put_opts(&self, to: &Path, put: PutPayload, how: PutOptions) -> Result<PutResult> {
        self.call(self.inner.put_opts(to, put, how)).await
    }

    async fn put_multipart_opts(
        &self,
        to: &Path,
        how: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(to, how).await
    }

    async fn get_opts(&self, from: &Path, how: GetOptions) -> Result<GetResult> {
        self.call(self.inner.get_opts(from, how)).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, folder: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(folder)
    }

    async fn list_with_delimiter(&self, folder: Option<&Path>) -> Result<ListResult> {
        self.call(self.inner.list_with_delimiter(folder)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, how: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, how).await
    }
}

/// Writes with a writer that is thrown away at every error, as the process's death does.
async fn with_a_death(after: bool, at: i64) -> bool {
    let inner = InMemory::new();
    let store = Arc::new(Failing { inner, left: AtomicI64::new(at), after });
    let archive = Archive::new(Arc::clone(&store) as Arc<dyn ObjectStore>, "failing".to_owned());
    let log = Arc::new(MemLog::new(1, [1; 16]));
    let mut history = History::new(3);
    let mut writer = start_writer(&log, &archive, 4_000);
    for round in 0..8 {
        append(&*log, &mut history, 12).await;
        if let Err(halt) = writer.write(round % 2 == 0).await {
            assert!(matches!(halt, Halt::Later(_)), "{halt}");
            // Another size: the next files are cut elsewhere.
            writer = start_writer(&log, &archive, 2_000 + 500 * round);
        }
    }
    let died = store.left.load(Ordering::SeqCst) < 0;
    store.left.store(-1, Ordering::SeqCst);
    writer = start_writer(&log, &archive, 3_000);
    assert_eq!(writer.write(true).await.unwrap().lag, 0);
    holds_the_log(&archive, &*log).await;
    died
}

#[tokio::test]
async fn a_death_at_every_point_leaves_each_event_in_one_file() {
    for after in [false, true] {
        let mut points = 0;
        while with_a_death(after, points).await {
            points += 1;
        }
        assert!(points > 15, "{points} points are too few");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_local_log_and_directory_killed_at_random_moments() {
    let dir = tempfile::tempdir().unwrap();
    let config = LocalLogConfig::new(dir.path().join("log"), 3);
    let log = Arc::new(LocalLog::open(&config, [3; 16]).unwrap().0);
    let archive = Archive::local(&dir.path().join("archive")).unwrap();
    let mut history = History::new(9);
    for round in 0..30_u64 {
        let archiver = start(&log, &archive, 3_000).await;
        append(&*log, &mut history, 4).await;
        tokio::time::sleep(Duration::from_micros(round * 331)).await;
        // The task is stopped wherever it is.
        archiver.task.abort();
        drop(archiver);
    }
    let archiver = start(&log, &archive, 3_000).await;
    append(&*log, &mut history, 3).await;
    flush_all(&archiver, 3).await;
    holds_the_log(&archive, &*log).await;
    let ends = archiver.archived().borrow().clone();
    for partition in 0..3 {
        let end = log.end(partition).await.unwrap().unwrap().sequence;
        assert_eq!(ends[usize::from(partition)], end);
    }
    archiver.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_archivers_at_once_write_each_event_once() {
    let (log, archive) = (Arc::new(MemLog::new(2, [2; 16])), in_memory());
    let mut history = History::new(5);
    let one = start(&log, &archive, 2_000).await;
    let two = start(&log, &archive, 5_000).await;
    for _ in 0..40 {
        append(&*log, &mut history, 3).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tokio::join!(flush_all(&one, 2), flush_all(&two, 2));
    holds_the_log(&archive, &*log).await;
    tokio::join!(one.close(), two.close());
}

#[tokio::test]
async fn what_was_accepted_is_archived_at_the_close() {
    let (log, archive) = (Arc::new(MemLog::new(1, [2; 16])), in_memory());
    let mut history = History::new(1);
    let settings = Settings::default();
    let registry = &mut Registry::default();
    let parts = Parts { log: Arc::clone(&log), archive: archive.clone(), settings, registry };
    let archiver = Archiver::start(parts).await.unwrap();
    let payload = history.filled(0, 3);
    log.append(vec![Message { partition: 0, payload }]).await.unwrap();
    archiver.close().await;
    holds_the_log(&archive, &*log).await;
}

#[tokio::test]
async fn heartbeats_alone_wait_for_the_end_of_their_hour() {
    let (log, archive) = (Arc::new(MemLog::new(1, [2; 16])), in_memory());
    let mut history = History::new(1);
    let mut writer = start_writer(&log, &archive, 1 << 20);
    let beat = async |history: &mut History| {
        let payload = history.filled(0, 0);
        log.append(vec![Message { partition: 0, payload }]).await.unwrap();
    };
    for _ in 0..3 {
        beat(&mut history).await;
    }
    let wrote = writer.write(false).await.unwrap();
    assert_eq!((wrote.files, wrote.lag), (0, 3));
    // The log's clock believes a jump when later stamps confirm it.
    for ms in [HOUR_MS, shared::limits::CLOCK_JUMP_MS_MAX] {
        history.now = history.now.plus_ms(ms);
        beat(&mut history).await;
    }
    let wrote = writer.write(false).await.unwrap();
    assert_eq!((wrote.files, wrote.lag), (1, 1), "the hour has ended");
    assert_eq!(writer.write(true).await.unwrap().lag, 0, "all are wanted");
    let paths: Vec<_> = archive.list(0).await.unwrap().into_iter().map(|e| e.path).collect();
    assert_eq!(
        paths,
        [
            "partition=0000/date=2026-01-31/hour=12/00000000000000000001.parquet",
            "partition=0000/date=2026-01-31/hour=14/00000000000000000005.parquet",
        ]
    );
    holds_the_log(&archive, &*log).await;
}

/// Each declared minute becomes a record of its own, though it has only 8 bytes in the log.
#[tokio::test]
async fn a_file_of_declared_minutes_has_no_more_records_than_one_of_events() {
    const FILE_BYTES: usize = 1 << 20;
    let (log, archive) = (Arc::new(MemLog::new(1, [2; 16])), in_memory());
    let mut history = History::new(1);
    for _ in 0..40 {
        let mut builder = MessageBuilder::default();
        let first = START.minute().0;
        let declared = (first..first + 4_096).map(|minute| (Minute(minute), 0)).collect();
        builder.batch(history.batch(declared));
        let payload = builder.finish(0, history.now).into();
        log.append(vec![Message { partition: 0, payload }]).await.unwrap();
    }
    start_writer(&log, &archive, FILE_BYTES).write(true).await.unwrap();
    for entry in archive.list(0).await.unwrap() {
        let records: usize =
            batches(&archive, &entry).await.iter().map(RecordBatch::num_rows).sum();
        assert!(records <= FILE_BYTES / 32 + 4_097, "{records} records in {}", entry.path);
    }
    holds_the_log(&archive, &*log).await;
}

#[tokio::test]
async fn collectors_whose_clocks_disagree_do_not_hide_the_last_file() {
    let dir = tempfile::tempdir().unwrap();
    let log = Arc::new(MemLog::new(1, [2; 16]));
    for archive in [in_memory(), Archive::local(dir.path()).unwrap()] {
        assert_eq!(archive.last(0).await.unwrap(), None);
        let mut history = History::new(4);
        for round in 0..6 {
            // The clock jumps forward and back by half days.
            history.now = START.plus_ms((round * 7 % 4) * 12 * HOUR_MS);
            let payload = history.filled(0, 2);
            log.append(vec![Message { partition: 0, payload }]).await.unwrap();
            start_writer(&log, &archive, 1).write(true).await.unwrap();
            let all = archive.list(0).await.unwrap();
            assert_eq!(archive.last(0).await.unwrap().as_ref(), all.last());
        }
        // An empty folder, as the removal of a file leaves it.
        std::fs::create_dir_all(dir.path().join("partition=0000/date=2030-01-01/hour=00")).unwrap();
        assert!(archive.last(0).await.unwrap().is_some());
        holds_the_log(&archive, &*log).await;
    }
}

/// Archives some messages, changes the log, and gives the error of an archiver that then starts.
async fn refused(change: impl AsyncFnOnce(&MemLog)) -> String {
    let (log, archive) = (Arc::new(MemLog::new(1, [2; 16])), in_memory());
    append(&*log, &mut History::new(1), 9).await;
    start_writer(&log, &archive, 1 << 20).write(true).await.unwrap();
    change(&log).await;
    let registry = &mut Registry::default();
    let settings = Settings::default();
    let parts = Parts { log: Arc::clone(&log), archive, settings, registry };
    match Archiver::start(parts).await {
        Err(Halt::ForGood(why)) => why,
        Err(halt) => panic!("{halt} is tried again"),
        Ok(_) => panic!("it was taken"),
    }
}

#[tokio::test]
async fn a_log_that_is_not_the_one_that_was_archived_is_refused() {
    let another = refused(async |log| log.recreate([9; 16])).await;
    assert!(another.contains("has what this log has not"), "{another}");
    let replaced = refused(async |log| log.replace(0, 9, Bytes::from_static(b"other"))).await;
    assert!(replaced.contains("Digest of the position at sequence 9"), "{replaced}");
    let shorter = refused(async |log| log.vanish(0, 5)).await;
    assert!(shorter.contains("the log ends at 5"), "{shorter}");
    let trimmed = refused(async |log| {
        append(log, &mut History::new(2), 9).await;
        log.trim(&[(0, 12)]).await.unwrap();
    })
    .await;
    assert!(trimmed.contains("no longer has what the archive lacks"), "{trimmed}");
}

#[tokio::test]
async fn a_log_that_changes_under_a_running_archiver_stops_that_partition() {
    let (log, archive) = (Arc::new(MemLog::new(1, [2; 16])), in_memory());
    append(&*log, &mut History::new(1), 9).await;
    let mut writer = start_writer(&log, &archive, 1 << 20);
    writer.write(true).await.unwrap();
    log.vanish(0, 4);
    append(&*log, &mut History::new(2), 9).await;
    let halt = writer.write(true).await.unwrap_err();
    assert!(matches!(halt, Halt::ForGood(_)), "{halt}");
    assert_eq!(writer.archived(), 9, "nothing was written");
}

#[tokio::test]
async fn a_damaged_or_copied_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let archive = Archive::local(dir.path()).unwrap();
    let log = Arc::new(MemLog::new(1, [2; 16]));
    append(&*log, &mut History::new(1), 9).await;
    start_writer(&log, &archive, 1 << 20).write(true).await.unwrap();
    let entry = archive.list(0).await.unwrap().pop().unwrap();
    let file = dir.path().join(&entry.path);
    let whole = std::fs::read(&file).unwrap();
    let says = async || {
        let entry = archive.list(0).await.unwrap().pop().unwrap();
        archive.info(&entry, 0).await.unwrap_err().to_string()
    };
    for length in [0, 3, 100, whole.len() - 1] {
        std::fs::write(&file, &whole[..length]).unwrap();
        let said = says().await;
        assert!(said.contains(&entry.path), "{length}: {said}");
        let halt = start_writer(&log, &archive, 1).write(true).await.unwrap_err();
        assert!(matches!(halt, Halt::ForGood(_)), "{halt}");
    }
    let copy = file.with_file_name("00000000000000000007.parquet");
    std::fs::write(&copy, &whole).unwrap();
    let said = says().await;
    assert!(said.contains("0007.parquet") && said.contains("renamed or copied"), "{said}");
}
