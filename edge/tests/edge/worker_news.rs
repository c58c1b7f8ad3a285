//! How a Worker learns which keys and ads are in force: when it has just started, when many
//! requests come at once, when none has come for a while.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use shared::Clock as _;
use shared::ambient::{Stopwatch, SystemClock};
use shared::keys::PublicKey;
use shared::token::to_text;

use crate::shells::{self, Shells, get};
use crate::support::{CATALOGUE, HOUR_MS, ISSUER, TokenSpec};

const SERVE: &str = "/v1/serve?placement=top";
const SLOW: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/edge/slow-shard.capnp");
/// Only the centre knows the ads.
const NO_ADS: (&str, &str) = ("CATALOGUE", "");
/// After this time without a request an isolate asks before it decides.
const IDLE: Duration = Duration::from_millis(10_500);

/// Public keys that the Worker does not know from its settings: a newer one of its issuer is among
/// them.
fn public(shells: &Shells) -> Vec<PublicKey> {
    let mut public = shells.world.store.for_edge(ISSUER).unwrap().public;
    public.push(PublicKey { issuer: ISSUER, ..shells.world.unknown.public.clone() });
    public
}

/// The edge's own key, changed by the centre.
fn with_own(shells: &Shells, change: impl Fn(&mut PublicKey)) -> Vec<PublicKey> {
    let mut public = public(shells);
    let own = shells.world.live.public.id;
    public.iter_mut().filter(|key| key.id == own).for_each(change);
    public
}

/// What is answered to those who ask at the same time.
async fn at_once(shells: &Shells, paths: impl Iterator<Item = String>) -> Vec<u16> {
    let replies = shells::at_once(shells.worker_address(), paths).await;
    replies.iter().map(|reply| reply.status).collect()
}

async fn serve_at_once(shells: &Shells, count: usize) -> Vec<u16> {
    at_once(shells, std::iter::repeat_n(SERVE.to_owned(), count)).await
}

/// A link whose key only the centre knows.
fn newer_link(shells: &Shells, seq: i64) -> String {
    let spec = TokenSpec { key: "unknown".to_owned(), seq, ..TokenSpec::default() };
    format!("/v1/c/{}", to_text(&shells.world.mint(&spec)))
}

/// Why it is not ready; empty when it is.
async fn reasons(shells: &Shells) -> String {
    let reply = get(shells.worker_address(), "/readyz").await;
    let told = reply.json();
    assert_eq!(told["status"] == "ready", reply.status == 200, "{told}");
    if reply.status == 200 { String::new() } else { told["reasons"].to_string() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_of_a_cold_isolates_first_requests_know_the_ads() {
    for config in [None, Some(SLOW)] {
        let mut shells = Shells::start(&[NO_ADS]).await;
        shells.centre.publish(public(&shells), CATALOGUE);
        if let Some(config) = config {
            shells.worker.kill();
            shells.worker.start_again_as(config.as_ref());
        }
        assert_eq!(serve_at_once(&shells, 16).await, [200; 16], "{config:?}");
        assert_eq!(shells.centre.news_asked.load(Ordering::SeqCst), 1, "{config:?}");
        // The centre is away, the isolate dies: its shard remembers.
        shells.worker.kill();
        shells.worker.start_again();
        assert_eq!(serve_at_once(&shells, 16).await, [200; 16], "{config:?}");
        let centre = Arc::clone(&shells.centre);
        crate::harness::eventually("each is counted", || {
            centre.told().events.values().sum::<u32>() == 32
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cold_isolate_that_is_asked_for_a_link_first_knows_the_keys_and_then_the_ads() {
    let shells = Shells::start(&[NO_ADS]).await;
    shells.centre.publish(public(&shells), CATALOGUE);
    let links: Vec<_> = (0..16).map(|seq| newer_link(&shells, seq)).collect();
    assert_eq!(get(shells.worker_address(), &links[0]).await.status, 302, "the first of all");
    assert_eq!(get(shells.worker_address(), SERVE).await.status, 200, "at once after it");
    assert_eq!(shells.centre.news_asked.load(Ordering::SeqCst), 1);
    let shells = Shells::start(&[NO_ADS]).await;
    shells.centre.publish(public(&shells), CATALOGUE);
    assert_eq!(at_once(&shells, links.into_iter()).await, [302; 16], "sixteen at once");
    assert_eq!(shells.centre.news_asked.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_pause_a_revoked_key_does_not_pass_even_once() {
    let shells = Shells::start(&[NO_ADS]).await;
    shells.centre.publish(public(&shells), CATALOGUE);
    let link = format!("/v1/c/{}", shells.token(1));
    assert_eq!(get(shells.worker_address(), &link).await.status, 302);
    tokio::time::sleep(IDLE).await;
    shells.centre.publish(with_own(&shells, |key| key.revoked = true), CATALOGUE);
    let paths = [SERVE.to_owned(), link].into_iter().cycle().take(16);
    assert_eq!(at_once(&shells, paths).await, [503, 403].repeat(8));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_is_ready_when_the_centre_has_told_keys_that_sign() {
    let mut shells = Shells::start(&[NO_ADS]).await;
    let why = reasons(&shells).await;
    assert!(why.contains("no_policy") && why.contains("answers 404"), "{why:?}");
    // Only /readyz is asked, and the first answer is the right one.
    shells.worker.kill();
    shells.centre.publish(public(&shells), CATALOGUE);
    shells.worker.start_again();
    assert_eq!(reasons(&shells).await, "");
    shells.worker.kill();
    // Rotated, and the overlap is over: EDGE_KEYS has the old key alone.
    let past = SystemClock.now().minus_ms(HOUR_MS);
    let retired = with_own(&shells, |key| key.retired_at = Some(past));
    shells.centre.publish(retired, CATALOGUE);
    shells.worker.start_again();
    let why = reasons(&shells).await;
    assert!(why.contains("no_signing_key"), "{why:?}");
    assert_eq!(get(shells.worker_address(), SERVE).await.status, 503);
    // What cannot be read is told of too.
    shells.worker.kill();
    shells.centre.publish(public(&shells), "{\"ads\": 3}");
    shells.worker.start_again();
    let why = reasons(&shells).await;
    assert!(why.contains("no_policy") || why.contains("cannot be used"), "{why:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_asks_whether_it_is_ready_makes_no_work_for_the_shard() {
    let mut shells = Shells::start(&[NO_ADS]).await;
    shells.centre.publish(public(&shells), CATALOGUE);
    shells.worker.kill();
    shells.worker.start_again_as(SLOW.as_ref());
    let paths = || std::iter::repeat_n("/readyz".to_owned(), 16);
    let asked = async || {
        let replies = shells::at_once(shells.worker_address(), paths()).await;
        replies.iter().map(|reply| reply.json()["outbox"]["states"].as_u64()).max().unwrap()
    };
    assert_eq!(asked().await, Some(1), "sixteen at once");
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(asked().await, Some(2), "a second later");
}

/// The centre takes connections and never answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_centre_that_says_nothing_holds_a_cold_isolate_up_once_and_not_for_long() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let shells = Shells::start(&[("POLICY_URL", &url)]).await;
    let watch = Stopwatch::start();
    let links = |from: i64| (from..from + 16).map(|seq| format!("/v1/c/{}", shells.token(seq)));
    assert_eq!(at_once(&shells, links(0)).await, [302; 16]);
    let first = watch.elapsed();
    assert!((1_500..4_000).contains(&first.as_millis()), "{first:?}");
    // Decided by the settings, and for five seconds without asking again.
    let watch = Stopwatch::start();
    assert_eq!(at_once(&shells, links(16)).await, [302; 16]);
    assert!(watch.elapsed().as_millis() < 1_000, "{:?}", watch.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_word_of_the_centre_for_a_day_no_ad_is_given_out_and_links_go_on() {
    let mut shells = Shells::start(&[NO_ADS, ("AGE", "86000")]).await;
    shells.centre.publish(public(&shells), CATALOGUE);
    shells.worker.kill();
    shells.worker.start_again_as(SLOW.as_ref());
    assert_eq!(get(shells.worker_address(), SERVE).await.status, 200);
    shells.worker.kill();
    shells.worker.start_again_with("AGE", "87000");
    let reply = get(shells.worker_address(), SERVE).await;
    assert_eq!(
        (reply.status, reply.json().to_string().contains("policy_too_old")),
        (503, true),
        "{reply:?}"
    );
    assert_eq!(shells.click(&shells.token(1)).await.status, 302);
    assert!(reasons(&shells).await.contains("policy_too_old"));
}
