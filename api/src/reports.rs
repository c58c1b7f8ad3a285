//! The bodies of reports: counts, series, break-downs and top lists of an ad, a campaign, an
//! advertiser, a publisher or a placement, under a filter. Times are RFC 3339; money is in
//! millionths of one unit, by currency.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shared::{Kind, Validity};

use crate::answers::Reasons;

/// Amounts by currency, in millionths of one unit.
pub type Micros = BTreeMap<String, i64>;

/// Of what a report is, and how complete it is.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Scope {
    /// The first minute.
    pub from: String,
    /// The minute behind the last.
    pub to: String,
    /// The stored filter that was used, and its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter_id: Option<u32>,
    /// The version of the stored filter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter_version: Option<usize>,
    /// The filter, as it was understood: the stored one and that of the question together.
    #[serde(rename = "where", default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// The networks that are kept of the addresses in the filter (IPv4 /24, IPv6 /48): the answer
    /// is about the whole network.
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
    /// Grows whenever a minute changes that was final already.
    pub revision: u64,
    /// The log's clock up to which everything is counted.
    pub as_of: String,
}

/// What reports are of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[expect(missing_docs, reason = "the things' names")]
pub enum Of {
    Ad,
    Campaign,
    Advertiser,
    Publisher,
    Placement,
}

impl Of {
    /// All, with the word for one and that for several.
    pub const ALL: [(Self, &'static str, &'static str); 5] = [
        (Self::Ad, "ad", "ads"),
        (Self::Campaign, "campaign", "campaigns"),
        (Self::Advertiser, "advertiser", "advertisers"),
        (Self::Publisher, "publisher", "publishers"),
        (Self::Placement, "placement", "placements"),
    ];

    /// The word for one.
    #[must_use]
    pub fn one(self) -> &'static str {
        Self::ALL.iter().find(|(of, ..)| *of == self).map_or("", |(_, one, _)| one)
    }

    /// By the word for several.
    #[must_use]
    pub fn from_several(text: &str) -> Option<Self> {
        Self::ALL.iter().find(|(.., several)| *several == text).map(|(of, ..)| *of)
    }
}

/// `GET /v1/{ads|campaigns|…}/{id}/count`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Count {
    /// Of what: `ad`, `campaign`, `advertiser`, `publisher` or `placement`.
    pub of: String,
    /// Its name.
    pub id: String,
    /// Which events.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub event: Kind,
    /// Valid ones, invalid ones, or all.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub validity: Validity,
    /// How many.
    pub count: u64,
    /// Of which minutes, and how complete.
    #[serde(flatten)]
    pub scope: Scope,
}

/// How many different visitors.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Visitors {
    /// How many. Visitors of two groups or ranges are never to be added up: some are in both.
    pub uniques: u64,
    /// Whether the number is exact. Else it is an estimate from a sketch.
    pub exact: bool,
    /// The relative standard error of the estimate; 0 when exact.
    pub std_error: f64,
    /// 95 % of the estimates of as many visitors lie from here …
    pub low: u64,
    /// … to here.
    pub high: u64,
    /// Events that were looked at.
    pub events: u64,
    /// Those of them that name no visitor, because there was no consent: they are in no number
    /// above.
    pub without_visitor: u64,
}

/// `GET /v1/{ads|campaigns|…}/{id}/uniques`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Uniques {
    /// Of what: `ad`, `campaign`, `advertiser`, `publisher` or `placement`.
    pub of: String,
    /// Its name.
    pub id: String,
    /// Visitors of which events.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub event: Kind,
    /// Valid ones, invalid ones, or all.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub validity: Validity,
    /// How many.
    #[serde(flatten)]
    pub visitors: Visitors,
    /// The sketch that was asked for: bytes of Apache DataSketches in base64 (RFC 4648, section 4),
    /// to be merged with others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sketch: Option<String>,
    /// What tells visitors apart: `day`: a keyed hash of network and browser, with a key for each
    /// day, so that a visitor of two days counts as two.
    pub visitor_of: String,
    /// Of which minutes, and how complete.
    #[serde(flatten)]
    pub scope: Scope,
}

/// What is told of a group of events: those that were asked for.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Metrics {
    /// Ads that were given out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served: Option<u64>,
    /// Valid impressions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub impressions: Option<u64>,
    /// Valid viewable impressions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub viewable: Option<u64>,
    /// Valid clicks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clicks: Option<u64>,
    /// Clicks of an impression. Left out while there is no impression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub click_rate: Option<f64>,
    /// Viewable impressions of an impression. Left out while there is no impression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub viewable_rate: Option<f64>,
    /// What the valid impressions cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<BTreeMap<String, i64>>))]
    pub spend_micros: Option<Micros>,
    /// What a thousand impressions cost, rounded down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<BTreeMap<String, i64>>))]
    pub ecpm_micros: Option<Micros>,
    /// What a click costs, rounded down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<BTreeMap<String, i64>>))]
    pub ecpc_micros: Option<Micros>,
    /// Flagged events of all kinds, by their reason. They are in no number above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<BTreeMap<String, u64>>))]
    pub flagged: Option<Reasons>,
    /// The different visitors of valid events of all kinds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uniques: Option<Visitors>,
}

impl Metrics {
    /// What may be asked for; a question that names none gets all but `uniques`.
    pub const NAMES: &'static [&'static str] = &[
        "served",
        "impressions",
        "viewable",
        "clicks",
        "click_rate",
        "viewable_rate",
        "spend",
        "ecpm",
        "ecpc",
        "flagged",
        "uniques",
    ];
}

/// One step of a series.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Point {
    /// When it begins, in the series' time zone.
    pub start: String,
    /// What happened in it.
    #[serde(flatten)]
    pub metrics: Metrics,
}

/// `GET /v1/{ads|campaigns|…}/{id}/series`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Series {
    /// Of what: `ad`, `campaign`, `advertiser`, `publisher` or `placement`.
    pub of: String,
    /// Its name.
    pub id: String,
    /// How long each point is.
    pub step: String,
    /// The time zone in which days and hours begin.
    pub tz: String,
    /// All steps of the range, also those without events. The first and the last are shorter where
    /// the range begins or ends within a step.
    pub points: Vec<Point>,
    /// Of which minutes, and how complete.
    #[serde(flatten)]
    pub scope: Scope,
}

/// One group of a break-down.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Group {
    /// The values of the columns, by their names.
    pub group: BTreeMap<String, String>,
    /// What happened in it.
    #[serde(flatten)]
    pub metrics: Metrics,
}

/// `GET /v1/{ads|campaigns|…}/{id}/breakdown`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Breakdown {
    /// Of what: `ad`, `campaign`, `advertiser`, `publisher` or `placement`.
    pub of: String,
    /// Its name.
    pub id: String,
    /// The columns.
    pub by: Vec<String>,
    /// The groups with the most events of the kind that was asked for, most first.
    pub groups: Vec<Group>,
    /// All other groups together.
    pub other: Metrics,
    /// How many groups there are in all.
    pub groups_in_all: usize,
    /// Of which minutes, and how complete.
    #[serde(flatten)]
    pub scope: Scope,
}

/// One version of a stored filter.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StoredFilter {
    /// Its number, for `filter=` of a question. Never used again.
    pub filter_id: u32,
    /// From 1; a change makes the next one.
    pub version: usize,
    /// What it is called.
    pub name: String,
    /// The filter, as it was understood.
    #[serde(rename = "where")]
    pub filter: String,
    /// The same as JSON.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub json: serde_json::Value,
    /// When this version was written.
    pub changed_at: String,
}

/// `GET /v1/filters`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StoredFilters {
    /// Those that are not deleted, in the order of their numbers, each in its newest version.
    pub filters: Vec<StoredFilter>,
}

/// One place of a top list.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Place {
    /// The name.
    pub id: String,
    /// How many events.
    pub count: u64,
}

/// The data of each event of `GET /v1/live`: the state of the last minutes, the running one too.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Live {
    /// The first minute.
    pub from: String,
    /// The minute behind the last.
    pub to: String,
    /// The log's clock up to which everything is counted.
    pub as_of: String,
    /// Ads that were given out.
    pub served: u64,
    /// Valid impressions.
    pub impressions: u64,
    /// Valid viewable impressions.
    pub viewable: u64,
    /// Valid clicks.
    pub clicks: u64,
    /// Flagged events of all kinds, by their reason.
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, u64>))]
    pub flagged: Reasons,
    /// Which events the list is of.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub event: Kind,
    /// The ads with the most of them, most first.
    pub top: Vec<Place>,
}

/// `GET /v1/top`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Top {
    /// Of what: `ad`, `campaign`, `advertiser`, `publisher` or `placement`.
    pub of: String,
    /// Which events.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub event: Kind,
    /// Valid ones, invalid ones, or all.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub validity: Validity,
    /// Most first; those with as many in the order of their names.
    pub top: Vec<Place>,
    /// Of which minutes, and how complete.
    #[serde(flatten)]
    pub scope: Scope,
}

/// `GET /v1/segments`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Segments {
    /// The segments, by partition and time.
    pub segments: Vec<Segment>,
    /// How many facts are in none yet, up to the last checkpoints.
    pub loose_events: u64,
}

/// A segment of facts: one file of a partition.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Segment {
    /// The Parquet file, beside the checkpoints.
    pub file: String,
    /// The partition.
    pub partition: u16,
    /// No event is of an earlier minute.
    pub from: String,
    /// All events are of earlier minutes.
    pub to: String,
    /// How many events it has.
    pub events: u64,
    /// Bytes of the Parquet file.
    pub bytes: u64,
}
