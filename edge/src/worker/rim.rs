//! Turns the platform's request into the core's form, and the core's decision back into a reply.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use shared::keys::KeyId;
use shared::{ImpressionId, Random, Ready, Timestamp};
use wasm_bindgen::JsValue;
use wasm_bindgen::prelude::wasm_bindgen;
use worker::js_sys::futures::{JsFuture, future_to_promise};
use worker::js_sys::{Promise, Uint8Array};
use worker::worker_sys::{Context as JsContext, web_sys};
use worker::{Context, Delay, Env, Response, ResponseBuilder, console_error, console_warn};

use super::bodies::{Bodies, Read};
use super::gather::{Gather, Put, Waiter};
use super::glue::{Head, names, sign, to_response, wait};
use super::location::{location_hint, shard_name};
use super::outbox::binding;
use super::platform::{SystemRandom, age_ms, now, within};
use super::policy_watch::PolicyWatch;
use super::settings::{self, Settings};
use super::shard::{FindShard, Shard, ShardError};
use super::single_flight::SingleFlight;
use crate::clicks::Clicks;
use crate::decision::{Decision, Draft, Durability, Reply, WhenFull, lost};
use crate::handle::{self, Effect, Outcome, State, Step, decide, handle};
use crate::limit::{Class, Limits, Passed};
use crate::networks::DataCentres;
use crate::outbox::parcel::Parcel;
use crate::policy::Policy;
use crate::ready;
use crate::request::{Body, Method};
use catalogue::Catalogue;

/// How long losses wait for a parcel that takes them along.
const LOSSES_WAIT: Duration = Duration::from_secs(1);

/// How long a request waits for ids at a time, and how often.
const LEASE_PATIENCE: Duration = Duration::from_secs(4);
const LEASE_TRIES: u32 = 3;

/// The shard is asked for its state once in this time at most, ms, however often an isolate is
/// asked: many isolates share it.
const STATE_MS: u64 = 1_000;

/// What an isolate keeps between requests.
struct Edge {
    settings: Settings,
    /// The policy in force.
    policy_watch: PolicyWatch,
    /// The call for new ids.
    leases: SingleFlight,
    trouble: Vec<String>,
    limits: Limits,
    clicks: Clicks,
    /// The time since the isolate's first request.
    passed: RefCell<Passed>,
    bodies: Bodies,
    /// What the shard last said about itself, and when …
    state: RefCell<Option<(Timestamp, Result<serde_json::Value, String>)>>,
    /// … and the call that asks it.
    asks: SingleFlight,
    flushing: Cell<bool>,
    gather: Rc<Gather>,
    /// The number of its shard among those of its colo.
    number: u32,
}

/// The state that the core gets for one request.
struct Memory<'a> {
    edge: &'a Edge,
    /// The time since the isolate's first request, for the limits.
    since: Duration,
}

impl State for Memory<'_> {
    fn next_id(&mut self, now: Timestamp, _: &mut dyn Random) -> Option<ImpressionId> {
        self.edge.gather.lease.borrow_mut().as_mut()?.next(now)
    }

    fn admit_more(&mut self, client: Option<IpAddr>, more: u32) -> bool {
        self.edge.limits.admit_more(client, more, self.since)
    }

    fn is_repeat(&mut self, event: &Draft) -> bool {
        self.edge.gather.repeats.has(event)
    }

    fn clicks_too_often(&mut self, client: Option<IpAddr>, user_agent: &[u8]) -> bool {
        self.edge.clicks.too_often(client, user_agent, self.since)
    }
}

thread_local! {
    static EDGE: RefCell<Option<Rc<Edge>>> = const { RefCell::new(None) };
}

/// One request, with what the platform lends to it.
struct Visit {
    head: Head,
    env: Env,
    context: Context,
}

/// An answer for the platform.
enum Answer {
    /// A reply, or the promise of one.
    Ready(JsValue),
    /// The first reply if the promise comes true, or else the second.
    Told(Promise, Box<[Reply; 2]>),
}

/// Answers a request with a reply or the promise of one. What can be answered at once costs no
/// promise, and a redirect that waits for the shard costs only one.
#[wasm_bindgen]
#[expect(unreachable_pub, reason = "what JavaScript calls must be public")]
pub fn fetch(request: web_sys::Request, env: Env, context: JsContext) -> JsValue {
    let head = Head::read(&request);
    let edge = Edge::get(&env, &head);
    let visit = Rc::new(Visit { head, env, context: Context::new(context) });
    edge.follow_centre(&visit);
    if visit.is_link() && !edge.policy_watch.is_stale() {
        let since = edge.passed.borrow_mut().until(now());
        return match edge.admit(&visit, since) {
            Ok(policy) => edge.decide(Body::Whole(&[]), &policy, &visit, since).into_js(&visit),
            Err(refused) => refused,
        };
    }
    let promised = future_to_promise(async move {
        edge.answer(request, visit).await.or_else(|error| {
            console_error!("{error}");
            Ok(web_sys::Response::from(Response::error("INTERNAL SERVER ERROR", 500)?).into())
        })
    });
    promised.into()
}

impl Visit {
    /// Whether it is a click link or a pixel, whose bodies are not read.
    fn is_link(&self) -> bool {
        self.head.path.starts_with("/v1/c/") || self.head.path.starts_with("/v1/i/")
    }

    fn class(&self) -> Class {
        if self.head.path.starts_with("/v1/c/") { Class::Click } else { Class::Request }
    }

    fn response(&self, reply: Reply) -> JsValue {
        to_response(reply, self.head.method).into()
    }
}

impl Answer {
    fn into_js(self, visit: &Rc<Visit>) -> JsValue {
        let (told, [taken, refused]) = match self {
            Self::Ready(ready) => return ready,
            Self::Told(told, replies) => (told, *replies),
        };
        let visit = Rc::clone(visit);
        let promised = future_to_promise(async move {
            let is_taken = JsFuture::from(told).await.is_ok_and(|taken| taken.is_truthy());
            Ok(visit.response(if is_taken { taken } else { refused }))
        });
        promised.into()
    }
}

impl Edge {
    /// The isolate's edge, which is made with its first request: the platform gives no random bytes
    /// before.
    fn get(env: &Env, head: &Head) -> Rc<Self> {
        let kept = EDGE.with_borrow(Clone::clone);
        kept.unwrap_or_else(|| {
            let made = Rc::new(Self::new(env, head));
            made.trouble.iter().for_each(|why| console_error!("{why}"));
            EDGE.set(Some(Rc::clone(&made)));
            made
        })
    }

    fn new(env: &Env, head: &Head) -> Self {
        let get = |name: &str| binding(env, name);
        let mut settings = settings::read(&get);
        let mut trouble = std::mem::take(&mut settings.trouble);
        for name in names(env).split('\n').filter(|name| !name.is_empty()) {
            trouble.extend(settings::refused(name));
        }
        let catalogue = settings::catalogue(&get).unwrap_or_else(|why| {
            trouble.push(why);
            Catalogue::default()
        });
        let public_url = settings.told.public_url.clone().or_else(|| head.origin.parse().ok());
        let known = match (settings::keys(&get), public_url) {
            (Ok((keys, parts)), Some(public_url)) => {
                let networks = DataCentres::default();
                let policy = settings.told.policy(public_url, networks, keys, catalogue);
                Some((policy, parts))
            }
            (Err(why), _) => {
                trouble.push(why);
                None
            }
            (Ok(_), None) => {
                trouble.push("PUBLIC_URL is missing".to_owned());
                None
            }
        };
        let mut number = [0; 4];
        SystemRandom.fill(&mut number);
        Self {
            number: u32::from_le_bytes(number) % settings.shards,
            limits: Limits::new(settings.told.rates, &mut SystemRandom),
            clicks: Clicks::new(settings.told.pace, &mut SystemRandom),
            passed: RefCell::new(Passed::since(now())),
            bodies: Bodies::default(),
            state: RefCell::default(),
            asks: SingleFlight::default(),
            gather: Rc::new(Gather::new(Duration::from_millis(settings.told.redirect_wait_ms))),
            flushing: Cell::new(false),
            policy_watch: PolicyWatch::new(known, settings.policy_url.is_some()),
            leases: SingleFlight::default(),
            settings,
            trouble,
        }
    }

    async fn answer(
        self: Rc<Self>,
        request: web_sys::Request,
        visit: Rc<Visit>,
    ) -> worker::Result<JsValue> {
        let head = &visit.head;
        let js = |response: Response| JsValue::from(web_sys::Response::from(response));
        match head.path.as_str() {
            "/healthz" => return Response::ok("ok\n").map(js),
            Ready::PATH => {
                // Readiness waits for the answer that is under way, though requests do not.
                self.policy_watch.wait().await;
                return self.ready(self.shard(&visit)).await.map(js);
            }
            _ => {}
        }
        if self.policy_watch.is_stale() {
            self.policy_watch.wait().await;
        }
        let since = self.passed.borrow_mut().until(now());
        let policy = match self.admit(&visit, since) {
            Ok(policy) => policy,
            Err(refused) => return Ok(refused),
        };
        if head.path == "/v1/serve" && self.policy_watch.is_too_old() {
            return Ok(visit.response(handle::policy_too_old()));
        }
        if head.path == "/v1/serve" && head.method == Method::Get {
            self.replenish(&visit).await;
            let decision = self.serve(&policy, &visit, since).await;
            return Ok(self.perform(decision, &visit).into_js(&visit));
        }
        let body = match head.path == "/v1/events" && head.method == Method::Post {
            true => match self.bodies.read(request, head.content_length).await {
                Some(Read::Body(body)) => body,
                Some(Read::Busy) => return Ok(visit.response(handle::busy())),
                // The client broke it off or took too long; that is no failure of ours.
                None => return Ok(visit.response(handle::body_timeout())),
            },
            false => Some(Vec::new()),
        };
        let body = body.as_deref().map_or(Body::TooLarge, Body::Whole);
        Ok(self.decide(body, &policy, &visit, since).into_js(&visit))
    }

    /// The policy to decide the request by; `Err` is the reply to a request that is not admitted.
    fn admit(&self, visit: &Visit, since: Duration) -> Result<Rc<Policy>, JsValue> {
        let Some(policy) = self.policy_watch.policy() else {
            let text = "This link cannot be followed at the moment: the site is being set up.\n";
            let reply = ResponseBuilder::new().with_status(503).fixed(text.as_bytes().to_vec());
            return Err(web_sys::Response::from(reply).into());
        };
        let class = visit.class();
        if self.limits.admit(class, visit.head.client, since) {
            Ok(policy)
        } else {
            Err(visit.response(handle::too_many(class)))
        }
    }

    fn decide(
        self: &Rc<Self>,
        body: Body<'_>,
        policy: &Policy,
        visit: &Rc<Visit>,
        since: Duration,
    ) -> Answer {
        let mut memory = Memory { edge: self, since };
        let request = visit.head.request(body);
        let decision = handle(&request, policy, &mut memory, now(), &mut SystemRandom);
        self.perform(decision, visit)
    }

    async fn serve(&self, policy: &Policy, visit: &Visit, since: Duration) -> Decision {
        let request = visit.head.request(Body::Whole(&[]));
        let mut memory = Memory { edge: self, since };
        let mut step = decide(&request, policy, &mut memory, now(), &mut SystemRandom);
        loop {
            step = match step {
                Step::Done(decision) => return decision,
                Step::Need(Effect::Sign { key, bytes }, resume) => {
                    resume.with(self.sign(key, &bytes).await)
                }
            };
        }
    }

    /// Has the platform sign, which takes an eighth of the time of our Wasm but does not happen at
    /// once.
    async fn sign(&self, key: KeyId, bytes: &[u8]) -> Outcome {
        let mut own = self.policy_watch.keys.iter().flat_map(|keys| &keys.own);
        let Some((found, _)) = own.find(|(own, _)| own.public.id == key) else {
            return Outcome::None;
        };
        let promised = sign(key.0, found.secret.expose(), bytes);
        match JsFuture::from(promised).await {
            Ok(signature) => {
                let signature = Uint8Array::from(signature).to_vec().try_into();
                signature.map_or(Outcome::None, Outcome::Signature)
            }
            Err(why) => {
                console_warn!("the platform does not sign: {why:?}");
                Outcome::None
            }
        }
    }

    /// This isolate's shard, for this request. Where the isolate runs shows only in what the
    /// platform says of a request.
    fn shard(&self, visit: &Visit) -> Result<Shard, ShardError> {
        let Visit { head, env, .. } = visit;
        let name = shard_name(&self.settings.name, &head.colo, self.number);
        let name = name.ok_or_else(|| ShardError::Away("the outbox has no name".to_owned()))?;
        Shard::find(env, name, location_hint(&head.continent, head.longitude))
    }

    /// Finds the shard for calls that this request makes for others.
    fn find_shard(self: &Rc<Self>, visit: &Rc<Visit>) -> FindShard {
        let (edge, visit) = (Rc::clone(self), Rc::clone(visit));
        Rc::new(move || edge.shard(&visit))
    }

    /// Asks the shard for a newer policy when it is time to. The call serves all requests, and goes
    /// on when this one has ended.
    fn follow_centre(self: &Rc<Self>, visit: &Rc<Visit>) {
        if self.policy_watch.begin() {
            let (edge, asker) = (Rc::clone(self), Rc::clone(visit));
            visit
                .context
                .wait_until(async move { edge.policy_watch.hear(edge.shard(&asker)).await });
        }
    }

    /// Makes sure that there is an id for this request. One request makes the call for all that
    /// come meanwhile.
    async fn replenish(self: &Rc<Self>, visit: &Rc<Visit>) {
        // Others who waited for the same lease may have used it up; then it is asked for again, a
        // few times at most.
        for _ in 0..LEASE_TRIES {
            if self.gather.has_id() {
                return;
            }
            if self.leases.begin() {
                let (edge, asker) = (Rc::clone(self), Rc::clone(visit));
                visit.context.wait_until(async move {
                    edge.lease(&asker).await;
                    edge.leases.end();
                });
            }
            self.leases.wait(LEASE_PATIENCE).await;
        }
    }

    async fn lease(&self, visit: &Visit) {
        let leased = match self.shard(visit) {
            Ok(shard) => within(LEASE_PATIENCE, shard.lease()).await,
            Err(error) => Some(Err(error)),
        };
        match leased {
            // A parcel may have brought a lease meanwhile.
            Some(Ok(_)) if self.gather.has_id() => {}
            Some(Ok(leased)) => drop(self.gather.lease.replace(Some(leased))),
            Some(Err(error)) => console_error!("no ids: {error:?}"),
            None => console_error!("no ids: the outbox does not answer"),
        }
    }

    /// Carries out the decision, in its order: events, tallies, reply.
    fn perform(self: &Rc<Self>, decision: Decision, visit: &Rc<Visit>) -> Answer {
        let Decision { events, tallies, durability, when_full, reply } = decision;
        self.gather.lose(tallies);
        if events.is_empty() {
            self.flush_losses(visit);
            return Answer::Ready(visit.response(reply));
        }
        let durable = durability == Durability::Durable;
        let (waiter, refusal) = match when_full {
            WhenFull::Proceed(lost) if durable => (Waiter::Click(lost), None),
            WhenFull::Proceed(lost) => (Waiter::Nobody(vec![lost]), None),
            WhenFull::Refuse if durable => (Waiter::Client, Some(handle::outbox_full())),
            WhenFull::Refuse => (Waiter::Nobody(lost(&events)), None),
        };
        let put = self.gather.put(events, waiter, || self.find_shard(visit), &visit.context);
        match (put, refusal) {
            (Put::Waits(list, most), Some(refusal)) => {
                let told = wait(&list, most, &JsValue::TRUE, &JsValue::FALSE);
                Answer::Told(told, Box::new([reply, refusal]))
            }
            // The reply is the same whether the event was taken or not.
            (Put::Waits(list, most), None) => {
                let response = visit.response(reply);
                Answer::Ready(wait(&list, most, &response, &response).into())
            }
            (Put::Known(false), Some(refusal)) => Answer::Ready(visit.response(refusal)),
            (Put::Known(_), _) => Answer::Ready(visit.response(reply)),
        }
    }

    /// Sends losses that no parcel with events takes along.
    fn flush_losses(self: &Rc<Self>, visit: &Rc<Visit>) {
        if !self.gather.has_losses() || self.flushing.replace(true) {
            return;
        }
        let (edge, shard) = (Rc::clone(self), self.shard(visit));
        visit.context.wait_until(async move {
            Delay::from(LOSSES_WAIT).await;
            edge.flushing.set(false);
            let parcel = Parcel { events: Vec::new(), losses: edge.gather.take_losses() };
            let sent = match shard {
                Ok(shard) if !parcel.is_empty() => shard.append(&parcel, false).await.map(drop),
                Ok(_) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = sent {
                console_error!("the outbox is not reached: {error:?}");
                edge.gather.lose(parcel.losses);
            }
        });
    }

    /// What the shard says about itself, or said a moment ago.
    async fn state_of(
        &self,
        shard: Result<Shard, ShardError>,
    ) -> Result<serde_json::Value, String> {
        let kept = || {
            let state = self.state.borrow();
            let (at, state) = state.as_ref()?;
            (age_ms(*at) < STATE_MS).then(|| state.clone())
        };
        if let Some(state) = kept() {
            return state;
        }
        if !self.asks.begin() {
            self.asks.wait(LEASE_PATIENCE).await;
            return kept().unwrap_or_else(|| Err("it does not answer".to_owned()));
        }
        let state = match shard {
            Ok(shard) => shard.state().await,
            Err(error) => Err(error),
        };
        let state = state.map_err(|error| format!("{error:?}"));
        self.state.replace(Some((now(), state.clone())));
        self.asks.end();
        state
    }

    /// The reply of `/readyz`: whether this edge should get traffic, and if not, why.
    async fn ready(&self, shard: Result<Shard, ShardError>) -> worker::Result<Response> {
        let mut reasons = self.trouble.clone();
        self.policy_watch.reasons(&mut reasons);
        let state = self.state_of(shard).await;
        match &state {
            Ok(state) => {
                if let Some(why) = state["trouble"].as_str() {
                    reasons.push(ready::outbox(why));
                }
                if state["full"].as_bool() == Some(true) {
                    reasons.push(ready::outbox_full());
                }
                let ahead_ms = state["clock_ahead_ms"].as_u64().unwrap_or(0);
                if ahead_ms > shared::limits::CLOCK_AHEAD_MS_MAX {
                    reasons.push(ready::clock_ahead(ahead_ms));
                }
            }
            Err(error) => reasons.push(ready::outbox(error)),
        }
        let ready = Ready::unless(reasons);
        let mut body = serde_json::to_value(&ready)?;
        body["outbox"] = state.unwrap_or_default();
        body["rules"] = self.policy_watch.policy().map(|policy| policy.rule_set.to_string()).into();
        Ok(Response::from_json(&body)?.with_status(ready.code()))
    }
}
