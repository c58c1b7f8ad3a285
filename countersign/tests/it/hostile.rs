//! A hostile sender: an issuer with a good key and an edge of its own, which tries every trick
//! there is, against the process that does everything and against the roles around NATS. Meanwhile
//! visitors come to an honest edge, and what they do is counted exactly. Nothing stops, and no
//! memory grows.

mod target;
mod tricks;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use shared::ambient::SystemClock;
use shared::keys::{EdgeKeys, registered_name};
use shared::token::{Unverified, from_text};
use shared::wire::Batch;
use shared::{Clock as _, Fingerprint, OutboxId};

use self::target::{EDGE, ISSUER, Target, VICTIM};
use self::tricks::{Door, PRESS, Said, Scene, TOO_MANY, TOO_MANY_GAPS, TRICKS, Trick};

/// The most memory, in MiB, of a process to which strangers may send anything.
const RESIDENT_MIB_MAX: u64 = 300;
const RESTART_MAX: Duration = Duration::from_secs(10);

/// A deployment with an honest edge and a hostile one, and the account that it must have.
struct Play {
    target: Target,
    keys: EdgeKeys,
    /// Events by outcome, from the beginning.
    account: BTreeMap<String, u64>,
    visits: u64,
    /// The current trick's epoch; each has its own.
    epoch: u64,
}

impl Play {
    async fn new(target: Target) -> Self {
        target.operate(&["keys", "new", "--issuer", ISSUER.as_str()]);
        target.operate(&["edges", "register", EDGE.as_str(), "--issuer", ISSUER.as_str()]);
        let keys = target.keys().await;
        // Every process learns of the new edge within a second.
        let outbox = OutboxId { edge: EDGE, epoch: SystemClock.now().0 };
        let watermark = SystemClock.now();
        let hello = Batch { outbox, number: 0, watermark, events: vec![], tallies: vec![] };
        let mut tries = 0;
        while target.post(&keys, vec![hello.to_bytes()]).await[0].0 != Some(202) {
            tries += 1;
            assert!(tries < 200, "the key is not known");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let account = BTreeMap::new();
        Self { target, keys, account, visits: 0, epoch: outbox.epoch }
    }

    /// Every trick, one after the other.
    async fn play_all(&mut self) {
        for trick in TRICKS {
            let watch = shared::ambient::Stopwatch::start();
            self.play(trick).await;
            self.check(trick.name).await;
            eprintln!("{:?}: {}, {} MiB", watch.elapsed(), trick.name, self.target.resident_mib());
        }
        self.restart().await;
        self.check_counts().await;
    }

    /// A visitor is given an ad, the trick is played, and the visitor sees and clicks the ad.
    async fn play(&mut self, trick: &Trick) {
        let ad = self.target.serve().await;
        let token = from_text(ad["token"].as_str().unwrap().as_bytes()).unwrap();
        self.nobody_has_consented(&ad);
        let (victim, next) = self.victim().await;
        self.epoch += 10_000;
        let own = OutboxId { edge: EDGE, epoch: self.epoch };
        let (now, large) = (SystemClock.now(), self.target.large());
        let scene = Scene { keys: &self.keys, own, victim, next, token: &token, now, large };
        for answer in self.say((trick.says)(&scene)).await {
            assert_eq!(answer, trick.answer, "{}", trick.name);
        }
        let told = json!([{ "token": ad["token"], "kind": "impression" }]);
        assert_eq!(self.target.tell(&told).await.0, 202, "{}", trick.name);
        let link = ad["click_url"].as_str().unwrap();
        assert_eq!(self.target.click(link, self.visits).await, 302, "{}", trick.name);
        self.visits += 1;
        for (outcome, count) in trick.more.iter().chain(&[("counted", 3)]) {
            *self.account.entry((*outcome).to_owned()).or_default() += count;
        }
    }

    /// Sends everything; returns the answers, without repeats.
    async fn say(&self, all: Vec<Said>) -> Vec<Door> {
        let (mut batches, mut doors) = (Vec::new(), Vec::new());
        for said in all {
            let (status, text) = match said {
                Said::Batch(bytes) => {
                    batches.push(bytes);
                    continue;
                }
                Said::Ask(path) => self.target.get(&format!("{}{path}", self.target.edge)).await,
                Said::Tell(events) => self.target.tell(&events).await,
            };
            if let Ok(ad) = serde_json::from_str::<Value>(&text)
                && ad["token"].is_string()
            {
                self.nobody_has_consented(&ad);
            }
            doors.push(Door::Edge(status));
        }
        for (status, name) in self.target.send(&self.keys, batches).await {
            doors.push(door(status, &name));
        }
        doors
    }

    /// No visitor has consented in this play: no token knows a visitor.
    fn nobody_has_consented(&self, ad: &Value) {
        let token = from_text(ad["token"].as_str().unwrap().as_bytes()).unwrap();
        let keyring = self.keys.keyring().unwrap();
        let token = Unverified::read(&token, self.keys.deployment).unwrap();
        let (token, _) = token.verify(&keyring, SystemClock.now()).unwrap();
        assert_eq!(token.visitor, Fingerprint::NONE, "consent was smuggled in");
    }

    /// The honest edge's outbox, and the number of its next batch.
    async fn victim(&self) -> (OutboxId, u64) {
        let is_open =
            |edge: &Value| edge["edge"] == VICTIM.as_str() && edge["outboxes"][0].is_object();
        let of = |all: &Value| all["edges"].as_array()?.iter().find(|edge| is_open(edge)).cloned();
        let all = self.target.until("/v1/edges", |all| of(all).is_some()).await;
        let outbox = of(&all).unwrap()["outboxes"].as_array().unwrap().last().unwrap().clone();
        let epoch = outbox["epoch"].as_u64().unwrap();
        (OutboxId { edge: VICTIM, epoch }, outbox["batches"].as_u64().unwrap())
    }

    /// Checks that everything that was ever received has its outcome, and the right one; that all
    /// partitions are at the end of their logs; and that no process has grown.
    async fn check(&self, after: &str) {
        let exact = |answer: &Value| outcomes(answer) == self.account && answer["in_flight"] == 0;
        let answer = self.target.until(&account_path(), exact).await;
        let sum: u64 = self.account.values().sum();
        assert_eq!(answer["received"], sum, "{after}");
        assert!(doubts_the_hostile_alone(&answer), "{after}: {answer}");
        assert_eq!(self.target.get(&format!("{}/readyz", self.target.api)).await.0, 200, "{after}");
        let metrics = self.target.metrics(&self.target.api).await;
        assert_eq!(metrics["countersign_aggregator_stopped_partitions"], 0, "{after}");
        let resident = self.target.resident_mib();
        assert!(resident <= RESIDENT_MIB_MAX, "{resident} MiB after {after}");
    }

    /// Plays the trick with more gaps than are kept: each of its events has one of two outcomes.
    async fn play_too_many(&mut self) {
        self.play(&TOO_MANY).await;
        let of = |answer: &Value, name: &str| answer["reasons"][name].as_u64().unwrap_or(0);
        let all = self.account["bot"] + TOO_MANY_GAPS;
        let split = |answer: &Value| of(answer, "bot") + of(answer, "over_quota") == all;
        let answer = self.target.until(&account_path(), split).await;
        for name in ["bot", "over_quota"] {
            self.account.insert(name.to_owned(), of(&answer, name));
        }
        assert!(self.account["over_quota"] > 0, "{answer}");
        self.check(TOO_MANY.name).await;
        self.restart().await;
        self.target.recount();
    }

    /// kill -9 of the processes that take and count: they are back soon, and go on.
    async fn restart(&mut self) {
        let took = self.target.kill_and_restart().await;
        assert!(took < RESTART_MAX, "a restart took {took:?}");
        let calm =
            Trick { name: "nothing at all", says: |_| Vec::new(), answer: Door::Taken, more: &[] };
        self.play(&calm).await;
        self.check("a restart").await;
    }

    /// What must hold of all that was played.
    async fn check_counts(&self) {
        self.target.recount();
        // Ad by ad: what visitors did.
        let now = SystemClock.now().minute().0;
        let (from, to) = ((now - 30) * 60, (now + 10) * 60);
        let mut clicks = 0;
        for ad in ["demo-red", "demo-green", "demo-blue"] {
            let path = format!("/v1/ads/{ad}/aggregated_count?event=click&from={from}&to={to}");
            clicks += self.target.until(&path, Value::is_object).await["count"].as_u64().unwrap();
        }
        assert_eq!(clicks, self.visits);
        // One token claimed a page view, of one publisher.
        let pages = self.target.until(&account_path(), Value::is_object).await["pages"].clone();
        assert_eq!(pages.as_array().unwrap().len(), 1, "{pages}");
        assert_eq!((&pages[0]["publisher"], &pages[0]["sent"]), (&json!(PRESS), &json!(4_096)));
        // Nothing is counted in the years that the tricks named.
        for (from, to) in [(0, 600), (253_402_300_200_u64, 253_402_300_740_u64)] {
            let path = format!("/v1/accounting?from={from}&to={to}");
            assert_eq!(self.target.until(&path, Value::is_object).await["received"], 0);
        }
    }

    /// An operator takes the hostile edge out of service: nothing waits for what it has left.
    async fn retire(&self) {
        self.target.operate(&["edges", "retire", EDGE.as_str()]);
        self.target.until(&account_path(), |answer| answer["behind"] == 1).await;
    }
}

fn door(status: Option<u16>, name: &str) -> Door {
    let refused = TRICKS.iter().map(|trick| trick.answer).find(|answer| match answer {
        Door::Refused(known, of) => *of == name && status.is_none_or(|status| status == *known),
        _ => false,
    });
    match (name, refused) {
        ("taken", _) => Door::Taken,
        (_, Some(refused)) => refused,
        _ => panic!("{status:?} {name}"),
    }
}

/// The account of everything since the horizon.
fn account_path() -> String {
    let now = SystemClock.now().minute().0;
    format!("/v1/accounting?from={}&to={}", (now - 8 * 1_440) * 60, (now + 10) * 60)
}

/// Whether only the hostile edge keeps the account from adding up: by missing batches, or by
/// numbers with two contents.
fn doubts_the_hostile_alone(answer: &Value) -> bool {
    let all = |name: &str| answer[name].as_array().cloned().unwrap_or_default();
    let its_own = |of: &Value| {
        of["edge"].as_str().is_some_and(|edge| registered_name(edge.parse().unwrap()) == EDGE)
    };
    all("because").iter().all(|why| why == "gaps" || why == "conflicts")
        && all("gaps").iter().chain(&all("conflicts")).all(its_own)
}

/// The outcomes of everything that was received.
fn outcomes(answer: &Value) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    let mut add = |name: &str, count: &Value| {
        if let Some(count @ 1..) = count.as_u64() {
            all.insert(name.to_owned(), count);
        }
    };
    ["counted", "duplicate"].iter().for_each(|name| add(name, &answer[name]));
    let reasons = answer["reasons"].as_object();
    reasons.into_iter().flatten().for_each(|(name, count)| add(name, count));
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_trick_stops_burns_or_forges_anything_in_one_process() {
    let dir = tempfile::tempdir().unwrap();
    let mut play = Play::new(Target::local(dir.path())).await;
    play.play_all().await;
    // This is last because it cuts the edge off.
    play.play_too_many().await;
    play.target.recount_in_sql(dir.path()).await;
    play.retire().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_trick_stops_burns_or_forges_anything_over_nats() {
    let dir = tempfile::tempdir().unwrap();
    let mut play = Play::new(Target::roles(dir.path()).await).await;
    play.play_all().await;
    play.retire().await;
}
