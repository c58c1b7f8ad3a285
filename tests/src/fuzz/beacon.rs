//! The one body that anybody may send to an edge: whatever is in it, an event is only made of a
//! token that opens, and every element gets its answer.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use catalogue::Catalogue;
use edge::policy::LINK_DAYS;
use edge::privacy::PrivacyPolicy;
use edge::request::Body;
use edge::verdict::Rules;
use edge::{Durability, Method, Policy, Request, handle};
use shared::id::IdAllocator;
use shared::limits::EVENTS_PER_REQUEST_MAX;
use shared::random::Seeded;
use shared::token::{Unverified, to_text};
use shared::{Id, RuleSet};

use super::vectors::{self, DEPLOYMENT, NOW};
use super::{Outcome, hold};

static POLICY: LazyLock<Policy> = LazyLock::new(|| Policy {
    public_url: "https://edge.example".parse().expect("a good URL"),
    link_days: LINK_DAYS,
    beacons: Durability::Durable,
    clicks: Durability::Durable,
    verdicts: Rules::default(),
    rule_set: RuleSet::UNKNOWN,
    privacy: PrivacyPolicy::default(),
    keys: Arc::new(
        edge::Keys::of_store(&DEPLOYMENT.store, Id::literal("house")).expect("it has a key"),
    ),
    catalogue: Arc::new(
        Catalogue::from_json(crate::simulation::CATALOGUE).expect("a good catalogue"),
    ),
});

pub(super) fn judge(input: &[u8]) -> Outcome {
    let request = Request {
        content_type: b"application/json",
        body: Body::Whole(input),
        ..Request::new(Method::Post, "/v1/events")
    };
    let mut random = Seeded::new(1);
    let decision = handle(&request, &POLICY, &mut IdAllocator::default(), NOW, &mut random);
    let reply: serde_json::Value = serde_json::from_slice(&decision.reply.body)
        .map_err(|error| format!("the reply is no JSON: {error}"))?;
    if decision.reply.status != 202 {
        hold((400..500).contains(&decision.reply.status), || format!("{:?}", decision.reply))?;
        hold(decision.events.is_empty() && decision.tallies.is_empty(), || {
            "refused, and yet it left something".to_owned()
        })?;
        let detail = reply["detail"].as_str().unwrap_or_default();
        hold(detail.contains(" at line "), || format!("no place is named: {detail}"))?;
        return Ok(format!("refused: {}", decision.reply.status));
    }
    for event in &decision.events {
        let opened = Unverified::read(&event.token, DEPLOYMENT.store.deployment)
            .is_ok_and(|token| DEPLOYMENT.is_sealed(&token));
        hold(opened, || "an event without proof".to_owned())?;
    }
    let results = reply["results"].as_array().ok_or("no results")?;
    let tallied: u32 = decision.tallies.iter().map(|loss| loss.count).sum();
    hold(results.len() == decision.events.len() + tallied as usize, || {
        "an element without an outcome".to_owned()
    })?;
    hold((1..=EVENTS_PER_REQUEST_MAX).contains(&results.len()), || "out of bounds".to_owned())?;
    let words: BTreeSet<&str> = results.iter().filter_map(serde_json::Value::as_str).collect();
    Ok(format!("answered: {}", words.into_iter().collect::<Vec<_>>().join(" ")))
}

pub(super) fn golden() -> Vec<Vec<u8>> {
    let tokens =
        vectors::tokens().into_iter().take(40).map(|token| to_text(&token)).chain(served());
    let element = |kind: &str, token: &str| format!(r#"{{"token":"{token}","kind":"{kind}"}}"#);
    tokens
        .map(|token| format!(r#"{{"events":[{}]}}"#, element("click", &token)).into_bytes())
        .collect()
}

/// A token that an edge gives out: the golden ones are of blocks that no edge opened for them.
fn served() -> Option<String> {
    let request = Request { query: "placement=top", ..Request::new(Method::Get, "/v1/serve") };
    let mut random = Seeded::new(1);
    let decision = handle(&request, &POLICY, &mut IdAllocator::default(), NOW, &mut random);
    let reply: serde_json::Value = serde_json::from_slice(&decision.reply.body).ok()?;
    reply["token"].as_str().map(str::to_owned)
}
