//! The edge's decision: `(request, policy, now, random) -> Decision`, or step by step where it needs
//! something from elsewhere ([`decide`]).

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

/// What an edge remembers from one request to the next: lent by the rim, which may share it between
/// threads.
pub trait State {
    /// The next impression id; each only once, in blocks that are opened as
    /// [`shared::id::IdAllocator`] says. `None`: there is none now, for ids come from elsewhere.
    fn next_id(&mut self, now: Timestamp, random: &mut dyn Random) -> Option<ImpressionId>;

    /// Remembers one more click, and says whether there were too many ([`crate::clicks`]). An edge
    /// that remembers nothing says no.
    fn clicks_too_often(&mut self, client: Option<IpAddr>, user_agent: &[u8]) -> bool {
        let _ = (client, user_agent);
        false
    }

    /// Whether this client may bring so many more events than the one that its request was let through
    /// for ([`crate::limit::Limits::admit_more`]). An edge without limits says yes.
    fn admit_more(&mut self, client: Option<IpAddr>, more: u32) -> bool {
        let _ = (client, more);
        true
    }

    /// Whether the outbox has the same of the same token already ([`crate::repeats`]). An edge that
    /// remembers nothing says no.
    fn is_repeat(&mut self, event: &Draft) -> bool {
        let _ = event;
        false
    }

    /// Whether the time of requests stands still at this one, for the clock was set back a little: nobody
    /// knows then how long ago anything was.
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

/// Decides a request to a public route, and needs nothing from elsewhere for it. Never panics,
/// whatever comes.
///
/// `now` is the edge's time, not before the time of an earlier event of its outbox.
pub fn handle(
    request: &Request<'_>,
    policy: &Policy,
    state: &mut dyn State,
    now: Timestamp,
    random: &mut dyn Random,
) -> Decision {
    decide(request, policy, state, now, random).alone()
}

/// The same as steps, for a rim that can do what the core needs: it does the effect, however long that
/// takes, and goes on with what came of it.
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

/// Decides what needs nothing from elsewhere.
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

/// The reply to a request for an ad when nobody has confirmed for a day which keys and ads are in
/// force.
#[must_use]
pub fn policy_too_old() -> Reply {
    reply::policy_too_old()
}

/// The reply to a request whose body did not come in time.
#[must_use]
pub fn body_timeout() -> Reply {
    reply::body_timeout()
}

/// The reply to a request whose body broke off, or is none.
#[must_use]
pub fn body_broken() -> Reply {
    reply::body_broken()
}

/// The reply to a request whose body has no room beside those that come at the same time.
#[must_use]
pub fn busy() -> Reply {
    reply::busy()
}

/// The reply to a request of a network that has asked too often.
#[must_use]
pub fn too_many(class: Class) -> Reply {
    match class {
        Class::Click => reply::too_many_clicks(),
        Class::Request => reply::too_many(),
    }
}

/// The reply to a path that is not there.
#[must_use]
pub fn not_found() -> Reply {
    reply::not_found()
}
