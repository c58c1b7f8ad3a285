//! What may be kept of whoever asks: one pure function of what the request says and what the operator
//! has set.
//!
//! A visitor's id is kept only when something allows it and nothing forbids it. What can speak:
//! `Sec-GPC: 1` (Global Privacy Control: always an opt-out), `consent=` of the page's own, a TCF string
//! (IAB Europe, Transparency and Consent Framework 2), a GPP string (IAB Tech Lab, Global Privacy
//! Platform). What is there and cannot be read forbids. Without the id an event counts in every sum,
//! and among no uniques.
//!
//! The strings come from anybody, so they are read bit by bit, in one pass, without memory: a string
//! of 4 KiB can name ranges of a hundred million vendors, and nobody has to write them all down.

mod bits;
mod gpp;
mod tcf;

use std::net::IpAddr;
use std::str::FromStr;

use shared::keys::VisitorKey;
use shared::{Network, Timestamp};

use crate::request::Request;

/// What a request says of its visitor's will.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Signals<'a> {
    /// `Sec-GPC: 1`.
    pub opted_out: bool,
    /// `consent=1` or `consent=0`: the page has asked by means of its own.
    pub consent: Option<bool>,
    /// `gdpr=0`: the page says that the TCF string is of no account here (IAB: the GDPR does not
    /// apply).
    pub no_gdpr: bool,
    /// `gdpr_consent=` or `tcf=`: a TCF string; empty: none.
    pub tcf: &'a str,
    /// `gpp=`: a GPP string; empty: none.
    pub gpp: &'a str,
    /// `gpp_sid=`: which of its sections apply, with commas between; empty: all.
    pub gpp_sid: &'a str,
}

impl<'a> Signals<'a> {
    /// Of the query and the headers. Of what is said more than once the stricter holds, whatever the
    /// order: `consent=0` before `consent=1`, any other `gdpr` before `gdpr=0`, and two strings that
    /// differ forbid. So who can add to a query can take consent away and never give it.
    ///
    /// # Errors
    /// When `consent` is neither 1 nor 0: a page's mistake that should be seen. What comes from a
    /// consent platform is never an error; what cannot be read of it forbids.
    pub(crate) fn of(request: &Request<'a>) -> Result<Self, &'static str> {
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

/// Stands for a string that says two things. It cannot be read, so it forbids.
const UNREADABLE: &str = "?";

/// The value that all have; empty when there are none.
fn alike<'a>(mut values: impl Iterator<Item = &'a str>) -> &'a str {
    let first = values.next().unwrap_or_default();
    if values.all(|value| value == first) { first } else { UNREADABLE }
}

/// The operator's settings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PrivacyPolicy {
    /// TCF purposes that must all be consented to, bit n - 1 for purpose n (1 to 24).
    pub purposes: u32,
    /// Our number in IAB Europe's Global Vendor List; none: only the purposes are asked for, for an
    /// operator that is not on it.
    pub vendor: Option<u16>,
    /// What an event keeps of the client's address.
    pub address: Address,
}

impl Default for PrivacyPolicy {
    /// Purposes 1 (store or access information), 7 (measure advertising), 8 (measure content) and 9
    /// (understand audiences); the address truncated.
    fn default() -> Self {
        let purposes = [1, 7, 8, 9].iter().fold(0, |bits, purpose| bits | 1 << (purpose - 1));
        Self { purposes, vendor: None, address: Address::default() }
    }
}

/// What an event keeps of the client's address.
///
/// The field has seven bytes, of which the first says what the others are ([`Network`]); so an IPv6
/// address does not fit, and whole addresses cannot be kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Address {
    /// Nothing.
    Dropped,
    /// The /24 or /48.
    #[default]
    Truncated,
    /// 48 bits of a keyed hash of the whole address, with a key of the UTC day: tells addresses of a
    /// day apart, and none of them. Who has the key can try all of IPv4.
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
    /// What is kept of this one.
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
    /// The visitor's id.
    pub visitor: bool,
    /// Of the address.
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
