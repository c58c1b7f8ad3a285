//! Cases of requests and what the edge decides, as JSON (`shared/vectors/edge.json`): `exemplary`
//! shows its use, `supplemental` has everything else. Here the core decides; [`crate::alike`] puts
//! the same cases to both shells.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::support::{BROWSER, ISSUER, NOW, TokenSpec, World};
use edge::clicks::{Clicks, Pace};
use edge::repeats::Repeats;
use edge::request::Body;
use edge::{Decision, Draft, Durability, Method, Policy, Request, State, Step, WhenFull, decide};
use serde::Deserialize;
use serde_json::{Value, json};
use shared::id::IdAllocator;
use shared::random::Seeded;
use shared::text::hex;
use shared::token::{Unverified, from_text, to_text};
use shared::{Codes, Fingerprint, ImpressionId, IssuerId, Random, Timestamp};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    pub(crate) about: String,
    /// The case holds only at that very time, so an edge whose clock goes on cannot be asked.
    #[serde(default)]
    pub(crate) clock_stands: bool,
    #[serde(default)]
    tokens: BTreeMap<String, TokenSpec>,
    #[serde(default)]
    pub(crate) policy: PolicySpec,
    pub(crate) request: RequestSpec,
    expect: Value,
}

#[derive(Deserialize, Clone, Default, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct PolicySpec {
    pub(crate) beacons_queued: bool,
    pub(crate) clicks_queued: bool,
    /// The edge's issuer, when it is another.
    pub(crate) issuer: Option<String>,
    pub(crate) click_too_soon_ms: Option<u64>,
    /// The list of data centres, when it is another.
    pub(crate) data_centres: Option<String>,
    /// Our number in the Global Vendor List.
    pub(crate) vendor: Option<u16>,
    /// TCF purposes that must be consented to, with commas between, when they are others.
    pub(crate) purposes: Option<String>,
    /// What is kept of addresses, when it is not the default.
    pub(crate) address: Option<String>,
    /// How often a visitor may click, when it is otherwise: clicks, and in how many seconds.
    pub(crate) pace: Option<(u32, u32)>,
    /// How long links lead somewhere, when it is otherwise.
    pub(crate) link_days: Option<u32>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RequestSpec {
    method: Option<String>,
    url: String,
    pub(crate) content_type: String,
    /// A browser's when it is not given.
    user_agent: Option<String>,
    pub(crate) purpose: String,
    pub(crate) if_none_match: String,
    pub(crate) opted_out: bool,
    pub(crate) country: String,
    pub(crate) client: Option<String>,
    pub(crate) asn: Option<u32>,
    /// How many clicks of the same visitor came before, at the same time.
    pub(crate) clicks_before: u32,
    /// Whether the same request came before, and its event is durable.
    pub(crate) kept_before: bool,
    /// Text as it is, anything else as JSON.
    body: Value,
    /// The first element of the body's events, this many times.
    repeat: Option<usize>,
    pub(crate) too_large: bool,
}

/// What an edge remembers.
struct Memory {
    ids: IdAllocator,
    clicks: Clicks,
    repeats: Repeats,
}

impl Memory {
    fn new(policy: &PolicySpec) -> Self {
        let clicks = Clicks::new(policy.pace(), &mut Seeded::new(6));
        Self { ids: IdAllocator::default(), clicks, repeats: Repeats::default() }
    }
}

impl State for Memory {
    fn next_id(&mut self, now: Timestamp, random: &mut dyn Random) -> Option<ImpressionId> {
        Some(self.ids.next(now, random))
    }

    fn clicks_too_often(&mut self, client: Option<IpAddr>, user_agent: &[u8]) -> bool {
        self.clicks.too_often(client, user_agent, Duration::from_secs(1))
    }

    fn is_repeat(&mut self, event: &Draft) -> bool {
        self.repeats.has(event)
    }
}

impl Case {
    /// The bytes of its tokens, by name.
    pub(crate) fn tokens(&self, world: &World) -> BTreeMap<&str, Vec<u8>> {
        self.tokens.iter().map(|(name, spec)| (name.as_str(), world.mint(spec))).collect()
    }

    /// The case with tokens that no other case has.
    pub(crate) fn apart(mut self, number: usize) -> Self {
        let seq = 1_000 * (1 + number as i64);
        self.tokens.values_mut().for_each(|spec| spec.seq += seq);
        self
    }

    /// Its URL and its body, with the tokens filled in.
    pub(crate) fn filled(&self, tokens: &BTreeMap<&str, Vec<u8>>) -> (String, String) {
        let fill = |text: &str| {
            tokens.iter().fold(text.to_owned(), |text, (name, bytes)| {
                text.replace(&format!("{{{name}}}"), &to_text(bytes))
            })
        };
        let spec = &self.request;
        let mut body = spec.body.clone();
        if let Some(count) = spec.repeat {
            body["events"] = vec![body["events"][0].clone(); count].into();
        }
        let body = fill(&body.as_str().map_or_else(|| body.to_string(), str::to_owned));
        (fill(&spec.url), body)
    }
}

/// All cases, each with the name of its list.
pub(crate) fn all() -> Vec<(&'static str, Case)> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Lists {
        exemplary: Vec<Case>,
        supplemental: Vec<Case>,
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/vectors/edge.json");
    let text = std::fs::read_to_string(path).unwrap();
    let Lists { exemplary, supplemental } = serde_json::from_str(&text).unwrap();
    assert!(exemplary.len() >= 20 && supplemental.len() >= 100, "cases are missing");
    let named = |name, cases: Vec<Case>| cases.into_iter().map(move |case| (name, case));
    named("exemplary", exemplary).chain(named("supplemental", supplemental)).collect()
}

#[test]
fn every_case() {
    let tell = |(name, case): (&str, Case)| {
        check(&case).err().map(|why| format!("{name}: {}: {why}", case.about))
    };
    let failures: Vec<String> = all().into_iter().filter_map(tell).collect();
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

impl PolicySpec {
    /// Which issuer's keys the edge has.
    pub(crate) fn issuer(&self) -> IssuerId {
        self.issuer.as_deref().map_or(ISSUER, |issuer| issuer.parse().unwrap())
    }

    pub(crate) fn pace(&self) -> Pace {
        self.pace.map(|(clicks, window_s)| Pace { clicks, window_s }).unwrap_or_default()
    }

    /// The tests' policy with the changes of the case.
    pub(crate) fn policy(&self, world: &World) -> Policy {
        let mut policy = world.policy();
        if self.beacons_queued {
            policy.beacons = Durability::Queued;
        }
        if self.clicks_queued {
            policy.clicks = Durability::Queued;
        }
        if let Some(ms) = self.click_too_soon_ms {
            policy.verdicts.click_too_soon_ms = ms;
        }
        if let Some(list) = &self.data_centres {
            policy.verdicts.data_centres = list.parse().unwrap();
        }
        policy.link_days = self.link_days.unwrap_or(policy.link_days);
        policy.rule_set = policy.verdicts.set(self.pace());
        policy.privacy.vendor = self.vendor;
        if let Some(purposes) = &self.purposes {
            let purposes = purposes.split(',').map(|n| n.parse::<u32>().unwrap());
            policy.privacy.purposes = purposes.fold(0, |bits, n| bits | 1 << (n - 1));
        }
        if let Some(address) = &self.address {
            policy.privacy.address = address.parse().unwrap();
        }
        policy.keys = Arc::new(edge::Keys::of_store(&world.store, self.issuer()).unwrap());
        policy
    }
}

impl Case {
    /// What the core decides under this policy, at the world's time, each time that it is asked.
    pub(crate) fn decide(&self, world: &World, policy: &Policy) -> Vec<Decision> {
        self.decide_by(world, policy, &|step| step.alone())
    }

    /// The same, step by step, where the caller takes the steps.
    pub(crate) fn decide_by(
        &self,
        world: &World,
        policy: &Policy,
        rim: &dyn Fn(Step<'_>) -> Decision,
    ) -> Vec<Decision> {
        let tokens = self.tokens(world);
        let spec = &self.request;
        let (url, body) = self.filled(&tokens);
        let (path, query) = url.split_once('?').unwrap_or((&url, ""));
        let request = Request {
            query,
            content_type: spec.content_type.as_bytes(),
            user_agent: spec.user_agent().as_bytes(),
            purpose: spec.purpose.as_bytes(),
            if_none_match: spec.if_none_match.as_bytes(),
            opted_out: spec.opted_out,
            country: spec.country.as_bytes(),
            client: spec.client.as_deref().map(|client| client.parse().unwrap()),
            asn: spec.asn,
            body: if spec.too_large { Body::TooLarge } else { Body::Whole(body.as_bytes()) },
            ..Request::new(Method::from_name(spec.method()), path)
        };
        let mut memory = Memory::new(&self.policy);
        for _ in 0..spec.clicks_before {
            let _ = memory.clicks_too_often(request.client, request.user_agent);
        }
        let ask = |memory: &mut Memory| {
            rim(decide(&request, policy, memory, world.now, &mut Seeded::new(5)))
        };
        let before = spec.kept_before.then(|| ask(&mut memory));
        let kept = before.iter().flat_map(|before| &before.events);
        kept.for_each(|event| memory.repeats.remember(event));
        before.into_iter().chain([ask(&mut memory)]).collect()
    }
}

impl RequestSpec {
    pub(crate) fn method(&self) -> &str {
        self.method.as_deref().unwrap_or("GET")
    }

    pub(crate) fn user_agent(&self) -> &str {
        self.user_agent.as_deref().unwrap_or(BROWSER)
    }
}

fn check(case: &Case) -> Result<(), String> {
    let world = World::new();
    let policy = case.policy.policy(&world);
    let decision = case.decide(&world, &policy).pop().ok_or("nothing was asked")?;
    let actual = describe(&decision, &case.tokens(&world), &policy);
    subset(&case.expect, &actual).map_err(|why| format!("{why}\n  in {actual}"))
}

/// The decision as JSON, tokens by name.
fn describe(decision: &Decision, tokens: &BTreeMap<&str, Vec<u8>>, policy: &edge::Policy) -> Value {
    let reply = &decision.reply;
    let mut headers: serde_json::Map<String, Value> =
        reply.fields.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
    for (name, value) in [("location", &reply.location), ("etag", &reply.etag)] {
        if let Some(value) = value {
            headers.insert(name.to_owned(), json!(value));
        }
    }
    let body: Value = serde_json::from_slice(&reply.body)
        .unwrap_or_else(|_| json!(String::from_utf8_lossy(&reply.body)));
    let events: Vec<Value> =
        decision.events.iter().map(|event| describe_event(event, tokens)).collect();
    let tallies: Vec<Value> =
        decision.tallies.iter().map(|loss| json!([loss.kind, loss.reason, loss.count])).collect();
    let issued = body["token"].as_str().map(|text| describe_issued(text, decision, policy));
    json!({
        "status": reply.status,
        "headers": headers,
        "body": body,
        "bytes": reply.body.len(),
        "events": events,
        "tallies": tallies,
        "durability": match decision.durability {
            Durability::Durable => "durable",
            Durability::Queued => "queued",
        },
        "when_full": match decision.when_full {
            WhenFull::Refuse => json!("refuse"),
            WhenFull::Proceed(lost) => json!([lost.kind, lost.reason, lost.count]),
        },
        "issued": issued,
    })
}

fn describe_event(event: &Draft, tokens: &BTreeMap<&str, Vec<u8>>) -> Value {
    let token = tokens.iter().find(|(_, bytes)| **bytes == event.token).map(|(name, _)| *name);
    let mut told = json!({
        "kind": event.kind,
        "verdict": event.verdict,
        "flags": event.flags,
        "page": event.page,
        "network": event.network,
        "visitor": if event.visitor == Fingerprint::NONE { "none" } else { "some" },
        "token": token,
    });
    for (name, text) in Codes::NAMES.iter().zip(event.codes.texts()) {
        told[name] = json!(text);
    }
    told
}

/// The contents of a token that was just issued. Its signature is checked as the collector does.
fn describe_issued(text: &str, decision: &Decision, policy: &edge::Policy) -> Value {
    let bytes = from_text(text.as_bytes()).unwrap();
    assert_eq!(decision.events[0].token, bytes, "the event has the token that was given out");
    let keyring = policy.keys.keyring();
    let unverified = Unverified::read(&bytes, keyring.deployment()).unwrap();
    let (token, key) = unverified.verify(keyring, NOW).unwrap();
    assert!(unverified.check_tag(policy.keys.own(token.key).unwrap().tags(), NOW).is_ok());
    assert_eq!(token.visitor, decision.events[0].visitor);
    json!({
        "test": token.test, "pass_query": token.pass_query, "issuer": key.issuer, "ad": token.ad, "campaign": token.campaign,
        "advertiser": token.advertiser, "publisher": token.publisher,
        "placement": token.placement,
        // Of its own the id, which is another each time.
        "url": token.url.replace(&hex(&token.id.to_bytes()), "CSID"),
        "issued_now": token.issued_at == NOW,
        "impression_life_s": token.impression_life_s, "click_life_s": token.click_life_s,
    })
}

/// Whether `actual` has everything that `expected` has; `"*"` matches any value that is there.
/// Arrays must have the same length.
fn subset(expected: &Value, actual: &Value) -> Result<(), String> {
    match (expected, actual) {
        (Value::String(any), found) if any == "*" && !found.is_null() => Ok(()),
        (Value::Object(expected), Value::Object(actual)) => {
            for (key, value) in expected {
                subset(value, actual.get(key).unwrap_or(&Value::Null))
                    .map_err(|why| format!("{key}: {why}"))?;
            }
            Ok(())
        }
        (Value::Array(expected), Value::Array(actual)) if expected.len() == actual.len() => {
            for (at, (expected, actual)) in expected.iter().zip(actual).enumerate() {
                subset(expected, actual).map_err(|why| format!("[{at}]: {why}"))?;
            }
            Ok(())
        }
        _ if expected == actual => Ok(()),
        _ => Err(format!("expected {expected}, found {actual}")),
    }
}
