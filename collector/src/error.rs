//! Why a batch, chunk or request was not taken.

use std::time::Duration;

use crate::sender::Refusal;

/// Why something was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The log is away, the collector is closing, or its clock is in doubt. Whether it was written is
    /// not known. Send the same again later.
    #[error("not now: {0}")]
    Retry(String),
    /// It can be taken neither now nor later; the text says what is wrong, and where.
    #[error("refused: {0}")]
    Refused(String),
    /// It can be read, but the sender may not send it ([`Refusal`]). Nothing of it was written.
    #[error("not let in: {1}")]
    NotAllowed(Refusal, String),
    /// It belongs to the dead letters, and its sender has used up its quota of them. After the given time
    /// there is room for it. Nothing of it was written.
    #[error("too many dead letters of this sender for now: {1}")]
    TooManyLetters(Duration, String),
    /// The sender's issuer has used up a quota. Nothing of it was written: send the same again after the
    /// given time.
    #[error("over quota: {why}")]
    OverQuota {
        /// Which quota is used up.
        why: String,
        /// After how long there may be room for it.
        after: Duration,
    },
}
