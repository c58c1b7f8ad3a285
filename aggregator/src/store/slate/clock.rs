//! The clock that a database is given.
//!
//! SlateDB writes times into its rows and into the names of its files, and refuses times before
//! those that it has. A database that was written while the machine's clock was ahead could
//! therefore not be written after the clock was set right. So the clock of a database begins no
//! earlier than the last time that stands in it, and goes on evenly from there, whatever happens to
//! the machine's clock.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use object_store::ObjectStore;
use shared::Timestamp;
use shared::ambient::Stopwatch;
use slatedb::admin::Admin;
use slatedb::{Error, WalReader};
use slatedb_common::clock::{SystemClock, SystemClockTicker};

/// A clock that goes on evenly from a start.
#[derive(Debug)]
pub(super) struct StoreClock {
    start: Timestamp,
    since: Stopwatch,
}

impl StoreClock {
    pub(super) fn from(start: Timestamp) -> Self {
        Self { start, since: Stopwatch::start() }
    }
}

impl SystemClock for StoreClock {
    fn now(&self) -> DateTime<Utc> {
        let elapsed = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let now = i64::try_from(self.start.plus_ms(elapsed).0).unwrap_or(i64::MAX);
        DateTime::from_timestamp_millis(now).unwrap_or(DateTime::<Utc>::MAX_UTC)
    }

    fn sleep<'a>(&'a self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(tokio::time::sleep(duration))
    }

    fn ticker<'a>(&'a self, duration: Duration) -> SystemClockTicker<'a> {
        SystemClockTicker::new(self, duration)
    }
}

/// What stands in a database before it is opened.
pub(super) struct Found {
    /// Whether there is a database.
    pub(super) is_there: bool,
    /// The last time that stands in the database: in the names of its tables and compactions, and
    /// in the rows of its write-ahead log. Zero when there is none.
    pub(super) last: Timestamp,
    /// The number of the first write that is missing in the write-ahead log. SlateDB itself does
    /// not notice when a file of it was removed or emptied.
    pub(super) missing: Option<u64>,
}

/// Looks into a database before it is opened.
pub(super) async fn look(folder: &str, objects: &Arc<dyn ObjectStore>) -> Result<Found, Error> {
    let admin = Admin::builder(folder, Arc::clone(objects)).build();
    let Some(manifest) = admin.read_manifest(None).await? else {
        return Ok(Found { is_there: false, last: Timestamp(0), missing: None });
    };
    let tables = manifest.all_sst_views().map(|view| view.sst.id.value().timestamp_ms());
    let compacted = manifest.last_compacted_l0_sst_id().map(|id| id.timestamp_ms());
    let mut last = tables.chain(compacted).max().unwrap_or(0);
    let mut hear = |ms: i64| last = last.max(u64::try_from(ms).unwrap_or(0));
    hear(manifest.last_l0_clock_tick());
    let mut writes = Vec::new();
    let log = WalReader::new(folder, Arc::clone(objects));
    for file in log.list(manifest.replay_after_wal_id() + 1..).await? {
        let mut rows = file.iterator().await?;
        while let Some(row) = rows.next().await? {
            row.create_ts.into_iter().for_each(&mut hear);
            if writes.last() != Some(&row.seq) {
                writes.push(row.seq);
            }
        }
    }
    if let Some(compactions) = admin.read_compactions(None).await? {
        for job in compactions.recent_compactions() {
            let tables = job.output_ssts();
            let tables = tables.iter().map(|table| table.id.value().timestamp_ms());
            last = tables.chain([last, job.id().timestamp_ms()]).max().unwrap_or(last);
        }
    }
    // The numbers of writes have no gaps, so the first that is not the next tells that one is
    // missing.
    writes.sort_unstable();
    writes.dedup();
    let beyond = writes.into_iter().filter(|write| *write > manifest.last_l0_seq());
    let missing =
        (manifest.last_l0_seq() + 1..).zip(beyond).find(|(wanted, write)| wanted != write);
    let missing = missing.map(|(wanted, _)| wanted);
    Ok(Found { is_there: true, last: Timestamp(last), missing })
}
