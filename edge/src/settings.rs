//! The settings that every edge has, wherever it runs: names, defaults, ranges, and what is
//! reported of a value that cannot be used.
//!
//! The texts come from two readers. In a settings file a name stands in a group
//! (`edge.limits.clicks_per_s`; room `countersign`); among a Worker's bindings it stands alone, in
//! capitals (`CLICKS_PER_S`; [`crate::worker::settings`]). This module uses the capitals.

use std::fmt;
use std::sync::Arc;

use catalogue::Catalogue;

use crate::clicks::{Pace, WINDOW_S_MAX};
use crate::decision::Durability;
use crate::limit::{PER_S_MAX, Rate, Rates};
use crate::networks::DataCentres;
use crate::policy::{Keys, LINK_DAYS, LINK_DAYS_MAX, Policy, PublicUrl};
use crate::privacy::PrivacyPolicy;
use crate::verdict::{CLICK_TOO_SOON_MS, Rules};

/// The settings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// `PUBLIC_URL`; `None`: the address on which the edge listens, or (a Worker) the one that the
    /// first request came to.
    pub public_url: Option<PublicUrl>,
    /// `LINK_DAYS`: [`Policy::link_days`].
    pub link_days: u32,
    /// `BEACONS`: [`Policy::beacons`].
    pub beacons: Durability,
    /// `CLICKS`: [`Policy::clicks`].
    pub clicks: Durability,
    /// `REDIRECT_WAIT_MS`: a redirect waits this long at most for its event to be durable.
    pub redirect_wait_ms: u64,
    /// `REQUESTS_PER_S`, `REQUESTS_BURST`, `CLICKS_PER_S`, `CLICKS_BURST`: how often one network
    /// may ask one process or isolate.
    pub rates: Rates,
    /// `CLICK_TOO_SOON_MS`: [`Rules::click_too_soon_ms`].
    pub click_too_soon_ms: u64,
    /// `CLICKS_MAX` in `CLICKS_WINDOW_S`: how often one visitor may click, as one process or
    /// isolate counts.
    pub pace: Pace,
    /// `ADDRESS`, `PURPOSES`, `VENDOR`: what may be kept of visitors.
    pub privacy: PrivacyPolicy,
}

/// A setting that is a whole number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Number {
    /// The name, in capitals.
    pub name: &'static str,
    /// The value when it is not set.
    pub default: u64,
    /// The smallest value …
    pub least: u64,
    /// … and the largest.
    pub most: u64,
}

const fn number(name: &'static str, default: u64, least: u64, most: u64) -> Number {
    Number { name, default, least, most }
}

const RATES: Rates = Rates::DEFAULT;
const PACE: Pace = Pace::DEFAULT;

/// The settings that are numbers, in the order in which [`Settings::read`] takes them.
pub const NUMBERS: [Number; 10] = [
    number("LINK_DAYS", LINK_DAYS as u64, 1, LINK_DAYS_MAX as u64),
    number("REDIRECT_WAIT_MS", 500, 1, 10_000),
    number("REQUESTS_PER_S", RATES.requests.per_s as u64, 0, PER_S_MAX as u64),
    number("REQUESTS_BURST", RATES.requests.burst as u64, 0, u32::MAX as u64),
    number("CLICKS_PER_S", RATES.clicks.per_s as u64, 0, PER_S_MAX as u64),
    number("CLICKS_BURST", RATES.clicks.burst as u64, 0, u32::MAX as u64),
    number("CLICK_TOO_SOON_MS", CLICK_TOO_SOON_MS, 0, 60_000),
    number("CLICKS_MAX", PACE.clicks as u64, 0, u32::MAX as u64),
    number("CLICKS_WINDOW_S", PACE.window_s as u64, 1, WINDOW_S_MAX as u64),
    number("VENDOR", 0, 0, u16::MAX as u64),
];

/// The other settings.
pub const TEXTS: [&str; 5] = ["PUBLIC_URL", "BEACONS", "CLICKS", "ADDRESS", "PURPOSES"];

/// Reads settings one by one, and collects what is wrong with them.
pub struct Reader<'a> {
    get: &'a dyn Fn(&str) -> Option<String>,
    /// What cannot be used, and why: `NAME: why`. The default stands in for it.
    pub trouble: Vec<String>,
}

impl fmt::Debug for Reader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("trouble", &self.trouble).finish_non_exhaustive()
    }
}

impl<'a> Reader<'a> {
    /// `get` returns the text of a setting by name, `None` when it is not set.
    #[must_use]
    pub fn new(get: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self { get, trouble: Vec::new() }
    }

    /// The text of a setting, when it is set.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<String> {
        (self.get)(name)
    }

    /// The parsed setting, when it is set and can be used.
    pub fn parsed<T, E: Into<String>>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let read = parse(&self.text(name)?);
        read.map_err(|why| self.refuse(name, &why.into())).ok()
    }

    fn refuse(&mut self, name: &str, why: &str) {
        self.trouble.push([name, ": ", why].concat());
    }

    /// A number, or its default when it is not set or out of range.
    pub fn number(&mut self, number: &Number) -> u64 {
        let Number { name, default, least, most } = *number;
        let parse = |text: &str| {
            let number = text.parse::<u64>().ok().filter(|n| (least..=most).contains(n));
            number.ok_or_else(|| format!("from {least} to {most}, and not {text:.20}"))
        };
        self.parsed(name, parse).unwrap_or(default)
    }

    fn durability(&mut self, name: &'static str) -> Durability {
        let parse = |text: &str| match text {
            "durable" => Ok(Durability::Durable),
            "queued" => Ok(Durability::Queued),
            other => Err(format!("`durable` or `queued`, and not {other:.20}")),
        };
        self.parsed(name, parse).unwrap_or_default()
    }
}

impl Default for Settings {
    /// Where nothing is said.
    fn default() -> Self {
        Self::read(&mut Reader::new(&|_| None))
    }
}

impl Settings {
    /// Reads all settings that every edge has.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        let mut numbers = [0; NUMBERS.len()];
        for (number, known) in numbers.iter_mut().zip(&NUMBERS) {
            *number = reader.number(known);
        }
        let [
            link_days,
            redirect_wait_ms,
            requests_per_s,
            requests_burst,
            clicks_per_s,
            clicks_burst,
            click_too_soon_ms,
            clicks_max,
            clicks_window_s,
            vendor,
        ] = numbers;
        // None is larger: each has a range within `u32`.
        let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        let rate = |per_s, burst| Rate { per_s: small(per_s), burst: small(burst) };
        let private = PrivacyPolicy::default();
        Self {
            public_url: reader.parsed("PUBLIC_URL", str::parse),
            link_days: small(link_days),
            beacons: reader.durability("BEACONS"),
            clicks: reader.durability("CLICKS"),
            redirect_wait_ms,
            rates: Rates {
                clicks: rate(clicks_per_s, clicks_burst),
                requests: rate(requests_per_s, requests_burst),
            },
            click_too_soon_ms,
            pace: Pace { clicks: small(clicks_max), window_s: small(clicks_window_s) },
            privacy: PrivacyPolicy {
                purposes: reader.parsed("PURPOSES", purposes).unwrap_or(private.purposes),
                vendor: u16::try_from(vendor).ok().filter(|vendor| *vendor != 0),
                address: reader.parsed("ADDRESS", str::parse).unwrap_or(private.address),
            },
        }
    }

    /// The policy that follows from the settings and the rest.
    #[must_use]
    pub fn policy(
        &self,
        public_url: PublicUrl,
        data_centres: DataCentres,
        keys: Keys,
        catalogue: Catalogue,
    ) -> Policy {
        let verdicts = Rules { click_too_soon_ms: self.click_too_soon_ms, data_centres };
        Policy {
            public_url,
            link_days: self.link_days,
            beacons: self.beacons,
            clicks: self.clicks,
            rule_set: verdicts.set(self.pace),
            verdicts,
            privacy: self.privacy,
            keys: Arc::new(keys),
            catalogue: Arc::new(catalogue),
        }
    }
}

/// Reads purpose numbers separated by commas: bit n - 1 for purpose n.
fn purposes(text: &str) -> Result<u32, String> {
    let purpose = |word: &str| word.trim().parse().ok().filter(|n: &u32| (1..=24).contains(n));
    text.split(',')
        .try_fold(0, |bits, word| Some(bits | 1 << (purpose(word)? - 1)))
        .ok_or_else(|| format!("one or more from 1 to 24, and not {text:.40}"))
}
