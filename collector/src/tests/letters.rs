//! Dead letters: who sent them, what of them is believed, and how many there may be of each sender.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use eventlog::DEAD;
use eventlog::fake::MemLog;
use serde_json::{Value, json};
use shared::keys::Sender;
use shared::wire::dead::LETTER_BYTES_MAX;
use shared::wire::{Control, DeadLetter, Logged, Word};
use shared::{EdgeId, OutboxId};
use tower::ServiceExt;

use super::sender::{clicks, refusal, send, start};
use super::world::{EDGE, ISSUER, LIMITED, LIMITED_EDGE, Rig, World, id, rig};
use crate::gateway::letters::SENDER_FIELD;
use crate::gateway::router;
use crate::quota::letters::BYTES_PER_HOUR_MIN;
use crate::{LetterFate, Settings, SubmitError};

/// A batch with a byte too many.
fn broken(edge: EdgeId, number: u64) -> bytes::Bytes {
    [&clicks(edge, 1, number, &[])[..], b"!"].concat().into()
}

async fn ask(rig: &Rig<MemLog>, request: Request<Body>) -> (StatusCode, header::HeaderMap, Value) {
    let response = router(Arc::clone(&rig.collector)).oneshot(request).await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, headers, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

async fn resolve(rig: &Rig<MemLog>, sequence: u64, body: &Value) -> (StatusCode, Value) {
    let path = format!("/v1/deadletters/{sequence}/resolve");
    let body = if body == "" { String::new() } else { body.to_string() };
    let (status, _, answer) = ask(rig, Request::post(path).body(body.into()).unwrap()).await;
    (status, answer)
}

/// Which batches the first partition has been told to wait for no more.
fn given_up(rig: &Rig<MemLog>) -> Vec<(OutboxId, u64)> {
    let messages = rig.log.messages(0);
    let words = messages.iter().filter_map(|bytes| match Logged::read(bytes).unwrap() {
        Logged::Control(Control { word: Word::Resolve { outbox, number }, .. }) => {
            Some((outbox, number))
        }
        _ => None,
    });
    words.collect()
}

#[tokio::test]
async fn a_letter_says_who_had_authenticated_himself() {
    let world = World::new();
    let rig = start(&world);
    for (number, issuer) in [(0, Some(ISSUER)), (1, Some(LIMITED)), (2, None)] {
        let response = send(&rig, &world, issuer, broken(EDGE, number)).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    }
    for edge in ["edge-1", "edge-2", "no name"] {
        let refused = rig.collector.submit_from_edge(edge, broken(EDGE, 3)).await;
        assert!(matches!(refused, Err(SubmitError::Refused(_))), "{refused:?}");
    }
    let wanted = [
        Some(Sender::Issuer(ISSUER)),
        Some(Sender::Issuer(LIMITED)),
        Some(Sender::Operator),
        Some(Sender::Edge(EDGE)),
        Some(Sender::Edge(LIMITED_EDGE)),
        None,
    ];
    let letters = rig.log.messages(DEAD);
    let senders: Vec<_> = letters.iter().map(|l| DeadLetter::read(l).unwrap().sender).collect();
    assert_eq!(senders, wanted);

    let list = Request::get("/v1/deadletters").body(Body::empty()).unwrap();
    let (_, _, found) = ask(&rig, list).await;
    let said: Vec<_> = found["letters"].as_array().unwrap().iter().map(|l| &l["sender"]).collect();
    let issuer = |issuer: &str| json!({ "issuer": issuer });
    let edge = |edge: &str| json!({ "edge": edge });
    let wanted = [
        issuer("house"),
        issuer("limited"),
        json!("operator"),
        edge("edge-1"),
        edge("edge-2"),
        Value::Null,
    ];
    assert_eq!(said, wanted.iter().collect::<Vec<_>>());
    assert_eq!(found["letters"][0]["from"], "gateway");
    let texts =
        ["issuer house", "issuer limited", "operator", "edge edge-1", "edge edge-2", "not known"];
    for (letter, text) in found["letters"].as_array().unwrap().iter().zip(texts) {
        let show = Request::get(format!("/v1/deadletters/{}", letter["sequence"]));
        let (_, headers, _) = ask(&rig, show.body(Body::empty()).unwrap()).await;
        assert_eq!(headers[SENDER_FIELD], text);
    }
}

#[tokio::test]
async fn what_a_letter_says_of_itself_gives_up_no_batch_of_another() {
    let world = World::new();
    let rig = start(&world);
    // Over HTTP and over NATS, an issuer sends bytes that look like the next batch of another issuer's edge.
    // An edge that is not registered may be named only by its own letters.
    assert_eq!(send(&rig, &world, Some(LIMITED), broken(EDGE, 7)).await.status(), 400);
    assert_eq!(send(&rig, &world, Some(LIMITED), broken(LIMITED_EDGE, 0)).await.status(), 400);
    assert_eq!(send(&rig, &world, Some(ISSUER), broken(id("w--FRA-0"), 1)).await.status(), 400);
    assert_eq!(send(&rig, &world, Some(ISSUER), broken(id("new"), 2)).await.status(), 400);
    assert_eq!(send(&rig, &world, None, broken(EDGE, 3)).await.status(), 400);
    for (edge, of) in [("edge-2", EDGE), ("edge-1", EDGE), ("new", id("new")), ("no name", EDGE)] {
        let refused = rig.collector.submit_from_edge(edge, broken(of, 4)).await;
        assert!(matches!(refused, Err(SubmitError::Refused(_))), "{refused:?}");
    }
    let outbox = |edge| OutboxId { edge, epoch: 1 };
    let wanted = [
        None,
        Some((outbox(LIMITED_EDGE), 0)),
        Some((outbox(id("w--FRA-0")), 1)),
        None,
        Some((outbox(EDGE), 3)),
        None,
        Some((outbox(EDGE), 4)),
        Some((outbox(id("new")), 4)),
        None,
    ];
    for (sequence, wanted) in (1..).zip(wanted) {
        let before = given_up(&rig);
        let (status, answer) = resolve(&rig, sequence, &json!("")).await;
        let more = given_up(&rig)[before.len()..].to_vec();
        assert_eq!(more, wanted.into_iter().collect::<Vec<_>>(), "{sequence}: {answer}");
        let wanted = if wanted.is_some() { StatusCode::OK } else { StatusCode::FORBIDDEN };
        assert_eq!(status, wanted, "{sequence}: {answer}");
    }
    let (_, answer) = resolve(&rig, 1, &json!("")).await;
    assert_eq!(answer["type"], "urn:countersign:foreign_edge");
    let detail = answer["detail"].as_str().unwrap();
    for part in ["came from the issuer limited", "--batch edge-1/1/7", "--no-batch"] {
        assert!(detail.contains(part), "{detail}");
    }
    let (_, answer) = resolve(&rig, 9, &json!("")).await;
    assert!(answer["detail"].as_str().unwrap().contains("is not known"), "{answer}");

    // What was refused is still there; the operator says which batch it was, or that it was none.
    let list = || Request::get("/v1/deadletters").body(Body::empty()).unwrap();
    let left = ask(&rig, list()).await.2;
    let left: Vec<_> = left["letters"].as_array().unwrap().iter().map(|l| &l["sequence"]).collect();
    assert_eq!(left, [1, 4, 6, 9]);
    let kept = || rig.log.messages(DEAD).len();
    assert_eq!(kept(), 9 + 5, "the first holds those behind it, and their notes");
    let before = given_up(&rig).len();
    let named = json!({ "edge": "edge-1", "epoch": 1, "number": 7 });
    assert_eq!(resolve(&rig, 1, &named).await.0, StatusCode::OK);
    assert_eq!(given_up(&rig)[before..], [(outbox(EDGE), 7)]);
    for sequence in [4, 6, 9] {
        let (status, answer) = resolve(&rig, sequence, &Value::Null).await;
        assert_eq!((status, &answer["batch"]), (StatusCode::OK, &Value::Null));
    }
    assert_eq!(given_up(&rig).len(), before + 1);
    assert_eq!(ask(&rig, list()).await.2["letters"], json!([]));
    assert_eq!(kept(), 1, "what is resolved goes, but for the last message");

    // A letter that comes after the trim is found and resolved as before.
    assert_eq!(send(&rig, &world, None, broken(EDGE, 5)).await.status(), 400);
    let left = ask(&rig, list()).await.2;
    assert_eq!(left["letters"][0]["sequence"], 19);
    assert_eq!(resolve(&rig, 19, &json!("")).await.0, StatusCode::OK);
    assert_eq!(resolve(&rig, 18, &json!("")).await.0, StatusCode::NOT_FOUND);
    assert_eq!((kept(), given_up(&rig).len()), (1, before + 2));
}

#[tokio::test]
async fn a_letter_of_an_earlier_build_is_listed_and_names_no_batch_by_itself() {
    let world = World::new();
    let rig = start(&world);
    let letter = [&b"CSD1\x01\0\0\0\0\0\0\0\x01\0a\x01\0b"[..], &broken(EDGE, 5)].concat();
    let message = eventlog::Message { partition: DEAD, payload: letter.into() };
    eventlog::Log::append(&*rig.log, vec![message]).await.unwrap();
    let list = Request::get("/v1/deadletters").body(Body::empty()).unwrap();
    let (_, _, found) = ask(&rig, list).await;
    let (letter, batch) = (&found["letters"][0], &found["letters"][0]["batch"]);
    assert_eq!((&letter["sender"], &letter["from"]), (&Value::Null, &json!("a")));
    assert_eq!(batch["number"], 5);
    assert_eq!(resolve(&rig, 1, &json!("")).await.0, StatusCode::FORBIDDEN);
    assert_eq!(resolve(&rig, 1, batch).await.0, StatusCode::OK);
    assert_eq!(given_up(&rig), [(OutboxId { edge: EDGE, epoch: 1 }, 5)]);
}

#[tokio::test]
async fn no_sender_fills_the_log_with_dead_letters() {
    let world = World::new();
    let settings = Settings { verify_threads: 1, flush_ms: 1, ..Settings::default() };
    let settings = Settings { dead_letter_bytes_per_hour: 1 << 20, ..settings };
    let rig = rig(MemLog::new(4, [1; 16]), &world, settings);
    let large =
        bytes::Bytes::from([&clicks(EDGE, 1, 0, &[])[..], &[7; 2 * LETTER_BYTES_MAX]].concat());
    let metrics = rig.collector.metrics();
    let bytes = || rig.log.messages(DEAD).iter().map(bytes::Bytes::len).sum::<usize>();
    let mut kept = 0;
    for _ in 0..40 {
        let response = send(&rig, &world, Some(ISSUER), large.clone()).await;
        if response.status() == StatusCode::BAD_REQUEST {
            kept += 1;
            continue;
        }
        let after = response.headers()[header::RETRY_AFTER].to_str().unwrap().parse::<u64>();
        assert!((1..=300).contains(&after.unwrap()), "a letter of 64 KiB each 226 s");
        let (status, kind, detail) = refusal(response).await;
        assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(kind, "too_many_dead_letters", "{detail}");
    }
    assert_eq!((kept, metrics.dead_letters.get()), (15, 15));
    assert!(bytes() <= 1 << 20, "{} bytes", bytes());
    assert_eq!(metrics.letters_over_quota_with(LetterFate::Later).get(), 25);

    // An issuer's edges share its quota; over NATS some batches wait in the queue, the others are dropped.
    let mut held = 0;
    for _ in 0..300 {
        match rig.collector.submit_from_edge("edge-1", large.clone()).await {
            Err(SubmitError::TooManyLetters(after, _)) => {
                assert_eq!(after.as_secs(), 60);
                held += 1;
            }
            refused => assert!(matches!(refused, Err(SubmitError::Refused(_))), "{refused:?}"),
        }
    }
    assert_eq!((held, metrics.letters_over_quota_with(LetterFate::LetGo).get()), (256, 44));
    assert_eq!(rig.log.messages(DEAD).len(), 15);

    // Another sender's letters are kept, and batches that can be decoded are still taken from both.
    let response = send(&rig, &world, Some(LIMITED), large.clone()).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert!(rig.collector.submit_from_edge("edge-1", clicks(EDGE, 1, 0, &[])).await.is_ok());
    // After an hour there is room for as many again.
    rig.clock.0.fetch_add(3_600_000, Ordering::SeqCst);
    let refused = rig.collector.submit_from_edge("edge-1", large).await;
    assert!(matches!(refused, Err(SubmitError::Refused(_))), "{refused:?}");
    assert_eq!(metrics.dead_letters.get(), 17);
    assert!(BYTES_PER_HOUR_MIN > LETTER_BYTES_MAX as u64 + 4_096, "one letter always goes");
}

#[tokio::test]
async fn a_flood_of_one_sender_hides_nobody_else_s_and_is_resolved_at_once() {
    let world = World::new();
    let rig = start(&world);
    // More letters than one answer shows; one of the sender's names an edge of another issuer.
    for number in 0..1_100 {
        let status = send(&rig, &world, Some(ISSUER), broken(EDGE, number)).await.status();
        assert_eq!(status, StatusCode::BAD_REQUEST);
    }
    assert_eq!(send(&rig, &world, Some(ISSUER), broken(LIMITED_EDGE, 5)).await.status(), 400);
    assert_eq!(send(&rig, &world, Some(LIMITED), broken(LIMITED_EDGE, 7)).await.status(), 400);
    let list = async |query: &str| {
        let request = Request::get(format!("/v1/deadletters{query}"));
        let (status, _, answer) = ask(&rig, request.body(Body::empty()).unwrap()).await;
        (status, answer)
    };
    let resolve = async |query: &str, body: &'static str| {
        let request = Request::post(format!("/v1/deadletters/resolve{query}"));
        let (status, _, answer) = ask(&rig, request.body(body.into()).unwrap()).await;
        (status, answer)
    };
    let sequences = |answer: &Value| {
        let letters = answer["letters"].as_array().unwrap().iter();
        letters.map(|letter| letter["sequence"].as_u64().unwrap()).collect::<Vec<_>>()
    };

    let (_, all) = list("").await;
    assert_eq!(
        (sequences(&all).len(), &all["more"], &all["all"]),
        (1_000, &json!(true), &json!(1_102))
    );
    let sent: Vec<_> = all["senders"].as_array().unwrap().iter().collect();
    assert_eq!((sent.len(), &all["others"], &all["end"]), (2, &json!(0), &json!(1_102)));
    assert_eq!(
        (&sent[0]["sender"], &sent[0]["letters"]),
        (&json!({"issuer": "house"}), &json!(1_101))
    );
    assert_eq!(
        (&sent[1]["sender"], &sent[1]["letters"]),
        (&json!({"issuer": "limited"}), &json!(1))
    );
    for sender in ["issuer:limited", "issuer%20limited", "issuer+limited"] {
        let (_, other) = list(&format!("?sender={sender}")).await;
        assert_eq!((sequences(&other), &other["more"]), (vec![1_102], &json!(false)));
        assert_eq!(other["senders"], all["senders"], "whatever is asked for");
    }
    let (_, page) = list("?sender=issuer:house&limit=3&after=1097").await;
    assert_eq!((sequences(&page), &page["more"]), (vec![1_098, 1_099, 1_100], &json!(true)));
    let (_, page) = list("?after=1100").await;
    assert_eq!((sequences(&page), &page["more"]), (vec![1_101, 1_102], &json!(false)));

    what_is_not_known_is_refused(&rig).await;
    assert_eq!(list("").await.1, all, "nothing is changed");

    // Each letter is resolved as it would be alone: its batch is given up, unless its edge is not the
    // sender's.
    let (_, first) = resolve("?sender=issuer:house&until=1101", "").await;
    assert_eq!(
        first,
        json!({"resolved": 1_000, "batches": 1_000, "kept": 0, "why": null, "next": 1_000, "end": 1_102})
    );
    let (_, rest) = resolve("?sender=issuer:house&until=1101&after=1000", "").await;
    let counts = ["resolved", "batches", "kept", "next"].map(|name| &rest[name]);
    assert_eq!(counts, [&json!(100), &json!(100), &json!(1), &Value::Null]);
    assert!(rest["why"].as_str().unwrap().contains("dead letter 1101 came from the issuer house"));
    let outbox = |edge| OutboxId { edge, epoch: 1 };
    assert_eq!(given_up(&rig), (0..1_100).map(|n| (outbox(EDGE), n)).collect::<Vec<_>>());
    let (_, left) = list("").await;
    assert_eq!((sequences(&left), &left["all"]), (vec![1_101, 1_102], &json!(2)));
    let (_, rest) = resolve("?sender=issuer:house", "null").await;
    assert_eq!((&rest["resolved"], &rest["batches"]), (&json!(1), &json!(0)));
    assert_eq!(sequences(&list("").await.1), [1_102]);
    assert_eq!(given_up(&rig).len(), 1_100);
}

async fn what_is_not_known_is_refused(rig: &Rig<MemLog>) {
    let (get, post) = (Request::get, Request::post);
    let mut wrong = Vec::new();
    for query in [
        "?offset=1",
        "?after=x",
        "?after=-1",
        "?limit=0",
        "?limit=1001",
        "?after=1&after=2",
        "?sender=house",
        "?sender=issuer:",
        "?until=5",
    ] {
        wrong.push((get(format!("/v1/deadletters{query}")), ""));
    }
    for (query, body) in [
        ("", ""),
        ("?after=1", ""),
        ("?sender=issuer:house&limit=1", ""),
        ("?sender=issuer:house", "{}"),
    ] {
        wrong.push((post(format!("/v1/deadletters/resolve{query}")), body));
    }
    for (request, body) in wrong {
        let request = request.body(body.into()).unwrap();
        let uri = request.uri().to_string();
        let (status, _, answer) = ask(rig, request).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{uri}");
        let kind = answer["type"].as_str().unwrap();
        assert_eq!(kind == "urn:countersign:invalid_parameter", body.is_empty(), "{uri}: {kind}");
    }
}
