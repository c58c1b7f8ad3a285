//! A shard: a Durable Object that keeps events until the centre has acknowledged their batches.
//!
//! Isolates ask it: `POST /NAME/append` (a [`Parcel`]; with `?lease` the reply has new ids), `POST
//! /NAME/lease`, `GET /NAME/policy` (what the centre sent last) and `GET /NAME/state`. The platform
//! holds a reply back until what was written before it is durable.
//!
//! An alarm drains it. The alarm is set again before anything is sent, and never fails, for the
//! platform gives up on an alarm that fails six times. A batch is deleted when it is acknowledged,
//! never before.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

use shared::{EdgeId, Timestamp};
use worker::{
    DurableObject, Env, Method, Request, Response, ResponseBuilder, State, console_error,
    console_warn, durable_object,
};

use super::database::{Database, StoredPolicy, Unsent};
use super::platform::{SystemRandom, age_ms, now};
use super::settings::{self, Settings};
use super::single_flight::SingleFlight;
use super::transport::{BatchOutcome, POLICY_PATIENCE, Transport, ask_policy};
use crate::outbox::parcel::Parcel;
use crate::outbox::shard::{Idle, Shard};
use crate::policy::Keys;

/// How long an event waits for others to be sent with, ms.
const GATHER_MS: u64 = 20;
/// After how long an alarm that dies while it sends comes again, ms.
const AGAIN_MS: u64 = 1_000;
/// How long one alarm sends at most before the next one goes on, ms.
const TURN_MS: u64 = 30_000;
/// How many batches are read and sent together.
const PORTION: i64 = 32;
/// The pause after an error, ms; it doubles with each further one, up to [`PAUSE_MOST_MS`].
const PAUSE_LEAST_MS: u64 = 100;
const PAUSE_MOST_MS: u64 = 2_000;
/// How long an answer of the centre is taken for fresh, ms.
pub(super) const POLICY_LIFE_MS: u64 = 5_000;
/// How often the time of the centre's last confirmation is written down, ms: each time would be a
/// row every few seconds.
const TOLD_KEPT_MS: u64 = 600_000;
/// The pause before a refused batch is tried again, ms.
const REFUSED_PAUSE_MS: u64 = 60_000;

/// The Durable Object.
#[durable_object]
pub struct Outbox {
    state: State,
    env: Env,
    inner: RefCell<Option<Inner>>,
    /// Whether an alarm is sending; nobody else need set one then.
    sending: Cell<bool>,
    /// When the alarm comes, in ms, as far as this process knows.
    armed: Cell<Option<u64>>,
    /// No alarm is set before this time, in ms, after an error.
    held: Cell<u64>,
    /// The question to the centre for keys and ads.
    asks: SingleFlight,
}

struct Inner {
    edge: EdgeId,
    database: Database,
    shard: Shard,
    settings: Settings,
    /// `None` while it is sending.
    transport: Option<Transport>,
    /// Batches that were refused, and when each is tried again.
    refused: BTreeMap<i64, Timestamp>,
    pause_ms: u64,
    /// Why batches do not arrive; `None` when they do.
    trouble: Option<String>,
    clock_ahead_ms: u64,
    keys: Option<Keys>,
    /// The policy that the centre sent last.
    told: Option<StoredPolicy>,
    /// The time of its last confirmation, as the database has it.
    told_kept_at: Timestamp,
    /// When the centre was last asked, whatever the answer.
    asked_at: Option<Timestamp>,
    /// Why that brought no answer; `None` when it did.
    untold: Option<String>,
}

impl DurableObject for Outbox {
    fn new(state: State, env: Env) -> Self {
        let (inner, sending, armed) = (RefCell::new(None), Cell::new(false), Cell::new(None));
        Self {
            state,
            env,
            inner,
            sending,
            armed,
            held: Cell::new(0),
            asks: SingleFlight::default(),
        }
    }

    async fn fetch(&self, mut request: Request) -> worker::Result<Response> {
        let path = request.path();
        let mut parts = path.trim_start_matches('/').split('/');
        let (name, what) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        if let Err(error) = self.open(Some(name)) {
            return plain(503, &error.to_string());
        }
        match (what, request.method()) {
            ("append", Method::Post) => {
                let wants_lease = request.inner().url().ends_with("?lease");
                let bytes = request.bytes().await?;
                let parcel = match Parcel::read(&bytes) {
                    Ok(parcel) => parcel,
                    Err(error) => return plain(400, &error.to_string()),
                };
                let appended = self.with(|inner| inner.append(&parcel))?;
                let reply = match appended {
                    Ok(()) if wants_lease => self.lease()?,
                    Ok(()) => ResponseBuilder::new().with_status(204).empty(),
                    Err(full) => plain(507, full)?,
                };
                self.arm_soon().await;
                Ok(reply)
            }
            ("lease", Method::Post) => self.lease(),
            ("policy", Method::Get) => {
                self.refresh().await;
                let known = request.headers().get("if-none-match")?.unwrap_or_default();
                self.with(|inner| inner.told(&known))
            }
            ("state", Method::Get) => self.with(|inner| Response::from_json(&inner.state())),
            _ => plain(404, "there is nothing at this path"),
        }
    }

    async fn alarm(&self) -> worker::Result<Response> {
        self.armed.set(None);
        self.sending.set(true);
        // Set before anything is sent, so that the alarm comes again should this process die
        // meanwhile.
        self.arm(now().plus_ms(AGAIN_MS)).await;
        let next = self.drain().await;
        self.sending.set(false);
        match next {
            Some(next) => self.arm(next).await,
            None => self.disarm().await,
        }
        Response::empty()
    }
}

impl Outbox {
    /// Reads the rows, unless that was done and no write has failed since.
    fn open(&self, name: Option<&str>) -> worker::Result<()> {
        if self.inner.borrow().is_some() {
            return Ok(());
        }
        let database = Database::open(&self.state)?;
        let name = match (database.edge()?, name) {
            (Some(kept), _) => kept,
            (None, Some(name)) => {
                database.set_edge(name)?;
                name.to_owned()
            }
            (None, None) => return Err("the outbox has no name yet".into()),
        };
        let edge: EdgeId = name.parse().map_err(|error| format!("the outbox's name: {error}"))?;
        let shard = database.shard(edge)?;
        let get = |name: &str| binding(&self.env, name);
        let mut settings = settings::read(&get);
        let keys = settings::keys(&get).ok().map(|(keys, _)| keys);
        let transport = settings.centre.take().zip(keys.clone());
        let transport = transport.map(|(centre, keys)| Transport::new(centre, keys));
        let told = database.policy()?;
        let inner = Inner {
            edge,
            database,
            shard,
            settings,
            transport,
            refused: BTreeMap::new(),
            pause_ms: PAUSE_LEAST_MS,
            trouble: None,
            clock_ahead_ms: 0,
            keys,
            told_kept_at: told.as_ref().map_or(Timestamp(0), |told| told.at),
            told,
            asked_at: None,
            untold: None,
        };
        self.inner.replace(Some(inner));
        Ok(())
    }

    /// Runs `work` on the shard. After an error the shard may differ from its rows, so they are
    /// read again at the next call.
    fn with<T>(&self, work: impl FnOnce(&mut Inner) -> worker::Result<T>) -> worker::Result<T> {
        self.open(None)?;
        let mut inner = self.inner.borrow_mut();
        let result = match inner.as_mut() {
            Some(inner) => work(inner),
            None => Err("the outbox is not open".into()),
        };
        if let Err(error) = &result {
            console_error!("the outbox could not write its rows: {error}");
            *inner = None;
        }
        result
    }

    fn lease(&self) -> worker::Result<Response> {
        let leased = self.with(|inner| {
            let now = inner.shard.time(now());
            let (leased, left) = inner.shard.lease(now, &mut SystemRandom);
            inner.database.write_ids(left)?;
            Ok(leased)
        })?;
        Response::from_bytes(leased.to_bytes().to_vec())
    }

    /// Asks the centre which keys and ads are in force, unless it was asked lately; requests that
    /// come meanwhile wait for the same answer. The answer is stored here for isolates that start
    /// while the centre is away.
    async fn refresh(&self) {
        if !self.asks.begin() {
            return self.asks.wait(POLICY_PATIENCE).await;
        }
        let asked = self.with(|inner| {
            if inner.asked_at.is_some_and(|asked| age_ms(asked) < POLICY_LIFE_MS) {
                return Ok(None);
            }
            let known = inner.told.as_ref().map(|told| told.tag.clone()).unwrap_or_default();
            Ok(inner.settings.policy_url.clone().zip(inner.keys.clone()).zip(Some(known)))
        });
        if let Ok(Some(((url, keys), known))) = asked {
            let answer = ask_policy(&url, &keys, &known).await;
            // `with` logs its errors.
            let _ = self.with(|inner| inner.hear(answer));
        }
        self.asks.end();
    }

    /// Sends what there is. Returns when to come again; `None`: when something new comes.
    async fn drain(&self) -> Option<Timestamp> {
        let begun = now();
        // The last row that was looked at in this turn. Rows up to it were sent, or stay for now.
        let mut after = 0;
        // Each round moves `after` on, or does what an idle shard does. So the loop ends: when the
        // shard has nothing to do, with an error, or with the turn.
        loop {
            let now = now();
            if now.0 > begun.0.saturating_add(TURN_MS) {
                return Some(now);
            }
            let portion = match self.with(|inner| inner.portion(after, now)) {
                Ok(portion) => portion,
                Err(_) => return self.hold(now.plus_ms(PAUSE_MOST_MS)),
            };
            let Some((end, portion)) = portion else {
                match self.with(|inner| inner.idle(now)) {
                    Ok(Idle::Send(_)) => continue,
                    Ok(Idle::Wait(until)) => return Some(until),
                    Ok(Idle::Sleep) => return None,
                    Err(_) => return self.hold(now.plus_ms(PAUSE_MOST_MS)),
                }
            };
            after = end;
            if portion.is_empty() {
                continue;
            }
            let Some(mut transport) = self.take_transport() else {
                return self.hold(now.plus_ms(PAUSE_MOST_MS));
            };
            let outcomes = transport.send(&portion).await;
            let sent = self.with(|inner| inner.sent(transport, &portion, outcomes));
            match sent {
                Ok(None) => {}
                Ok(Some(until)) => return self.hold(until),
                Err(_) => return self.hold(now.plus_ms(PAUSE_MOST_MS)),
            }
        }
    }

    fn hold(&self, until: Timestamp) -> Option<Timestamp> {
        self.held.set(until.0);
        Some(until)
    }

    fn take_transport(&self) -> Option<Transport> {
        let taken = self.with(|inner| {
            if inner.transport.is_none() {
                let why = "no centre that batches could go to, or no key: see /readyz";
                inner.trouble = Some(why.to_owned());
            }
            Ok(inner.transport.take())
        });
        taken.ok().flatten()
    }

    async fn arm_soon(&self) {
        let at = Timestamp(now().plus_ms(GATHER_MS).0.max(self.held.get()));
        let sooner = self.armed.get().is_none_or(|armed| armed > at.0);
        if !self.sending.get() && sooner {
            self.arm(at).await;
        }
    }

    async fn arm(&self, at: Timestamp) {
        self.armed.set(Some(at.0));
        let wait = Duration::from_millis(at.0.saturating_sub(now().0));
        if let Err(error) = self.state.storage().set_alarm(wait).await {
            console_error!("the outbox's alarm cannot be set: {error}");
            self.armed.set(None);
        }
    }

    async fn disarm(&self) {
        self.armed.set(None);
        if let Err(error) = self.state.storage().delete_alarm().await {
            console_error!("the outbox's alarm cannot be taken back: {error}");
        }
    }
}

impl Inner {
    /// Stores the answer of the centre.
    fn hear(&mut self, answer: Result<Option<(String, String)>, String>) -> worker::Result<()> {
        let now = now();
        self.asked_at = Some(now);
        match answer {
            Ok(Some((tag, text))) => {
                let told = StoredPolicy { tag, text, at: now };
                self.database.set_policy(&told)?;
                (self.told, self.told_kept_at, self.untold) = (Some(told), now, None);
            }
            Ok(None) => {
                self.untold = None;
                if let Some(told) = &mut self.told {
                    told.at = now;
                }
                if age_ms(self.told_kept_at) > TOLD_KEPT_MS {
                    self.database.set_policy_at(now)?;
                    self.told_kept_at = now;
                }
            }
            Err(why) => {
                console_warn!("keys and ads stay as they are: {why}");
                self.untold = Some(why);
            }
        }
        Ok(())
    }

    /// The reply to an isolate that has the policy with this entity tag.
    fn told(&self, known: &str) -> worker::Result<Response> {
        let Some(told) = &self.told else {
            return plain(404, self.untold.as_deref().unwrap_or("nobody has been asked"));
        };
        let age_s = age_ms(told.at) / 1_000;
        let reply = ResponseBuilder::new()
            .with_header("etag", &told.tag)?
            .with_header("age", &age_s.to_string())?;
        Ok(match told.tag == known {
            true => reply.with_status(304).empty(),
            false => reply.fixed(told.text.as_bytes().to_vec()),
        })
    }

    /// Takes a parcel; the inner `Err` when there is no room for its events. There is always room
    /// for losses.
    fn append(&mut self, parcel: &Parcel) -> worker::Result<Result<(), &'static str>> {
        let full = self.database.bytes() >= self.settings.outbox_bytes_max;
        if full && !parcel.events.is_empty() {
            return Ok(Err("the outbox is full"));
        }
        let rows = self.shard.take(now(), parcel, &self.settings.timing);
        self.database.write(rows)?;
        Ok(Ok(()))
    }

    /// The next batches to send, and the last row that was looked at; `None` at the end.
    fn portion(
        &mut self,
        after: i64,
        now: Timestamp,
    ) -> worker::Result<Option<(i64, Vec<Unsent>)>> {
        // After an error a single batch finds out whether things are well again, since each batch
        // costs a signature.
        let count = if self.pause_ms > PAUSE_LEAST_MS { 1 } else { PORTION };
        let mut portion = self.database.unsent(after, count)?;
        let end = portion.last().map(|batch| batch.sequence);
        self.refused.retain(|_, until| *until > now);
        portion.retain(|batch| !self.refused.contains_key(&batch.sequence));
        Ok(end.map(|end| (end, portion)))
    }

    fn idle(&mut self, now: Timestamp) -> worker::Result<Idle> {
        // While a refused batch is here, no heartbeat may claim that everything before it was
        // reported.
        if let Some(until) = self.refused.values().min() {
            return Ok(Idle::Wait(*until));
        }
        self.database.trim()?;
        let idle = self.shard.idle(now, &self.settings.timing);
        if let Idle::Send(rows) = &idle {
            self.database.write(rows.clone())?;
        }
        Ok(idle)
    }

    /// Acknowledges what was taken. Returns when to try again; `None` when there is no need to.
    fn sent(
        &mut self,
        transport: Transport,
        portion: &[Unsent],
        outcomes: Vec<BatchOutcome>,
    ) -> worker::Result<Option<Timestamp>> {
        self.clock_ahead_ms = transport.clock_ahead_ms;
        self.transport = Some(transport);
        let mut again = None;
        for (batch, outcome) in portion.iter().zip(outcomes) {
            match outcome {
                BatchOutcome::Taken => self.database.acknowledge(batch)?,
                BatchOutcome::Refused(why) => {
                    console_error!("a batch is refused, and kept: {why}");
                    self.trouble = Some(why);
                    self.refused.insert(batch.sequence, now().plus_ms(REFUSED_PAUSE_MS));
                }
                BatchOutcome::Retry(why) => again = Some(why),
            }
        }
        let Some(why) = again else {
            self.pause_ms = PAUSE_LEAST_MS;
            if self.refused.is_empty() {
                self.trouble = None;
            }
            return Ok(None);
        };
        if self.trouble.as_ref() != Some(&why) {
            console_error!("batches wait in the outbox {}: {why}", self.edge);
        }
        self.trouble = Some(why);
        let until = now().plus_ms(self.pause_ms);
        self.pause_ms = (self.pause_ms * 2).min(PAUSE_MOST_MS);
        Ok(Some(until))
    }

    fn state(&self) -> serde_json::Value {
        let full = self.database.bytes() >= self.settings.outbox_bytes_max;
        serde_json::json!({
            "edge": self.edge,
            "epoch": self.shard.outbox().map(|outbox| outbox.epoch),
            "unacked_bytes": self.database.bytes(),
            "full": full,
            "clock_ahead_ms": self.clock_ahead_ms,
            "trouble": self.trouble,
        })
    }
}

/// The text of a binding, a variable or a secret. `None` when it is not set: there is no such
/// binding, or (workerd's `fromEnvironment`) it is null.
pub(super) fn binding(env: &Env, name: &str) -> Option<String> {
    js_sys::Reflect::get(env, &name.into()).ok()?.as_string()
}

fn plain(status: u16, text: &str) -> worker::Result<Response> {
    let builder = ResponseBuilder::new().with_status(status);
    // Some statuses allow no body at all (Fetch Standard, "null body status").
    let is_empty = text.is_empty();
    Ok(if is_empty { builder.empty() } else { builder.fixed(text.as_bytes().to_vec()) })
}
