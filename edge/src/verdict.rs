//! Judges whether a request is valid, or names the one reason why no person made it. A verdict is
//! recorded on the event and drops nothing: the visitor is sent on and the event is kept. Pure.
//!
//! The signals are those of general invalid traffic (MRC, Invalid Traffic Detection and Filtration
//! Standards, and the IAB click measurement guidelines): what a single request, lists and simple
//! counting can tell. An event has one reason, so the most certain signal is asked first.

use shared::{Fingerprint, Flags, Reason, RuleSet, Verdict};

use crate::bots;
use crate::browser;
use crate::clicks::Pace;
use crate::decision::Draft;
use crate::networks::DataCentres;
use crate::request::{Method, Request};

/// A click this soon after the ad was served, in ms, was not made by a person.
///
/// Pressing a key when a light goes on already takes people 200 ms and more (simple reaction time).
/// Before that an ad must arrive and be painted, and after that the click must come back; seeing
/// the ad and aiming at it takes about a second. So below 200 ms there are only programs, and taps
/// that were meant for what was on the screen before.
pub const CLICK_TOO_SOON_MS: u64 = 200;

/// The operator's settings of the rules.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rules {
    /// A click on a token younger than this, in ms, is [`Reason::ClickTooSoon`]; 0 turns the rule
    /// off. When the edge's clock is behind the issuer's, the age is unknown and the rule does not
    /// apply.
    pub click_too_soon_ms: u64,
    /// The networks that belong to data centres.
    pub data_centres: DataCentres,
}

impl Default for Rules {
    fn default() -> Self {
        Self { click_too_soon_ms: CLICK_TOO_SOON_MS, data_centres: DataCentres::default() }
    }
}

/// A hash of the patterns, lists and source files that verdicts follow from (`build.rs`).
const PROGRAM: [u8; 32] = *include_bytes!(concat!(env!("OUT_DIR"), "/rules"));

impl Rules {
    /// Identifies the rules that a verdict follows from: these settings, the pace of clicks, and
    /// the program itself. Different rules give different sets, but for chance (32 bits).
    #[must_use]
    pub fn set(&self, pace: Pace) -> RuleSet {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&PROGRAM).update(&self.click_too_soon_ms.to_le_bytes());
        hasher.update(&pace.clicks.to_le_bytes()).update(&pace.window_s.to_le_bytes());
        for system in self.data_centres.systems() {
            hasher.update(&system.to_le_bytes());
        }
        let [a, b, c, d, ..] = *hasher.finalize().as_bytes();
        // 0 means "not known".
        RuleSet(u32::from_be_bytes([a, b, c, d]).max(1))
    }
}

/// The verdict on a request, whichever event it brings.
pub(crate) fn judge(request: &Request<'_>, rules: &Rules) -> Verdict {
    if request.method == Method::Head {
        return Some(Reason::HeadRequest);
    }
    if is_ahead(request.purpose) {
        return Some(Reason::Prefetch);
    }
    if bots::is_bot(request.user_agent) {
        return Some(Reason::Bot);
    }
    if !browser::is_like_browser(request.user_agent) {
        return Some(Reason::NonBrowser);
    }
    judge_network(request, rules)
}

fn judge_network(request: &Request<'_>, rules: &Rules) -> Verdict {
    let is_hosted = |asn| rules.data_centres.contains(asn);
    request.asn.is_some_and(is_hosted).then_some(Reason::DataCentre)
}

/// The verdict on a request for the pixel. A mail program or a mail service's proxy asks for it
/// when a person opens the mail, though neither is a browser; so only its network is judged. It
/// says nothing about the reader or the reader's network, so the visitor is removed and the event
/// flagged.
pub(crate) fn judge_picture(event: Draft, request: &Request<'_>, rules: &Rules) -> Draft {
    let is_asked_ahead = matches!(event.verdict, Some(Reason::HeadRequest | Reason::Prefetch));
    if is_asked_ahead || !is_mail(request.user_agent) {
        return event;
    }
    let verdict = judge_network(request, rules);
    Draft { verdict, visitor: Fingerprint::NONE, flags: Flags(Flags::PROXIED), ..event }
}

/// Whether the agent is that of a mail program or a mail proxy. Gmail's and Yahoo's proxies and
/// Outlook on each of its systems name themselves at the beginning, or where Internet Explorer's
/// engine does the asking for them, further on. A known bot that names one of them too is not mail.
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

/// The verdict on a click whose request is valid. `age_ms` is the age of its token; `None` when it
/// is unknown.
pub(crate) fn judge_click(is_too_often: bool, age_ms: Option<u64>, rules: &Rules) -> Verdict {
    if is_too_often {
        return Some(Reason::TooManyClicks);
    }
    let is_too_soon = age_ms.is_some_and(|age_ms| age_ms < rules.click_too_soon_ms);
    is_too_soon.then_some(Reason::ClickTooSoon)
}

/// Whether the request says that a browser asks ahead of the visitor (`Sec-Purpose`, `Purpose`, …).
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
