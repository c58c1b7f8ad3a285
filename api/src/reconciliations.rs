//! The bodies of `/v1/reconciliations`: the archive, counted again and compared with the counts.
//! Times are RFC 3339, UTC.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `GET /v1/reconciliations`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Reconciliations {
    /// When the next one is due; none when there is no schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_at: Option<String>,
    /// Why one that is due has not begun, or why there is no schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<String>,
    /// Those that are kept, the newest first.
    pub reconciliations: Vec<Reconciliation>,
}

/// `GET /v1/reconciliations/{id}`, and the answer when one is asked for.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Reconciliation {
    /// Its number: each is one more than the one before.
    pub id: u64,
    /// Who asked for it.
    pub asked_by: AskedBy,
    /// How it stands.
    pub state: State,
    /// Whether both counts agree; none before that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agrees: Option<bool>,
    /// The first minute.
    pub from: String,
    /// The minute behind the last.
    pub to: String,
    /// When it began.
    pub started_at: String,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    /// How long it worked; after a restart it goes on.
    pub seconds: f64,
    /// How many partitions there are; 0 before the first was asked.
    pub partitions: u16,
    /// How many of them are done.
    pub partitions_done: u16,
    /// Numbers that were compared: those of cells, their amounts, and of each minute's account.
    pub cells: u64,
    /// Events in the files that were read. What was before the range may matter to it, and is read
    /// too.
    pub events: u64,
    /// Length of these files.
    pub bytes: u64,
    /// How many numbers differ.
    pub differences: u64,
    /// Some of those that differ.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub different: Vec<Different>,
    /// Some of the batches that came with two contents under one number.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<String>,
    /// Why a partition could not be compared, or what is wrong with its files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
}

/// A number that differs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Different {
    /// In which partition.
    pub partition: u16,
    /// The minute.
    pub minute: String,
    /// The cell, by its columns; none for the account of a minute.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub cell: BTreeMap<String, String>,
    /// What is counted: `valid` or `invalid` events, `spend EUR`; of an account `declared`,
    /// `imported`, `counted`, `duplicate` or a reason.
    pub what: String,
    /// How much of it by the engine.
    pub engine: i64,
    /// And how much by the archive.
    pub archive: i64,
}

/// Who asked for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum AskedBy {
    /// The schedule.
    Schedule,
    /// The operator.
    Operator,
}

/// How it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It runs, or will be tried again.
    Running,
    /// Both counts are the same.
    Agrees,
    /// They are not, or the archive has a gap or a message twice.
    Differs,
    /// It could not be made.
    Failed,
}

/// The body of `POST /v1/reconciliations`: whole minutes, each Unix seconds or RFC 3339.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// The first minute.
    pub from: Time,
    /// The minute behind the last, at most 400 days later.
    pub to: Time,
}

/// A time in a body.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(untagged)]
pub enum Time {
    /// Unix seconds.
    Seconds(u64),
    /// Either, as text.
    Text(String),
}
