//! What the edge thinks of a request: valid, or the one reason why it is no person's act. A verdict
//! is recorded on the event and drops nothing: the visitor is sent on, and the event is kept. Pure.
//!
//! The signals are those of general invalid traffic (MRC, Invalid Traffic Detection and Filtration
//! Standards, and the IAB click measurement guidelines): what can be told of one request, by lists
//! and by simple counting. The surest comes first, for an event has one reason.

use shared::{Fingerprint, Flags, Reason, RuleSet, Verdict};

use crate::bots;
use crate::browser;
use crate::clicks::Pace;
use crate::decision::Draft;
use crate::networks::DataCentres;
use crate::request::{Method, Request};

/// A click this soon after the ad was given out is no person's, in ms.
///
/// People need 200 ms and more only to press a key when a light goes on (simple reaction time), and
/// an ad has before that to arrive and to be painted, and after that the click to come back. Who
/// sees the ad and aims at it takes a second; what is left out below 200 ms are programs, and taps
/// that were meant for what was there before.
pub const CLICK_TOO_SOON_MS: u64 = 200;

/// What verdicts go by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rules {
    /// A click less than so many ms after its token was issued is [`Reason::ClickTooSoon`]; 0: none
    /// is. An edge whose clock is behind the issuer's cannot tell, and says nothing.
    pub click_too_soon_ms: u64,
    /// The networks of data centres.
    pub data_centres: DataCentres,
}

impl Default for Rules {
    fn default() -> Self {
        Self { click_too_soon_ms: CLICK_TOO_SOON_MS, data_centres: DataCentres::default() }
    }
}

/// A hash of the patterns, lists and lines of code that a verdict follows from.
const PROGRAM: [u8; 32] = *include_bytes!(concat!(env!("OUT_DIR"), "/rules"));

impl Rules {
    /// What an event says of the rules that its verdict follows from: these, the pace of clicks, and
    /// the program's own.
    #[must_use]
    pub fn set(&self, pace: Pace) -> RuleSet {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&PROGRAM).update(&self.click_too_soon_ms.to_le_bytes());
        hasher.update(&pace.clicks.to_le_bytes()).update(&pace.window_s.to_le_bytes());
        for system in self.data_centres.systems() {
            hasher.update(&system.to_le_bytes());
        }
        let [a, b, c, d, ..] = *hasher.finalize().as_bytes();
        // Zero is not known.
        RuleSet(u32::from_be_bytes([a, b, c, d]).max(1))
    }
}

/// Of a request, whatever it brings.
pub(crate) fn of(request: &Request<'_>, rules: &Rules) -> Verdict {
    if request.method == Method::Head {
        return Some(Reason::HeadRequest);
    }
    if is_ahead(request.purpose) {
        return Some(Reason::Prefetch);
    }
    if bots::is_bot(request.user_agent) {
        return Some(Reason::Bot);
    }
    if !browser::is_like_one(request.user_agent) {
        return Some(Reason::NonBrowser);
    }
    of_network(request, rules)
}

fn of_network(request: &Request<'_>, rules: &Rules) -> Verdict {
    let is_hosted = |asn| rules.data_centres.contains(asn);
    request.asn.is_some_and(is_hosted).then_some(Reason::DataCentre)
}

/// Of a picture: a mail program or a mail service's proxy asks for it when a person opens the mail, though
/// neither is a browser. Of whom and where that is nothing is known.
pub(crate) fn of_picture(event: Draft, request: &Request<'_>, rules: &Rules) -> Draft {
    let is_asked_ahead = matches!(event.verdict, Some(Reason::HeadRequest | Reason::Prefetch));
    if is_asked_ahead || !is_mail(request.user_agent) {
        return event;
    }
    let verdict = of_network(request, rules);
    Draft { verdict, visitor: Fingerprint::NONE, flags: Flags(Flags::PROXIED), ..event }
}

/// Gmail's and Yahoo's proxies name themselves, and so does Outlook, on each of its systems: at the beginning,
/// or where Internet Explorer's engine asks for it. A bot that names one of them besides is a bot.
#[must_use]
pub fn is_mail(user_agent: &[u8]) -> bool {
    const FORMS: [(&str, &str); 7] = [
        ("Mozilla/", "via ggpht.com GoogleImageProxy)"),
        ("YahooMailProxy;", ""),
        ("Mozilla/4.0 (", "ms-office"),
        ("Mozilla/4.0 (", "Outlook"),
        ("Microsoft Office/", "Outlook"),
        ("Outlook-", ""),
        ("MacOutlook/", ""),
    ];
    let names = |name: &str| {
        name.is_empty() || user_agent.windows(name.len()).any(|at| at == name.as_bytes())
    };
    FORMS.iter().any(|(begins, name)| user_agent.starts_with(begins.as_bytes()) && names(name))
}

/// Of a click of a request that is valid as a whole. `age_ms`: of its token; none where nobody knows.
pub(crate) fn of_click(is_too_often: bool, age_ms: Option<u64>, rules: &Rules) -> Verdict {
    if is_too_often {
        return Some(Reason::TooManyClicks);
    }
    let is_too_soon = age_ms.is_some_and(|age_ms| age_ms < rules.click_too_soon_ms);
    is_too_soon.then_some(Reason::ClickTooSoon)
}

/// Whether a browser says that it asks before a person did (`Sec-Purpose`, `Purpose`, …).
pub(crate) fn is_ahead(purpose: &[u8]) -> bool {
    let ahead = ["prefetch", "prerender", "preview"];
    let purpose = purpose.to_ascii_lowercase();
    ahead.iter().any(|word| purpose.windows(word.len()).any(|at| at == word.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_opens_mail_says_so() {
        for agent in [
            "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)",
            "YahooMailProxy; https://help.yahoo.com/kb/yahoo-mail-proxy-SLN28749.html",
            "Microsoft Office/16.0 (Windows NT 10.0; Microsoft Outlook 16.0.17126; Pro)",
            "MacOutlook/16.89.24082516 (Intelx64 Mac OS X Version 14.6)",
            "Outlook-iOS/716.5091.prod.iphone (3.31.0)",
            "Outlook-Android/2.0",
            "Mozilla/4.0 (compatible; ms-office; MSOffice 16)",
            "Mozilla/4.0 (compatible; MSIE 7.0; Windows NT 10.0; Microsoft Outlook 16.0.5134; ms-office)",
        ] {
            assert!(is_mail(agent.as_bytes()), "{agent}");
        }
        for agent in [
            "Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0",
            "Googlebot/2.1 Outlook",
            "curl/8 ms-office",
            "python-requests/2 (Outlook)",
            "Barracuda Outlook link checker",
        ] {
            assert!(!is_mail(agent.as_bytes()), "{agent}");
        }
    }

    #[test]
    fn whatever_a_verdict_follows_from_makes_another_rule_set() {
        let pace = Pace { clicks: 30, window_s: 60 };
        let rules = || Rules { click_too_soon_ms: 200, data_centres: DataCentres::none() };
        let one = rules().set(pace);
        assert_ne!(one, RuleSet::UNKNOWN);
        assert_eq!(one, rules().set(pace), "the same for the same");
        let sets = [
            one,
            Rules { click_too_soon_ms: 201, ..rules() }.set(pace),
            Rules { data_centres: DataCentres::default(), ..rules() }.set(pace),
            rules().set(Pace { clicks: 31, ..pace }),
            rules().set(Pace { window_s: 61, ..pace }),
        ];
        for (at, set) in sets.iter().enumerate() {
            assert!(!sets[..at].contains(set), "{at}");
        }
    }
}
