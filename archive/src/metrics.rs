//! The archiver's metrics.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::writer::Written;

type ByPartition = Family<[(&'static str, u16); 1], Gauge>;

/// Counters and gauges of all partitions.
#[derive(Clone, Debug, Default)]
pub(super) struct Metrics {
    files: Counter,
    records: Counter,
    bytes: Counter,
    lag: ByPartition,
    pub(super) failed: Counter,
    pub(super) halted: Gauge,
}

impl Metrics {
    /// Registers them all, under `archive_…`.
    pub(super) fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let all = registry.sub_registry_with_prefix("archive");
        all.register("files", "Files written", metrics.files.clone());
        let help = "Records written: events, tallies, batches and their declarations";
        all.register("records", help, metrics.records.clone());
        let help = "Bytes of the files written";
        all.register_with_unit("written", help, Unit::Bytes, metrics.bytes.clone());
        let help = "Messages of a partition's log that were not archived after its last turn";
        all.register("lag_messages", help, metrics.lag.clone());
        let help = "Turns of a partition that failed; it is tried again unless it has halted";
        all.register("failed_turns", help, metrics.failed.clone());
        let help = "Partitions that are no longer archived: the process's log says why";
        all.register("halted_partitions", help, metrics.halted.clone());
        metrics
    }

    /// Counts what a partition's turn has written.
    pub(super) fn count_turn(&self, partition: u16, written: &Written) {
        self.files.inc_by(written.files);
        self.records.inc_by(written.records);
        self.bytes.inc_by(written.bytes);
        let lag = self.lag.get_or_create_owned(&[("partition", partition)]);
        lag.set(i64::try_from(written.lag).unwrap_or(i64::MAX));
    }
}
