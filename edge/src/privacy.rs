//! Decides what may be kept of a visitor: a pure function of what the request says and what the
//! operator has set.
//!
//! A visitor's id is kept only when something allows it and nothing forbids it. Four signals can do
//! so: `Sec-GPC: 1` (Global Privacy Control: always an opt-out), the page's own `consent=`, a TCF
//! string (IAB Europe, Transparency and Consent Framework 2), and a GPP string (IAB Tech Lab,
//! Global Privacy Platform). A signal that is present but cannot be read forbids. Without the id an
//! event still counts in every sum, but among no uniques.
//!
//! Anybody can send these strings, so they are read bit by bit, in one pass and without allocating:
//! a string of 4 KiB can name ranges of a hundred million vendors, which must not be listed one by
//! one.

mod bits;
mod gpp;
mod tcf;

use std::net::IpAddr;
use std::str::FromStr;

use shared::keys::VisitorKey;
use shared::{Network, Timestamp};

use crate::request::Request;

/// What a request says about the visitor's consent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Signals<'a> {
    /// `Sec-GPC: 1`.
    pub opted_out: bool,
    /// `consent=1` or `consent=0`: the page has asked the visitor itself.
    pub consent: Option<bool>,
    /// `gdpr=0`: the page says that the GDPR does not apply, so the TCF string does not count.
    pub no_gdpr: bool,
    /// `gdpr_consent=` or `tcf=`: a TCF string; empty when there is none.
    pub tcf: &'a str,
    /// `gpp=`: a GPP string; empty when there is none.
    pub gpp: &'a str,
    /// `gpp_sid=`: the sections of the GPP string that apply, separated by commas; empty: all.
    pub gpp_sid: &'a str,
}

impl<'a> Signals<'a> {
    /// Reads the query and the headers. When something is said more than once the stricter holds,
    /// whatever the order: `consent=0` wins over `consent=1`, any other `gdpr` over `gdpr=0`, and
    /// two strings that differ forbid. So somebody who can append to a query can withdraw consent
    /// but never give it.
    ///
    /// # Errors
    /// When `consent` is neither 1 nor 0: a mistake of the page that should be seen. What a consent
    /// platform sends is never an error; what cannot be read of it forbids.
    pub(crate) fn from_request(request: &Request<'a>) -> Result<Self, &'static str> {
        let values = |name| request.parameters(name).filter(|value| !value.is_empty());
        let mut consent = None;
        for value in values("consent") {
            consent = match value {
                "0" => Some(false),
                "1" => consent.or(Some(true)),
                _ => return Err("`consent` is 1 (given) or 0"),
            };
        }
        let tcf = alike(values("gdpr_consent").chain(values("tcf")));
        let sections = alike(values("gpp_sid"));
        let gpp = alike(values("gpp"));
        Ok(Self {
            opted_out: request.opted_out,
            consent,
            no_gdpr: values("gdpr").next().is_some() && values("gdpr").all(|value| value == "0"),
            tcf,
            gpp: if sections == UNREADABLE && !gpp.is_empty() { UNREADABLE } else { gpp },
            gpp_sid: sections,
        })
    }
}

/// Stands in for a string that was given with two different values. It cannot be read, so it
/// forbids.
const UNREADABLE: &str = "?";

/// The value that all of them have, [`UNREADABLE`] when they differ, empty when there are none.
fn alike<'a>(mut values: impl Iterator<Item = &'a str>) -> &'a str {
    let first = values.next().unwrap_or_default();
    if values.all(|value| value == first) { first } else { UNREADABLE }
}

/// The operator's settings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PrivacyPolicy {
    /// TCF purposes that the visitor must all consent to: bit n - 1 for purpose n (1 to 24).
    pub purposes: u32,
    /// Our number in IAB Europe's Global Vendor List. `None`, for an operator that is not on the
    /// list: only the purposes are checked.
    pub vendor: Option<u16>,
    /// What an event keeps of the client's address.
    pub address: Address,
}

impl Default for PrivacyPolicy {
    /// Purposes 1 (store or access information), 7 (measure advertising), 8 (measure content) and 9
    /// (understand audiences); addresses are truncated.
    fn default() -> Self {
        let purposes = [1, 7, 8, 9].iter().fold(0, |bits, purpose| bits | 1 << (purpose - 1));
        Self { purposes, vendor: None, address: Address::default() }
    }
}

/// What an event keeps of the client's address.
///
/// The field has seven bytes, and the first says what the others are ([`Network`]). An IPv6 address
/// does not fit, so whole addresses cannot be kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Address {
    /// Nothing.
    Dropped,
    /// The /24 or /48.
    #[default]
    Truncated,
    /// 48 bits of a keyed hash of the whole address, with a key for each UTC day. It tells
    /// addresses of one day apart without revealing them, except to a holder of the key, who can
    /// try all of IPv4.
    Hashed,
}

impl FromStr for Address {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "dropped" => Ok(Self::Dropped),
            "truncated" => Ok(Self::Truncated),
            "hashed" => Ok(Self::Hashed),
            _ => Err("there are: dropped, truncated, hashed".to_owned()),
        }
    }
}

impl Address {
    /// What is kept of this address.
    pub(crate) fn keep(self, client: Option<IpAddr>, key: &VisitorKey, now: Timestamp) -> Network {
        match (self, client) {
            (Self::Dropped, _) | (_, None) => Network::default(),
            (Self::Truncated, Some(client)) => Network::from_address(client),
            (Self::Hashed, Some(client)) => key.of_address(now, client),
        }
    }
}

/// What may be kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kept {
    /// Whether the visitor's id is kept.
    pub visitor: bool,
    /// What is kept of the address.
    pub address: Address,
}

/// Decides what may be kept.
#[must_use]
pub fn decide(signals: &Signals<'_>, policy: &PrivacyPolicy) -> Kept {
    let tcf = (!signals.no_gdpr && !signals.tcf.is_empty())
        .then(|| tcf::allows(signals.tcf, policy).unwrap_or(false));
    let gpp = (!signals.gpp.is_empty()).then(|| gpp::allows(signals, policy)).flatten();
    let said = [signals.opted_out.then_some(false), signals.consent, tcf, gpp];
    let visitor = said.contains(&Some(true)) && !said.contains(&Some(false));
    Kept { visitor, address: policy.address }
}

#[cfg(test)]
mod tests;
