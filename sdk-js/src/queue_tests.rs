use serde_json::Value;

use super::*;

fn id(n: usize) -> String {
    format!("{n:024x}")
}

fn filled(events: usize, token_chars: usize) -> Queue {
    let mut queue = Queue::default();
    for n in 0..events {
        queue.push(Kind::Impression, &id(n), &"t".repeat(token_chars)).unwrap();
    }
    queue
}

fn tokens(body: &str) -> usize {
    let body: Value = serde_json::from_str(body).unwrap();
    body["events"].as_array().unwrap().len()
}

fn accepted(events: usize) -> String {
    vec!["accepted"; events].join(",")
}

#[test]
fn the_kinds_are_those_of_the_wire() {
    for kind in [Kind::Impression, Kind::Viewable] {
        assert_eq!(kind.name().parse::<shared::Kind>().unwrap().name(), kind.name());
        assert_eq!(Kind::from_name(kind.name()), Some(kind));
    }
    assert_eq!(Kind::from_name("click"), None);
}

#[test]
fn a_body_is_what_the_edge_reads() {
    let mut queue = Queue::default();
    queue.push(Kind::Impression, "00a", "A-_z").unwrap();
    queue.push(Kind::Viewable, "00a", "A-_z").unwrap();
    let batch = queue.take(0, false).unwrap();
    assert_eq!(
        batch.body,
        r#"{"events":[{"token":"A-_z","kind":"impression"},{"token":"A-_z","kind":"viewable"}]}"#
    );
    assert_eq!(queue.take(0, true), None, "all are under way");
}

#[test]
fn every_body_is_below_16_kib_and_together_they_have_everything() {
    for token_chars in [1, 39, 40, 330, 331, 332, 4_096] {
        let mut queue = filled(WAITING_MAX, token_chars);
        let mut events = 0;
        while let Some(batch) = queue.take(0, false) {
            assert!(batch.body.len() < BODY_BYTES_MAX, "{}", batch.body.len());
            events += tokens(&batch.body);
            // As full as allowed: another event would not have fitted.
            let one = batch.body.len() - OPEN.len() - CLOSE.len();
            let one = one.div_ceil(tokens(&batch.body)) + 1;
            assert!(events == WAITING_MAX || batch.body.len() + one >= BODY_BYTES_MAX);
        }
        assert_eq!(events, WAITING_MAX, "tokens of {token_chars}");
    }
}

#[test]
fn the_exact_edge_of_16_kib() {
    // Two events whose body has 16 383 bytes go together, with one byte more they do not.
    let around = OPEN.len() + CLOSE.len() + r#"{"token":"","kind":"impression"},"#.len() * 2 - 1;
    let room = BODY_BYTES_MAX - 1 - around;
    for (more, together) in [(0, 6), (1, 5)] {
        let mut queue = Queue::default();
        let each = (room - 4 * 33) / 6;
        let rest = (room - 4 * 33) % 6;
        for n in 0..6 {
            let chars = each + if n == 0 { rest + more } else { 0 };
            queue.push(Kind::Impression, &id(n), &"t".repeat(chars)).unwrap();
        }
        let body = queue.take(0, false).unwrap().body;
        assert_eq!(tokens(&body), together, "{} bytes", body.len());
        assert!(together < 6 || body.len() == BODY_BYTES_MAX - 1, "{}", body.len());
    }
}

#[test]
fn an_identity_is_taken_once_whatever_the_token() {
    let mut queue = Queue::default();
    queue.push(Kind::Impression, "a", "t").unwrap();
    assert_eq!(queue.push(Kind::Impression, "a", "u"), Err(Refused::Repeated));
    queue.push(Kind::Viewable, "a", "t").unwrap();
    let batch = queue.take(0, false).unwrap();
    queue.settle(batch.number, 0, Answer::Results("accepted,accepted"));
    assert!(queue.is_empty());
    assert_eq!(queue.push(Kind::Impression, "a", "t"), Err(Refused::Repeated), "though it is sent");
    assert_eq!(queue.tally(), Tally { made: 2, accepted: 2, ..Tally::default() });
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut queue = Queue::default();
    for n in 0..=SEEN_MAX {
        queue.push(Kind::Impression, &id(n), "t").unwrap();
        let batch = queue.take(0, false).unwrap();
        queue.settle(batch.number, 0, Answer::Results("accepted"));
    }
    assert_eq!(queue.seen.len(), SEEN_MAX);
    assert_eq!(queue.push(Kind::Impression, &id(1), "t"), Err(Refused::Repeated));
    queue.push(Kind::Impression, &id(0), "t").unwrap();
}

#[test]
fn a_full_queue_refuses_and_says_so() {
    let mut queue = filled(WAITING_MAX, 10);
    assert_eq!(queue.push(Kind::Viewable, "a", "t"), Err(Refused::Full));
    assert_eq!(queue.tally().dropped, 1);
    let batch = queue.take(0, false).unwrap();
    queue.settle(batch.number, 0, Answer::Results(&accepted(WAITING_MAX)));
    queue.push(Kind::Viewable, "a", "t").unwrap();
}

#[test]
fn nothing_that_would_break_the_json_is_taken() {
    let mut queue = Queue::default();
    let long = "t".repeat(TOKEN_CHARS_MAX + 1);
    for (id, token) in
        [("a", "\""), ("a", ""), ("", "t"), ("a b", "t"), ("a", "t\n"), ("ä", "t"), ("a", &long)]
    {
        assert_eq!(queue.push(Kind::Impression, id, token), Err(Refused::Malformed));
    }
    assert_eq!((queue.tally(), queue.len()), (Tally::default(), 0));
}

#[test]
fn a_failure_is_followed_by_longer_and_longer_waits() {
    let mut queue = filled(1, 10);
    let mut now_ms = 0;
    for wait_ms in [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000] {
        let batch = queue.take(now_ms, false).unwrap();
        queue.settle(batch.number, now_ms, Answer::from_status(0, 0, ""));
        assert_eq!(queue.wait_ms(now_ms), Some(wait_ms));
        assert_eq!(queue.take(now_ms + wait_ms - 1, false), None);
        now_ms += wait_ms;
    }
    let batch = queue.take(now_ms, false).unwrap();
    queue.settle(batch.number, now_ms, Answer::from_status(202, 0, "accepted"));
    assert_eq!((queue.wait_ms(now_ms), queue.tally().accepted), (None, 1));
}

#[test]
fn retry_after_is_followed_within_bounds() {
    for (status, asked_s, wait_ms) in
        [(503, 5, 5_000), (429, 5, 5_000), (500, 0, 1_000), (503, u64::MAX, 3_600_000)]
    {
        let mut queue = filled(1, 10);
        let batch = queue.take(0, false).unwrap();
        queue.settle(batch.number, 0, Answer::from_status(status, asked_s, ""));
        assert_eq!(queue.wait_ms(0), Some(wait_ms), "{status}");
        assert_eq!(queue.tally().refused, 0);
    }
}

#[test]
fn leaving_the_page_and_coming_online_wait_for_nothing() {
    let mut queue = filled(1, 10);
    let batch = queue.take(0, false).unwrap();
    queue.settle(batch.number, 0, Answer::Later(0));
    assert_eq!(queue.take(1, false), None);
    let batch = queue.take(1, true).unwrap();
    queue.settle(batch.number, 1, Answer::Later(0));
    queue.wake();
    assert!(queue.take(2, false).is_some());
}

#[test]
fn a_wrong_request_is_not_repeated() {
    let mut queue = filled(2, 10);
    let batch = queue.take(0, false).unwrap();
    queue.settle(batch.number, 0, Answer::from_status(400, 0, ""));
    assert!(queue.is_empty());
    assert_eq!(queue.tally().refused, 2);
}

#[test]
fn a_reason_is_final_and_a_missing_result_is_none() {
    let mut queue = filled(4, 10);
    let batch = queue.take(0, false).unwrap();
    queue.settle(batch.number, 0, Answer::Results("accepted,expired,queued"));
    let tally = Tally { made: 4, accepted: 2, refused: 2, dropped: 0 };
    assert_eq!((queue.tally(), queue.is_empty()), (tally, true));
}

#[test]
fn a_beacon_is_sent_again_until_somebody_answers() {
    let mut queue = filled(1, 10);
    let batch = queue.take(0, true).unwrap();
    queue.settle(batch.number, 0, Answer::Unknown);
    assert_eq!(queue.take(0, false), None, "not at once");
    assert!(!queue.dump().is_empty(), "a later page has it");
    queue.wake();
    assert_eq!(queue.take(1, false).unwrap().body, batch.body);
}

#[test]
fn answers_out_of_order_and_twice_settle_their_own_batch() {
    let mut queue = filled(1, 10);
    let first = queue.take(0, false).unwrap();
    queue.push(Kind::Viewable, &id(0), "t").unwrap();
    let second = queue.take(0, false).unwrap();
    queue.settle(second.number, 0, Answer::Results("accepted"));
    assert_eq!(queue.len(), 1);
    queue.settle(first.number, 0, Answer::Later(0));
    queue.settle(first.number, 0, Answer::Results("accepted"));
    assert_eq!((queue.len(), queue.tally().accepted), (1, 1), "no longer under way with it");
}

#[test]
fn what_is_stored_comes_back_once() {
    let mut queue = filled(3, 10);
    let _under_way = queue.take(0, false).unwrap();
    queue.push(Kind::Viewable, &id(0), "tok-en_").unwrap();
    let stored = queue.dump();
    let mut other = Queue::default();
    other.push(Kind::Viewable, &id(0), "tok-en_").unwrap();
    assert_eq!(other.load(&stored), 3, "what it has already is left out");
    assert_eq!(other.load(&stored), 0);
    assert_eq!((other.len(), other.tally().made), (4, 1));
    assert_eq!(tokens(&other.take(0, false).unwrap().body), 4);
    assert_eq!(Queue::default().dump(), "");
}

#[test]
fn what_cannot_be_read_from_storage_is_left_out() {
    let good = format!("{STORED_VERSION}\nimpression a t");
    for (text, events) in [
        (good.clone(), 1),
        (String::new(), 0),
        (good.replace(" 1\n", " 2\n"), 0),
        (format!("{good}\nclick b t\nviewable\nviewable a\nviewable b \"\n\nviewable c t"), 2),
    ] {
        assert_eq!(Queue::default().load(&text), events, "{text:?}");
    }
    let many: Vec<String> = (0..999).map(|n| format!("viewable {n} t")).collect();
    let many = format!("{STORED_VERSION}\n{}", many.join("\n"));
    assert_eq!(Queue::default().load(&many), WAITING_MAX);
}

/// Whatever the network does: every event ends with one result or still waits, and none is in two
/// bodies that are under way.
#[test]
fn random_networks_lose_nothing() {
    let mut seed = 11_u64;
    let mut next = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    for _ in 0..300 {
        let (mut queue, mut under_way, mut now_ms) = (Queue::default(), Vec::new(), 0);
        for n in 0..200 {
            now_ms += next(3_000);
            match next(5) {
                0 | 1 => drop(queue.push(Kind::Impression, &id(n), &"t".repeat(400))),
                2 => under_way.extend(queue.take(now_ms, next(4) == 0)),
                3 if !under_way.is_empty() => {
                    let at = usize::try_from(next(9)).unwrap() % under_way.len();
                    let batch: Batch = under_way.swap_remove(at);
                    let results = accepted(tokens(&batch.body));
                    let answer = match next(3) {
                        0 => Answer::Later(0),
                        1 => Answer::Unknown,
                        _ => Answer::Results(&results),
                    };
                    queue.settle(batch.number, now_ms, answer);
                }
                _ => queue.wake(),
            }
            let sent: usize = under_way.iter().map(|batch| tokens(&batch.body)).sum();
            let marked = queue.waiting.iter().filter(|event| event.batch.is_some()).count();
            assert_eq!(sent, marked);
            let tally = queue.tally();
            assert_eq!(tally.made as usize, tally.accepted as usize + queue.len());
        }
    }
}
