//! The aggregator's metrics.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use shared::Reason;
use shared::ambient::Stopwatch;

use crate::count::Applied;

/// A partition that is so many messages behind its log has other things to do than making segments.
const LAG_MAX: i64 = 16;

/// The outcome of an event: `counted`, `duplicate`, or a reason.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct OutcomeLabel {
    /// Its name.
    pub outcome: &'static str,
}

/// A partition.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct PartitionLabel {
    /// Its number.
    pub partition: u16,
}

/// A question.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct QueryLabel {
    /// Which.
    pub query: &'static str,
}

/// The aggregator's metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Events by their outcome, since the start.
    pub events: Family<OutcomeLabel, Counter>,
    /// Batches that had been applied before.
    pub redelivered: Counter,
    /// Batches under whose number another had been applied.
    pub conflicts: Counter,
    /// Messages in the log that no program of ours wrote.
    pub foreign: Counter,
    /// How many messages a partition is behind the end of its log.
    pub lag: Family<PartitionLabel, Gauge>,
    /// From the beginning of a checkpoint until it is durable.
    pub checkpoint_seconds: Histogram,
    /// How long a checkpoint keeps questions and messages waiting for the lock.
    pub locked_seconds: Histogram,
    /// Bytes of dedup state in memory.
    pub dedup_bytes: Family<PartitionLabel, Gauge>,
    /// Bytes of cells, spend and totals in memory.
    pub cell_bytes: Family<PartitionLabel, Gauge>,
    /// Bytes of keys and values that checkpoints wrote.
    pub checkpoint_bytes: Counter,
    /// Segments of facts that were made.
    pub segments: Counter,
    /// How many facts they have together.
    pub segment_facts: Counter,
    /// How long it takes to make one.
    pub segment_seconds: Histogram,
    /// Facts that no segment has yet.
    pub loose_facts: Family<PartitionLabel, Gauge>,
    /// Partitions that have stopped.
    pub stopped: Gauge,
    /// How long answers take, the wait for readiness included.
    pub query_seconds: Family<QueryLabel, Histogram, fn() -> Histogram>,
}

fn seconds() -> Histogram {
    // From 0.1 ms to 26 s.
    Histogram::new(exponential_buckets(0.0001, 4.0, 10))
}

impl Metrics {
    /// Registers all of them, under the prefix `aggregator`.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            events: Family::default(),
            redelivered: Counter::default(),
            conflicts: Counter::default(),
            foreign: Counter::default(),
            lag: Family::default(),
            checkpoint_seconds: seconds(),
            locked_seconds: seconds(),
            dedup_bytes: Family::default(),
            cell_bytes: Family::default(),
            checkpoint_bytes: Counter::default(),
            segments: Counter::default(),
            segment_facts: Counter::default(),
            segment_seconds: seconds(),
            loose_facts: Family::default(),
            stopped: Gauge::default(),
            query_seconds: Family::new_with_constructor(seconds),
        };
        let all = registry.sub_registry_with_prefix("aggregator");
        all.register("events", "Events by outcome since the start", metrics.events.clone());
        let help = "Batches that had been applied before, skipped";
        all.register("redelivered_batches", help, metrics.redelivered.clone());
        let help =
            "Batches under whose number another had been applied, skipped: see /v1/accounting";
        all.register("conflicting_batches", help, metrics.conflicts.clone());
        let help = "Messages that nobody of ours wrote, kept with the dead letters and passed over";
        all.register("foreign_messages", help, metrics.foreign.clone());
        let help = "Messages between a partition's position and the end of its log";
        all.register("lag_messages", help, metrics.lag.clone());
        let help = "Time until a checkpoint is durable";
        let histogram = metrics.checkpoint_seconds.clone();
        all.register_with_unit("checkpoint", help, Unit::Seconds, histogram);
        let help = "Time that a checkpoint keeps questions and messages waiting";
        let histogram = metrics.locked_seconds.clone();
        all.register_with_unit("checkpoint_locked", help, Unit::Seconds, histogram);
        let help = "Dedup state in memory";
        all.register_with_unit("dedup", help, Unit::Bytes, metrics.dedup_bytes.clone());
        let help = "Cells, spend and totals in memory";
        all.register_with_unit("cells", help, Unit::Bytes, metrics.cell_bytes.clone());
        let help = "Bytes of keys and values written by checkpoints";
        all.register("checkpoint_written_bytes", help, metrics.checkpoint_bytes.clone());
        let help = "Segments of facts that were made";
        all.register("segments", help, metrics.segments.clone());
        let help = "Facts that were written into segments, once for each time";
        all.register("segment_facts", help, metrics.segment_facts.clone());
        let help = "Time to make a segment";
        let histogram = metrics.segment_seconds.clone();
        all.register_with_unit("segment", help, Unit::Seconds, histogram);
        let help = "Facts of the last checkpoint that no segment has yet";
        all.register("loose_facts", help, metrics.loose_facts.clone());
        let help = "Partitions that have stopped: see /readyz";
        all.register("stopped_partitions", help, metrics.stopped.clone());
        let help = "Time until a question is answered";
        all.register_with_unit("query", help, Unit::Seconds, metrics.query_seconds.clone());
        metrics
    }

    pub(crate) fn applied(&self, applied: &Applied) {
        let add = |outcome, count| {
            if count > 0 {
                self.events.get_or_create(&OutcomeLabel { outcome }).inc_by(count);
            }
        };
        add("counted", applied.counted);
        add("duplicate", applied.duplicate);
        for reason in Reason::ALL {
            add(reason.name(), applied.reasons[usize::from(reason.code())]);
        }
        self.redelivered.inc_by(applied.redelivered);
        self.conflicts.inc_by(applied.conflicts);
    }

    pub(crate) fn sealed(&self, facts: u64, watch: &Stopwatch) {
        self.segments.inc();
        self.segment_facts.inc_by(facts);
        self.segment_seconds.observe(watch.elapsed().as_secs_f64());
    }

    /// Whether a partition was behind its log when it last looked.
    pub(crate) fn is_behind(&self, partition: u16) -> bool {
        self.lag.get_or_create(&PartitionLabel { partition }).get() > LAG_MAX
    }

    pub(crate) fn query(&self, query: &'static str, watch: Stopwatch) {
        let seconds = watch.elapsed().as_secs_f64();
        self.query_seconds.get_or_create(&QueryLabel { query }).observe(seconds);
    }
}
