//! A decision in steps.

use shared::keys::KeyId;
use shared::token::SIGNATURE_BYTES;

use super::Resume;
use crate::decision::Decision;

/// How far a decision has come. What it took to come there (an impression id, a place in a limit) is
/// taken once: a step is never gone back.
#[derive(Debug)]
pub enum Step<'p> {
    /// It is made.
    Done(Decision),
    /// It needs this first, and goes on with what comes of it.
    Need(Effect, Resume<'p>),
}

/// What a decision needs from elsewhere. The core could do without: a rim does it where it has a better
/// way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// A signature (RFC 8032, Ed25519).
    Sign {
        /// By this key of the edge's issuer.
        key: KeyId,
        /// Of these bytes.
        bytes: Vec<u8>,
    },
}

/// What came of an [`Effect`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Nothing, in time: the core does without.
    None,
    /// The signature. It is believed.
    Signature([u8; SIGNATURE_BYTES]),
}

impl Step<'_> {
    /// The decision that is made when nobody does anything for the core.
    #[must_use]
    pub fn alone(mut self) -> Decision {
        loop {
            match self {
                Self::Done(decision) => return decision,
                Self::Need(_, resume) => self = resume.with(Outcome::None),
            }
        }
    }
}
