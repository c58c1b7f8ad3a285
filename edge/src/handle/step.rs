//! A decision that is made in steps.

use shared::keys::KeyId;
use shared::token::SIGNATURE_BYTES;

use super::Resume;
use crate::decision::Decision;

/// How far a decision has come. What was used up on the way (an impression id, a count of a limit)
/// is used once: no step is repeated.
#[derive(Debug)]
pub enum Step<'p> {
    /// The decision is made.
    Done(Decision),
    /// The effect is needed first; [`Resume::with`] takes its outcome and goes on.
    Need(Effect, Resume<'p>),
}

/// What a decision needs from elsewhere. The core can always do without it, so a rim performs an
/// effect only where it has a better way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// A signature (RFC 8032, Ed25519).
    Sign {
        /// The key of the edge's issuer to sign with.
        key: KeyId,
        /// The bytes to sign.
        bytes: Vec<u8>,
    },
}

/// The outcome of an [`Effect`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// There was none in time: the core does without.
    None,
    /// The signature, which the core does not check.
    Signature([u8; SIGNATURE_BYTES]),
}

impl Step<'_> {
    /// The decision when no effect is performed.
    #[must_use]
    pub fn alone(mut self) -> Decision {
        // Without an outcome the core does the work itself, so each need is met and the loop ends.
        loop {
            match self {
                Self::Done(decision) => return decision,
                Self::Need(_, resume) => self = resume.with(Outcome::None),
            }
        }
    }
}
