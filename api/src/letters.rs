//! Dead letters, which are messages that could not be decoded, as an operator is shown them:
//! `GET /v1/deadletters` and the routes below it.

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
    /// The authenticated sender; none for a letter of an earlier build, and for a message that no
    /// program of ours wrote.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub sender: Option<Sender>,
    /// Where it came from, as far as is known.
    pub from: String,
    /// What is wrong with it, and where.
    pub reason: String,
    /// How many bytes are kept.
    pub bytes: usize,
    /// The batch that its first bytes name, if they do: the number of that batch is missing until the
    /// letter is resolved. It is believed only when the batch is one of the sender's.
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

/// The letters that nobody has looked at yet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Letters {
    /// Those that were asked for, oldest first.
    pub letters: Vec<Letter>,
    /// Whether more letters follow behind the last of these.
    pub more: bool,
    /// How many there are in all, whatever was asked for.
    pub all: u64,
    /// The senders of the letters, those with the most first.
    pub senders: Vec<Sent>,
    /// How many letters are of other senders: at most 256 senders are told apart.
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
    /// How many letters were resolved.
    pub resolved: u64,
    /// How many batches are given up for them.
    pub batches: u64,
    /// How many letters stay as they are …
    pub kept: u64,
    /// … and the reason of the first of these.
    pub why: Option<String>,
    /// The letter behind which to go on, if there may be more.
    pub next: Option<u64>,
    /// The last message's number.
    pub end: u64,
}
