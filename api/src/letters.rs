//! What could not be decoded, as an operator is shown it: `GET /v1/deadletters` and what follows.

use std::fmt;

use serde::{Deserialize, Serialize};
use shared::keys::Sender;
use shared::{EdgeId, OutboxId, Timestamp};

/// What an operator is shown of a letter.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Letter {
    /// Its place among the dead letters.
    pub sequence: u64,
    /// When the collector got it.
    #[cfg_attr(feature = "openapi", schema(value_type = u64))]
    pub at: Timestamp,
    /// Who had authenticated himself; none of a letter of an earlier build, and of what nobody of ours
    /// wrote.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub sender: Option<Sender>,
    /// Where it came from, as far as is known.
    pub from: String,
    /// What is wrong with it, and where.
    pub reason: String,
    /// How many bytes are kept.
    pub bytes: usize,
    /// Which batch it says that it is, when its first bytes say so: the number is missing until it
    /// is resolved. Only when it is the sender's is that believed.
    pub batch: Option<BatchName>,
}

/// One batch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct BatchName {
    /// Whose.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub edge: EdgeId,
    /// The outbox's.
    pub epoch: u64,
    /// Its number.
    pub number: u64,
}

impl BatchName {
    /// The outbox.
    #[must_use]
    pub fn outbox(&self) -> OutboxId {
        OutboxId { edge: self.edge, epoch: self.epoch }
    }
}

impl fmt::Display for BatchName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.edge, self.epoch, self.number)
    }
}

/// What there is of letters that nobody has looked at yet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Letters {
    /// Those that were asked for, oldest first.
    pub letters: Vec<Letter>,
    /// There are more such behind the last of them.
    pub more: bool,
    /// How many there are at all, whatever was asked for.
    pub all: u64,
    /// Whose they are, those first that sent the most.
    pub senders: Vec<Sent>,
    /// How many are of senders beyond these: at most 256 are told apart.
    pub others: u64,
    /// The last message's number when this was said.
    pub end: u64,
}

/// What one sender has sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Sent {
    /// Who.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub sender: Option<Sender>,
    /// How many letters.
    pub letters: u64,
    /// How many bytes of them are kept.
    pub bytes: u64,
}

/// What became of a letter.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Resolved {
    /// The batch that is given up for it, if any.
    pub batch: Option<BatchName>,
    /// Which.
    pub sequence: u64,
}

/// What became of a sender's letters.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ResolvedAll {
    /// Of so many it is noted.
    pub resolved: u64,
    /// So many batches are given up.
    pub batches: u64,
    /// So many stay as they are …
    pub kept: u64,
    /// … for what the first of them says.
    pub why: Option<String>,
    /// There may be more behind this one.
    pub next: Option<u64>,
    /// The last message's number.
    pub end: u64,
}
