//! The metrics of an edge.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use shared::event::REASON_CODES;
use shared::{Kind, Reason};

use crate::decision::Draft;
use crate::limit::Class;

/// The routes by which requests are counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub(crate) enum Route {
    Serve,
    Events,
    Pixel,
    Click,
    Other,
}

const ROUTES: [&str; 5] = ["serve", "events", "pixel", "click", "other"];
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

impl Route {
    /// The route of a path.
    pub(crate) fn from_path(path: &str) -> Self {
        match path {
            "/v1/serve" => Self::Serve,
            "/v1/events" => Self::Events,
            path if path.starts_with("/v1/c/") => Self::Click,
            path if path.starts_with("/v1/i/") => Self::Pixel,
            _ => Self::Other,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: &'static str,
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClassLabel {
    class: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// An edge's metrics. Clones share the same counters.
#[derive(Clone, Debug)]
pub struct Metrics {
    families: Families,
    /// The families' counters by index, so that counting needs no lookup.
    requests: Arc<[[Counter; 5]; 5]>,
    appended: Arc<[Counter; 4]>,
    tallied: Arc<[Option<Counter>; REASON_CODES]>,
    /// Clicks, then all other requests.
    limited: [Counter; 2],
    group_events: Histogram,
    request_seconds: Histogram,
    /// Batches that the sink has acknowledged.
    pub(crate) delivered: Counter,
    /// Batches that the sink could not take when they were sent.
    pub(crate) retried: Counter,
    /// Batches that the sink refused.
    pub(crate) refused: Counter,
    pub(crate) unacked: Gauge,
    pub(crate) disk_bytes: Gauge,
    pub(crate) held: Gauge,
    pub(crate) lag_seconds: Gauge<f64, AtomicU64>,
    pub(crate) doors: DoorMetrics,
    pub(crate) catalogue_reloads: Counter,
    pub(crate) catalogue_bad: Gauge,
    pub(crate) ready: Gauge,
}

#[derive(Clone, Debug, Default)]
struct Families {
    requests: Family<RequestLabels, Counter>,
    appended: Family<KindLabel, Counter>,
    tallied: Family<ReasonLabel, Counter>,
    limited: Family<ClassLabel, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let families = Families::default();
        let requests = ROUTES.map(|route| {
            CLASSES.map(|status| {
                families.requests.get_or_create_owned(&RequestLabels { route, status })
            })
        });
        let kinds = std::array::from_fn(|code| {
            let kind = Kind::ALL[code].name();
            families.appended.get_or_create_owned(&KindLabel { kind })
        });
        let reasons = std::array::from_fn(|code| {
            let reason = u8::try_from(code).ok().and_then(Reason::from_code)?.name();
            Some(families.tallied.get_or_create_owned(&ReasonLabel { reason }))
        });
        let limited = ["click", "request"]
            .map(|class| families.limited.get_or_create_owned(&ClassLabel { class }));
        Self {
            families,
            limited,
            requests: Arc::new(requests),
            appended: Arc::new(kinds),
            tallied: Arc::new(reasons),
            group_events: Histogram::new(exponential_buckets(1.0, 2.0, 13)),
            request_seconds: Histogram::new(exponential_buckets(0.000_05, 2.0, 16)),
            delivered: Counter::default(),
            retried: Counter::default(),
            refused: Counter::default(),
            unacked: Gauge::default(),
            disk_bytes: Gauge::default(),
            held: Gauge::default(),
            lag_seconds: Gauge::default(),
            doors: DoorMetrics::default(),
            catalogue_reloads: Counter::default(),
            catalogue_bad: Gauge::default(),
            ready: Gauge::default(),
        }
    }
}

impl Metrics {
    /// Registers all metrics, under names that begin with `countersign_edge`.
    pub fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("countersign_edge");
        let families = &self.families;
        r.register("requests", "Requests by route and status class", families.requests.clone());
        r.register("events", "Events appended to the outbox by kind", families.appended.clone());
        let help = "Events that were only tallied, by reason";
        r.register("tallied", help, families.tallied.clone());
        let help = "Requests refused because their network asked too often, by limit";
        r.register("limited", help, families.limited.clone());
        let help = "Events in one group commit of the outbox";
        r.register("outbox_group_events", help, self.group_events.clone());
        let help = "Time from a request's head to its reply";
        r.register_with_unit("request", help, Unit::Seconds, self.request_seconds.clone());
        r.register("outbox_delivered", "Batches acknowledged", self.delivered.clone());
        r.register("outbox_retried", "Batches that had to be sent again", self.retried.clone());
        r.register("outbox_refused", "Times that a batch was refused", self.refused.clone());
        r.register("outbox_unacked", "Batches not acknowledged", self.unacked.clone());
        let help = "Batches that were sealed ahead of the clock and wait until it is reached";
        r.register("outbox_held", help, self.held.clone());
        let help = "Size of the outbox on disk";
        r.register_with_unit("outbox_disk", help, Unit::Bytes, self.disk_bytes.clone());
        let help = "Age of the oldest batch that is not acknowledged";
        r.register_with_unit("outbox_lag", help, Unit::Seconds, self.lag_seconds.clone());
        self.doors.register(r);
        let help = "Catalogues put in force since the start";
        r.register("catalogue_reloads", help, self.catalogue_reloads.clone());
        let help = "1 while the catalogue on disk is wrong and an older one is in force";
        r.register("catalogue_bad", help, self.catalogue_bad.clone());
        r.register("ready", "1 when the edge is ready", self.ready.clone());
    }

    pub(crate) fn replied(&self, route: Route, status: u16, after: Duration) {
        let class = usize::from(status / 100).clamp(1, 5) - 1;
        self.requests[route as usize][class].inc();
        self.request_seconds.observe(after.as_secs_f64());
    }

    pub(crate) fn limited(&self, class: Class) {
        self.limited[usize::from(class == Class::Request)].inc();
    }

    pub(crate) fn appended(&self, events: &[Draft]) {
        for event in events {
            self.appended[usize::from(event.kind.code())].inc();
        }
        self.group_events.observe(events.len() as f64);
    }

    pub(crate) fn tallied(&self, reason: Reason, count: u32) {
        if let Some(counter) = &self.tallied[usize::from(reason.code())] {
            counter.inc_by(u64::from(count));
        }
    }

    /// The number of replies with this route and status class (2: 2xx); for tests and summaries.
    #[must_use]
    pub fn requests(&self, route: &str, class: u8) -> u64 {
        let at = ROUTES.iter().position(|name| *name == route);
        at.and_then(|at| self.requests[at].get(usize::from(class).checked_sub(1)?))
            .map_or(0, |counter| counter.inner().load(Ordering::Relaxed))
    }
}

/// The metrics of a listener's connections. Clones share the same counters.
#[derive(Clone, Debug)]
pub struct DoorMetrics {
    pub(crate) open: Gauge,
    shut: Family<WhyLabel, Counter>,
    /// The family's counters, indexed by [`Shut`].
    counters: [Counter; 4],
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WhyLabel {
    why: &'static str,
}

/// Why we ended a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Shut {
    /// Its network had used up its share of permits.
    Refused,
    /// Another connection needed its permit.
    Displaced,
    /// Its client sent nothing, or was too slow.
    TimedOut,
    /// The system had no descriptor for it.
    Failed,
}

impl Default for DoorMetrics {
    fn default() -> Self {
        let shut = Family::default();
        let counters = ["refused", "displaced", "timed_out", "failed"]
            .map(|why| shut.get_or_create_owned(&WhyLabel { why }));
        Self { open: Gauge::default(), shut, counters }
    }
}

impl DoorMetrics {
    /// Registers the metrics under the prefix that the registry has.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("connections", "Open connections", self.open.clone());
        let help =
            "Connections that were refused or closed before their client ended them, by reason";
        registry.register("connections_shut", help, self.shut.clone());
    }

    /// Counts a connection that we ended.
    pub fn shut(&self, why: Shut) {
        self.counters[why as usize].inc();
    }

    /// The number of connections that we ended for this reason so far.
    #[must_use]
    pub fn count(&self, why: Shut) -> u64 {
        self.counters[why as usize].get()
    }

    /// The number of open connections.
    #[must_use]
    pub fn open(&self) -> i64 {
        self.open.get()
    }
}
