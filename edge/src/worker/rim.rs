//! One request: from the platform to the core's form, and what the core decided back.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use shared::id::IdRange;
use shared::keys::EdgeKeys;
use shared::limits::EDGE_BODY_BYTES_MAX;
use shared::{ImpressionId, Random, Timestamp};
use worker::worker_sys::web_sys;
use worker::{Context, Delay, Env, Response, ResponseBuilder, console_error, console_warn, event};

use super::gather::{Gather, Waits};
use super::glue::{Head, to_response};
use super::outbox::{POLICY_LIFE_MS, binding};
use super::place::{location_hint, shard_name};
use super::platform::{SystemRandom, now};
use super::settings::{self, Settings};
use super::shard::{FindShard, Shard, ShardError};
use crate::catalogue::Catalogue;
use crate::clicks::Clicks;
use crate::decision::{Decision, Durability, Reply, WhenFull, lost};
use crate::handle::{self, State, handle};
use crate::limit::{Class, Limits};
use crate::outbox::parcel::Parcel;
use crate::policy::{Keys, Policy, Published};
use crate::request::{Body, Method};

/// Losses wait so long for a parcel that they can go with.
const LOSSES_WAIT: Duration = Duration::from_secs(1);

/// What an isolate keeps between requests.
struct Edge {
    settings: Settings,
    /// None without keys.
    policy: RefCell<Option<Rc<Policy>>>,
    /// The secrets, for the day that the public keys change.
    keys: Option<EdgeKeys>,
    /// The entity tag of what the centre told last; empty when it never told anything.
    told: RefCell<String>,
    /// When the shard was last asked for it.
    asked_at: Cell<Timestamp>,
    trouble: Vec<String>,
    limits: Limits,
    clicks: Clicks,
    started: Timestamp,
    flushing: Cell<bool>,
    gather: Rc<Gather>,
    /// Which shard of its colo it uses.
    number: u32,
}

/// What the core is lent for one request.
struct Memory<'a> {
    edge: &'a Edge,
    /// The time since the isolate's first request.
    since: Duration,
}

impl State for Memory<'_> {
    fn next_id(&mut self, now: Timestamp, _: &mut dyn Random) -> Option<ImpressionId> {
        self.edge.gather.lease.borrow_mut().as_mut()?.next(now)
    }

    fn clicks_too_often(&mut self, client: Option<IpAddr>, user_agent: &[u8]) -> bool {
        self.edge.clicks.too_often(client, user_agent, self.since)
    }
}

thread_local! {
    static EDGE: RefCell<Option<Rc<Edge>>> = const { RefCell::new(None) };
}

#[event(fetch)]
async fn fetch(
    request: web_sys::Request,
    env: Env,
    context: Context,
) -> worker::Result<web_sys::Response> {
    let head = Head::read(&request);
    let edge = Edge::get(&env, &head);
    edge.answer(request, head, env, context).await
}

impl Edge {
    /// Made with the isolate's first request: no randomness may be had before.
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
        let catalogue = settings::catalogue(&get).unwrap_or_else(|why| {
            trouble.push(why);
            Catalogue::default()
        });
        let public_url = settings.public_url.clone().or_else(|| head.origin.parse().ok());
        let (policy, keys) = match (settings::keys(&get), public_url) {
            (Ok((keys, parts)), Some(public_url)) => {
                let policy = Policy {
                    public_url,
                    beacons: settings.beacons,
                    verdicts: settings.verdicts.clone(),
                    privacy: settings.privacy,
                    keys: Arc::new(keys),
                    catalogue: Arc::new(catalogue),
                };
                (Some(Rc::new(policy)), Some(parts))
            }
            (Err(why), _) => {
                trouble.push(why);
                (None, None)
            }
            (Ok(_), None) => {
                trouble.push("PUBLIC_URL is missing".to_owned());
                (None, None)
            }
        };
        let mut number = [0; 4];
        SystemRandom.fill(&mut number);
        Self {
            number: u32::from_le_bytes(number) % settings.shards,
            limits: Limits::new(settings.rates, &mut SystemRandom),
            clicks: Clicks::new(settings.clicks_pace, &mut SystemRandom),
            started: now(),
            gather: Rc::new(Gather::new(Duration::from_millis(settings.redirect_wait_ms))),
            flushing: Cell::new(false),
            settings,
            policy: RefCell::new(policy),
            keys,
            told: RefCell::new(String::new()),
            asked_at: Cell::new(Timestamp(0)),
            trouble,
        }
    }

    async fn answer(
        self: Rc<Self>,
        request: web_sys::Request,
        head: Head,
        env: Env,
        context: Context,
    ) -> worker::Result<web_sys::Response> {
        let head = Rc::new(head);
        let shard: FindShard = {
            let (edge, head) = (Rc::clone(&self), Rc::clone(&head));
            Rc::new(move || edge.shard(&env, &head))
        };
        match head.path.as_str() {
            "/healthz" => return Ok(Response::ok("ok\n")?.into()),
            "/readyz" => return self.ready(shard()).await.map(Into::into),
            _ => {}
        }
        self.follow_centre(&shard, &context).await;
        let Some(policy) = self.policy.borrow().clone() else {
            let text = "This link cannot be followed at the moment: the site is being set up.\n";
            let reply = ResponseBuilder::new().with_status(503).fixed(text.as_bytes().to_vec());
            return Ok(reply.into());
        };
        let class = if head.path.starts_with("/v1/c/") { Class::Click } else { Class::Request };
        let since = Duration::from_millis(now().0.saturating_sub(self.started.0));
        if !self.limits.admit(class, head.client, since) {
            return Ok(to_response(handle::too_many(class), head.method));
        }
        if head.path == "/v1/serve" && head.method == Method::Get {
            self.replenish(&shard).await;
        }
        let body = match head.path == "/v1/events" && head.method == Method::Post {
            true => match read_body(request, head.content_length).await {
                Ok(body) => body,
                // The client ended it, or sent what is no body: no failure of ours.
                Err(_) => return Ok(to_response(handle::body_timeout(), head.method)),
            },
            false => Some(Vec::new()),
        };
        let body = body.as_deref().map_or(Body::TooLarge, Body::Whole);
        let mut memory = Memory { edge: &self, since };
        let decision = handle(&head.request(body), &policy, &mut memory, now(), &mut SystemRandom);
        let reply = self.perform(decision, &shard, &context).await;
        Ok(to_response(reply, head.method))
    }

    /// This isolate's shard. What the platform says of the request tells where the isolate is.
    fn shard(&self, env: &Env, head: &Head) -> Result<Shard, ShardError> {
        let name = shard_name(&self.settings.name, &head.colo, self.number);
        let name = name.ok_or_else(|| ShardError::Away("the outbox has no name".to_owned()))?;
        Shard::find(env, name, location_hint(&head.continent, head.longitude))
            .map_err(|error| ShardError::Away(format!("the binding OUTBOX: {error}")))
    }

    /// Goes by the keys and ads that the centre told the shard last. The isolate's first request
    /// waits for them; later ones do not.
    async fn follow_centre(self: &Rc<Self>, shard: &FindShard, context: &Context) {
        let now = now();
        let first = self.asked_at.get() == Timestamp(0);
        let is_due = now.0.saturating_sub(self.asked_at.get().0) >= POLICY_LIFE_MS;
        if !is_due || self.keys.is_none() || self.settings.policy_url.is_none() {
            return;
        }
        self.asked_at.set(now);
        let Ok(shard) = shard() else { return };
        let edge = Rc::clone(self);
        let follow = async move {
            let known = edge.told.borrow().clone();
            match shard.policy(&known).await {
                Ok(None) => {}
                Ok(Some((tag, text))) => match edge.take_policy(&text) {
                    Ok(()) => drop(edge.told.replace(tag)),
                    Err(why) => console_error!("the centre's keys and ads cannot be used: {why}"),
                },
                Err(why) => console_warn!("keys and ads stay as they are: {why:?}"),
            }
        };
        if first { follow.await } else { context.wait_until(follow) }
    }

    /// Puts what the centre told in force.
    fn take_policy(&self, text: &str) -> Result<(), String> {
        let told: Published = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let (Some(keys), Some(before)) = (self.keys.clone(), self.policy.borrow().clone()) else {
            return Ok(());
        };
        let keys = Keys::new(&keys.with_public(told.public)).map_err(|error| error.to_string())?;
        let catalogue = match told.catalogue {
            Some(catalogue) => {
                let read = Catalogue::from_json(catalogue.get());
                Arc::new(read.map_err(|error| error.to_string())?)
            }
            None => Arc::clone(&before.catalogue),
        };
        let policy = Policy { keys: Arc::new(keys), catalogue, ..Policy::clone(&before) };
        self.policy.replace(Some(Rc::new(policy)));
        Ok(())
    }

    /// Sees to it that there is an id for this request.
    async fn replenish(&self, shard: &FindShard) {
        let is_fresh = |lease: &Option<IdRange>| lease.is_some_and(|ids| ids.is_fresh(now()));
        if is_fresh(&self.gather.lease.borrow()) {
            return;
        }
        let leased = match shard() {
            Ok(shard) => shard.lease().await,
            Err(error) => Err(error),
        };
        match leased {
            // Another request may have brought one meanwhile.
            Ok(leased) if !is_fresh(&self.gather.lease.borrow()) => {
                self.gather.lease.replace(Some(leased));
            }
            Ok(_) => {}
            Err(error) => console_error!("no ids: {error:?}"),
        }
    }

    /// Does what the core decided, in its order: events, tallies, reply.
    async fn perform(
        self: &Rc<Self>,
        decision: Decision,
        shard: &FindShard,
        context: &Context,
    ) -> Reply {
        let Decision { events, tallies, durability, when_full, reply } = decision;
        self.gather.losses.borrow_mut().extend(tallies);
        if events.is_empty() {
            self.flush_losses(shard, context);
            return reply;
        }
        let durable = durability == Durability::Durable;
        let (waits, refusal) = match when_full {
            WhenFull::Proceed(lost) if durable && self.settings.clicks == Durability::Durable => {
                (Waits::Click(lost), None)
            }
            WhenFull::Proceed(lost) => (Waits::Nobody(vec![lost]), None),
            WhenFull::Refuse if durable => (Waits::Client, Some(handle::outbox_full())),
            WhenFull::Refuse => (Waits::Nobody(lost(&events)), None),
        };
        let taken = self.gather.put(events, waits, shard, context).await;
        refusal.filter(|_| !taken).unwrap_or(reply)
    }

    /// Sends losses that no events take along.
    fn flush_losses(self: &Rc<Self>, shard: &FindShard, context: &Context) {
        if self.gather.losses.borrow().is_empty() || self.flushing.replace(true) {
            return;
        }
        let (edge, shard) = (Rc::clone(self), shard());
        context.wait_until(async move {
            Delay::from(LOSSES_WAIT).await;
            edge.flushing.set(false);
            let losses = std::mem::take(&mut *edge.gather.losses.borrow_mut());
            let parcel = Parcel { events: Vec::new(), losses };
            let sent = match shard {
                Ok(shard) if !parcel.is_empty() => shard.append(&parcel, false).await.map(drop),
                Ok(_) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = sent {
                console_error!("the outbox is not reached: {error:?}");
                edge.gather.losses.borrow_mut().extend(parcel.losses);
            }
        });
    }

    /// Whether traffic should be sent here; if not, why.
    async fn ready(&self, shard: Result<Shard, ShardError>) -> worker::Result<Response> {
        let mut reasons = self.trouble.clone();
        if self.policy.borrow().as_ref().is_some_and(|policy| !policy.keys.can_sign(now())) {
            reasons
                .push("no_signing_key: every key is retired, revoked or not in force".to_owned());
        }
        let state = match shard {
            Ok(shard) => shard.state().await,
            Err(error) => Err(error),
        };
        match &state {
            Ok(state) => {
                if let Some(why) = state["trouble"].as_str() {
                    reasons.push(format!("outbox: {why}"));
                }
                if state["full"].as_bool() == Some(true) {
                    let why = "outbox_full: beacons are refused, clicks are only tallied";
                    reasons.push(why.to_owned());
                }
                let ahead_ms = state["clock_ahead_ms"].as_u64().unwrap_or(0);
                if ahead_ms > shared::limits::CLOCK_AHEAD_MS_MAX {
                    reasons.push(format!("clock_ahead: by {ahead_ms} ms"));
                }
            }
            Err(error) => reasons.push(format!("outbox: {error:?}")),
        }
        let status = if reasons.is_empty() { 200 } else { 503 };
        let body = serde_json::json!({
            "ready": reasons.is_empty(), "reasons": reasons, "outbox": state.ok(),
        });
        Ok(Response::from_json(&body)?.with_status(status))
    }
}

/// The body; `None` when it is longer than may be.
async fn read_body(request: web_sys::Request, length: usize) -> worker::Result<Option<Vec<u8>>> {
    if length > EDGE_BODY_BYTES_MAX {
        return Ok(None);
    }
    if request.body().is_none() {
        return Ok(Some(Vec::new()));
    }
    let mut stream = worker::Request::from(request).stream()?;
    let mut body = Vec::with_capacity(length);
    while let Some(part) = stream.next().await {
        body.extend(part?);
        if body.len() > EDGE_BODY_BYTES_MAX {
            return Ok(None);
        }
    }
    Ok(Some(body))
}
