//! Why nothing came of what was sent.

use std::time::Duration;

use crate::sender::Refusal;

/// Why something was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The log is away or the collector is closing; whether it was written is not known. Send the
    /// same again, later.
    #[error("not now: {0}")]
    Retry(String),
    /// It cannot be taken, now or later: what is wrong, and where.
    #[error("refused: {0}")]
    Refused(String),
    /// The sender may not send it, as things are. Nothing of it was written.
    #[error("not let in: {1}")]
    NotAllowed(Refusal, String),
    /// It cannot be taken, and so much of its sender lies with the dead letters that this one has to
    /// wait for so long. Nothing of it was written.
    #[error("too many dead letters of this sender for now: {1}")]
    TooManyLetters(Duration, String),
    /// The sender's issuer has sent as much as it may for now. Nothing of it was written: send the
    /// same again, after so long.
    #[error("over quota: {why}")]
    OverQuota {
        /// What there is too much of.
        why: String,
        /// When there may be room for it.
        after: Duration,
    },
}
