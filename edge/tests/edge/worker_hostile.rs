//! Hostile input to the Worker on a real workerd: it answers as the core decides and as the native
//! edge does, it stays alive, and the centre is told of every event once, as an event or as a
//! tally. What a platform refuses before it asks us (no HTTP, too much of it) has no answer of
//! ours.

use std::net::SocketAddr;
use std::time::Duration;

use edge::repeats::Repeats;
use edge::request::Body;
use edge::{Decision, Draft, Method, Policy, State, handle};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::json;
use shared::id::IdAllocator;
use shared::limits::{EDGE_BODY_BYTES_MAX, EVENTS_PER_REQUEST_MAX};
use shared::random::Seeded;
use shared::token::to_text;
use shared::{ImpressionId, Random, Timestamp};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::Reply;
use crate::shells::{Shells, Told, answered, reply_of, seen};
use crate::support::{BROWSER, TokenSpec};

/// A request, as bytes.
#[derive(Clone, Default, Debug)]
struct Raw {
    method: &'static str,
    target: String,
    fields: Vec<(&'static str, Vec<u8>)>,
    body: Vec<u8>,
    /// In chunks of so many bytes, without a length.
    chunk: Option<usize>,
}

impl Raw {
    fn get(target: impl Into<String>) -> Self {
        Self { method: "GET", target: target.into(), ..Self::default() }
    }

    fn post(content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let (target, body) = ("/v1/events".to_owned(), body.into());
        Self { method: "POST", target, body, ..Self::default() }
            .field("Content-Type", content_type.as_bytes())
    }

    fn field(mut self, name: &'static str, value: impl Into<Vec<u8>>) -> Self {
        self.fields.push((name, value.into()));
        self
    }

    fn in_chunks(mut self, bytes: usize) -> Self {
        self.chunk = Some(bytes);
        self
    }

    /// The head, and the body as it is sent.
    fn bytes(&self) -> (Vec<u8>, Vec<u8>) {
        let mut head = format!("{} {} HTTP/1.1\r\nHost: edge\r\n", self.method, self.target);
        head.push_str("Connection: close\r\n");
        let mut head = head.into_bytes();
        for (name, value) in &self.fields {
            head.extend(format!("{name}: ").bytes());
            head.extend(value);
            head.extend(b"\r\n");
        }
        let Some(bytes) = self.chunk else {
            if self.method == "POST" {
                head.extend(format!("Content-Length: {}\r\n", self.body.len()).bytes());
            }
            head.extend(b"\r\n");
            return (head, self.body.clone());
        };
        head.extend(b"Transfer-Encoding: chunked\r\n\r\n");
        let mut body = Vec::new();
        for chunk in self.body.chunks(bytes) {
            body.extend(format!("{:x}\r\n", chunk.len()).bytes());
            body.extend(chunk);
            body.extend(b"\r\n");
        }
        body.extend(b"0\r\n\r\n");
        (head, body)
    }

    /// What the core decides on it. When a field comes more than once, the native edge takes the
    /// first and a Worker gets all of them as one, read as UTF-8.
    fn decide(
        &self,
        shells: &Shells,
        policy: &Policy,
        is_worker: bool,
        kept: &Repeats,
    ) -> Decision {
        let (path, query) = self.target.split_once('?').unwrap_or((&self.target, ""));
        let field = |wanted: &str| {
            let values = self.fields.iter().filter(|(name, _)| *name == wanted);
            let mut values: Vec<&[u8]> = values.map(|(_, value)| value.trim_ascii()).collect();
            if is_worker {
                return String::from_utf8_lossy(&values.join(&b", "[..])).into_owned().into_bytes();
            }
            values.truncate(1);
            values.concat()
        };
        let (content_type, user_agent) = (field("Content-Type"), field("User-Agent"));
        let body = match self.body.len() > EDGE_BODY_BYTES_MAX {
            true => Body::TooLarge,
            false => Body::Whole(&self.body),
        };
        let request = edge::Request {
            query,
            content_type: &content_type,
            user_agent: &user_agent,
            body,
            ..edge::Request::new(Method::from_name(self.method), path)
        };
        let now = shells.world.now;
        let mut memory = Memory { ids: IdAllocator::default(), kept };
        let decision = handle(&request, policy, &mut memory, now, &mut Seeded::new(5));
        decision.events.iter().for_each(|event| kept.remember(event));
        decision
    }
}

/// What an edge remembers.
struct Memory<'a> {
    ids: IdAllocator,
    kept: &'a Repeats,
}

impl State for Memory<'_> {
    fn next_id(&mut self, now: Timestamp, random: &mut dyn Random) -> Option<ImpressionId> {
        Some(self.ids.next(now, random))
    }

    fn is_repeat(&mut self, event: &Draft) -> bool {
        self.kept.has(event)
    }
}

/// Both shells, what they should have told their centres, and where they did not do what the core
/// says.
struct Siege {
    shells: Shells,
    policy: Policy,
    /// By the native edge, by the Worker.
    told: [Told; 2],
    /// What they have.
    kept: [Repeats; 2],
    differ: Vec<String>,
    good: i64,
}

impl Siege {
    async fn begin() -> Self {
        let shells = Shells::start(&[]).await;
        let policy = shells.world.policy();
        let (told, kept) = Default::default();
        // Tokens below are the tests' own.
        Self { shells, policy, told, kept, differ: Vec::new(), good: 1_000 }
    }

    /// Checks that both shells answer this as the core does; returns the core's decision.
    async fn put(&mut self, what: &str, raw: &Raw) -> Decision {
        let (head, body) = raw.bytes();
        let mut decided = None;
        for (at, (name, address)) in self.shells.both().into_iter().enumerate() {
            let is_worker = name == "worker";
            let decision = raw.decide(&self.shells, &self.policy, is_worker, &self.kept[at]);
            self.told[at].add_decided(&decision);
            let expected = seen(&reply_of(&decision, raw.method));
            match answered(address, &head, &body).await {
                Some(reply) if seen(&reply) == expected => {}
                other => self.differ.push(format!("{what}: {name} {other:?}, core {expected}")),
            }
            decided.get_or_insert(decision);
        }
        decided.expect("there are two")
    }

    /// A refusal of ours says why.
    async fn refused(&mut self, what: &str, status: u16, raw: &Raw) {
        let decision = self.put(what, raw).await;
        assert_eq!(decision.reply.status, status, "{what}");
        assert!(!decision.reply.body.is_empty() && decision.events.is_empty(), "{what}");
    }

    /// Sends bytes that the platforms may refuse by themselves; returns the status of each, `None`
    /// where there was no answer.
    async fn throw(&self, what: &str, head: &[u8], body: &[u8]) -> [Option<u16>; 2] {
        let mut statuses = [None; 2];
        for (at, (name, address)) in self.shells.both().into_iter().enumerate() {
            let reply = answered(address, head, body).await;
            statuses[at] = reply.as_ref().map(|reply| reply.status);
            eprintln!("{what}: {name} {:?}", statuses[at]);
        }
        statuses
    }

    /// A good click is sent on by both, and counted in the end.
    async fn is_alive(&mut self, after: &str) {
        self.good += 1;
        let token = self.shells.world.mint(&TokenSpec { seq: self.good, ..TokenSpec::default() });
        let raw = Raw::get(format!("/v1/c/{}", to_text(&token)));
        let decision = self.put(&format!("a click after {after}"), &raw).await;
        assert_eq!((decision.reply.status, decision.events.len()), (302, 1));
    }

    /// The centre of each is told what the core decided, and nothing else.
    async fn end(mut self, after: &str) {
        self.is_alive(after).await;
        assert!(self.differ.is_empty(), "{}", self.differ.join("\n"));
        let watch = shared::ambient::Stopwatch::start();
        loop {
            let told = [self.shells.told_by_native(), self.shells.centre.told()];
            let Some(at) = (0..2).find(|at| told[*at] != self.told[*at]) else { return };
            let (name, _) = self.shells.both()[at];
            let late = watch.elapsed() > Duration::from_secs(5);
            assert!(!late, "after {after}: {}", self.told[at].difference(&told[at], name));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn foreign(&self) -> String {
        let spec = TokenSpec { key: "foreign".to_owned(), ..TokenSpec::default() };
        to_text(&self.shells.world.mint(&spec))
    }
}

const JSON: &str = "application/json";

fn content_type() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(JSON.to_owned()),
        Just("text/plain;charset=UTF-8".to_owned()),
        Just("APPLICATION/JSON".to_owned()),
        Just(String::new()),
        "[ -~]{0,40}",
    ]
}

/// Bytes, words of JSON, and elements with a token that is good (`G`) or of elsewhere (`F`).
fn body() -> impl Strategy<Value = Vec<u8>> {
    let element = prop_oneof![
        Just(r#"{"token":"G","kind":"click"}"#.to_owned()),
        Just(r#"{"token":"G","kind":"viewable"}"#.to_owned()),
        Just(r#"{"token":"F","kind":"click"}"#.to_owned()),
        Just(r#"{"token":"G","kind":"served"}"#.to_owned()),
        Just("null".to_owned()),
        "[ -~]{0,20}".prop_map(|text| json!({ "token": text, "kind": "click" }).to_string()),
    ];
    let events = proptest::collection::vec(element, 0..20)
        .prop_map(|elements| format!("{{\"events\":[{}]}}", elements.join(",")).into_bytes());
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..4_000),
        "[\\[\\]{}\",:a-z0-9\\\\ ]{0,200}".prop_map(String::into_bytes),
        events.clone(),
        events,
    ]
}

/// One workerd for all of them.
#[test]
fn bodies_of_any_bytes_and_any_type() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let siege = std::cell::RefCell::new(Some(runtime.block_on(Siege::begin())));
    let config = ProptestConfig { cases: 100, failure_persistence: None, ..Default::default() };
    let chunk = proptest::option::of(1_usize..2_000);
    let outcome =
        TestRunner::new(config).run(&(content_type(), body(), chunk), |(kind, body, chunk)| {
            let mut siege = siege.borrow_mut();
            let siege = siege.as_mut().unwrap();
            siege.good += 1;
            let good = TokenSpec { seq: siege.good, ..TokenSpec::default() };
            let good = to_text(&siege.shells.world.mint(&good));
            let body = match String::from_utf8(body) {
                Ok(text) => text
                    .replace("\"G\"", &json!(good).to_string())
                    .replace("\"F\"", &json!(siege.foreign()).to_string())
                    .into_bytes(),
                Err(bytes) => bytes.into_bytes(),
            };
            let raw = Raw { chunk, ..Raw::post(&kind, body) };
            runtime.block_on(siege.put("a body", &raw));
            prop_assert!(siege.differ.is_empty(), "{}", siege.differ.remove(0));
            Ok(())
        });
    let siege = siege.take().unwrap();
    outcome.unwrap_or_else(|why| panic!("{why}"));
    runtime.block_on(siege.end("bodies"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_of_any_size_and_ten_thousand_events() {
    let mut siege = Siege::begin().await;
    let good =
        to_text(&siege.shells.world.mint(&TokenSpec { seq: 77_777, ..TokenSpec::default() }));
    let element = json!({ "token": good, "kind": "viewable" }).to_string();
    // As long as may be and a byte more, filled with blanks.
    let sized = |bytes: usize| {
        let mut body = format!("{{\"events\":[{element}]}}").into_bytes();
        body.resize(bytes, b' ');
        body
    };
    for chunk in [None, Some(1_000), Some(100_000)] {
        let post = |body: Vec<u8>| Raw { chunk, ..Raw::post(JSON, body) };
        siege.refused("nothing", 400, &post(Vec::new())).await;
        let whole = siege.put("the longest", &post(sized(EDGE_BODY_BYTES_MAX))).await;
        // Kept once, however it comes.
        let kept = usize::from(chunk.is_none());
        assert_eq!((whole.reply.status, whole.events.len()), (202, kept));
        siege.refused("a byte more", 413, &post(sized(EDGE_BODY_BYTES_MAX + 1))).await;
        siege.refused("twice as long", 413, &post(sized(2 * EDGE_BODY_BYTES_MAX))).await;
        siege.is_alive("large bodies").await;
    }
    // A client that announces too much is told so before it sends it.
    let head = Raw::post(JSON, sized(EDGE_BODY_BYTES_MAX + 1)).bytes().0;
    for (name, address) in siege.shells.both() {
        let reply = first_of(address, &head).await;
        assert!(reply.starts_with("HTTP/1.1 413 "), "{name}: {reply}");
    }
    siege.is_alive("a large body that did not come").await;
    let events = |count: usize, element: &str| {
        format!("{{\"events\":[{}]}}", vec![element; count].join(",")).into_bytes()
    };
    let short = r#"{"token":"AAAA","kind":"click"}"#;
    // A client that sends too many events is told so and still has them: none of them is counted or
    // tallied, for it will send them again in parts.
    for (what, status, count, element) in [
        ("one too many", 400, EVENTS_PER_REQUEST_MAX + 1, element.as_str()),
        ("10 000 short ones", 400, 10_000, short),
        ("10 000 whole ones", 413, 10_000, element.as_str()),
    ] {
        siege.refused(what, status, &Raw::post(JSON, events(count, element))).await;
        siege
            .refused(what, status, &Raw::post(JSON, events(count, element)).in_chunks(65_536))
            .await;
    }
    // In parts, each of them has its outcome.
    for _ in 0..10_000 / EVENTS_PER_REQUEST_MAX / 2 {
        let taken =
            siege.put("500", &Raw::post(JSON, events(EVENTS_PER_REQUEST_MAX, &element))).await;
        // All the same of one token, of which the first is kept.
        assert_eq!(taken.events.len(), 0);
        assert_eq!(taken.tallies[0].count as usize, EVENTS_PER_REQUEST_MAX);
        let tallied =
            siege.put("500", &Raw::post(JSON, events(EVENTS_PER_REQUEST_MAX, short))).await;
        assert_eq!(tallied.tallies[0].count as usize, EVENTS_PER_REQUEST_MAX);
    }
    siege.end("10 000 events").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_elsewhere_and_questions_of_other_pages() {
    let mut siege = Siege::begin().await;
    let foreign = siege.foreign();
    siege.refused("a foreign click", 403, &Raw::get(format!("/v1/c/{foreign}"))).await;
    siege.refused("a foreign pixel", 403, &Raw::get(format!("/v1/i/{foreign}"))).await;
    let elements: Vec<_> = ["impression", "viewable", "click", "served"]
        .map(|kind| json!({ "token": foreign, "kind": kind }))
        .into();
    let beacon = json!({ "events": elements }).to_string();
    for kind in [JSON, "text/plain"] {
        let decision = siege.put("foreign beacons", &Raw::post(kind, beacon.clone())).await;
        assert_eq!(decision.reply.status, 202);
        let tallied: u32 = decision.tallies.iter().map(|loss| loss.count).sum();
        assert_eq!((decision.events.len(), tallied), (0, 4));
    }
    // Pages of any origin may ask: there are no cookies, and no origin has more rights than
    // another.
    for origin in ["null", "https://evil.example", "file://", "http://[::1]:1", ""] {
        let good = siege.shells.token(7);
        for raw in [Raw::get("/v1/serve?placement=nowhere"), Raw::get(format!("/v1/i/{good}"))] {
            siege.put("an origin", &raw.field("Origin", origin)).await;
        }
    }
    let long = "x-".repeat(2_000);
    for target in ["/v1/events", "/v1/serve?placement=top", "/v1/c/x", "/v1/i/x", "/", "/v1"] {
        for (method, headers) in
            [("DELETE", "content-type"), ("BREW", ""), ("", "\u{fc}"), ("POST", long.as_str())]
        {
            let raw = Raw { method: "OPTIONS", ..Raw::get(target) }
                .field("Origin", "https://evil.example")
                .field("Access-Control-Request-Method", method)
                .field("Access-Control-Request-Headers", headers)
                .field("Access-Control-Request-Private-Network", "true");
            siege.put("a preflight", &raw).await;
        }
    }
    siege.end("foreign tokens").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_of_any_length_and_any_bytes() {
    let mut siege = Siege::begin().await;
    let agents: [&[u8]; 4] =
        [b"\xff\xfe\x80", "Mozilla/5.0 ü".as_bytes(), b"Mozilla/5.0 \xfcber", &[0xc3; 2_000]];
    for agent in agents {
        let click = Raw::get(format!("/v1/c/{}", siege.shells.token(1)));
        siege.put("an agent", &click.field("User-Agent", agent)).await;
        let foreign = Raw::get(format!("/v1/i/{}", siege.foreign()));
        siege.refused("an agent", 403, &foreign.field("User-Agent", agent)).await;
    }
    for length in [100, 2_000, 5_000, 10_000] {
        siege.refused("a long link", 400, &Raw::get(format!("/v1/c/{}", "A".repeat(length)))).await;
        siege.refused("a long path", 404, &Raw::get(format!("/{}", "a/".repeat(length / 2)))).await;
        let raw = Raw::get(format!("/v1/serve?placement={}", "a".repeat(length + 100)));
        siege.refused("a long query", 400, &raw).await;
    }
    for target in ["//", "/v1/c//", "/v1/c/%00", "/v1/c/..%2f..", "/v1/serve?placement=%ff"] {
        siege.put(target, &Raw::get(target)).await;
    }
    siege.is_alive("long links").await;
    let nowhere = "GET /nowhere HTTP/1.1\r\nHost: edge\r\nConnection: close\r\n";
    let many: String = (0..5_000).map(|n| format!("X-{n}: {n}\r\n")).collect();
    let bombs = [
        ("5 000 fields", many),
        ("70 KB in one", format!("X-Long: {}\r\n", "a".repeat(70_000))),
        ("1 MB in one", format!("X-Long: {}\r\n", "a".repeat(1_000_000))),
        ("a name of 300 KB", format!("{}: 1\r\n", "X".repeat(300_000))),
        ("a name of no token", "X Y\u{fc}: 1\r\n".to_owned()),
        ("a control character", "X-A: \u{1}\u{2}\r\n".to_owned()),
        ("a folded one", "X-A: 1\r\n  2\r\n".to_owned()),
        ("two lengths", "Content-Length: 1\r\nContent-Length: 2\r\n".to_owned()),
        ("a length of words", "Content-Length: many\r\n".to_owned()),
        ("a length below 0", "Content-Length: -1\r\n".to_owned()),
    ];
    for (what, fields) in bombs {
        let head = format!("{nowhere}{fields}\r\n");
        let statuses = siege.throw(what, head.as_bytes(), b"").await;
        // 404 is ours, the others are the platforms' own words.
        for status in statuses.into_iter().flatten() {
            assert!((400..500).contains(&status), "{what}: {status}");
        }
        siege.is_alive(what).await;
    }
    siege.end("header bombs").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fields_that_come_twice() {
    let mut siege = Siege::begin().await;
    let crawler = "Googlebot/2.1 (+http://www.google.com/bot.html)";
    for [one, other] in [[BROWSER, crawler], [crawler, BROWSER]] {
        let click = Raw::get(format!("/v1/c/{}", siege.shells.token(2)));
        siege.put("two agents", &click.field("User-Agent", one).field("User-Agent", other)).await;
    }
    let body =
        json!({ "events": [{ "token": siege.shells.token(3), "kind": "click" }] }).to_string();
    for other in ["text/html", "text/plain"] {
        let raw = Raw::post(JSON, body.clone()).field("Content-Type", other);
        siege.put("two types", &raw).await;
    }
    siege.end("fields that come twice").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn methods_of_ones_own() {
    let mut siege = Siege::begin().await;
    let targets = ["/v1/c/AAAA", "/v1/i/AAAA", "/v1/events", "/v1/serve?placement=top", "/"];
    for method in ["PUT", "DELETE", "PATCH", "TRACE"] {
        for target in targets {
            let raw = Raw { method, ..Raw::get(target) };
            let decision = siege.put(method, &raw).await;
            assert_eq!(decision.reply.status, if target == "/" { 404 } else { 405 });
        }
    }
    // A Worker is not asked about these. workerd's own words for CONNECT are 500: it looks for a
    // handler of TCP connections, which Cloudflare never asks for.
    for method in ["BREW", "get", "CONNECT", "PRI", "\u{fc}", "GET\t", &"A".repeat(100_000)] {
        for target in targets {
            let head =
                format!("{method} {target} HTTP/1.1\r\nHost: edge\r\nConnection: close\r\n\r\n");
            let statuses =
                siege.throw(&format!("{method:.10} {target}"), head.as_bytes(), b"").await;
            for status in statuses.into_iter().flatten() {
                let of_workerd = status == 501 || (method == "CONNECT" && status == 500);
                assert!((400..500).contains(&status) || of_workerd, "{method:.10}: {status}");
            }
        }
        siege.is_alive("a method").await;
    }
    siege.end("methods").await;
}

/// Sends the parts with a pause before each; with `ends`, says then that nothing more comes.
async fn slowly(
    address: SocketAddr,
    parts: &[&[u8]],
    pause: Duration,
    ends: bool,
) -> Option<Reply> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    for part in parts {
        tokio::time::sleep(pause).await;
        stream.write_all(part).await.unwrap();
        stream.flush().await.unwrap();
    }
    if ends {
        stream.shutdown().await.unwrap();
    }
    Reply::read_any(&mut stream).await
}

/// What the server says first, while the connection stays open.
async fn first_of(address: SocketAddr, head: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(head).await.unwrap();
    let mut bytes = [0; 64];
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut bytes));
    let count = read.await.expect("it answers within 5 s").unwrap();
    String::from_utf8_lossy(&bytes[..count]).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_bodies_and_connections_that_end_by_half() {
    let mut siege = Siege::begin().await;
    let pause = Duration::from_millis(5);
    let token = siege.shells.token(4);
    let body = json!({ "events": [{ "token": token, "kind": "viewable" }] }).to_string();
    for chunk in [None, Some(1)] {
        let raw = Raw { chunk, ..Raw::post(JSON, body.clone()) };
        let [native, worker] =
            [0, 1].map(|at| raw.decide(&siege.shells, &siege.policy, at == 1, &siege.kept[at]));
        assert_eq!(native, worker);
        let decision = native;
        let (head, body) = raw.bytes();
        let mut parts = vec![&head[..]];
        parts.extend(body.chunks(7));
        for (name, address) in siege.shells.both() {
            let reply = slowly(address, &parts, pause, false).await.unwrap();
            assert_eq!((reply.status, &reply.body[..]), (202, &decision.reply.body[..]), "{name}");
        }
        siege.told.iter_mut().for_each(|told| told.add_decided(&decision));
        // Less than what was announced: nothing of it counts.
        for (name, address) in siege.shells.both() {
            let half = slowly(address, &parts[..parts.len() / 2], pause, true).await;
            eprintln!("half a body: {name} {:?}", half.as_ref().map(|reply| reply.status));
            if let Some(half) = half {
                assert!((400..500).contains(&half.status), "{name} {half:?}");
            }
        }
        siege.is_alive("half a body").await;
    }
    // A client that has sent everything and still listens: workerd answers, the native edge closes.
    let nowhere = Raw::get("/v1/serve?placement=nowhere").bytes().0;
    for (name, address) in siege.shells.both() {
        let reply = slowly(address, &[&nowhere], pause, true).await;
        let answered = reply.map(|reply| reply.status);
        assert!(answered == Some(404) || (name == "native" && answered.is_none()), "{name}");
    }
    // Half a head, and a client that leaves in the middle of a body.
    let (head, body) = Raw::post(JSON, body).bytes();
    for (_, address) in siege.shells.both() {
        slowly(address, &[&head[..head.len() / 2]], pause, true).await;
        for length in [0, body.len() / 2] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(&[&head[..], &body[..length]].concat()).await.unwrap();
            tokio::time::sleep(pause).await;
        }
    }
    siege.end("connections that ended").await;
}

/// What follows the announced length of a body is another request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_length_that_lies_smuggles_nothing() {
    let siege = Siege::begin().await;
    let token = siege.shells.token(5);
    let hidden = format!("GET /v1/c/{token} HTTP/1.1\r\nHost: edge\r\n\r\n");
    let post = "POST /v1/events HTTP/1.1\r\nHost: edge\r\nContent-Type: text/plain\r\n";
    let closing = "Connection: close\r\n";
    for (what, lengths) in [
        ("two lengths", "Content-Length: 2\r\nContent-Length: 60\r\n".to_owned()),
        ("chunks and a length", "Transfer-Encoding: chunked\r\nContent-Length: 2\r\n".to_owned()),
        ("a length of words", "Content-Length: 0x2\r\n".to_owned()),
        ("some other coding", "Transfer-Encoding: gzip\r\n".to_owned()),
        ("chunked twice", "Transfer-Encoding: chunked, chunked\r\n".to_owned()),
        ("a length that is too short", "Content-Length: 2\r\n".to_owned()),
    ] {
        let head = format!("{post}{closing}{lengths}\r\n");
        let statuses = siege.throw(what, head.as_bytes(), format!("{{}}{hidden}").as_bytes()).await;
        for status in statuses.into_iter().flatten() {
            assert!((400..500).contains(&status) || status == 501, "{what}: {status}");
        }
    }
    siege.end("lengths that lie").await;
}
