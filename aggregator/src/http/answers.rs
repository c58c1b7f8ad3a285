//! The bodies of the answers. Times are RFC 3339, UTC.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use shared::{BatchDigest, Id, Kind, SourceId, Validity};

use crate::query::Doubt;

/// Reasons that occurred, by their names.
pub(super) type Reasons = BTreeMap<&'static str, u64>;
/// Outboxes with missing batches.
pub(super) type Gaps = Vec<Gap>;

/// `GET /v1/ads/{ad_id}/aggregated_count`.
#[derive(Debug, Serialize)]
pub(super) struct Counted {
    pub(super) ad_id: Id,
    pub(super) event: Kind,
    pub(super) validity: Validity,
    pub(super) from: String,
    pub(super) to: String,
    /// The last of these minutes is not over yet.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) running: bool,
    pub(super) count: u64,
    #[serde(rename = "final")]
    pub(super) is_final: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) behind: Option<usize>,
    pub(super) revision: u64,
    pub(super) as_of: String,
}

/// `GET /v1/ads/popular_ads`.
#[derive(Debug, Serialize)]
pub(super) struct Popular {
    pub(super) ad_ids: Vec<Id>,
    pub(super) counts: Vec<u64>,
    pub(super) validity: Validity,
    pub(super) window_start: String,
    pub(super) window_end: String,
    /// The last of these minutes is not over yet.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) running: bool,
    #[serde(rename = "final")]
    pub(super) is_final: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) behind: Option<usize>,
}

/// `GET /v1/accounting`.
#[derive(Debug, Serialize)]
pub(super) struct Account {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) received: u64,
    pub(super) counted: u64,
    pub(super) duplicate: u64,
    pub(super) reasons: Reasons,
    pub(super) in_flight: i128,
    /// Everything that was received has one outcome or is in flight, and nothing is known to be
    /// missing.
    pub(super) adds_up: bool,
    /// Why it does not add up.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) because: BTreeSet<Doubt>,
    /// Batches near these minutes that never came, and are waited for no more: nobody knows their
    /// events.
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) given_up: u64,
    #[serde(rename = "final")]
    pub(super) is_final: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) behind: Option<usize>,
    /// Of some publishers whose pages number what they tell; and how many such there are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) pages: Vec<Pages>,
    #[serde(skip_serializing_if = "is_none")]
    pub(super) publishers_with_pages: usize,
    /// Some of the outboxes with gaps, of every edge that has such; and how many there are of all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) gaps: Gaps,
    #[serde(skip_serializing_if = "is_none")]
    pub(super) outboxes_with_gaps: usize,
    /// The same of conflicts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) conflicts: Vec<Conflicts>,
    #[serde(skip_serializing_if = "is_none")]
    pub(super) outboxes_with_conflicts: usize,
}

/// Batches of an outbox under whose numbers others had been counted: nothing of them was.
#[derive(Debug, Serialize)]
pub(super) struct Conflicts {
    pub(super) edge: Id,
    pub(super) epoch: u64,
    /// All that there were; one that came again after many others may be counted twice.
    pub(super) count: u64,
    /// The newest of them.
    pub(super) newest: Vec<Conflict>,
}

/// Two batches that came under one number.
#[derive(Debug, Serialize)]
pub(super) struct Conflict {
    pub(super) number: u64,
    /// The digest of the one that was counted, and of the other.
    pub(super) counted: BatchDigest,
    pub(super) skipped: BatchDigest,
    /// How many events the other declares.
    pub(super) events: u64,
    /// The log's clock when the other came.
    pub(super) at: String,
}

/// What the pages of a publisher have sent beside what was counted of it.
#[derive(Debug, Serialize)]
pub(super) struct Pages {
    pub(super) publisher: Id,
    pub(super) sent: u64,
    /// With a verdict or without.
    pub(super) counted: u64,
    /// The difference; below zero in a part of the time, when an event came later than one that was
    /// made after it.
    pub(super) lost: i128,
}

/// Batches that have not come although later ones have.
#[derive(Debug, Serialize)]
pub(super) struct Gap {
    pub(super) edge: Id,
    pub(super) epoch: u64,
    /// How many are missing.
    pub(super) count: u64,
    /// The first of them.
    pub(super) missing: Vec<Missing>,
}

/// Missing numbers, the last one included.
#[derive(Debug, Serialize)]
pub(super) struct Missing {
    pub(super) first: u64,
    pub(super) last: u64,
}

/// `GET /v1/import/sources/{source}`.
#[derive(Debug, Serialize)]
pub(super) struct Source {
    pub(super) source: SourceId,
    pub(super) rows: u64,
    pub(super) digest: Option<String>,
    pub(super) counted: u64,
    pub(super) duplicate: u64,
    pub(super) reasons: Reasons,
}

/// `GET /v1/edges`.
#[derive(Debug, Serialize)]
pub(super) struct Edges {
    pub(super) edges: Vec<Edge>,
}

/// An edge, and its outboxes that are remembered: a closed one for seven days. One that is registered
/// and has sent nothing has none.
#[derive(Debug, Serialize)]
pub(super) struct Edge {
    pub(super) edge: Id,
    /// To whom it belongs; none when it is not registered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) issuer: Option<Id>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) retired_at: Option<String>,
    /// It has used up what is kept of one: what it sends is `over_quota`.
    #[serde(skip_serializing_if = "is_false")]
    pub(super) cut_off: bool,
    pub(super) outboxes: Vec<Outbox>,
}

/// An outbox: one start of its edge.
#[derive(Debug, Serialize)]
pub(super) struct Outbox {
    pub(super) epoch: u64,
    /// How many batches have been counted without a gap.
    pub(super) batches: u64,
    pub(super) closed: bool,
    /// It holds nothing older; none when it is closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) watermark: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) missing: Vec<Missing>,
}

/// `GET /readyz`.
#[derive(Debug, Serialize)]
pub(super) struct Ready {
    pub(super) status: &'static str,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_false(is: &bool) -> bool {
    !is
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_none(count: &usize) -> bool {
    *count == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}
