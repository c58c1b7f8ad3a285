//! `up` on a machine whose clock is set: the real binary under a wall clock that is shifted while
//! it runs (by libfaketime, which leaves the monotonic clock alone).

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use shared::Clock as _;
use shared::ambient::SystemClock;

use crate::process::{KEY, PATIENCE, Server, binary, run};
use crate::world::World;

const LIBRARIES: [&str; 3] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
];

/// A server, and the file that says how far off its clock is.
pub(crate) struct Shifted {
    pub(crate) server: Server,
    offset: PathBuf,
}

impl Shifted {
    fn start(dir: &Path) -> Self {
        Self::start_at(dir, 0, &["--demo"])
    }

    /// Starts in `dir/data`, with a clock that is so many seconds off.
    pub(crate) fn start_at(dir: &Path, seconds: i64, flags: &[&str]) -> Self {
        let offset = dir.join("offset");
        set(&offset, seconds);
        let data = dir.join("data");
        let mut command = binary();
        command.args(["up", "--edge-listen", "127.0.0.1:0"]).args(flags);
        command.args(["--api-listen", "127.0.0.1:0", "--data"]).arg(&data);
        command.env("RUST_LOG", "warn").envs(shifted_environment(&offset));
        Self { server: Server::run(&data, command), offset }
    }

    /// An ad, its impression and its click: three events that are accepted.
    async fn visit(&self) {
        let Server { http, edge, .. } = &self.server;
        let ad = self.server.serve().await;
        let events = json!({ "events": [{ "token": ad["token"], "kind": "impression" }] });
        let post = http.post(format!("{edge}/v1/events")).header("content-type", "text/plain");
        let reply: Value =
            post.body(events.to_string()).send().await.unwrap().json().await.unwrap();
        assert_eq!(reply["results"][0], "accepted", "{reply}");
        let click = http.get(ad["click_url"].as_str().unwrap()).send().await.unwrap();
        assert_eq!(click.status(), 302);
    }

    /// Whether the edge and the API are ready, and what they say.
    async fn ready(&self) -> [(bool, String); 2] {
        let Server { http, edge, api, .. } = &self.server;
        let ask = async |url: &str| {
            let reply = http.get(format!("{url}/readyz")).send().await.unwrap();
            (reply.status().is_success(), reply.text().await.unwrap())
        };
        [ask(edge).await, ask(api).await]
    }

    async fn until_ready(&self) {
        let watch = shared::ambient::Stopwatch::start();
        loop {
            let said = self.ready().await;
            if said.iter().all(|(ready, _)| *ready) {
                return;
            }
            assert!(watch.elapsed() < PATIENCE, "{said:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// The environment of a process whose clock is off by what a file says.
fn shifted_environment(offset: &Path) -> Vec<(String, String)> {
    let library = LIBRARIES.iter().find(|path| Path::new(path).exists());
    let library = library.expect("libfaketime is installed (Debian: apt-get install faketime)");
    let offset = offset.display().to_string();
    let variables = [
        ("LD_PRELOAD", *library),
        ("FAKETIME_TIMESTAMP_FILE", &offset),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("NO_FAKE_STAT", "1"),
    ];
    variables.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
}

/// Sets a clock off by so many seconds.
fn set(offset: &Path, seconds: i64) {
    let next = offset.with_extension("next");
    std::fs::write(&next, format!("{seconds:+}\n")).unwrap();
    std::fs::rename(next, offset).unwrap();
}

/// The clock is wrong for a while, and then right: visitors come before, meanwhile and afterwards,
/// and every event is counted at its minute.
async fn nothing_is_lost_while_the_clock_is_off(seconds: i64, lasts: Duration) {
    let dir = tempfile::tempdir().unwrap();
    let mut shifted = Shifted::start(dir.path());
    shifted.until_ready().await;
    let from = SystemClock.now().minute().0;
    shifted.visit().await;

    set(&shifted.offset, seconds);
    let watch = shared::ambient::Stopwatch::start();
    let mut visits = 1;
    while watch.elapsed() < lasts {
        shifted.visit().await;
        visits += 1;
        for (ready, why) in shifted.ready().await {
            assert!(!ready && why.contains("the clock was set: it says"), "{why}");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }

    set(&shifted.offset, 0);
    shifted.until_ready().await;
    shifted.visit().await;
    visits += 1;
    let to = SystemClock.now().minute().0 + 1;
    let account = format!("/v1/accounting?from={}&to={}", from * 60, to * 60);
    // An empty batch may still be on its way, and is a gap until it comes.
    let all = |answer: &Value| answer["counted"] == 3 * visits && answer["adds_up"] == true;
    let answer = shifted.server.until(&account, all).await;
    assert_eq!((&answer["received"], &answer["in_flight"]), (&json!(3 * visits), &json!(0)));
    assert_eq!(answer["reasons"], json!({}), "{answer}");
    // No event is counted in any other minute.
    let wide = format!("/v1/accounting?from={}&to={}", (from - 1_440) * 60, (to + 50_000) * 60);
    assert_eq!(shifted.server.ask(&wide).await["received"], 3 * visits);
    assert_eq!(shifted.server.terminate().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_back_of_ten_minutes_loses_nothing() {
    nothing_is_lost_while_the_clock_is_off(-600, Duration::from_secs(4)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hours_ahead_for_three_seconds_lose_nothing() {
    nothing_is_lost_while_the_clock_is_off(7_200, Duration::from_secs(3)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_days_ahead_for_fifteen_seconds_lose_nothing() {
    nothing_is_lost_while_the_clock_is_off(30 * 86_400, Duration::from_secs(15)).await;
}

/// One start with a clock that is ahead, between starts with the right one.
async fn what_follows_a_wrong_start_is_counted(seconds: i64) {
    let dir = tempfile::tempdir().unwrap();
    let from = SystemClock.now().minute().0;
    let mut visits = 0;
    for seconds in [0, seconds, 0] {
        let now = SystemClock.now().to_string();
        let word = ["--demo", "--clock-is-right", &now];
        let flags = if seconds == 0 { &word[..] } else { &word[..1] };
        let mut shifted = Shifted::start_at(dir.path(), seconds, flags);
        if seconds < 86_400 {
            shifted.until_ready().await;
            shifted.visit().await;
            visits += 1;
            let to =
                SystemClock.now().plus_ms(u64::try_from(seconds).unwrap() * 1_000).minute().0 + 1;
            let account =
                format!("/v1/accounting?from={}&to={}", from * 60, to.max(from + 200) * 60);
            let all = |answer: &Value| answer["counted"] == 3 * visits;
            let answer = shifted.server.until(&account, all).await;
            assert_eq!((&answer["received"], &answer["reasons"]), (&json!(3 * visits), &json!({})));
        } else {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        // The save at the end used to be refused by a store that knew a later time.
        assert_eq!(shifted.server.terminate().code(), Some(0), "{seconds} s, visit {visits}");
    }
    assert!(visits >= 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_two_hours_ahead_stops_nothing_that_follows() {
    what_follows_a_wrong_start_is_counted(7_200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_thirty_days_ahead_stops_nothing_that_follows() {
    what_follows_a_wrong_start_is_counted(30 * 86_400).await;
}

/// A step back that is small enough to be believed: the edge's time stands still until it is
/// reached again, so nobody knows how long ago an ad was served. (Once every click of half a minute
/// was `click_too_soon`.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_click_is_too_soon_while_the_time_stands_still() {
    let dir = tempfile::tempdir().unwrap();
    let shifted = Shifted::start(dir.path());
    let Server { http, .. } = &shifted.server;
    // With something in the outbox, the edge's time does not go back behind it.
    shifted.visit().await;
    set(&shifted.offset, -30);
    for _ in 0..5 {
        let ad = shifted.server.serve().await;
        tokio::time::sleep(Duration::from_millis(400)).await;
        let click = http.get(ad["click_url"].as_str().unwrap()).send().await.unwrap();
        assert_eq!(click.status(), 302);
    }
    let now = SystemClock.now().minute().0;
    let live = format!("/v1/accounting?from={}&to={}", (now - 10) * 60, (now + 10) * 60);
    // The first visit's click came at once, so it may be judged otherwise.
    let all = |answer: &Value| answer["received"] == 3 + 10;
    let answer = shifted.server.until(&live, all).await;
    let too_soon = answer["reasons"]["click_too_soon"].as_u64().unwrap_or(0);
    assert!(too_soon <= 1, "{answer}");
    assert_eq!(answer["counted"], 13 - too_soon, "{answer}");
}

/// With such a clock no ads are served: their ids could not be read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_of_1970_is_no_clock() {
    let dir = tempfile::tempdir().unwrap();
    let now = i64::try_from(SystemClock.now().0 / 1_000).unwrap();
    // No key is made at such a time, since it would be valid from then on.
    let offset = dir.path().join("offset");
    set(&offset, 86_400 - now);
    let mut first = binary();
    first.args(["up", "--edge-listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0", "--data"]);
    first.envs(shifted_environment(&offset));
    let (code, _, said) = run(first.arg(dir.path().join("new")));
    assert!(code == Some(70) && said.contains("clock says 1970-01-0"), "{code:?} {said}");
    assert!(!dir.path().join("new/keys.json").exists());
    let mut right = Shifted::start_at(dir.path(), 0, &["--demo"]);
    assert_eq!(right.server.terminate().code(), Some(0));
    drop(right);
    let mut shifted = Shifted::start_at(dir.path(), 86_400 - now, &["--demo"]);
    for (ready, why) in shifted.ready().await {
        assert!(!ready && why.contains("the clock says 1970-01-0"), "{why}");
    }
    let path = format!("{}/v1/serve?placement=demo-top", shifted.server.edge);
    let answer = shifted.server.http.get(path).send().await.unwrap();
    assert_eq!(answer.status(), 503, "{:?}", answer.text().await);
    assert_eq!(shifted.server.terminate().code(), Some(0));
}

/// Over NATS: batches that no collector would take wait at the edge, and later ones go through.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_that_starts_days_ahead_over_nats_keeps_its_batches() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path());
    let (collector, aggregator) = (world.collector(), world.aggregator());
    let offset = dir.path().join("offset");
    set(&offset, 2 * 86_400);
    let mut edge = world.edge_in(shifted_environment(&offset), "a", &world.nats.url());
    world.click(&edge).await;
    let ready = format!("{}/readyz", edge.url("edge"));
    let watch = shared::ambient::Stopwatch::start();
    loop {
        let (status, said) = world.get(&ready).await;
        if status == 503 && said.contains("clock") {
            break;
        }
        assert!(watch.elapsed() < PATIENCE, "{status} {said}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // A redirect does not wait for a clock.
    world.click(&edge).await;
    edge.signal("-TERM");
    assert_eq!(edge.wait(), Some(0));

    set(&offset, 0);
    edge.start_again();
    world.until(&format!("{}/readyz", edge.url("edge")), |said| said["status"] == "ready").await;
    world.click(&edge).await;
    let answer = world.until(&world.live(&aggregator), |answer| answer["counted"] == 2).await;
    assert_eq!(answer["reasons"], json!({}), "{answer}");
    let letters = ["deadletter", "list", "--json", "--key", KEY, "--api", collector.url("api")];
    let (code, said, err) = run(binary().args(letters));
    assert_eq!((code, said.contains("sequence")), (Some(0), false), "{said}{err}");
    // The four events from before are still at the edge.
    let (_, metrics) = world.get(&format!("{}/metrics", edge.url("api"))).await;
    let held = metrics.lines().find(|line| line.contains("outbox_held ")).unwrap();
    assert!(!held.ends_with(" 0"), "{held}");
}
