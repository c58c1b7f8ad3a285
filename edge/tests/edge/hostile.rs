//! Hostile input: it causes no panic and no redirect without a token of ours, and each event has
//! one outcome.

use std::sync::LazyLock;

use crate::support::{NOW, TokenSpec, World};
use edge::request::Body;
use edge::{Decision, Method, Policy, Request, handle};
use proptest::prelude::*;
use shared::id::IdAllocator;
use shared::random::Seeded;
use shared::token::{Signer, sign, tag, to_text};
use shared::{Kind, Reason};

static WORLD: LazyLock<(World, Policy)> = LazyLock::new(|| {
    let world = World::new();
    let policy = world.policy();
    (world, policy)
});

fn decide(request: &Request<'_>) -> Decision {
    handle(request, &WORLD.1, &mut IdAllocator::default(), NOW, &mut Seeded::new(3))
}

fn get(path: &str) -> Decision {
    decide(&Request::new(Method::Get, path))
}

/// What must hold for the decision on any request without a token of ours.
fn assert_harmless(decision: &Decision) {
    assert_ne!(decision.reply.status / 100, 3, "a redirect");
    assert_eq!(decision.reply.location, None);
    assert!(decision.events.iter().all(|event| event.kind == Kind::Served));
}

#[test]
fn every_bit_flip_of_a_token_is_refused_and_tallied() {
    let bytes = WORLD.0.mint(&TokenSpec::default());
    let body = bytes.len() - 16;
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        for (path, kind) in [("/v1/c/", Kind::Click), ("/v1/i/", Kind::Impression)] {
            let decision = get(&format!("{path}{}", to_text(&flipped)));
            assert!((400..500).contains(&decision.reply.status), "bit {bit}");
            assert!(decision.events.is_empty() && decision.reply.location.is_none());
            assert_eq!(decision.tallies.len(), 1, "bit {bit}");
            let lost = decision.tallies[0];
            assert_eq!((lost.kind, lost.count), (kind, 1));
            if bit / 8 >= body - 64 {
                assert_eq!(lost.reason, Reason::BadSeal, "bit {bit}");
            }
        }
    }
}

#[test]
fn every_flip_of_a_character_and_every_truncation_is_refused() {
    let text = to_text(&WORLD.0.mint(&TokenSpec::default()));
    for at in 0..text.len() {
        let decision = get(&format!("/v1/c/{}", &text[..at]));
        assert!((400..500).contains(&decision.reply.status), "cut at {at}");
        for other in ["A", "_", "+", "=", "%", " "] {
            let changed = format!("{}{other}{}", &text[..at], &text[at + 1..]);
            if changed != text {
                let decision = get(&format!("/v1/c/{changed}"));
                assert!((400..500).contains(&decision.reply.status), "{other} at {at}");
            }
        }
    }
}

/// A signer that is less careful than ours: sealed and signed by a key of the deployment, to a
/// place where no redirect may go.
#[test]
fn a_well_sealed_token_with_a_bad_url_is_no_redirect() {
    let (world, _) = &*WORLD;
    let key = ed25519_dalek::SigningKey::from_bytes(world.live.secret.expose());
    let good = "https://acme.example/shoes?from=ad&n=1";
    for url in [
        "javascript:alert(document.cookie)/*---*/",
        "https://x/\r\nset-cookie: a=b",
        "//evil.example",
        "",
    ] {
        let mut bytes = world.mint(&TokenSpec::default());
        bytes.truncate(bytes.len() - 64 - 16 - good.len() - 2);
        bytes.extend((url.len() as u16).to_be_bytes());
        bytes.extend(url.as_bytes());
        sign(&mut bytes, &key);
        tag(&mut bytes, Signer::new(&world.live).tags(), NOW.day());
        let decision = get(&format!("/v1/c/{}", to_text(&bytes)));
        assert_eq!(decision.reply.status, 400, "{url}");
        assert_harmless(&decision);
        assert_eq!(decision.tallies[0].reason, Reason::Malformed);
    }
}

fn method() -> impl Strategy<Value = Method> {
    prop_oneof![
        Just(Method::Get),
        Just(Method::Head),
        Just(Method::Post),
        Just(Method::Options),
        Just(Method::Other)
    ]
}

fn path() -> impl Strategy<Value = String> {
    let known = prop_oneof![
        Just("/v1/c/"),
        Just("/v1/i/"),
        Just("/v1/events"),
        Just("/v1/serve"),
        Just("/.well-known/countersign/jwks.json"),
        Just("/"),
        Just("")
    ];
    (known, "[ -~é]{0,80}").prop_map(|(known, rest)| format!("{known}{rest}"))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_requests_do_no_harm(
        method in method(),
        path in path(),
        query in "(placement=(top|side|x)|consent=1|&|=|[ -~]){0,4}",
        header in proptest::collection::vec(any::<u8>(), 0..40),
        body in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let request = Request {
            query: &query,
            content_type: b"application/json",
            user_agent: &header,
            purpose: &header,
            if_none_match: &header,
            country: &header,
            body: Body::Whole(&body),
            ..Request::new(method, &path)
        };
        assert_harmless(&decide(&request));
    }

    #[test]
    fn arbitrary_token_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400), version in any::<bool>()) {
        let mut bytes = bytes;
        if let Some(first) = bytes.first_mut().filter(|_| version) {
            *first = 1;
        }
        let decision = get(&format!("/v1/c/{}", to_text(&bytes)));
        assert_harmless(&decision);
        prop_assert_eq!(decision.tallies.len(), 1);
    }

    #[test]
    fn every_element_has_one_outcome(
        elements in proptest::collection::vec(prop_oneof![
            Just("{\"token\":\"T\",\"kind\":\"click\"}".to_owned()),
            Just("{\"token\":\"T\",\"kind\":\"served\"}".to_owned()),
            Just("{\"token\":\"AAAA\",\"kind\":\"viewable\"}".to_owned()),
            Just("null".to_owned()),
            "[a-z]{0,8}".prop_map(|word| format!("{{\"token\":\"{word}\",\"kind\":\"{word}\"}}")),
            "[0-9]{1,4}",
        ], 1..20),
    ) {
        let token = to_text(&WORLD.0.mint(&TokenSpec::default()));
        let body = format!("{{\"events\":[{}]}}", elements.join(",").replace("\"T\"", &format!("\"{token}\"")));
        let request = Request {
            content_type: b"text/plain",
            body: Body::Whole(body.as_bytes()),
            ..Request::new(Method::Post, "/v1/events")
        };
        let decision = decide(&request);
        // Numbers that begin with 0 are no JSON.
        if decision.reply.status == 202 {
            let tallied: u32 = decision.tallies.iter().map(|lost| lost.count).sum();
            prop_assert_eq!(decision.events.len() + tallied as usize, elements.len());
            let reply: serde_json::Value = serde_json::from_slice(&decision.reply.body).unwrap();
            prop_assert_eq!(reply["results"].as_array().unwrap().len(), elements.len());
        } else {
            prop_assert_eq!(decision.reply.status, 400);
            prop_assert!(decision.events.is_empty() && decision.tallies.is_empty());
        }
    }
}
