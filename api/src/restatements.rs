//! The bodies of restatements, the credits that follow from them, and of many questions at once.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::reports::Micros;

/// Events that were judged again, or are to be.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Restatement {
    /// Its number; none of a dry run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restatement_id: Option<u32>,
    /// Which events, as the filter was understood. None of one that takes another back.
    #[serde(rename = "where", default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// Of which kind; all when it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// The first minute of the events.
    pub from: String,
    /// The minute behind the last.
    pub to: String,
    /// What they are from then on: `valid`, or the reason for which they are flagged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
    /// The restatement that it takes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub takes_back: Option<u32>,
    /// The restatement that has taken it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_back_by: Option<u32>,
    /// Why, in words.
    pub why: String,
    /// When it was made; none of a dry run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_at: Option<String>,
}

/// `GET /v1/restatements`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Restatements {
    /// All of them, in the order in which they were made.
    pub restatements: Vec<Restatement>,
}

/// `POST /v1/restatements`: a dry run, or what was made.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Effect {
    /// Nothing was changed.
    pub dry_run: bool,
    /// Sent again with this as `confirm`, the restatement is made; only of a dry run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm: Option<String>,
    /// The restatement.
    #[serde(flatten)]
    pub restatement: Restatement,
    /// By how many the events with each verdict grow or shrink, all kinds together.
    pub verdicts: BTreeMap<String, i64>,
    /// By how many the valid events of each kind grow or shrink.
    pub valid: BTreeMap<String, i64>,
    /// What campaigns cost before and after, those with the largest credit first: 1 000 at most.
    pub credits: Vec<Credit>,
    /// How many campaigns get a credit, or less of one.
    pub campaigns: usize,
}

/// What events that were judged again cost a campaign.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Credit {
    /// The campaign; empty where events name none.
    pub campaign: String,
    /// What its events cost before, in millionths of one unit.
    pub spend_before_micros: Micros,
    /// What they cost now.
    pub spend_after_micros: Micros,
    /// The difference: what the advertiser gets back. Below 0 when an earlier credit is taken back.
    pub credit_micros: Micros,
}

/// `GET /v1/credits`: what all restatements together give back.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Credits {
    /// The first minute.
    pub from: String,
    /// The minute behind the last.
    pub to: String,
    /// By campaign, the largest credit first: 1 000 at most.
    pub credits: Vec<Credit>,
    /// How many campaigns have one.
    pub campaigns: usize,
}

/// `POST /v1/query`: the answers to several questions, of one moment.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Answers {
    /// In the order of the questions.
    pub answers: Vec<Answered>,
}

/// The answer to one of several questions.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Answered {
    /// The status that the question alone would have had.
    pub status: u16,
    /// The body that it would have had: the answer, or a problem. A table in CSV is text.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub body: Value,
}
