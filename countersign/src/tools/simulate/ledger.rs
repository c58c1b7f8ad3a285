//! Notes what was sent, and from that what must and what may be counted.

use std::collections::{BTreeMap, BTreeSet};

use shared::{AdName, Kind, Reason};

/// How often one thing was sent, and how often it was certainly taken.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tries {
    /// How often it may have been taken.
    pub(super) sent: u64,
    /// How often of those it certainly was.
    pub(super) answered: u64,
    /// How often the edge asked to come again later: nothing was taken.
    pub(super) refused: u64,
}

/// The least and the most of a number.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) least: u64,
    pub(super) most: u64,
}

impl Bounds {
    fn add(&mut self, least: u64, most: u64) {
        self.least += least;
        self.most += most;
    }

    /// Whether a count lies between them.
    pub(super) const fn hold(self, count: u64) -> bool {
        self.least <= count && count <= self.most
    }
}

/// The sums of one visitor, or of many.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Visitors that came.
    pub(super) visitors: u64,
    /// Requests that may have been taken.
    pub(super) requests: u64,
    /// Requests without an answer that says what became of them.
    pub(super) lost: u64,
    /// Requests that were told to come again.
    pub(super) refused: u64,
    /// Counted, by kind and ad.
    pub(super) counted: BTreeMap<(Kind, AdName), Bounds>,
    /// Ads that may have been served although nobody got them.
    pub(super) served_to_nobody: u64,
    /// Duplicates.
    pub(super) duplicate: Bounds,
    /// Events under each reason.
    pub(super) reasons: BTreeMap<Reason, Bounds>,
    /// All events.
    pub(super) received: Bounds,
    /// What was done, in words, and how often.
    pub(super) acts: BTreeMap<&'static str, u64>,
    /// The first few answers that nothing explains.
    pub(super) unexpected: Vec<String>,
    /// How many of those there were.
    pub(super) unexpected_count: u64,
}

const UNEXPECTED_SHOWN_MAX: usize = 5;

impl Ledger {
    /// An ad was asked for. Each try makes another impression.
    pub(super) fn served(&mut self, ad: Option<AdName>, tries: Tries) {
        self.tried(tries);
        let unsure = tries.sent - tries.answered;
        self.served_to_nobody += unsure;
        if let Some(ad) = ad {
            self.counted.entry((Kind::Served, ad)).or_default().add(1, 1);
        }
    }

    /// An event of an impression was sent, once or several times. With a verdict it counts under
    /// that reason instead, also once.
    pub(super) fn event(&mut self, kind: Kind, ad: &AdName, verdict: Option<Reason>, tries: Tries) {
        self.tried(tries);
        let (least, most) = (tries.answered.min(1), tries.sent.min(1));
        match verdict {
            None => self.counted.entry((kind, ad.clone())).or_default().add(least, most),
            Some(reason) => self.reasons.entry(reason).or_default().add(least, most),
        }
        self.duplicate.add(tries.answered.saturating_sub(1), tries.sent.saturating_sub(1));
    }

    /// Something was sent that is no good event: it counts under its reason, each time.
    pub(super) fn rejected(&mut self, reason: Reason, tries: Tries) {
        self.tried(tries);
        self.reasons.entry(reason).or_default().add(tries.answered, tries.sent);
    }

    /// Notes what was done.
    pub(super) fn act(&mut self, what: &'static str) {
        *self.acts.entry(what).or_default() += 1;
    }

    /// Notes an answer that should not have come.
    pub(super) fn unexpected(&mut self, what: String) {
        self.unexpected_count += 1;
        if self.unexpected.len() < UNEXPECTED_SHOWN_MAX {
            self.unexpected.push(what);
        }
    }

    fn tried(&mut self, tries: Tries) {
        self.requests += tries.sent;
        self.lost += tries.sent - tries.answered;
        self.refused += tries.refused;
        self.received.add(tries.answered, tries.sent);
    }

    /// All ads of which something may have been counted.
    pub(super) fn ads(&self) -> BTreeSet<AdName> {
        self.counted.keys().map(|(_, ad)| ad.clone()).collect()
    }

    /// Adds a visitor's sums; of a visitor whose task failed, notes that it did.
    pub(super) fn add(&mut self, other: Result<Self, tokio::task::JoinError>) {
        let other = match other {
            Ok(other) => other,
            Err(error) => return self.unexpected(format!("a visitor broke off: {error}")),
        };
        self.visitors += other.visitors;
        self.requests += other.requests;
        self.lost += other.lost;
        self.refused += other.refused;
        self.served_to_nobody += other.served_to_nobody;
        self.duplicate.add(other.duplicate.least, other.duplicate.most);
        self.received.add(other.received.least, other.received.most);
        for (key, bounds) in other.counted {
            self.counted.entry(key).or_default().add(bounds.least, bounds.most);
        }
        for (reason, bounds) in other.reasons {
            self.reasons.entry(reason).or_default().add(bounds.least, bounds.most);
        }
        for (act, count) in other.acts {
            *self.acts.entry(act).or_default() += count;
        }
        self.unexpected_count += other.unexpected_count;
        let room = UNEXPECTED_SHOWN_MAX - self.unexpected.len();
        self.unexpected.extend(other.unexpected.into_iter().take(room));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tries(sent: u64, answered: u64) -> Tries {
        Tries { sent, answered, refused: 0 }
    }

    #[test]
    fn what_was_answered_is_exact_and_what_was_lost_is_a_bound() {
        let ad: AdName = shared::name::literal("a");
        let clicks = (Kind::Click, ad.clone());
        let mut ledger = Ledger::default();
        ledger.event(Kind::Click, &ad, None, tries(3, 3));
        assert_eq!(ledger.counted[&clicks], Bounds { least: 1, most: 1 });
        assert_eq!(ledger.duplicate, Bounds { least: 2, most: 2 });
        ledger.event(Kind::Click, &ad, None, tries(2, 1));
        assert_eq!(ledger.counted[&clicks], Bounds { least: 2, most: 2 });
        assert_eq!(ledger.duplicate, Bounds { least: 2, most: 3 });
        ledger.event(Kind::Click, &ad, None, tries(2, 0));
        assert_eq!(ledger.counted[&clicks], Bounds { least: 2, most: 3 });
        ledger.event(Kind::Click, &ad, Some(Reason::Prefetch), tries(2, 2));
        assert_eq!(ledger.reasons[&Reason::Prefetch], Bounds { least: 1, most: 1 });
        ledger.rejected(Reason::BadSeal, tries(2, 1));
        assert_eq!(ledger.reasons[&Reason::BadSeal], Bounds { least: 1, most: 2 });
        ledger.served(Some(ad), tries(2, 1));
        assert_eq!(ledger.served_to_nobody, 1);
        assert_eq!(ledger.received, Bounds { least: 8, most: 13 });
        assert_eq!((ledger.requests, ledger.lost), (13, 5));
    }
}
