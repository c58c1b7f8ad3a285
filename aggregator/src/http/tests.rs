#![allow(clippy::unwrap_used)]

use axum::body::Body;
use axum::http::Request;
use eventlog::fake::MemLog;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use shared::keys::EdgeRegistry;
use shared::problem::CONTENT_TYPE;
use shared::{Clock, PublisherId, Timestamp};
use tower::ServiceExt;

use super::*;
use crate::service::{Aggregator, Parts, Settings};
use crate::store::memory::MemStores;

struct Fixed;

impl Clock for Fixed {
    fn now(&self) -> Timestamp {
        Timestamp::parse("2026-03-01T12:34:56Z").unwrap()
    }
}

fn empty(registry: &mut Registry) -> Aggregator<MemLog, MemStores> {
    start(registry, MemStores::new())
}

fn start(registry: &mut Registry, stores: MemStores) -> Aggregator<MemLog, MemStores> {
    Aggregator::start(Parts {
        log: Arc::new(MemLog::new(2, [1; 16])),
        stores,
        clock: Arc::new(Fixed),
        settings: Settings::default(),
        archived: None,
        registered: Box::new(EdgeRegistry::default),
        registry,
    })
}

async fn ask(router: &Router, uri: &str) -> (StatusCode, String, Value) {
    let request = Request::builder().uri(uri).body(Body::empty()).unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let kind = response.headers().get("content-type").unwrap().to_str().unwrap().to_owned();
    let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, kind, serde_json::from_slice(&body).unwrap())
}

const BAD: &[(&str, &str, &str)] = &[
    ("ads/a/aggregated_count", "from", "missing"),
    ("ads/a/aggregated_count?from=60", "to", "missing"),
    ("ads/a/aggregated_count?to=60", "from", "missing"),
    ("ads/a/aggregated_count?from=0&to=61", "to", "not a whole minute"),
    ("ads/a/aggregated_count?from=0.5&to=60", "from", "not a whole minute"),
    ("ads/a/aggregated_count?from=1970-01-01T00:00:01Z&to=60", "from", "not a whole minute"),
    ("ads/a/aggregated_count?from=120&to=60", "to", "not after from"),
    ("ads/a/aggregated_count?from=60&to=60", "to", "not after from"),
    ("ads/a/aggregated_count?from=0&to=34560060", "to", "more than 400 days"),
    ("ads/a/aggregated_count?from=-60&to=60", "from", "neither Unix seconds nor"),
    ("ads/a/aggregated_count?from=&to=60", "from", "neither Unix seconds nor"),
    ("ads/a/aggregated_count?from=yesterday&to=60", "from", "neither Unix seconds nor"),
    ("ads/a/aggregated_count?from=0&to=99999999999999999999", "to", "neither Unix seconds nor"),
    ("ads/a/aggregated_count?from=0&to=999999999999960", "to", "not milliseconds"),
    ("ads/a/aggregated_count?from=0&to=60&event=view", "event", "there are: served, impression"),
    ("ads/a/aggregated_count?from=0&to=60&event=conversion", "event", "not counted yet"),
    ("ads/a/aggregated_count?from=0&to=60&validity=bad", "validity", "valid, invalid, all"),
    ("ads/popular_ads?validity=", "validity", "is no validity"),
    ("ads/a/aggregated_count?from=0&to=60&event=", "event", "is no kind of event"),
    (
        "ads/a/aggregated_count?from=0&to=60&even=click",
        "even",
        "unknown parameter; there are: from, to, event, validity, filter, where",
    ),
    ("ads/a/aggregated_count?from=0&to=60&from=0", "from", "twice"),
    ("ads/a/aggregated_count?from=0&to=60&%00=1", "\u{0}", "unknown parameter"),
    ("ads/a%0ab/aggregated_count?from=0&to=60", "ad_id", "U+000A"),
    ("ads/%20/aggregated_count?from=0&to=60", "ad_id", "neither begins nor ends"),
    ("ads/%ff/aggregated_count?from=0&to=60", "ad_id", "UTF-8"),
    ("ads/popular_ads?count=0", "count", "from 1 to 10000"),
    ("ads/popular_ads?count=10001", "count", "from 1 to 10000"),
    ("ads/popular_ads?count=+5", "count", "from 1 to 10000"),
    ("ads/popular_ads?count=1e3", "count", "from 1 to 10000"),
    ("ads/popular_ads?count=99999999999999999999", "count", "from 1 to 10000"),
    ("ads/popular_ads?window=0", "window", "from 1 to 576000"),
    ("ads/popular_ads?window=576001", "window", "from 1 to 576000"),
    ("ads/popular_ads?window=-1", "window", "from 1 to 576000"),
    ("ads/popular_ads?event=conversion", "event", "not counted yet"),
    ("ads/popular_ads?at=61", "at", "not a whole minute"),
    ("ads/popular_ads?at=0", "at", "no minute"),
    ("ads/popular_ads?running=1", "running", "true or false"),
    ("ads/popular_ads?running=true&at=60", "running", "one of the two"),
    ("ads/popular_ads?from=0", "from", "unknown parameter"),
    ("ads/a/aggregated_count?from=0&to=60&where=contry=US", "where", "there are"),
    ("ads/a/aggregated_count?from=0&to=60&where=country=Atlantis", "where", "Atlantis"),
    ("ads/a/aggregated_count?from=0&to=60&where=country", "where", "country"),
    ("ads/a/aggregated_count?from=0&to=60&where=ip=1.2.3", "where", "1.2.3"),
    ("ads/a/aggregated_count?from=0&to=60&where=user=u1", "where", "fingerprint"),
    ("ads/popular_ads?where={", "where", "JSON"),
    ("ads/popular_ads?filter=x", "filter", "the number of a stored filter"),
    ("ads/popular_ads?filter=0", "filter", "the number of a stored filter"),
    ("campaigns/c/count?from=0", "to", "missing"),
    ("campaigns/%20c/count?from=0&to=60", "id", "neither begins nor ends"),
    ("campaigns/c/uniques?from=60&to=0", "to", "not after from"),
    ("campaigns/c/uniques?from=0&to=60&sketch=theta", "sketch", "cpc or hll"),
    ("campaigns/c/series?from=0&to=60", "step", "missing"),
    ("campaigns/c/series?from=0&to=60&step=hours", "step", "minute, quarter, hour, day"),
    ("campaigns/c/series?from=0&to=60&step=hour&tz=Mars/Olympus", "tz", "Europe/Berlin"),
    ("campaigns/c/series?from=0&to=60&step=hour&tz=europe/berlin", "tz", "Europe/Berlin"),
    ("campaigns/c/series?from=0&to=34560000&step=minute", "step", "576000 points"),
    (
        "campaigns/c/series?from=0&to=60&step=hour&metrics=clicks,views",
        "metrics",
        "there are: served",
    ),
    ("campaigns/c/series?from=0&to=60&step=hour&metrics=clicks,clicks", "metrics", "twice"),
    ("campaigns/c/series?from=0&to=60&step=hour&format=xml", "format", "json or csv"),
    ("campaigns/c/breakdown?from=0&to=60", "by", "missing"),
    ("campaigns/c/breakdown?from=0&to=60&by=", "by", "there are"),
    ("campaigns/c/breakdown?from=0&to=60&by=browser", "by", "there are: ad, publisher"),
    ("campaigns/c/breakdown?from=0&to=60&by=region,ad,device", "by", "counts as two"),
    ("top?from=0&to=60", "of", "ads, campaigns"),
    ("top?from=0&to=60&of=ad", "of", "ads, campaigns"),
    ("top?from=0&to=60&of=ads&count=0", "count", "from 1 to 10000"),
    ("live?window=61", "window", "from 1 to 60"),
    ("live?count=0", "count", "from 1 to 100"),
    ("live?event=view", "event", "there are: served"),
    ("live?where=country=US", "where", "unknown parameter"),
    ("filters/x", "filter_id", "the number of a stored filter"),
    ("filters/4294967296", "filter_id", "the number of a stored filter"),
    ("filters/1?version=0", "version", "from 1 to 1000"),
    ("filters?x=1", "x", "takes none"),
    ("accounting?from=0", "to", "missing"),
    ("accounting?from=0&to=30", "to", "not a whole minute"),
    ("accounting?from=0&to=60&event=click", "event", "unknown parameter"),
    ("partitions/2/cells?from=0&to=60", "partition", "from 0 to 1"),
    ("partitions/x/cells?from=0&to=60", "partition", "from 0 to 1"),
    ("partitions/0/cells?from=0", "to", "missing"),
    ("partitions/0/cells?from=0&to=60&ad=x", "ad", "unknown parameter"),
    ("import/sources/xyz", "source", "32 lower-case hexadecimal"),
    ("import/sources/ABCDEF0123456789ABCDEF0123456789", "source", "32 lower-case hexadecimal"),
    ("import/sources/00000000000000000000000000000000?x=1", "x", "takes none"),
];

#[tokio::test]
async fn every_bad_parameter_is_named_with_what_to_do() {
    let running = empty(&mut Registry::default());
    let router = api::Principal::Operator.asks(running.router());
    for (uri, name, what) in BAD {
        let (status, kind, body) = ask(&router, &format!("/v1/{uri}")).await;
        assert_eq!((status.as_u16(), kind.as_str()), (400, CONTENT_TYPE), "{uri}: {body}");
        let detail = body["detail"].as_str().unwrap();
        assert!(detail.starts_with(&format!("{name}: ")), "{uri}: {detail}");
        assert!(detail.contains(what), "{uri}: {detail} does not say {what}");
        assert_eq!(body["type"], "urn:countersign:invalid_parameter");
        assert_eq!(body["status"], 400);
    }
}

async fn tell(router: &Router, method: &str, uri: &str, body: &str) -> (u16, Value) {
    let request = Request::builder().method(method).uri(uri);
    let request = request.body(Body::from(body.to_owned())).unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

#[tokio::test]
async fn stored_filters_have_numbers_and_versions_that_are_never_used_again() {
    let stores = MemStores::new();
    let running = start(&mut Registry::default(), stores.clone());
    let router = api::Principal::Operator.asks(running.router());
    let made = |body: &'static str| tell(&router, "POST", "/v1/filters", body);
    let (status, one) = made(r#"{"name":"non-US clicks","where":"country!=US"}"#).await;
    assert_eq!((status, &one["filter_id"], &one["version"]), (201, &json!(1), &json!(1)));
    assert_eq!((&one["where"], &one["name"]), (&json!("country!=US"), &json!("non-US clicks")));
    let (status, chosen) = made(r#"{"filter_id":"0012","where":{"device":["phone","tv"]}}"#).await;
    assert_eq!((status, &chosen["filter_id"]), (201, &json!(12)));
    assert_eq!(chosen["where"], "device=phone,tv");
    let row = r#"{"filter_id":"0013","region":"usa","ip":"123.1.2.3","user_id":"*"}"#;
    let (status, table) = made(row).await;
    assert_eq!((status, &table["filter_id"]), (201, &json!(13)), "{table}");
    assert_eq!(table["where"], "network=123.1.2.0/24;country=US", "{table}");
    assert_eq!(made(r#"{"where":"device=tv"}"#).await.1["filter_id"], 14);
    assert_eq!(made(r#"{"filter_id":12,"where":"device=tv"}"#).await.0, 409);

    let one = "/v1/filters/0001";
    let (status, changed) = tell(&router, "PUT", one, r#"{"where":"country!=US,CA"}"#).await;
    assert_eq!((status, &changed["version"]), (200, &json!(2)), "{changed}");
    assert_eq!(
        (&changed["name"], &changed["where"]),
        (&json!("non-US clicks"), &json!("country!=CA,US"))
    );
    let first = tell(&router, "GET", "/v1/filters/1?version=1", "").await.1;
    assert_eq!(first["where"], "country!=US");
    let used = ask(&router, "/v1/ads/a/aggregated_count?from=0&to=60&filter=001").await.2;
    assert_eq!((&used["filter_id"], &used["filter_version"]), (&json!(1), &json!(2)), "{used}");
    let both = "/v1/top?of=ads&from=0&to=60&filter=12&where=country=DE";
    assert_eq!(ask(&router, both).await.2["where"], "device=phone,tv;country=DE");

    assert_eq!(tell(&router, "DELETE", one, "").await.0, 204);
    assert_eq!(tell(&router, "DELETE", one, "").await.0, 404);
    assert_eq!(tell(&router, "GET", one, "").await.0, 404);
    assert_eq!(tell(&router, "PUT", one, r#"{"name":"x"}"#).await.0, 404);
    assert_eq!(made(r#"{"filter_id":1,"where":"device=tv"}"#).await.0, 409, "never used again");
    let (status, refused) = tell(&router, "GET", "/v1/ads/popular_ads?filter=1", "").await;
    assert_eq!((status, &refused["type"]), (404, &json!("urn:countersign:unknown_filter")));
    assert_eq!(tell(&router, "GET", "/v1/filters/77", "").await.0, 404);

    // Another process finds them as they were.
    let listed = tell(&router, "GET", "/v1/filters", "").await.1;
    assert_eq!(listed["filters"].as_array().unwrap().len(), 3, "{listed}");
    running.close().await;
    let running = start(&mut Registry::default(), stores);
    let router = api::Principal::Operator.asks(running.router());
    assert_eq!(tell(&router, "GET", "/v1/filters", "").await.1, listed);
    let made = tell(&router, "POST", "/v1/filters", r#"{"where":"country=DE"}"#).await.1;
    assert_eq!(made["filter_id"], 15);
    for bad in [
        "",
        "{",
        "[]",
        "7",
        "{}",
        r#"{"name":"x"}"#,
        r#"{"name":"","where":"device=tv"}"#,
        r#"{"name":7,"where":"device=tv"}"#,
        r#"{"where":"planet=mars"}"#,
        r#"{"where":7}"#,
        r#"{"where":"device=tv","what":1}"#,
        r#"{"filter_id":0,"where":"device=tv"}"#,
        r#"{"filter_id":"-1","where":"device=tv"}"#,
        r#"{"region":"nowhere"}"#,
    ] {
        let (status, refused) = tell(&router, "POST", "/v1/filters", bad).await;
        assert_eq!(status, 400, "{bad}: {refused}");
        assert!(!refused["detail"].as_str().unwrap().is_empty(), "{bad}");
    }
    assert_eq!(tell(&router, "PUT", "/v1/filters/15", "{}").await.0, 400);
    assert_eq!(
        tell(&router, "PUT", "/v1/filters/15", r#"{"filter_id":3,"name":"x"}"#).await.0,
        400
    );
    let large = format!(r#"{{"where":"ad={}"}}"#, "x".repeat(70_000));
    assert_eq!(tell(&router, "POST", "/v1/filters", &large).await.0, 413);
}

#[tokio::test]
async fn an_empty_aggregator_answers_in_the_shape_that_is_promised() {
    let running = empty(&mut Registry::default());
    let router = api::Principal::Operator.asks(running.router());
    let good = async |uri: &str| {
        let (status, kind, body) = ask(&router, uri).await;
        assert_eq!((status.as_u16(), kind.as_str()), (200, "application/json"), "{uri}: {body}");
        body
    };
    let counted = json!({
        "ad_id": "x", "event": "impression", "count": 0, "final": false, "behind": 0,
        "from": "2026-03-01T00:00:00Z", "to": "2026-03-01T01:00:00Z",
        "validity": "valid", "revision": 0, "as_of": "1970-01-01T00:00:00Z",
    });
    let times = "from=2026-03-01T00:00:00Z&to=1772326800";
    let uri = format!("/v1/ads/x/aggregated_count?event=impression&{times}");
    assert_eq!(good(&uri).await, counted);
    let uri = format!("/v1/ads/x/aggregated_cnt?event=impression&{times}");
    assert_eq!(good(&uri).await, counted);
    let most = format!("/v1/ads/x/aggregated_count?from=0&to={}", 400 * 24 * 3600);
    assert_eq!(good(&most).await["event"], "click");
    // The default is the last full minute of the clock.
    let popular = json!({
        "ad_ids": [], "counts": [], "validity": "valid", "final": false, "behind": 0,
        "window_start": "2026-03-01T12:33:00Z", "window_end": "2026-03-01T12:34:00Z",
    });
    assert_eq!(good("/v1/ads/popular_ads").await, popular);
    assert_eq!(good("/v1/ads/popular_ads?count=100&window=1&event=click").await, popular);
    let mut running = popular.clone();
    running["window_start"] = "2026-03-01T12:34:00Z".into();
    running["window_end"] = "2026-03-01T12:35:00Z".into();
    running["running"] = true.into();
    assert_eq!(good("/v1/ads/popular_ads?running=true").await, running);
    assert_eq!(good("/v1/ads/popular_ads?at=2026-03-01T12:35:00Z").await, running);
    assert_eq!(good("/v1/ads/popular_ads?running=false").await, popular);
    let ahead = "/v1/ads/x/aggregated_count?from=2026-03-01T12:34:00Z&to=2026-03-01T12:35:00Z";
    assert_eq!(good(ahead).await["running"], true);
    let account = json!({
        "from": "1970-01-01T00:00:00Z", "to": "1970-01-01T00:01:00Z", "received": 0, "counted": 0,
        "duplicate": 0, "reasons": {}, "in_flight": 0, "adds_up": true, "final": false, "behind": 0,
    });
    assert_eq!(good("/v1/accounting?from=0&to=60").await, account);
    let source = json!({
        "source": "000102030405060708090a0b0c0d0e0f", "rows": 0, "digest": null, "counted": 0,
        "duplicate": 0, "reasons": {},
    });
    let uri = "/v1/import/sources/000102030405060708090a0b0c0d0e0f";
    assert_eq!(good(uri).await, source);
    assert_eq!(good("/readyz").await, json!({"status": "ready"}));
}

#[tokio::test]
async fn metrics_are_there_under_their_names() {
    let mut registry = Registry::default();
    let running = empty(&mut registry);
    ask(&api::Principal::Operator.asks(running.router()), "/v1/accounting?from=0&to=60").await;
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for name in [
        "aggregator_query_seconds_count{query=\"accounting\"} 1",
        "aggregator_checkpoint_seconds_count 0",
        "aggregator_checkpoint_written_bytes_total 0",
        "aggregator_stopped_partitions 0",
        "aggregator_redelivered_batches_total 0",
    ] {
        assert!(text.contains(name), "{name} is not in\n{text}");
    }
}

#[test]
fn of_many_publishers_those_are_listed_of_which_most_was_counted() {
    let publisher = |n: u64| PublisherId::literal(&format!("p{n}"));
    let told = |n: u64| Told { sent: 1_000_000 - n, counted: n % 1_000 };
    let all: BTreeMap<_, _> = (0..3_000).map(|n| (publisher(n), told(n))).collect();
    let listed = with_most_counted(all.clone());
    assert_eq!(listed.len(), PUBLISHERS_LISTED_MAX);
    assert!(listed.iter().all(|(_, told)| told.counted >= 914), "three each of 1 000 numbers");
    let few: BTreeMap<_, _> = all.into_iter().take(PUBLISHERS_LISTED_MAX).collect();
    assert!(with_most_counted(few.clone()).into_iter().eq(few));
}

#[test]
fn however_much_is_missing_an_answer_is_short_and_tells_of_every_edge() {
    let outbox = |edge: &str, epoch| OutboxId { edge: edge.parse().unwrap(), epoch };
    let mut all = BTreeMap::new();
    for epoch in 0..3_000_u64 {
        let runs: Vec<_> = (0..50).map(|n| 2 * n..2 * n + 1).collect();
        all.insert(outbox(["m", "m--1", "m--2"][usize::try_from(epoch % 3).unwrap()], epoch), runs);
    }
    for edge in ["a", "z"] {
        all.insert(outbox(edge, 1), vec![3..5, 7..8]);
    }
    let listed = gaps(all);
    assert_eq!(listed.len(), OUTBOXES_LISTED_MAX);
    let first = &listed[0];
    assert_eq!((first.edge.as_str(), first.count, first.missing.len()), ("a", 3, 2));
    assert_eq!(listed.last().unwrap().edge.as_str(), "z");
    let flood = &listed[1..OUTBOXES_LISTED_MAX - 1];
    assert!(flood.iter().all(|gap| (gap.count, gap.missing.len()) == (50, GAPS_LISTED_MAX)));
    assert!(flood.iter().all(|gap| gap.epoch >= 3_000 - 254), "the newest");
}
