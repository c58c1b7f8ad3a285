//! The edge as it runs, over TCP.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use catalogue::Catalogue;
use catalogue::CatalogueFile;
use edge::native::{RunError, Summary};
use edge::outbox::{DISK_BYTES_LEAST, Outbox, OutboxSettings};
use edge::{Draft, Durability, Keys, Policy};
use serde_json::json;
use shared::random::Seeded;
use shared::wire::Batch;
use shared::{Kind, Reason};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Edge, Reply, Store, eventually};
use crate::support::{CATALOGUE, EDGE, ISSUER, NOW};

#[tokio::test(flavor = "multi_thread")]
async fn an_impression_from_serve_to_click() {
    let dir = tempfile::tempdir().unwrap();
    let edge = Edge::start(dir.path()).await;
    let served = edge.get("/v1/serve?placement=top").await;
    assert_eq!(served.status, 200, "{served:?}");
    let served = served.json();
    let path = |field: &str| {
        served[field].as_str().unwrap().strip_prefix("https://edge.example").unwrap().to_owned()
    };
    let pixel = edge.get(&path("beacon_url")).await;
    assert_eq!((pixel.status, pixel.body.len()), (200, 43));
    assert_eq!(pixel.header("content-type"), Some("image/gif"));
    let beacon = edge.post(&json!([{ "token": served["token"], "kind": "viewable" }, 5])).await;
    assert_eq!(
        (beacon.status, beacon.json()),
        (202, json!({ "results": ["accepted", "malformed"] }))
    );
    let click = edge.get(&path("click_url")).await;
    assert_eq!(click.status, 302);
    assert_eq!(click.header("location"), Some("https://acme.example/shoes?from=ad&n=1"));
    assert!(click.header("cache-control").unwrap().contains("no-store"));
    let forged = edge.get("/v1/c/AAAA").await;
    assert_eq!((forged.status, forged.header("location")), (400, None));
    // No heartbeat is needed: what was answered is in the outbox, and is sent at the end.
    let (summary, sink) = edge.stop().await;
    assert_eq!(summary, Summary { left: 0, closed: true });
    let (events, tallies) = sink.counts();
    assert_eq!(events, Kind::ALL.iter().map(|kind| (*kind, 1)).collect());
    let expected =
        [((Kind::Impression, Reason::Malformed), 1), ((Kind::Click, Reason::UnknownVersion), 1)];
    assert_eq!(tallies, expected.into());
}

#[tokio::test(flavor = "multi_thread")]
async fn head_options_and_the_rest_of_http() {
    let dir = tempfile::tempdir().unwrap();
    let edge = Edge::start(dir.path()).await;
    let token = edge.token(1);
    let head = edge.send(&format!("HEAD /v1/c/{token} HTTP/1.1"), b"").await;
    assert_eq!((head.status, head.body.len()), (302, 0));
    let head = edge.send(&format!("HEAD /v1/i/{token} HTTP/1.1"), b"").await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), Some("43"));
    let preflight = "OPTIONS /v1/events HTTP/1.1\r\nOrigin: https://news.example\r\n\
                     Access-Control-Request-Method: POST";
    let preflight = edge.send(preflight, b"").await;
    assert_eq!(
        (preflight.status, preflight.header("access-control-allow-origin")),
        (204, Some("*"))
    );
    let form = "POST /v1/events HTTP/1.1\r\nContent-Type: application/x-www-form-urlencoded";
    assert_eq!(edge.send(form, b"a=b").await.status, 415);
    let json = "POST /v1/events HTTP/1.1\r\nContent-Type: application/json";
    assert_eq!(edge.send(json, b"{").await.status, 400);
    assert_eq!(edge.send(json, &vec![b' '; (2 << 20) + 1]).await.status, 413);
    let chunked =
        "POST /v1/events HTTP/1.1\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked";
    let mut chunks = vec![];
    for _ in 0..33 {
        chunks.extend(b"10000\r\n");
        chunks.extend(vec![b' '; 0x10000]);
        chunks.extend(b"\r\n");
    }
    let mut stream = TcpStream::connect(edge.address).await.unwrap();
    stream.write_all(format!("{chunked}\r\nHost: e\r\n\r\n").as_bytes()).await.unwrap();
    let _ = stream.write_all(&chunks).await;
    assert_eq!(Reply::read(&mut stream).await.status, 413, "chunked bodies are bounded too");
    assert_eq!(edge.send("DELETE /v1/serve HTTP/1.1", b"").await.status, 405);
    assert_eq!(edge.get("/nothing").await.status, 404);
    let long = edge.get(&format!("/v1/c/{}", "A".repeat(40_000))).await;
    assert!((400..500).contains(&long.status), "{}", long.status);
    let (_, sink) = edge.stop().await;
    let verdicts: Vec<_> = sink
        .got
        .lock()
        .values()
        .flat_map(|bytes| {
            Batch::read(bytes).unwrap().events.iter().map(|e| e.verdict).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(verdicts, [Some(Reason::HeadRequest); 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_proxy_tells_who_asks_and_from_where() {
    let dir = tempfile::tempdir().unwrap();
    let edge = Edge::start(dir.path()).await;
    let request = format!(
        "GET /v1/c/{} HTTP/1.1\r\nX-Forwarded-For: 1.2.3.4, 203.0.113.77\r\nCF-IPCountry: SE\r\n\
         Sec-Purpose: prefetch\r\nUser-Agent: Mozilla/5.0 (iPad; CPU OS 16_6 like Mac OS X)",
        edge.token(1)
    );
    assert_eq!(edge.send(&request, b"").await.status, 503);
    let (_, sink) = edge.stop().await;
    let got = sink.got.lock();
    let batches: Vec<Batch<'_>> = got.values().map(|bytes| Batch::read(bytes).unwrap()).collect();
    let event = batches.iter().flat_map(|batch| &batch.events).next().unwrap();
    assert_eq!(event.codes.country.to_string(), "SE");
    assert_eq!(event.network.0, [4, 203, 0, 113, 0, 0, 0]);
    assert_eq!(event.codes.device, shared::Device::Tablet);
    assert_eq!(event.verdict, Some(Reason::Prefetch));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_outbox_refuses_beacons_and_redirects_still_go_out() {
    let dir = tempfile::tempdir().unwrap();
    let sink = Arc::new(Store::default());
    sink.down.store(true, Ordering::SeqCst);
    let edge = Edge::start_with(dir.path(), sink, |_| {}).await;
    let accepted = fill(&edge).await;
    assert_eq!(edge.get("/v1/serve?placement=top").await.status, 503);
    assert_eq!(edge.get("/readyz").await.status, 503);
    let click = edge.get(&format!("/v1/c/{}", edge.token(1))).await;
    assert_eq!((click.status, click.header("location").is_some()), (302, true));
    assert_eq!(edge.get("/v1/c/AAAA").await.status, 400);
    edge.sink.down.store(false, Ordering::SeqCst);
    let mut served = 0;
    for _ in 0..500 {
        if edge.get("/v1/serve?placement=top").await.status == 200 {
            served = 1;
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(served, 1, "it takes up again");
    let (summary, sink) = edge.stop().await;
    assert_eq!(summary.left, 0);
    let (events, tallies) = sink.counts();
    assert_eq!(events[&Kind::Impression] as i64, accepted, "accepted is counted, refused is not");
    assert_eq!(events.get(&Kind::Click), None);
    assert_eq!(tallies[&(Kind::Click, Reason::OutboxFull)], 1);
    assert_eq!(tallies[&(Kind::Click, Reason::UnknownVersion)], 1);
}

/// Sends beacons until they are refused; returns how many were taken.
async fn fill(edge: &Edge) -> i64 {
    let mut accepted = 0;
    loop {
        let reply = edge.post(&impressions(edge, accepted)).await;
        if reply.status == 503 {
            assert!(reply.header("retry-after").is_some());
            break;
        }
        assert_eq!(reply.status, 202);
        accepted += 500;
        assert!(accepted < 10_000);
    }
    // A group of 500 no longer fits, a single one may: fill up.
    while edge.get(&format!("/v1/i/{}", edge.token(accepted))).await.status == 200 {
        accepted += 1;
        assert!(accepted < 10_000);
    }
    accepted
}

#[tokio::test(flavor = "multi_thread")]
async fn a_click_that_does_not_wait_is_kept_or_tallied_and_sent_on_in_any_case() {
    let dir = tempfile::tempdir().unwrap();
    let sink = Arc::new(Store::default());
    sink.down.store(true, Ordering::SeqCst);
    let edge = Edge::start_with(dir.path(), sink, |parts| {
        let policy = Policy { clicks: Durability::Queued, ..Policy::clone(&parts.policies.load()) };
        parts.policies = Arc::new(edge::native::Policies::new(policy));
    })
    .await;
    let click = async |seq| edge.get(&format!("/v1/c/{}", edge.token(seq))).await.status;
    assert_eq!(click(90_001).await, 302);
    let accepted = fill(&edge).await;
    assert_eq!([click(90_002).await, click(90_003).await], [302; 2]);
    edge.sink.down.store(false, Ordering::SeqCst);
    let (_, sink) = edge.stop().await;
    let (events, tallies) = sink.counts();
    assert_eq!((events[&Kind::Click], events[&Kind::Impression] as i64), (1, accepted));
    assert_eq!(tallies[&(Kind::Click, Reason::OutboxFull)], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_in_the_middle_of_traffic_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let edge = Edge::start(dir.path()).await;
    let address = edge.address;
    let mut clients = Vec::new();
    for client in 0..8 {
        let token = edge.token(client);
        clients.push(tokio::spawn(async move {
            let mut answered = 0_u64;
            // Until the listener is gone.
            while let Ok(mut stream) = TcpStream::connect(address).await {
                let request =
                    format!("GET /v1/i/{token} HTTP/1.1\r\nHost: e\r\nConnection: close\r\n\r\n");
                if stream.write_all(request.as_bytes()).await.is_err() {
                    break;
                }
                let mut bytes = Vec::new();
                let _ = stream.read_to_end(&mut bytes).await;
                answered += u64::from(bytes.starts_with(b"HTTP/1.1 200"));
                if bytes.is_empty() {
                    break;
                }
            }
            answered
        }));
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (summary, sink) = edge.stop().await;
    let mut answered = 0;
    for client in clients {
        answered += client.await.unwrap();
    }
    assert_eq!(summary, Summary { left: 0, closed: true });
    let counted = sink.came().0[&Kind::Impression];
    assert!(answered > 50, "{answered}");
    // A client may have missed an answer as the process ended, but never the other way round.
    assert!((answered..=answered + 8).contains(&counted), "{counted} counted, {answered} answered");
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_and_silent_clients_are_let_go() {
    let dir = tempfile::tempdir().unwrap();
    let sink = Arc::new(Store::default());
    let edge = Edge::start_with(dir.path(), sink, |parts| {
        parts.settings.head_timeout = Duration::from_millis(100);
        parts.settings.body_timeout = Duration::from_millis(100);
        parts.settings.connections_max = 2;
    })
    .await;
    // Two silent connections hold both permits; the third is answered when they are closed.
    let mut silent = TcpStream::connect(edge.address).await.unwrap();
    let mut half = TcpStream::connect(edge.address).await.unwrap();
    half.write_all(b"GET /v1/c/AA").await.unwrap();
    assert_eq!(edge.get("/healthz").await.status, 200);
    let mut rest = Vec::new();
    let _ = silent.read_to_end(&mut rest).await;
    let mut body = TcpStream::connect(edge.address).await.unwrap();
    let head = "POST /v1/events HTTP/1.1\r\nHost: e\r\nContent-Type: text/plain\r\nContent-Length: 99\r\n\r\n{";
    body.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(Reply::read(&mut body).await.status, 408);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn catalogue_and_keys_change_while_it_runs() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalogue.json");
    std::fs::write(&path, CATALOGUE).unwrap();
    let (source, catalogue) = CatalogueFile::open(&path).unwrap();
    assert_eq!(catalogue.ads().len(), 3);
    let sink = Arc::new(Store::default());
    let edge = Edge::start_with(dir.path(), sink, |parts| {
        parts.catalogue = Some(Box::new(source));
    })
    .await;
    let token = edge.token(1);
    assert_eq!(edge.get("/v1/serve?placement=new").await.status, 404);
    std::fs::write(&path, "{ this is no catalogue").unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(edge.get("/v1/serve?placement=top").await.status, 200, "the one before stays");
    let metrics = String::from_utf8(edge.get("/metrics").await.body).unwrap();
    assert!(metrics.contains("countersign_edge_catalogue_bad 1"), "{metrics}");
    std::fs::write(&path, CATALOGUE.replace("\"side\"", "\"new\"")).unwrap();
    let mut status = 0;
    for _ in 0..200 {
        status = edge.get("/v1/serve?placement=new").await.status;
        if status == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(status, 200);

    // The key is revoked: without a restart, no link that it signed leads anywhere.
    assert_eq!(edge.get(&format!("/v1/c/{token}")).await.status, 302);
    let mut store = edge.world.store.clone();
    store.revoke(edge.world.live.public.id).unwrap();
    edge.policies.set_keys(Keys::of_store(&store, ISSUER).unwrap());
    assert_eq!(edge.get(&format!("/v1/c/{token}")).await.status, 403);
    assert_eq!(edge.get("/v1/serve?placement=top").await.status, 503);
    assert_eq!(edge.get("/readyz").await.status, 503);
    store.create(ISSUER, vec![], NOW, &mut Seeded::new(99)).unwrap();
    edge.policies.set_keys(Keys::of_store(&store, ISSUER).unwrap());
    assert_eq!(edge.get("/v1/serve?placement=top").await.status, 200);
    edge.policies.set_catalogue(Catalogue::default());
    assert_eq!(edge.get("/v1/serve?placement=top").await.status, 404);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_readiness_and_metrics() {
    let dir = tempfile::tempdir().unwrap();
    let edge = Edge::start(dir.path()).await;
    assert_eq!(edge.get("/healthz").await.body, b"ok\n");
    assert_eq!(edge.get("/readyz").await.json()["status"], "ready");
    edge.sink.ahead.store(true, Ordering::SeqCst);
    let unready = edge.get("/readyz").await;
    assert_eq!(unready.status, 503);
    assert!(unready.json()["reasons"][0].as_str().unwrap().starts_with("clock_ahead"));
    let token = edge.token(1);
    edge.get(&format!("/v1/c/{token}")).await;
    edge.get("/v1/c/!nonsense").await;
    let metrics = String::from_utf8(edge.get("/metrics").await.body).unwrap();
    for line in [
        "countersign_edge_requests_total{route=\"click\",status=\"3xx\"} 1",
        "countersign_edge_requests_total{route=\"click\",status=\"4xx\"} 1",
        "countersign_edge_events_total{kind=\"click\"} 1",
        "countersign_edge_tallied_total{reason=\"malformed\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    assert!(!metrics.contains(&token));
    let sink = Arc::clone(&edge.sink);
    eventually("the click is delivered", || sink.counts().0.get(&Kind::Click) == Some(&1)).await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_out_of_range_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let edge = Edge::start_with(dir.path(), Arc::new(Store::default()), |parts| {
        parts.settings.country_header = Some("no header".to_owned());
    })
    .await;
    let ended = edge.task.await.unwrap();
    assert!(matches!(ended, Err(RunError::Settings(_))), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn beacons_that_do_not_wait_are_counted_or_tallied() {
    let dir = tempfile::tempdir().unwrap();
    let sink = Arc::new(Store::default());
    sink.down.store(true, Ordering::SeqCst);
    let edge = Edge::start_with(dir.path(), sink, |parts| {
        let policy =
            Policy { beacons: Durability::Queued, ..Policy::clone(&parts.policies.load()) };
        parts.policies = Arc::new(edge::native::Policies::new(policy));
    })
    .await;
    let mut queued = 0;
    loop {
        let reply = edge.post(&impressions(&edge, queued)).await;
        if reply.status == 503 {
            break;
        }
        assert_eq!(reply.json()["results"][0], "queued");
        queued += 500;
        assert!(queued < 20_000);
        // The disk becomes full after the reply: a group of 500 no longer fits, and until then no
        // request is refused on arrival.
        if edge.get("/readyz").await.status == 503 || queued > 5_000 {
            break;
        }
    }
    edge.sink.down.store(false, Ordering::SeqCst);
    let (_, sink) = edge.stop().await;
    // What was tallied after the closing batch is reported by the next process.
    let again = Edge::start_with(dir.path(), sink, |_| {}).await;
    let (_, sink) = again.stop().await;
    let (events, tallies) = sink.counts();
    let lost = tallies.get(&(Kind::Impression, Reason::OutboxFull)).copied().unwrap_or_default();
    assert!(lost > 0, "some found the disk full");
    assert_eq!((events[&Kind::Impression] + lost) as i64, queued);
}

/// Damage in the outbox is never skipped: the edge ends, and says what and where.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_outbox_ends_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let settings = OutboxSettings {
        disk_bytes_max: DISK_BYTES_LEAST,
        ..OutboxSettings::new(dir.path().join("outbox"), EDGE)
    };
    let metrics = edge::native::Metrics::default();
    let clock = Arc::new(crate::harness::Still);
    let (outbox, _) = Outbox::open(&settings, clock, &mut Seeded::new(2), metrics).unwrap();
    // Several segments of 64 KiB.
    for _ in 0..4 {
        let draft = Draft {
            kind: Kind::Click,
            verdict: None,
            rules: shared::RuleSet::UNKNOWN,
            page: None,
            flags: shared::Flags::default(),
            codes: shared::Codes::default(),
            region: shared::Region::UNKNOWN,
            network: shared::Network::default(),
            visitor: shared::Fingerprint::NONE,
            token: vec![1; 1_000],
        };
        outbox.append(vec![draft; 50]).unwrap().await.unwrap();
    }
    drop(outbox);
    let first = dir.path().join("outbox").join(format!("{:020}.seg", 0));
    let mut bytes = std::fs::read(&first).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&first, bytes).unwrap();
    let edge = Edge::start(dir.path()).await;
    let ended = tokio::time::timeout(Duration::from_secs(5), edge.task).await.unwrap().unwrap();
    let Err(RunError::Outbox(why)) = ended else { panic!("{ended:?}") };
    assert!(why.contains(".seg, offset"), "{why}");
}

/// As many impressions as a request may bring.
fn impressions(edge: &Edge, first: i64) -> serde_json::Value {
    let element = |n| json!({ "token": edge.token(n), "kind": "impression" });
    (first..first + 500).map(element).collect()
}
