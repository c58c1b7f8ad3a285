//! The collector's counters.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use shared::event::{REASON_CODES, Reason};
use shared::{IssuerId, Outcome};

use crate::verify::{Checks, JudgedRow};

/// One label: `accepted`, or the reason.
type ByOutcome = Family<[(&'static str, &'static str); 1], Counter>;

/// What becomes of a batch that belongs to the dead letters while its sender's quota of them is used up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LetterFate {
    /// The sender, or the work queue on NATS, is told to bring it again later.
    Later,
    /// It is dropped, for too many of the sender's batches wait in the work queue already. Its number stays
    /// missing.
    LetGo,
}

impl LetterFate {
    /// All fates.
    pub const ALL: [Self; 2] = [Self::Later, Self::LetGo];

    /// The name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Later => "later",
            Self::LetGo => "let_go",
        }
    }
}

/// Counters, histograms and gauges of one collector. Clones count into the same.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Batches that the log has; a batch that is sent again counts again.
    pub batches: Counter,
    /// Chunks of imported logs that the log has.
    pub chunks: Counter,
    /// Events judged, by outcome: `accepted` (with or without a verdict), or the reason.
    pub events: ByOutcome,
    /// Tokens that were verified.
    pub checks: Checks,
    /// Batches that were not let in, by [`crate::Refusal`].
    pub refused: Family<[(&'static str, &'static str); 1], Counter>,
    /// Times that a batch was held back because its issuer has used up a quota, by [`crate::Quota`].
    pub over_quota: Family<[(&'static str, &'static str); 1], Counter>,
    /// Bytes that the log gets of an issuer's batches, as its quota counts them, by issuer. There are few
    /// issuers, for operators make them.
    pub issuer_bytes: Family<[(&'static str, String); 1], Counter>,
    /// Batches that were kept with the dead letters.
    pub dead_letters: Counter,
    /// Batches that belonged to the dead letters while their sender's quota was used up, by [`LetterFate`].
    pub letters_over_quota: Family<[(&'static str, &'static str); 1], Counter>,
    /// Appends to the log that failed and were tried again.
    pub append_retries: Counter,
    /// Appends to the log that were given up: the senders send again.
    pub appends_failed: Counter,
    /// Appends that the log found too large and that were cut into halves.
    pub appends_split: Counter,
    /// Bytes of one append, all partitions together.
    pub flush_bytes: Histogram,
    /// Seconds from the start of an append until it is durable.
    pub flush_seconds: Histogram,
    /// Batches and chunks that are in the queue: taken in and not acknowledged yet.
    pub queue_items: Gauge,
    /// Memory of these batches and chunks in bytes, about.
    pub queue_bytes: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            batches: Counter::default(),
            chunks: Counter::default(),
            events: ByOutcome::default(),
            checks: Checks::default(),
            refused: Family::default(),
            over_quota: Family::default(),
            issuer_bytes: Family::default(),
            dead_letters: Counter::default(),
            letters_over_quota: Family::default(),
            append_retries: Counter::default(),
            appends_failed: Counter::default(),
            appends_split: Counter::default(),
            flush_bytes: Histogram::new(exponential_buckets(1024.0, 4.0, 8)),
            flush_seconds: Histogram::new(exponential_buckets(0.000_5, 2.0, 14)),
            queue_items: Gauge::default(),
            queue_bytes: Gauge::default(),
        }
    }
}

impl Metrics {
    /// Registers all of them, under `collector_…`.
    pub fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("collector");
        r.register("batches", "Batches acknowledged", self.batches.clone());
        r.register("import_chunks", "Chunks of logs acknowledged", self.chunks.clone());
        r.register("events", "Events judged, by outcome", self.events.clone());
        r.register("tokens_verified", "Signatures checked", self.checks.verified.clone());
        // Each reason has its counter before it has happened, so that an alarm can be set on it.
        for why in crate::Refusal::ALL {
            self.refused.get_or_create_owned(&[("reason", why.name())]);
        }
        for fate in LetterFate::ALL {
            self.letters_over_quota.get_or_create_owned(&[("then", fate.name())]);
        }
        for quota in crate::Quota::ALL {
            self.over_quota.get_or_create_owned(&[("quota", quota.name())]);
        }
        let help = "Signatures known to be good";
        r.register("tokens_cached", help, self.checks.cached.clone());
        let help = "Batches that their sender may not send, by reason";
        r.register("refused_batches", help, self.refused.clone());
        let help = "Batches held back, for their issuer has sent too much, by quota";
        r.register("over_quota", help, self.over_quota.clone());
        let help = "What the log gets of an issuer's batches";
        r.register_with_unit("issuer", help, Unit::Bytes, self.issuer_bytes.clone());
        r.register("dead_letters", "Batches that are none", self.dead_letters.clone());
        let help = "Batches that are none, and over their sender's quota";
        r.register("dead_letters_over_quota", help, self.letters_over_quota.clone());
        r.register("append_retries", "Appends tried again", self.append_retries.clone());
        r.register("appends_failed", "Appends given up", self.appends_failed.clone());
        let help = "Appends that were too large for the log, and went in halves";
        r.register("appends_split", help, self.appends_split.clone());
        let help = "Size of an append";
        r.register_with_unit("flush", help, Unit::Bytes, self.flush_bytes.clone());
        let help = "Time until an append is durable";
        r.register_with_unit("flush", help, Unit::Seconds, self.flush_seconds.clone());
        let help = "Batches and chunks not acknowledged yet";
        r.register("queue_items", help, self.queue_items.clone());
        let help = "Memory of what is not acknowledged yet";
        r.register_with_unit("queue", help, Unit::Bytes, self.queue_bytes.clone());
    }

    /// Counts the outcomes of a batch or chunk.
    pub(crate) fn count_outcomes(&self, rows: &[JudgedRow]) {
        let mut counts = [0; REASON_CODES];
        for row in rows {
            let code = row.judged.outcome.err().map_or(0, Reason::code);
            counts[usize::from(code)] += 1;
        }
        for (code, count) in (0..).zip(counts).filter(|(_, count)| *count > 0) {
            let outcome = Reason::from_code(code).map_or(Ok(None), Err);
            self.events_with(outcome).inc_by(count);
        }
    }

    /// Counts the bytes of an issuer's batch that was taken.
    pub(crate) fn count_issuer_bytes(&self, issuer: IssuerId, bytes: usize) {
        let counter = self.issuer_bytes.get_or_create_owned(&[("issuer", issuer.to_string())]);
        counter.inc_by(bytes as u64);
    }

    /// Counts a batch that is not let in.
    pub(crate) fn count_refused(&self, why: crate::Refusal) {
        self.refused.get_or_create_owned(&[("reason", why.name())]).inc();
    }

    /// The counter of this fate of dead letters.
    #[must_use]
    pub fn letters_over_quota_with(&self, fate: LetterFate) -> Counter {
        self.letters_over_quota.get_or_create_owned(&[("then", fate.name())])
    }

    /// The counter of batches that this quota has held back.
    #[must_use]
    pub fn over_quota_of(&self, quota: crate::Quota) -> Counter {
        self.over_quota.get_or_create_owned(&[("quota", quota.name())])
    }

    /// The counter of events with this outcome; all accepted ones have the same.
    #[must_use]
    pub fn events_with(&self, outcome: Outcome) -> Counter {
        let name = outcome.err().map_or("accepted", Reason::name);
        self.events.get_or_create_owned(&[("outcome", name)])
    }
}
