//! `GET /v1/partitions/{partition}/cells`: everything that a partition has counted in a range, as lines of JSON
//! (NDJSON). The first says at which position, the last that nothing is missing; those between add up where they
//! name the same.

use serde::{Deserialize, Serialize};
use shared::{Country, Currency, Device, Id, Kind, Minute};

use crate::answers::Reasons;

/// A line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(untagged)]
pub enum Line {
    /// The first.
    Position(Position),
    /// What became of the events of a minute.
    Account {
        /// The minute, since 1970.
        #[cfg_attr(feature = "openapi", schema(value_type = u32))]
        minute: Minute,
        /// Events that edges declare to have received.
        declared: u64,
        /// Events of imported logs.
        imported: u64,
        /// Events that are counted.
        counted: u64,
        /// Events that were counted before.
        duplicate: u64,
        /// Events that are not counted, by why.
        reasons: Reasons,
    },
    /// Events of one sort.
    Cell {
        /// The minute, since 1970.
        #[cfg_attr(feature = "openapi", schema(value_type = u32))]
        minute: Minute,
        /// The sort.
        #[serde(flatten)]
        cell: Cell,
        /// How many.
        count: u64,
    },
    /// What they cost.
    Spend {
        /// The minute, since 1970.
        #[cfg_attr(feature = "openapi", schema(value_type = u32))]
        minute: Minute,
        /// The sort.
        #[serde(flatten)]
        cell: Cell,
        /// In which currency.
        #[cfg_attr(feature = "openapi", schema(value_type = String))]
        currency: Currency,
        /// How much, in millionths of it.
        micros: i64,
    },
    /// The last: nothing is missing.
    End {
        /// True.
        end: bool,
    },
}

/// The last message that is counted: all empty before the first.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Position {
    /// Which partition.
    pub partition: u16,
    /// Of how many.
    pub partitions: u16,
    /// The message's number.
    pub sequence: u64,
    /// The log's identity, in hexadecimal.
    pub log: String,
    /// The message's digest, in hexadecimal.
    pub digest: String,
    /// Edges of which nothing counts any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cut_off: Vec<CutOff>,
}

/// An edge, with its shards, that has used up what is kept of one: what comes from this batch of this message on
/// is `over_quota`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CutOff {
    /// The edge, by its registered name.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub edge: Id,
    /// The message's number.
    pub sequence: u64,
    /// Which batch in it.
    pub entry: u16,
}

/// A sort of events.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Cell {
    /// The ad.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub ad: Id,
    /// The publisher; none of links without one.
    #[serde(default, skip_serializing_if = "Id::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub publisher: Id,
    /// The country.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub country: Country,
    /// The class of device.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub device: Device,
    /// What happened.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub kind: Kind,
    /// Whether it counts for money.
    pub valid: bool,
}
