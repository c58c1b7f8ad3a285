//! Money: integer micro-units with a currency, never a float.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::text::serde_as_text;

/// An ISO 4217 code: three capital letters. [`Currency::NONE`] goes with an amount of zero only.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Currency([u8; 3]);

impl Currency {
    /// No currency.
    pub const NONE: Self = Self([0; 3]);

    /// Reads three capital letters, or three zeros as [`Currency::NONE`].
    #[must_use]
    pub fn from_bytes(bytes: [u8; 3]) -> Option<Self> {
        let code = bytes.iter().all(u8::is_ascii_uppercase);
        (code || bytes == [0; 3]).then_some(Self(bytes))
    }

    /// The three bytes.
    #[must_use]
    pub const fn bytes(self) -> [u8; 3] {
        self.0
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.iter().filter(|b| **b != 0).map(|b| char::from(*b));
        f.pad(&text.collect::<String>())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A text that is no currency.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no currency: three capital letters such as EUR are (ISO 4217)")]
pub struct CurrencyError(pub String);

impl FromStr for Currency {
    type Err = CurrencyError;
    fn from_str(text: &str) -> Result<Self, CurrencyError> {
        let code = <[u8; 3]>::try_from(text.as_bytes()).ok().and_then(Self::from_bytes);
        code.filter(|code| *code != Self::NONE)
            .ok_or_else(|| CurrencyError(text.chars().take(16).collect()))
    }
}

serde_as_text!(Currency);

/// An amount: `micros` millionths of one unit of `currency`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Money {
    /// Millionths of one unit.
    pub micros: i64,
    /// Of which currency.
    pub currency: Currency,
}

impl Money {
    /// Nothing, of no currency.
    pub const ZERO: Self = Self { micros: 0, currency: Currency::NONE };

    /// True when there is an amount without a currency: no wire form may say that.
    #[must_use]
    pub fn is_unnamed(self) -> bool {
        self.micros != 0 && self.currency == Currency::NONE
    }
}
