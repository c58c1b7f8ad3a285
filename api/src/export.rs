//! `GET /v1/partitions/{partition}/cells`: everything that a partition has counted in a range, as lines of JSON
//! (NDJSON). The first line is the position at which it was counted, the last says that no line is missing.
//! Lines in between that name the same minute, cell and amount are to be added up.

use serde::{Deserialize, Serialize};
use shared::counted::Amount;
use shared::name::Any;
use shared::{AnyId, Currency, Dimensions, EdgeId, Kind, Minute, NameBuf, dimensions};

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
        /// Events that are not counted, by reason.
        reasons: Reasons,
    },
    /// How many events a cell has.
    Cell {
        /// The minute, since 1970.
        #[cfg_attr(feature = "openapi", schema(value_type = u32))]
        minute: Minute,
        /// The cell.
        #[serde(flatten)]
        cell: Cell,
        /// How many.
        count: u64,
    },
    /// An amount that is added up beside the events of a cell.
    Amount {
        /// The minute, since 1970.
        #[cfg_attr(feature = "openapi", schema(value_type = u32))]
        minute: Minute,
        /// The cell.
        #[serde(flatten)]
        cell: Cell,
        /// What the amount is of; left out: spend.
        #[serde(default = "spend", skip_serializing_if = "is_spend")]
        #[cfg_attr(feature = "openapi", schema(value_type = String))]
        amount: Amount,
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

/// The last message that is counted. Zero and empty texts when there is none yet.
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

/// An edge, with its shards, that has used up its quota: what comes from this batch of this message
/// on is `over_quota`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CutOff {
    /// The edge, by its registered name.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub edge: EdgeId,
    /// The message's number.
    pub sequence: u64,
    /// Which batch in it.
    pub entry: u16,
}

macro_rules! define {
    (
        names {
            $(#[$first_doc:meta])* $first:ident: $first_noun:ty,
            $($(#[$name_doc:meta])* $name:ident: $noun:ty,)*
        }
        codes { $($(#[$code_doc:meta])* $code:ident: $type:ty, $bits:literal,)+ }
    ) => {
        /// A cell: the events that have all of this in common.
        #[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        pub struct Cell {
            $(#[$first_doc])*
            #[cfg_attr(feature = "openapi", schema(value_type = String))]
            pub $first: NameBuf<$first_noun>,
            $(
                $(#[$name_doc])*
                #[serde(default, skip_serializing_if = "NameBuf::is_none")]
                #[cfg_attr(feature = "openapi", schema(value_type = String))]
                pub $name: NameBuf<$noun>,
            )*
            $(
                $(#[$code_doc])*
                #[cfg_attr(feature = "openapi", schema(value_type = String))]
                pub $code: $type,
            )+
            /// What happened.
            #[cfg_attr(feature = "openapi", schema(value_type = String))]
            pub kind: Kind,
            /// Whether it counts for money: it has no verdict.
            pub valid: bool,
        }

        /// The names of the fields that tell cells apart, without `valid`.
        pub const CELL: &[&str] = &[stringify!($first), $(stringify!($name),)* $(stringify!($code),)+ "kind"];

        impl Cell {
            /// The texts of the fields in [`CELL`], in that order; empty for a name that there is not.
            #[must_use]
            pub fn texts(&self) -> [String; CELL.len()] {
                [
                    self.$first.to_string(),
                    $(self.$name.to_string(),)*
                    $(self.$code.to_string(),)+
                    self.kind.to_string(),
                ]
            }

            /// The cell of these dimensions. `name`: looks up the name of an id.
            ///
            /// # Errors
            /// Those of `name`.
            pub fn new<E>(
                dimensions: &Dimensions,
                name: impl Fn(AnyId) -> Result<NameBuf<Any>, E>,
            ) -> Result<Self, E> {
                Ok(Self {
                    $first: name(dimensions.$first.any())?.cast(),
                    $($name: name(dimensions.$name.any())?.cast(),)*
                    $($code: dimensions.$code,)+
                    kind: dimensions.kind,
                    valid: dimensions.valid,
                })
            }
        }
    };
}

dimensions!(define);

const fn spend() -> Amount {
    Amount::Spend
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
const fn is_spend(amount: &Amount) -> bool {
    matches!(amount, Amount::Spend)
}
