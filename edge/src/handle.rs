//! The edge's decisions: `(request, policy, now, random) -> Decision`, or in steps where something
//! is needed from elsewhere ([`decide`]).

mod beacon;
mod check;
mod link;
mod reply;
mod serve;
mod step;

use std::net::IpAddr;

use shared::keys::{Jwks, jwks};
use shared::{ImpressionId, Random, Timestamp};

use crate::decision::{Decision, Draft, Reply};
use crate::limit::Class;
use crate::policy::Policy;
use crate::request::{Method, Request};

pub use serve::Resume;
pub use step::{Effect, Outcome, Step};

/// What an edge remembers from one request to the next. The rim lends it and may share it between
/// threads.
pub trait State {
    /// The next impression id. Each is given once, from blocks that are opened as
    /// [`shared::id::IdAllocator`] says. `None`: the edge gets its ids from elsewhere and has none
    /// left now.
    fn next_id(&mut self, now: Timestamp, random: &mut dyn Random) -> Option<ImpressionId>;

    /// Remembers a click, and says whether the client clicks too often ([`crate::clicks`]). An edge
    /// that remembers nothing says no.
    fn clicks_too_often(&mut self, client: Option<IpAddr>, user_agent: &[u8]) -> bool {
        let _ = (client, user_agent);
        false
    }

    /// Whether this client may bring `more` events besides the one that its request was admitted
    /// for ([`crate::limit::Limits::admit_more`]). An edge without limits says yes.
    fn admit_more(&mut self, client: Option<IpAddr>, more: u32) -> bool {
        let _ = (client, more);
        true
    }

    /// Whether the outbox already has an event of the same kind and token ([`crate::repeats`]). An
    /// edge that remembers nothing says no.
    fn is_repeat(&mut self, event: &Draft) -> bool {
        let _ = event;
        false
    }

    /// Whether request time stands still at `now` because the clock was set back a little. The age
    /// of anything is then unknown.
    fn stands_still(&self, now: Timestamp) -> bool {
        let _ = now;
        false
    }
}

impl State for shared::id::IdAllocator {
    fn next_id(&mut self, now: Timestamp, random: &mut dyn Random) -> Option<ImpressionId> {
        Some(self.next(now, random))
    }
}

/// Decides a request to a public route without anything from elsewhere. Never panics, whatever the
/// request holds.
///
/// `now` is the edge's time, and not before the time of an earlier event of its outbox.
pub fn handle(
    request: &Request<'_>,
    policy: &Policy,
    state: &mut dyn State,
    now: Timestamp,
    random: &mut dyn Random,
) -> Decision {
    decide(request, policy, state, now, random).alone()
}

/// Decides in steps, for a rim that can perform effects: it performs the effect, however long that
/// takes, and goes on with the outcome.
pub fn decide<'p>(
    request: &Request<'_>,
    policy: &'p Policy,
    state: &mut dyn State,
    now: Timestamp,
    random: &mut dyn Random,
) -> Step<'p> {
    if request.path == "/v1/serve" && request.method == Method::Get {
        return serve::serve(request, policy, state, now, random)
            .unwrap_or_else(|reply| Step::Done(Decision::reply(reply)));
    }
    Step::Done(at_once(request, policy, state, now))
}

/// Decides the routes that need nothing from elsewhere.
fn at_once(
    request: &Request<'_>,
    policy: &Policy,
    state: &mut dyn State,
    now: Timestamp,
) -> Decision {
    let method = request.method;
    if let Some(token) = request.path.strip_prefix("/v1/c/") {
        return match method {
            Method::Get | Method::Head => link::click(token, request, policy, state, now),
            _ => other_method(method, &reply::LINK_METHODS),
        };
    }
    if let Some(token) = request.path.strip_prefix("/v1/i/") {
        return match method {
            Method::Get | Method::Head => link::pixel(token, request, policy, state, now),
            _ => other_method(method, &reply::LINK_METHODS),
        };
    }
    match (request.path, method) {
        ("/v1/events", Method::Post) => beacon::events(request, policy, state, now),
        ("/v1/events", _) => other_method(method, &reply::EVENTS_METHODS),
        ("/v1/serve", _) => other_method(method, &reply::SERVE_METHODS),
        (jwks::PATH, Method::Get | Method::Head) => {
            let set = Jwks::new(policy.keys.keyring(), now);
            let is_known = set.is_known(request.if_none_match);
            Decision::reply(reply::jwks(set, is_known))
        }
        (jwks::PATH, _) => other_method(method, &reply::LINK_METHODS),
        _ => Decision::reply(reply::not_found()),
    }
}

fn other_method(method: Method, methods: &reply::Methods) -> Decision {
    Decision::reply(match method {
        Method::Options => methods.preflight(),
        _ => methods.not_allowed(),
    })
}

/// The reply to a request whose events the outbox cannot take.
#[must_use]
pub fn outbox_full() -> Reply {
    reply::outbox_full()
}

/// The reply to a request for an ad when the centre has not confirmed for a day which keys and ads
/// are in force.
#[must_use]
pub fn policy_too_old() -> Reply {
    reply::policy_too_old()
}

/// The reply to a request whose body did not come in time.
#[must_use]
pub fn body_timeout() -> Reply {
    reply::body_timeout()
}

/// The reply to a request whose body broke off or was framed wrongly.
#[must_use]
pub fn body_broken() -> Reply {
    reply::body_broken()
}

/// The reply to a request whose body has no room in memory beside the others that arrive.
#[must_use]
pub fn busy() -> Reply {
    reply::busy()
}

/// The reply to a request whose network has asked too often.
#[must_use]
pub fn too_many(class: Class) -> Reply {
    match class {
        Class::Click => reply::too_many_clicks(),
        Class::Request => reply::too_many(),
    }
}

/// The reply to a path that does not exist.
#[must_use]
pub fn not_found() -> Reply {
    reply::not_found()
}
