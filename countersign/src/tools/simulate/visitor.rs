//! One visitor: what the seed makes it do, and how that must be counted.

use std::time::Duration;

use shared::ambient::{Stopwatch, SystemClock};
use shared::random::{Seeded, below};
use shared::{Clock as _, Kind, Reason};

use super::edge::{Answer, Manner, Served};
use super::forge::Forger;
use super::ledger::{Ledger, Tries};
use super::{World, seeded};

const AGENTS: [&str; 4] = [
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/138.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1",
    "Mozilla/5.0 (Linux; Android 16; Pixel 9) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/138.0 Mobile Safari/537.36",
    "Mozilla/5.0 (iPad; CPU OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Safari/604.1",
];
/// How long after its ad a click comes: a sooner one is taken for a program's (`edge.verdicts`).
const SEEN: Duration = Duration::from_millis(250);
/// The longest pause between two acts, in ms.
const THINK_MS_MAX: u64 = 40;
/// How long after its end a brief token has certainly expired.
const OVER: Duration = Duration::from_millis(1_500);

/// Plays visitor `number` and tells what it did.
pub(super) async fn visit(world: &World, number: u64) -> Ledger {
    let mut visitor = Visitor {
        world,
        random: seeded(world.seed, number),
        agent: String::new(),
        ledger: Ledger { visitors: 1, ..Ledger::default() },
    };
    // Each visitor has a browser of its own: clicks that all came from one visitor would be too
    // many.
    let agent = AGENTS[visitor.below(AGENTS.len() as u64)];
    visitor.agent = format!("{agent} Visitor/{number}");
    visitor.play().await;
    visitor.ledger
}

struct Visitor<'a> {
    world: &'a World,
    random: Seeded,
    agent: String,
    ledger: Ledger,
}

impl Visitor<'_> {
    async fn play(&mut self) {
        let placement = self.below(self.world.placements.len() as u64);
        let placement = &self.world.placements[placement];
        let consent = self.chance(50);
        let mut tries = Tries::default();
        let served = self.world.edge.serve(placement, consent, &self.agent, &mut tries).await;
        self.ledger.served(served.as_ref().map(|served| served.ad.clone()), tries);
        let Some(served) = served else { return };
        let since = Stopwatch::start();
        self.think().await;
        if self.chance(95) {
            self.impression(&served).await;
        }
        self.think().await;
        if self.chance(60) {
            self.viewable(&served).await;
        }
        if self.misbehaves(8) {
            self.machine_click(&served).await;
        }
        if self.chance(30) {
            tokio::time::sleep(SEEN.saturating_sub(since.elapsed())).await;
            if !self.is_over_soon(since.elapsed()) {
                self.click(&served).await;
            }
        }
        if self.misbehaves(20) {
            self.fraud(&served).await;
        }
        if let Some(brief_s) = self.world.brief_s
            && self.misbehaves(10)
        {
            tokio::time::sleep(Duration::from_secs(brief_s.into()) + OVER).await;
            self.ledger.act("clicks after their token's end");
            self.bad_link(&served.click_url, "expired", Reason::Expired).await;
        }
    }

    /// Sends the impression, by pixel or beacon; some visitors send it several times.
    async fn impression(&mut self, served: &Served) {
        let again = if self.misbehaves(6) { 1 + self.below(3) } else { 0 };
        if again > 0 {
            self.ledger.act("impressions sent again");
        }
        let mut tries = Tries::default();
        for _ in 0..=again {
            let manner = self.manner();
            if self.chance(50) {
                let url = &served.beacon_url;
                let answer = self.world.edge.follow(url, manner, &self.agent, &mut tries).await;
                self.expect(&answer, 200, "impression", &mut tries);
            } else {
                let events = [(served.token.clone(), Kind::Impression)];
                let answer = self.world.edge.events(&events, manner, &self.agent, &mut tries).await;
                self.expect_taken(&answer, 0, "impression", &mut tries);
            }
        }
        self.ledger.event(Kind::Impression, &served.ad, None, tries);
    }

    /// Sends that the ad was in view, by beacon; some visitors send rubbish in the same body.
    async fn viewable(&mut self, served: &Served) {
        let mut events = vec![(served.token.clone(), Kind::Viewable)];
        let mut rubbish = None;
        if self.misbehaves(5) {
            let (_, text, reason) = Forger::spoiled(&served.token, &mut self.random);
            events.push((text, Kind::Click));
            rubbish = Some(reason);
            self.ledger.act("beacons with a bad element");
        }
        let manner = self.manner();
        let mut tries = Tries::default();
        let answer = self.world.edge.events(&events, manner, &self.agent, &mut tries).await;
        if let Some(reason) = rubbish {
            self.ledger.rejected(reason, Tries { refused: 0, ..tries });
            if let Answer::Results(words) = &answer
                && words.get(1).is_some_and(|word| word != reason.name())
            {
                self.ledger.unexpected(format!("a bad element was {words:?}, not {reason}"));
            }
        }
        self.expect_taken(&answer, 0, "viewable", &mut tries);
        self.ledger.event(Kind::Viewable, &served.ad, None, tries);
    }

    /// Follows the link as a link preview or a prefetch does, before the person or without them.
    async fn machine_click(&mut self, served: &Served) {
        let (manner, reason, status, act) = if self.chance(50) {
            (Manner::Head, Reason::HeadRequest, 302, "clicks with HEAD")
        } else {
            // The edge gives a prefetch no redirect: the browser would use it when the person
            // clicks.
            (Manner::Prefetch, Reason::Prefetch, 503, "prefetched clicks")
        };
        self.ledger.act(act);
        let mut tries = Tries::default();
        let answer =
            self.world.edge.follow(&served.click_url, manner, &self.agent, &mut tries).await;
        self.expect(&answer, status, act, &mut tries);
        self.ledger.event(Kind::Click, &served.ad, Some(reason), tries);
    }

    async fn click(&mut self, served: &Served) {
        let again = u64::from(self.misbehaves(10));
        if again > 0 {
            self.ledger.act("double clicks");
        }
        let mut tries = Tries::default();
        for _ in 0..=again {
            let manner = self.manner();
            let url = &served.click_url;
            let answer = self.world.edge.follow(url, manner, &self.agent, &mut tries).await;
            self.expect(&answer, 302, "click", &mut tries);
        }
        self.ledger.event(Kind::Click, &served.ad, None, tries);
    }

    /// Sends a token that the visitor made, or a real one that was changed.
    async fn fraud(&mut self, served: &Served) {
        let (what, text, reason) = if self.chance(25) {
            let now = SystemClock.now();
            let (text, reason) = self.world.forger.forged(&served.ad, now, &mut self.random);
            ("forged", text, reason)
        } else {
            Forger::spoiled(&served.token, &mut self.random)
        };
        self.ledger.act(what);
        // In a link, what follows the token is no part of it, so the link would be good.
        let is_good_in_a_link = text.starts_with(&served.token);
        if self.chance(60) && !is_good_in_a_link {
            let url = served.click_url.replace(&served.token, &text);
            self.bad_link(&url, what, reason).await;
        } else {
            let mut tries = Tries::default();
            let events = [(text, Kind::Click)];
            let answer =
                self.world.edge.events(&events, Manner::Plain, &self.agent, &mut tries).await;
            if let Answer::Results(words) = &answer
                && words.first().is_some_and(|word| word != reason.name())
            {
                self.ledger.unexpected(format!("{what}: {words:?}, not {reason}"));
            }
            self.ledger.rejected(reason, tries);
        }
    }

    async fn bad_link(&mut self, url: &str, what: &str, reason: Reason) {
        let mut tries = Tries::default();
        let answer = self.world.edge.follow(url, Manner::Plain, &self.agent, &mut tries).await;
        let status = match reason {
            Reason::Malformed | Reason::UnknownVersion => 400,
            // An expired click does not count, but its link leads on for `edge.link_days`.
            Reason::Expired => 302,
            _ => 403,
        };
        self.expect(&answer, status, what, &mut tries);
        self.ledger.rejected(reason, tries);
    }

    fn expect(&mut self, answer: &Answer, status: u16, what: &str, tries: &mut Tries) {
        match answer {
            Answer::None => {}
            Answer::Status(found) if *found == status => {}
            Answer::Status(410) if self.world.brief_s.is_some() => self.too_late(tries),
            other => self.ledger.unexpected(format!("{what}: {other:?}, not {status}")),
        }
    }

    fn expect_taken(&mut self, answer: &Answer, at: usize, what: &str, tries: &mut Tries) {
        let Answer::Results(words) = answer else {
            return self.expect(answer, 202, what, tries);
        };
        match words.get(at).map(String::as_str) {
            Some("accepted") => {}
            // The event is in memory only, or the answer was cut off: it may be lost.
            Some("queued") | None => tries.answered -= 1,
            Some("expired") if self.world.brief_s.is_some() => self.too_late(tries),
            Some(other) => self.ledger.unexpected(format!("{what}: {other}, not accepted")),
        }
    }

    /// Whether a brief token is about to expire: its link would lead on, and nobody could tell
    /// whether its click was counted.
    fn is_over_soon(&self, age: Duration) -> bool {
        let brief_s = self.world.brief_s;
        brief_s.is_some_and(|brief_s| age + OVER / 2 > Duration::from_secs(brief_s.into()))
    }

    /// A brief token had expired before its event came: this request counts as expired.
    fn too_late(&mut self, tries: &mut Tries) {
        tries.sent -= 1;
        tries.answered -= 1;
        self.ledger.rejected(Reason::Expired, Tries { sent: 1, answered: 1, refused: 0 });
    }

    async fn think(&mut self) {
        let ms = below(&mut self.random, THINK_MS_MAX);
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    fn manner(&mut self) -> Manner {
        if self.misbehaves(2) {
            self.ledger.act("connections given up");
            return Manner::Impatient;
        }
        Manner::Plain
    }

    fn misbehaves(&mut self, percent: u64) -> bool {
        !self.world.plain && self.chance(percent)
    }

    fn chance(&mut self, percent: u64) -> bool {
        below(&mut self.random, 100) < percent
    }

    fn below(&mut self, bound: u64) -> usize {
        usize::try_from(below(&mut self.random, bound)).unwrap_or(0)
    }
}
