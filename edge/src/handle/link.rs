//! The pixel and the click link: a token in the path.

use shared::{Kind, Reason, Timestamp, token};

use super::check::{Asker, believe};
use super::{State, reply};
use crate::decision::{Decision, Durability, Loss, Reply, WhenFull};
use crate::policy::Policy;
use crate::request::Request;

const DAY_MS: u64 = 24 * 3_600_000;

/// `GET /v1/c/{token}`: to the advertiser's page, whatever becomes of the event.
pub(super) fn click(
    text: &str,
    request: &Request<'_>,
    policy: &Policy,
    state: &mut dyn State,
    now: Timestamp,
) -> Decision {
    follow(text, Kind::Click, request, policy, state, now)
}

/// `GET /v1/i/{token}`: a picture of one pixel that tells of an impression.
pub(super) fn pixel(
    text: &str,
    request: &Request<'_>,
    policy: &Policy,
    state: &mut dyn State,
    now: Timestamp,
) -> Decision {
    follow(text, Kind::Impression, request, policy, state, now)
}

fn follow(
    text: &str,
    kind: Kind,
    request: &Request<'_>,
    policy: &Policy,
    state: &mut dyn State,
    now: Timestamp,
) -> Decision {
    let bytes = match token::from_text(text.as_bytes()) {
        Ok(bytes) => bytes,
        Err(reason) => return refused(kind, reason),
    };
    let token = match believe(&bytes, policy, now) {
        Ok(token) => token,
        Err(reason) => return refused(kind, reason),
    };
    if let Err(reason) = token.check_time(kind, now) {
        // The second life of a link: it counts no more, and still leads where it did.
        let leads = kind == Kind::Click && reason == Reason::Expired;
        let leads = leads && now <= token.issued_at.plus_ms(u64::from(policy.link_days) * DAY_MS);
        let decision = refused(kind, reason);
        return match leads {
            true => Decision { reply: reply::redirect(token.url.to_owned()), ..decision },
            false => decision,
        };
    }
    let (reply, durability, when_full) = match kind {
        Kind::Click => {
            let lost = Loss { kind, reason: Reason::OutboxFull, count: 1 };
            let redirect = reply::redirect(token.url.to_owned());
            (redirect, Durability::Durable, WhenFull::Proceed(lost))
        }
        _ => (reply::pixel(), policy.beacons, WhenFull::Refuse),
    };
    let asker = Asker::new(request, policy, now);
    let event = asker.event(kind, &token, &bytes, |_| false, state, now);
    if state.is_repeat(&event) {
        let tallies = vec![Loss { kind, reason: Reason::Repeated, count: 1 }];
        return Decision { tallies, ..Decision::reply(reply) };
    }
    let events = vec![event];
    Decision { events, tallies: Vec::new(), durability, when_full, reply }
}

/// A plain page, and one more of its reason: never an event of its own.
fn refused(kind: Kind, reason: Reason) -> Decision {
    let tallies = vec![Loss { kind, reason, count: 1 }];
    Decision { tallies, ..Decision::reply(page(reason)) }
}

fn page(reason: Reason) -> Reply {
    match reason {
        Reason::Malformed | Reason::UnknownVersion => {
            reply::page(400, "This link is damaged or incomplete.\n")
        }
        Reason::Expired => reply::page(410, "This link has expired.\n"),
        _ => reply::page(403, "This link is not valid.\n"),
    }
}
