//! Events that are judged again, and many questions at one moment.

use shared::wire::Judged;
use shared::{Country, Device, Money};

use super::reports::check_reports;
use super::*;

type Event = Judged<'static>;

async fn post<L: Log, S: Stores>(
    aggregator: &Aggregator<L, S>,
    uri: &str,
    body: &Value,
) -> (StatusCode, Value) {
    let request = Request::builder().method("POST").uri(uri).body(Body::from(body.to_string()));
    let router = api::Principal::Operator.asks(aggregator.router());
    let response = router.oneshot(request.unwrap()).await.unwrap();
    let status = response.status();
    let body = axum::body::to_bytes(response.into_body(), 64 << 20).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap())
}

/// A dry run, and then the restatement itself.
async fn restate<L: Log, S: Stores>(aggregator: &Aggregator<L, S>, mut body: Value) -> Value {
    let uri = "/v1/restatements";
    let (status, dry) = post(aggregator, uri, &body).await;
    assert_eq!((status, &dry["dry_run"]), (StatusCode::OK, &json!(true)), "{dry}");
    body["confirm"] = dry["confirm"].clone();
    let (status, made) = post(aggregator, uri, &body).await;
    assert_eq!((status, &made["dry_run"]), (StatusCode::CREATED, &json!(false)), "{made}");
    for field in ["verdicts", "valid", "credits", "campaigns"] {
        assert_eq!(made[field], dry[field], "{field}");
    }
    // What was looked at is not that any more.
    let (status, again) = post(aggregator, uri, &body).await;
    assert_eq!(status, StatusCode::CONFLICT, "{again}");
    made
}

/// What each restatement of the test does to an event.
const JUDGE: [fn(&mut Event); 2] = [
    |event| {
        if event.codes.country == Country::lenient("DE") {
            event.outcome = Ok(Some(Reason::Bot));
        }
    },
    |event| {
        let flagged = [Ok(Some(Reason::Bot)), Ok(Some(Reason::Prefetch))];
        let is_phone = event.codes.device == Device::Phone;
        if event.kind == Kind::Impression && is_phone && flagged.contains(&event.outcome) {
            event.outcome = Ok(None);
        }
    },
];

fn judged(events: &[Event], holds: &[usize]) -> Vec<Event> {
    let judge = |event: &Event| {
        let mut judged = *event;
        holds.iter().for_each(|at| JUDGE[*at](&mut judged));
        // What a flagged event would have cost is not kept.
        if event.outcome != Ok(None) {
            judged.price = Money::ZERO;
        }
        judged
    };
    events.iter().map(judge).collect()
}

fn spend(events: &[Event]) -> i64 {
    let valid = events.iter().filter(|e| e.kind == Kind::Impression && e.outcome == Ok(None));
    valid.map(|event| event.price.micros).sum()
}

async fn check_restated<L: Log, S: Stores>(
    aggregator: &Aggregator<L, S>,
    world: &mut World,
    holds: &[usize],
) {
    let events = world.oracle.events.clone();
    world.oracle.events = judged(&events, holds);
    check_reports(aggregator, world).await;
    let first = *world.oracle.minutes.first().unwrap();
    let all = range(first, Minute(world.oracle.minutes.last().unwrap().0 + 1));
    let body = good(aggregator, &format!("/v1/credits?{all}")).await;
    let credits = body["credits"].as_array().unwrap().iter();
    let credit: i64 = credits.filter_map(|one| one["credit_micros"]["EUR"].as_i64()).sum();
    assert_eq!(credit, spend(&events) - spend(&world.oracle.events), "{body}");
    world.oracle.events = events;
}

#[tokio::test]
async fn events_judged_again_are_what_they_were_judged_to_be() {
    let (mut world, log, stores) = (World::new(5), mem_log(), MemStores::new());
    for _ in 0..25 {
        log.append(world.flush()).await.unwrap();
    }
    let running = start(&log, stores.clone());
    caught_up(&running).await;
    let minutes = &world.oracle.minutes;
    let (first, last) = (*minutes.first().unwrap(), Minute(minutes.last().unwrap().0 + 30));
    let (from, to) = (first.start().to_string(), last.start().to_string());
    let counted = format!("/v1/ads/ad-1/count?{}", range(first, last));
    let before = good(&running, &counted).await["revision"].as_u64().unwrap();

    let body =
        json!({"where": "country=DE", "from": from, "to": to, "verdict": "bot", "why": "a farm"});
    let made = restate(&running, body).await;
    assert_eq!(made["restatement_id"], 1);
    assert!(made["verdicts"]["valid"].as_i64().unwrap() < 0, "{made}");
    check_restated(&running, &mut world, &[0]).await;
    assert_eq!(good(&running, &counted).await["revision"], before + 1);

    let phones = json!({
        "where": {"reason": ["bot", "prefetch"], "device": "phone"}, "event": "impression",
        "from": first.start().seconds(), "to": to, "verdict": "valid", "why": "they were people",
    });
    restate(&running, phones).await;
    check_restated(&running, &mut world, &[0, 1]).await;
    // What comes later is judged too.
    for _ in 0..15 {
        log.append(world.flush()).await.unwrap();
    }
    caught_up(&running).await;
    check_restated(&running, &mut world, &[0, 1]).await;
    running.close().await;

    let running = start(&log, stores.clone());
    caught_up(&running).await;
    check_restated(&running, &mut world, &[0, 1]).await;
    let made = restate(&running, json!({"takes_back": 1, "why": "it was no farm"})).await;
    assert_eq!(made["restatement_id"], 3);
    check_restated(&running, &mut world, &[1]).await;
    let listed = good(&running, "/v1/restatements").await;
    assert_eq!(listed["restatements"][0]["taken_back_by"], 3, "{listed}");
    assert_eq!(listed["restatements"][1]["event"], "impression");
    restate(&running, json!({"takes_back": 2, "why": "nor were these"})).await;
    check_restated(&running, &mut world, &[]).await;
    running.close().await;
}

#[tokio::test]
async fn a_restatement_that_cannot_be_made_says_why() {
    let (log, stores, _) = saved().await;
    let running = start(&log, stores);
    caught_up(&running).await;
    let (from, to) = (START.start().to_string(), Minute(START.0 + 5).start().to_string());
    let whole =
        json!({"where": "country=DE", "from": from, "to": to, "verdict": "bot", "why": "w"});
    let with = |field: &str, value: Value| {
        let mut body = whole.clone();
        body[field] = value;
        body
    };
    let (invalid, conflict) = (StatusCode::BAD_REQUEST, StatusCode::CONFLICT);
    for (body, status, words) in [
        (with("why", json!(" ")), invalid, "why: say it"),
        (with("verdict", json!("nonsense")), invalid, "verdict: a reason is `valid`, or"),
        (with("verdict", json!(null)), invalid, "verdict: give text"),
        (with("where", json!("")), invalid, "where: it is missing"),
        (with("where", json!("colour=red")), invalid, "where: "),
        (with("event", json!("click-ish")), invalid, "event: "),
        (with("to", json!(from)), invalid, "to: "),
        (with("takes_back", json!(1)), invalid, "takes_back: give it without"),
        (with("colour", json!(1)), invalid, "colour: unknown field"),
        (json!({"takes_back": 7, "why": "w"}), StatusCode::NOT_FOUND, "no restatement 7"),
        (with("confirm", json!("0123")), conflict, "look at a dry run again"),
        (json!([1]), invalid, "give an object with"),
    ] {
        let (is, problem) = post(&running, "/v1/restatements", &body).await;
        assert_eq!(is, status, "{body}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(words), "{body}: {problem}");
    }
    restate(&running, whole.clone()).await;
    restate(&running, json!({"takes_back": 1, "why": "w"})).await;
    for (id, words) in [(1, "was taken back by 2"), (2, "takes another one back")] {
        let (status, problem) =
            post(&running, "/v1/restatements", &json!({"takes_back": id, "why": "w"})).await;
        assert_eq!(status, conflict);
        assert!(problem["detail"].as_str().unwrap().contains(words), "{problem}");
    }
    running.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_questions_are_answered_from_one_moment() {
    let (world, flushes) = history(6, 60);
    let (log, stores) = (mem_log(), MemStores::new());
    let running = start(&log, stores);
    let minutes = &world.oracle.minutes;
    let (first, last) = (*minutes.first().unwrap(), Minute(minutes.last().unwrap().0 + 1));
    let all = range(first, last);
    // What adds up only when nothing is counted in between: the parts come behind their sum.
    let mut questions = vec![format!("/v1/top?of=advertisers&count=100&validity=all&{all}")];
    for ad in crate::testing::ADS {
        let ad = shared::text::escaped(ad);
        questions.push(format!("/v1/ads/{ad}/aggregated_count?validity=all&{all}"));
        questions.push(format!("/v1/ads/{ad}/count?validity=all&{all}"));
    }
    questions.push(format!(
        "/v1/ads/popular_ads?count=100&validity=all&window={}&at={}",
        last.0 - first.0,
        last.start().seconds()
    ));
    questions.push("/v1/accounting".to_owned());
    questions.push(format!("/v1/ads/ad-1/count?{all}&colour=red"));
    let append = async {
        for messages in &flushes {
            log.append(messages.clone()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    };
    let asked = async || {
        let mut rounds = 0;
        loop {
            let (status, body) =
                post(&running, "/v1/query", &json!({"questions": questions})).await;
            assert_eq!(status, StatusCode::OK, "{body}");
            let answers = body["answers"].as_array().unwrap();
            let [sum, counts @ .., popular, unknown, refused] = &answers[..] else { panic!() };
            assert_eq!((&unknown["status"], &refused["status"]), (&json!(404), &json!(400)));
            let of = |answer: &Value| answer["body"]["count"].as_u64().unwrap();
            let ads: u64 = counts.iter().step_by(2).map(of).sum();
            assert!(counts.chunks(2).all(|two| of(&two[0]) == of(&two[1])), "{body}");
            let top = sum["body"]["top"].as_array().unwrap();
            let all: u64 = top.iter().map(|place| place["count"].as_u64().unwrap()).sum();
            let listed = popular["body"]["counts"].as_array().unwrap();
            let listed: u64 = listed.iter().map(|count| count.as_u64().unwrap()).sum();
            assert_eq!((ads, listed), (all, all), "{body}");
            rounds += 1;
            tokio::task::yield_now().await;
            if all > 0 && rounds > 50 {
                break;
            }
        }
    };
    // Several moments are taken while every partition is written to: none waits for another for ever.
    tokio::join!(append, asked(), asked(), asked(), asked());
    for (body, words) in [
        (json!({"questions": []}), "ask from 1 to 100"),
        (json!({"questions": ["http://elsewhere/v1/top"]}), "questions[0]"),
        (json!({"ask": []}), "unknown field"),
    ] {
        let (status, problem) = post(&running, "/v1/query", &body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(problem["detail"].as_str().unwrap().contains(words), "{problem}");
    }
    running.close().await;
}
