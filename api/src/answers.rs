//! The bodies of the answers. Times are RFC 3339, UTC.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use shared::{AdName, BatchDigest, EdgeId, IssuerId, Kind, PublisherName, SourceId, Validity};

/// Reasons that occurred, by their names.
pub type Reasons = BTreeMap<String, u64>;

/// `GET /v1/ads/{ad_id}/aggregated_count`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Counted {
    /// The ad.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub ad_id: AdName,
    /// Which events.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub event: Kind,
    /// Valid ones, invalid ones, or all.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub validity: Validity,
    /// The first minute.
    pub from: String,
    /// The minute behind the last.
    pub to: String,
    /// The last of these minutes is not over yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub running: bool,
    /// How many.
    pub count: u64,
    /// The stored filter that was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter_id: Option<u32>,
    /// The version of the stored filter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter_version: Option<usize>,
    /// The filter, as it was understood: the stored one and that of the question together.
    #[serde(rename = "where", default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// The networks that are kept of the addresses in the filter: the answer is about the whole
    /// network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<String>,
    /// Whether nothing more can come.
    #[serde(rename = "final")]
    pub is_final: bool,
    /// How many outboxes may still bring more, in the partition where they are most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<usize>,
    /// Grows whenever a minute changes that was final already.
    pub revision: u64,
    /// The log's clock up to which everything is counted.
    pub as_of: String,
}

/// `GET /v1/ads/popular_ads`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Popular {
    /// The ads, most first.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub ad_ids: Vec<AdName>,
    /// Their counts, in the same order.
    pub counts: Vec<u64>,
    /// Valid ones, invalid ones, or all.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub validity: Validity,
    /// The first minute.
    pub window_start: String,
    /// The minute behind the last.
    pub window_end: String,
    /// The stored filter that was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter_id: Option<u32>,
    /// The version of the stored filter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter_version: Option<usize>,
    /// The filter, as it was understood: the stored one and that of the question together.
    #[serde(rename = "where", default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// The networks that are kept of the addresses in the filter: the answer is about the whole
    /// network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<String>,
    /// The last of these minutes is not over yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub running: bool,
    /// Whether nothing more can come.
    #[serde(rename = "final")]
    pub is_final: bool,
    /// How many outboxes may still bring more, in the partition where they are most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<usize>,
}

/// `GET /v1/accounting`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Account {
    /// The first minute.
    pub from: String,
    /// The minute behind the last.
    pub to: String,
    /// Events that edges declare to have received, and those of imported logs.
    pub received: u64,
    /// Events that are counted.
    pub counted: u64,
    /// Events that were counted before.
    pub duplicate: u64,
    /// Events that are not counted, by reason.
    pub reasons: Reasons,
    /// How many events were received and have no outcome yet.
    #[cfg_attr(feature = "openapi", schema(value_type = i64))]
    pub in_flight: i128,
    /// Everything that was received has one outcome or is in flight, and nothing is known to be
    /// missing.
    pub adds_up: bool,
    /// Why it does not add up.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub because: BTreeSet<Doubt>,
    /// Batches near these minutes that never came, and are waited for no more: nobody knows their
    /// events.
    #[serde(default, skip_serializing_if = "is_default")]
    pub given_up: u64,
    /// Whether nothing more can come.
    #[serde(rename = "final")]
    pub is_final: bool,
    /// How many outboxes may still bring more, in the partition where they are most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<usize>,
    /// Some of the publishers whose pages number their events.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pages: Vec<Pages>,
    /// How many publishers have such pages.
    #[serde(default, skip_serializing_if = "is_default")]
    pub publishers_with_pages: usize,
    /// Some of the outboxes with gaps: as many of each edge that has any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<Gap>,
    /// How many outboxes have gaps.
    #[serde(default, skip_serializing_if = "is_default")]
    pub outboxes_with_gaps: usize,
    /// Some of the outboxes with conflicts: as many of each edge that has any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<Conflicts>,
    /// How many outboxes have conflicts.
    #[serde(default, skip_serializing_if = "is_default")]
    pub outboxes_with_conflicts: usize,
}

/// Batches of an outbox that were skipped, because others had been counted under their numbers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Conflicts {
    /// The edge.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub edge: EdgeId,
    /// The epoch: each start of the edge begins a new one.
    pub epoch: u64,
    /// How many there were; one that came again after many others may be in this number twice.
    pub count: u64,
    /// The newest of them.
    pub newest: Vec<Conflict>,
}

/// Two batches that came under one number.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Conflict {
    /// The batch's number.
    pub number: u64,
    /// The digest of the one that was counted.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub counted: BatchDigest,
    /// The digest of the other.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub skipped: BatchDigest,
    /// How many events the other declares.
    pub events: u64,
    /// The log's clock when the other came.
    pub at: String,
}

/// How many events the pages of a publisher have sent, and how many were counted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Pages {
    /// The publisher.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub publisher: PublisherName,
    /// Events that its pages say they have sent.
    pub sent: u64,
    /// How many of them were counted, with a verdict or without.
    pub counted: u64,
    /// What was sent less what was counted. Below zero for a part of the time when an event came
    /// later than one that was made after it.
    #[cfg_attr(feature = "openapi", schema(value_type = i64))]
    pub lost: i128,
}

/// Batches that have not come although later ones have.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Gap {
    /// The edge.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub edge: EdgeId,
    /// The epoch: each start of the edge begins a new one.
    pub epoch: u64,
    /// How many are missing.
    pub count: u64,
    /// The first of them.
    pub missing: Vec<Missing>,
}

/// Missing numbers, the last one included.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Missing {
    /// The first.
    pub first: u64,
    /// The last.
    pub last: u64,
}

/// `GET /v1/import/sources/{source}`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Source {
    /// The identity of the log.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub source: SourceId,
    /// All rows before this one have been taken.
    pub rows: u64,
    /// BLAKE3 of the log up to the end of these rows, in hexadecimal; none while there are no rows.
    pub digest: Option<String>,
    /// Events that are counted.
    pub counted: u64,
    /// Events that were counted before.
    pub duplicate: u64,
    /// Events that are not counted, by reason.
    pub reasons: Reasons,
}

/// `GET /v1/edges`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Edges {
    /// In the order of their names.
    pub edges: Vec<Edge>,
}

/// An edge, and its outboxes that are remembered: a closed one for seven days. One that is registered
/// and has sent nothing has none.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Edge {
    /// The edge.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub edge: EdgeId,
    /// To whom it belongs; none when it is not registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub issuer: Option<IssuerId>,
    /// Since when it is out of service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retired_at: Option<String>,
    /// Whether it has used up its quota: then what it sends is `over_quota`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub cut_off: bool,
    /// Its outboxes that are remembered.
    pub outboxes: Vec<Outbox>,
}

/// An outbox: one start of its edge.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Outbox {
    /// The epoch: each start of the edge begins a new one.
    pub epoch: u64,
    /// How many batches have been counted without a gap.
    pub batches: u64,
    /// Whether it said that nothing follows.
    pub closed: bool,
    /// The outbox holds no event older than this; none when it is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watermark: Option<String>,
    /// Batches that have not come although later ones have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
}

/// `POST /v1/archive/{partition}`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Archived {
    /// The archive has the partition's messages up to this one.
    pub archived: u64,
}

/// `POST /v1/batches`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Taken {
    /// How many milliseconds the sender's clock is ahead of the collector's.
    pub clock_ahead_ms: u64,
}

/// `POST /v1/import`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Imported {
    /// All rows before this one have come.
    pub end_row: u64,
    /// The identity of the log.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub source: SourceId,
}

/// What makes an account doubtful.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Doubt {
    /// A number of an outbox came with two contents, and one of them was not counted.
    Conflicts,
    /// Batches are missing that may have had events of these minutes.
    Gaps,
    /// Batches that may have had some never came, and an operator waits for them no more.
    GivenUp,
    /// More events have an outcome than were received.
    MoreOutcomes,
    /// The partitions have applied the whole log, and some have not heard of every batch.
    PartitionsDiffer,
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Conflicts => "conflicts",
            Self::Gaps => "gaps",
            Self::GivenUp => "given_up",
            Self::MoreOutcomes => "more_outcomes",
            Self::PartitionsDiffer => "partitions_differ",
        })
    }
}

/// Whether serde may leave a field out: it is false or zero.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
