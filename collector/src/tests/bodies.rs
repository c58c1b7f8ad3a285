//! Bodies that do not come, or come slowly: who has to wait for them, and for how long.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use eventlog::DEAD;
use eventlog::fake::MemLog;
use futures::StreamExt as _;
use shared::ambient::Stopwatch;
use shared::keys::request::{self, LIFE_MS};
use shared::token::Signer;
use shared::{IssuerId, Kind, Timestamp};
use tokio::task::JoinSet;
use tower::ServiceExt as _;

use super::world::{ISSUER, LIMITED, NOW, Rig, World, batch, event, rig};
use crate::Settings;
use crate::gateway::bodies::{Bodies, Caller, Pace};
use crate::gateway::{BATCH_CONTENT_TYPE, BATCHES_PATH, with_bodies};

/// "At once", on a machine with other work.
const SOON: Duration = Duration::from_secs(3);

struct Gateway {
    rig: Rig<MemLog>,
    router: axum::Router,
    world: World,
}

impl Gateway {
    fn start(bodies: Bodies) -> Self {
        let settings = Settings { verify_threads: 1, flush_ms: 1, ..Settings::default() };
        let rig = rig(MemLog::new(4, [1; 16]), &World::new(), settings);
        let router = with_bodies(Arc::clone(&rig.collector), bodies);
        Self { rig, router, world: World::new() }
    }

    fn field(&self, issuer: IssuerId, body: &[u8], at: Timestamp) -> String {
        let signer = Signer::new(self.world.key(issuer));
        request::sign(&signer, self.world.store.deployment, BATCHES_PATH, body, at)
    }

    fn batch(&self, number: u64) -> Bytes {
        batch(number, vec![event(Kind::Click, &self.world.token(1))], Vec::new())
    }

    async fn send(&self, path: &str, fields: &[(&str, String)], body: Body) -> Response {
        let mut request = Request::post(path);
        for (name, value) in fields {
            request = request.header(*name, value);
        }
        self.router.clone().oneshot(request.body(body).unwrap()).await.unwrap()
    }

    async fn batch_status(&self, fields: &[(&str, String)], body: Body) -> StatusCode {
        let kind = (header::CONTENT_TYPE.as_str(), BATCH_CONTENT_TYPE.to_owned());
        let fields = [&[kind], fields].concat();
        let sent = self.send(BATCHES_PATH, &fields, body);
        tokio::time::timeout(SOON, sent).await.expect("an answer at once").status()
    }

    /// Requests whose bodies never come, begun.
    fn idle(&self, count: usize, fields: &[(&'static str, String)]) -> JoinSet<Response> {
        let mut idle = JoinSet::new();
        for _ in 0..count {
            let mut request = Request::post(BATCHES_PATH);
            request = request.header(header::CONTENT_TYPE, BATCH_CONTENT_TYPE);
            for (name, value) in fields {
                request = request.header(*name, value);
            }
            let request = request.body(never()).unwrap();
            let router = self.router.clone();
            idle.spawn(async move { router.oneshot(request).await.unwrap() });
        }
        idle
    }
}

fn never() -> Body {
    Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>())
}

/// A body's parts, each after a pause.
fn slowly(parts: Vec<Bytes>, pause: Duration) -> Body {
    Body::from_stream(futures::stream::iter(parts).then(move |part| async move {
        tokio::time::sleep(pause).await;
        Ok::<_, std::io::Error>(part)
    }))
}

#[tokio::test]
async fn who_is_not_believed_is_refused_before_the_body() {
    let gateway = Gateway::start(Bodies::default());
    let stale = gateway.field(ISSUER, b"x", NOW.minus_ms(LIFE_MS + 1));
    // Until the collector has compared its clock with the log, it does not blame the sender's clock.
    while gateway.rig.collector.trouble().is_some() {
        let fields = [(request::FIELD, stale.clone())];
        let status = gateway.batch_status(&fields, never()).await;
        assert!(matches!(status.as_u16(), 401 | 503), "{status}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let good = gateway.field(ISSUER, b"x", NOW);
    let unknown = format!("k000000000000{}", &good[good.find('.').unwrap()..]);
    let forged = (request::BODY_FIELD, request::body_field(b"another"));
    for fields in [
        vec![(request::FIELD, unknown)],
        vec![(request::FIELD, stale)],
        vec![(request::FIELD, good.clone()), forged],
        vec![(request::FIELD, good), (request::BODY_FIELD, "none".to_owned())],
    ] {
        let status = gateway.batch_status(&fields, never()).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{fields:?}");
    }
}

#[tokio::test]
async fn idle_bodies_make_nobody_else_wait() {
    let gateway = Gateway::start(Bodies::default());
    // Without a hash of the body anybody can name this key, for ids of keys are public; edges of older
    // builds send like this.
    let claimed = gateway.idle(16, &[(request::FIELD, gateway.field(ISSUER, b"x", NOW))]);
    // A hostile issuer.
    let hash = request::body_field(b"x");
    let of_limited =
        [(request::FIELD, gateway.field(LIMITED, b"x", NOW)), (request::BODY_FIELD, hash)];
    let proven = gateway.idle(16, &of_limited);
    tokio::time::sleep(Duration::from_millis(100)).await;

    let body = gateway.batch(0);
    let fields = [
        (request::FIELD, gateway.field(ISSUER, &body, NOW)),
        (request::BODY_FIELD, request::body_field(&body)),
    ];
    assert_eq!(gateway.batch_status(&fields, body.into()).await, StatusCode::ACCEPTED);
    // The operator's.
    let body = gateway.batch(1);
    assert_eq!(gateway.batch_status(&[], body.into()).await, StatusCode::ACCEPTED);
    let kind = (header::CONTENT_TYPE.as_str(), "application/json".to_owned());
    let fields = [kind];
    let import = gateway.send("/v1/import", &fields, "{}".into());
    let import = tokio::time::timeout(SOON, import).await.expect("an answer at once");
    assert_eq!(import.status(), StatusCode::BAD_REQUEST, "it was read");
    assert_eq!((claimed.len(), proven.len()), (16, 16), "all were idle all the time");
    assert!(gateway.rig.log.messages(DEAD).is_empty());
}

#[tokio::test]
async fn idle_bodies_of_the_operator_make_no_edge_wait() {
    let gateway = Gateway::start(Bodies::default());
    let _idle = gateway.idle(16, &[]);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let body = gateway.batch(0);
    // As an older build's edge sends it.
    let fields = [(request::FIELD, gateway.field(ISSUER, &body, NOW))];
    assert_eq!(gateway.batch_status(&fields, body.into()).await, StatusCode::ACCEPTED);
}

/// As many issuers as there are turns, each with slow bodies that come as fast as they must.
#[tokio::test]
async fn slow_bodies_of_many_issuers_make_another_wait_for_a_moment_only() {
    let bodies = Bodies::new(Duration::from_secs(5), Pace::default());
    let others: Vec<IssuerId> = (0..5).map(|n| format!("hostile-{n}").parse().unwrap()).collect();
    let mut slow = JoinSet::new();
    let bodies = Arc::new(bodies);
    for issuer in others.iter().flat_map(|issuer| [*issuer; 4]) {
        let bodies = Arc::clone(&bodies);
        slow.spawn(async move { bodies.read(Caller::Issuer(issuer), never(), 10).await });
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let watch = Stopwatch::start();
    let read = bodies.read(Caller::Issuer(ISSUER), Body::from("x"), 10).await;
    assert_eq!(read.unwrap(), "x");
    assert!(watch.elapsed() < Duration::from_secs(4), "{:?}", watch.elapsed());
    // A request that was cut off gets an answer.
    let cut = slow.join_next().await.unwrap().unwrap().unwrap_err();
    assert_eq!(cut.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn who_waits_for_a_turn_is_told_when_it_does_not_come() {
    let bodies = Bodies::new(Duration::from_millis(100), Pace::default());
    let gateway = Gateway::start(bodies);
    let _idle = gateway.idle(4, &[(request::FIELD, gateway.field(ISSUER, b"x", NOW))]);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let body = gateway.batch(0);
    let fields = [
        (header::CONTENT_TYPE.as_str(), BATCH_CONTENT_TYPE.to_owned()),
        (request::FIELD, gateway.field(ISSUER, &body, NOW)),
    ];
    let sent = gateway.send(BATCHES_PATH, &fields, body.into());
    let answer = tokio::time::timeout(SOON, sent).await.expect("an answer at once");
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers()[header::RETRY_AFTER], "1");
}

#[tokio::test]
async fn a_body_has_to_come_and_fast_enough() {
    let pace = Pace {
        grace: Duration::from_millis(200),
        per_s: 10_000,
        whole: Duration::from_millis(600),
    };
    let gateway = Gateway::start(Bodies::new(Duration::from_secs(5), pace));
    let watch = Stopwatch::start();
    let pause = Duration::from_millis(50);
    let byte = Bytes::from_static(b"x");
    for (name, body) in [
        ("silent", never()),
        ("one byte at a time", slowly(vec![byte; 1_000], pause)),
        ("for ever", slowly(vec![Bytes::from(vec![0; 1_000]); 1_000], pause)),
    ] {
        let status = gateway.batch_status(&[], body).await;
        assert_eq!(status, StatusCode::REQUEST_TIMEOUT, "{name}");
    }
    assert!(watch.elapsed() < SOON);
    // In pieces, but in time.
    let body = gateway.batch(0);
    let parts = vec![body.slice(..1), body.slice(1..9), body.slice(9..)];
    let status = gateway.batch_status(&[], slowly(parts, Duration::from_millis(10))).await;
    assert_eq!(status, StatusCode::ACCEPTED);
    assert_eq!(gateway.batch_status(&[], never()).await, StatusCode::REQUEST_TIMEOUT);
}
