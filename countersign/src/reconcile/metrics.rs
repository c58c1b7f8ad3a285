//! What became of the comparisons, as metrics. Gauges are set from what is kept, so that a restart
//! forgets nothing.

use std::sync::atomic::AtomicU64;

use api::reconciliations::{Reconciliation, State};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use shared::Timestamp;

#[derive(Clone, Debug, Default)]
pub(super) struct Metrics {
    pub(super) enabled: Gauge,
    pub(super) running: Gauge,
    last_success: Gauge,
    duration: Gauge<f64, AtomicU64>,
    cells: Gauge,
    events: Gauge,
    differs: Gauge,
    differences: Gauge,
    failed: Gauge,
    failures: Counter,
}

impl Metrics {
    /// Registers them all, under `countersign_reconciliation_…`.
    pub(super) fn new(registry: &mut Registry) -> Self {
        let all = Self::default();
        let r = registry.sub_registry_with_prefix("countersign_reconciliation");
        let help = "1 where archive and counts are compared once a day";
        r.register("enabled", help, all.enabled.clone());
        r.register("running", "1 while they are compared", all.running.clone());
        let help = "When both were last found to agree, since 1970; 0: never";
        r.register_with_unit("last_success", help, Unit::Seconds, all.last_success.clone());
        let help = "How long the last comparison worked";
        r.register_with_unit("duration", help, Unit::Seconds, all.duration.clone());
        let help = "Numbers that the last comparison compared";
        r.register("cells", help, all.cells.clone());
        let help = "Events in the files that the last comparison read";
        r.register("events", help, all.events.clone());
        let help = "1 when the last comparison found a difference, a conflict or a gap";
        r.register("differs", help, all.differs.clone());
        let help = "Numbers that differed in the last comparison";
        r.register("differences", help, all.differences.clone());
        let help = "1 when the last comparison could not be made";
        r.register("failed", help, all.failed.clone());
        let help = "Comparisons that could not be made";
        r.register("failures", help, all.failures.clone());
        all
    }

    /// Shows the comparison that ended last, and when the last one ended at which both agreed.
    pub(super) fn show(&self, last: Option<&Reconciliation>, agreed: Option<&Reconciliation>) {
        let gauge = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let at = agreed.and_then(|agreed| Timestamp::parse(agreed.ended_at.as_deref()?).ok());
        self.last_success.set(gauge(at.unwrap_or_default().seconds()));
        let Some(last) = last else { return };
        self.duration.set(last.seconds);
        self.cells.set(gauge(last.cells));
        self.events.set(gauge(last.events));
        self.differs.set(i64::from(last.state == State::Differs));
        self.differences.set(gauge(last.differences));
        self.failed.set(i64::from(last.state == State::Failed));
    }

    /// Counts one that has ended now.
    pub(super) fn count(&self, ended: &Reconciliation) {
        if ended.state == State::Failed {
            self.failures.inc();
        }
    }
}
