//! The time that a database is told.
//!
//! SlateDB writes times into its rows and into the names of its files, and takes none that is before
//! those that it has. So what was saved while the machine's clock was ahead would refuse whoever comes
//! after it has been set right. The clock of a database therefore begins no earlier than the last time
//! that stands in it, and goes on from there as the process does, whatever happens to the machine's.

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

/// Goes on from a start.
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

/// The last time that stands in a database: in the names of its tables and compactions, and in the rows
/// that are in no table yet. Zero when there is none.
pub(super) async fn last_time(
    folder: &str,
    objects: &Arc<dyn ObjectStore>,
) -> Result<Timestamp, Error> {
    let admin = Admin::builder(folder, Arc::clone(objects)).build();
    let Some(manifest) = admin.read_manifest(None).await? else { return Ok(Timestamp(0)) };
    let tables = manifest.all_sst_views().map(|view| view.sst.id.value().timestamp_ms());
    let compacted = manifest.last_compacted_l0_sst_id().map(|id| id.timestamp_ms());
    let mut last = tables.chain(compacted).max().unwrap_or(0);
    last = last.max(u64::try_from(manifest.last_l0_clock_tick()).unwrap_or(0));
    if let Some(compactions) = admin.read_compactions(None).await? {
        for job in compactions.recent_compactions() {
            let tables = job.output_ssts();
            let tables = tables.iter().map(|table| table.id.value().timestamp_ms());
            last = tables.chain([last, job.id().timestamp_ms()]).max().unwrap_or(last);
        }
    }
    let log = WalReader::new(folder, Arc::clone(objects));
    let files = log.list(manifest.replay_after_wal_id()..).await?;
    // They are in order, and so are the times in them: the last that has rows has the last. The first
    // files of each writer have none.
    for file in files.iter().rev() {
        let mut rows = file.iterator().await?;
        let mut found = None;
        while let Some(row) = rows.next().await? {
            found = found.max(row.create_ts);
        }
        if let Some(found) = found {
            return Ok(Timestamp(last.max(u64::try_from(found).unwrap_or(0))));
        }
    }
    Ok(Timestamp(last))
}
