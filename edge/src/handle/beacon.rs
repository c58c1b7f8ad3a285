//! `POST /v1/events`: up to 500 tokens, each with what happened to its ad.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use shared::limits::{EDGE_BODY_BYTES_MAX, EVENTS_PER_REQUEST_MAX};
use shared::token::TAG_BYTES;
use shared::{Kind, PageSeq, PageView, Reason, Timestamp, token};

use super::check::{Asker, believe};
use super::{State, reply};
use crate::decision::{Decision, Draft, Durability, Loss, WhenFull};
use crate::policy::Policy;
use crate::request::{Body, Request};

/// The body. Its elements are read one by one, so that a malformed one does not spoil the others.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Events<'a> {
    #[serde(borrow)]
    events: Elements<'a>,
}

struct Elements<'a>(Vec<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Elements<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bounded;
        impl<'de> Visitor<'de> for Bounded {
            type Value = Vec<&'de RawValue>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "an array of 1 to {EVENTS_PER_REQUEST_MAX} elements")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut elements = Vec::new();
                while let Some(element) = seq.next_element()? {
                    if elements.len() == EVENTS_PER_REQUEST_MAX {
                        let most = format!("more than {EVENTS_PER_REQUEST_MAX} elements");
                        return Err(A::Error::custom(most));
                    }
                    elements.push(element);
                }
                if elements.is_empty() {
                    Err(A::Error::custom("no elements"))
                } else {
                    Ok(elements)
                }
            }
        }
        deserializer.deserialize_seq(Bounded).map(Self)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Element<'a> {
    #[serde(borrow)]
    token: Cow<'a, str>,
    #[serde(borrow)]
    kind: Cow<'a, str>,
}

#[derive(Serialize)]
struct Results {
    results: Vec<&'static str>,
}

pub(super) fn events(
    request: &Request<'_>,
    policy: &Policy,
    state: &mut dyn State,
    now: Timestamp,
) -> Decision {
    if !is_json(request.content_type) {
        let detail = "the body is JSON, sent as application/json or text/plain";
        return Decision::reply(reply::problem(415, "unsupported_media_type", detail));
    }
    let Body::Whole(body) = request.body else {
        let detail = format!("the body may have {EDGE_BODY_BYTES_MAX} bytes");
        return Decision::reply(reply::problem(413, "body_too_large", detail));
    };
    let Events { events: Elements(elements) } = match serde_json::from_slice(body) {
        Ok(events) => events,
        Err(error) => {
            let detail = format!(
                "the body is {{\"events\": [{{\"token\": …, \"kind\": …}}, …]}} with 1 to \
                 {EVENTS_PER_REQUEST_MAX} elements: {error}"
            );
            return Decision::reply(reply::problem(400, "malformed_body", detail));
        }
    };
    // A body counts against the limit once for each element, and is taken as a whole or not at all.
    let more = u32::try_from(elements.len() - 1).unwrap_or(u32::MAX);
    if more > 0 && !state.admit_more(request.client, more) {
        return Decision::reply(reply::too_many());
    }
    let taken = match policy.beacons {
        Durability::Durable => "accepted",
        Durability::Queued => "queued",
    };
    let asker = Asker::new(request, policy, now).with_page(page(request));
    let mut events = Vec::with_capacity(elements.len());
    let mut tallies: Vec<Loss> = Vec::new();
    let mut results = Vec::with_capacity(elements.len());
    let mut first = Firsts::default();
    for element in elements {
        match take(element.get(), &asker, &first, state, now) {
            Ok(event) if first.insert(&event) && !state.is_repeat(&event) => {
                events.push(event);
                results.push(taken);
            }
            // A repeat is answered like the event that it repeats, which is kept already, or is
            // kept with this request as a whole.
            Ok(event) => {
                tally(&mut tallies, event.kind, Reason::Repeated);
                results.push(taken);
            }
            Err((kind, reason)) => {
                tally(&mut tallies, kind, reason);
                results.push(reason.name());
            }
        }
    }
    let body = serde_json::to_vec(&Results { results }).expect("strings always serialize");
    Decision {
        events,
        tallies,
        durability: policy.beacons,
        when_full: WhenFull::Refuse,
        reply: reply::json(202, body),
    }
}

/// The events of this request, so that of one token each kind is kept once. The tag stands for the
/// token: only the holder of our secret could make two tokens with one tag.
#[derive(Default)]
struct Firsts(Vec<Identity>);

/// Kind, whether the event is valid, and the tag of its token; the list is sorted.
type Identity = (Kind, bool, [u8; TAG_BYTES]);

impl Firsts {
    /// Where the event is, or where it belongs. Valid and invalid events are kept apart, as in the
    /// engine, so that neither hides the other.
    fn find(&self, event: &Draft) -> Result<usize, (usize, Identity)> {
        let tag = event.token.last_chunk().copied().unwrap_or_default();
        let identity = (event.kind, event.verdict.is_none(), tag);
        self.0.binary_search(&identity).map_err(|at| (at, identity))
    }

    fn has(&self, event: &Draft) -> bool {
        self.find(event).is_ok()
    }

    /// Adds the event; false when it is there already.
    fn insert(&mut self, event: &Draft) -> bool {
        self.find(event).map_err(|(at, identity)| self.0.insert(at, identity)).is_err()
    }
}

/// `?page=` and `seq=`: the page view that sends these events, and how many events it has made so
/// far. A page names itself with up to 64 characters. When either is missing or malformed, the
/// events still count, but are not compared with what the page has sent.
fn page(request: &Request<'_>) -> Option<PageSeq> {
    let name = request.parameter("page").ok()?.filter(|name| (1..=64).contains(&name.len()))?;
    let seq = request.parameter("seq").ok()??.parse().ok()?;
    let mut first = [0; 8];
    blake3::Hasher::new().update(name.as_bytes()).finalize_xof().fill(&mut first);
    let page = PageSeq { page: PageView(u64::from_le_bytes(first)), seq };
    page.is_good().then_some(page)
}

/// One element: its event, or the kind and reason that it is tallied under. When its kind cannot be
/// read it is tallied as an impression, the most common kind.
fn take(
    element: &str,
    asker: &Asker<'_>,
    first: &Firsts,
    state: &mut dyn State,
    now: Timestamp,
) -> Result<Draft, (Kind, Reason)> {
    let Ok(Element { token: text, kind }) = serde_json::from_str(element) else {
        return Err((Kind::Impression, Reason::Malformed));
    };
    let kind: Kind = kind.parse().map_err(|_| (Kind::Impression, Reason::Malformed))?;
    // Only an edge serves ads, and it makes that event itself.
    if kind == Kind::Served {
        return Err((kind, Reason::Malformed));
    }
    let bytes = token::from_text(text.as_bytes()).map_err(|reason| (kind, reason))?;
    let token = believe(&bytes, asker.policy, now)
        .and_then(|token| token.check_time(kind, now).map(|()| token))
        .map_err(|reason| (kind, reason))?;
    Ok(asker.event(kind, &token, &bytes, |event| first.has(event), state, now))
}

fn tally(tallies: &mut Vec<Loss>, kind: Kind, reason: Reason) {
    Loss { kind, reason, count: 1 }.add_to(tallies);
}

/// `text/plain` is what `sendBeacon` sends for a string, without a preflight.
fn is_json(content_type: &[u8]) -> bool {
    let media_type = content_type.split(|byte| *byte == b';').next().unwrap_or_default();
    let media_type = media_type.trim_ascii();
    media_type.eq_ignore_ascii_case(b"application/json")
        || media_type.eq_ignore_ascii_case(b"text/plain")
}
