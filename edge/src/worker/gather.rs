//! Requests that wait for the shard at the same time go there in one call: the first one makes the
//! call, and those that arrive meanwhile go with the next. So a shard that answers within a
//! millisecond does not limit an isolate to a thousand events a second.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use futures::future::{Either, select};
use shared::Timestamp;
use shared::id::IdRange;
use worker::js_sys::Array;
use worker::{Context, Delay, console_error, console_warn};

use super::glue::tell;
use super::platform::{age_ms, now};
use super::shard::{FindShard, Shard, ShardError};
use crate::decision::{Draft, Loss};
use crate::outbox::parcel::{EVENTS_MAX, Parcel};
use crate::repeats::Repeats;

/// A new lease is asked for when fewer ids than this are left.
const LEASE_LOW: u32 = 32;
/// After this time, in ms, a request that makes calls for others is relieved by the next one that
/// arrives: the platform ends a request after 30 s.
const TURN_MS: u64 = 5_000;
/// How often, and after what pause, events whose replies have gone out are handed over again.
const TRIES: u32 = 5;
const TRY_PAUSE: Duration = Duration::from_millis(500);
/// How long a call waits for more events while none of its replies is waiting.
const LINGER: Duration = Duration::from_millis(20);
/// How long it waits while replies are waiting: only when the last call with at least [`MANY`]
/// events ended less than [`LONG_AGO_MS`] ago, since a call costs as much as answering some ten
/// requests.
const LINGER_AWAITED: Duration = Duration::from_millis(2);
const MANY: usize = 8;
const LONG_AGO_MS: u64 = 100;
/// A call that takes longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(10);
/// A client that waits longer than this is refused, before the platform ends its request after 30
/// s.
const CLIENT_WAIT: Duration = Duration::from_secs(25);

/// The events that wait for the next call, and what all calls share.
#[derive(Debug)]
pub(super) struct Gather {
    waiting: RefCell<Waiting>,
    /// When the last call with at least [`MANY`] events ended.
    many_at: Cell<Timestamp>,
    /// The turn of the request that makes the calls, and since when it does; turns count up.
    caller: Cell<(u64, Option<Timestamp>)>,
    /// How long a click waits for its call …
    redirect_wait: Duration,
    /// … unless the shard is slow or away: then clicks do not wait.
    is_late: Cell<bool>,
    /// The ids that this isolate may give out.
    pub(super) lease: RefCell<Option<IdRange>>,
    /// Counts without events, until a parcel takes them along.
    losses: RefCell<Vec<Loss>>,
    /// The events of this isolate that the shard has taken.
    pub(super) repeats: Repeats,
}

/// Whose reply waits for the events to be taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Waiter {
    /// Nobody's. When the events are not taken, this is counted instead.
    Nobody(Vec<Loss>),
    /// A redirect, which waits a short time and goes out in any case. When the event is not taken,
    /// this is counted instead.
    Click(Loss),
    /// A client, which is refused when the events are not taken.
    Client,
}

/// What became of events that were put into the queue.
#[derive(Debug)]
pub(super) enum Put {
    /// The reply need not wait: whether the events were taken, or are as good as taken.
    Known(bool),
    /// The reply must be entered in this list at once (`glue::wait`). It is told what became of the
    /// events, or gives up after this time.
    Waits(Array, Duration),
}

#[derive(Debug, Default)]
struct Waiting {
    events: Vec<Draft>,
    /// What is counted in place of events that are not taken and that no client will send again.
    lost: Vec<Loss>,
    /// The lists of waiting replies, for `glue::wait`.
    clicks: Array,
    clients: Array,
}

impl Waiter {
    /// What is counted in place of the events.
    fn lost(self) -> Vec<Loss> {
        match self {
            Self::Nobody(lost) => lost,
            Self::Click(lost) => vec![lost],
            Self::Client => Vec::new(),
        }
    }
}

impl Gather {
    pub(super) fn new(redirect_wait: Duration) -> Self {
        Self {
            waiting: RefCell::default(),
            many_at: Cell::new(Timestamp(0)),
            caller: Cell::new((0, None)),
            redirect_wait,
            is_late: Cell::new(false),
            lease: RefCell::new(None),
            losses: RefCell::new(Vec::new()),
            repeats: Repeats::default(),
        }
    }

    /// Whether the lease has an id for a request now.
    pub(super) fn has_id(&self) -> bool {
        self.lease.borrow().is_some_and(|ids| ids.is_fresh(now()))
    }

    /// Adds counts without events. There is one entry for each kind and reason: thousands of
    /// requests a second may bring the same, and a parcel takes only so many entries.
    pub(super) fn lose(&self, losses: Vec<Loss>) {
        let mut all = self.losses.borrow_mut();
        losses.into_iter().for_each(|loss| loss.add_to(&mut all));
    }

    /// Whether there are counts that no parcel has taken along.
    pub(super) fn has_losses(&self) -> bool {
        !self.losses.borrow().is_empty()
    }

    /// Takes the counts, for a parcel.
    pub(super) fn take_losses(&self) -> Vec<Loss> {
        self.losses.take()
    }

    /// Adds events to those that wait for the next call, and makes the call when no other request
    /// does.
    pub(super) fn put(
        self: &Rc<Self>,
        events: Vec<Draft>,
        waiter: Waiter,
        shard: impl FnOnce() -> FindShard,
        context: &Context,
    ) -> Put {
        let put = self.wait(events, waiter);
        let (call, since) = self.caller.get();
        if since.is_none_or(|since| age_ms(since) > TURN_MS) {
            self.caller.set((call + 1, Some(now())));
            context.wait_until(Rc::clone(self).call(shard(), call + 1));
        }
        put
    }

    fn wait(&self, events: Vec<Draft>, waiter: Waiter) -> Put {
        let mut waiting = self.waiting.borrow_mut();
        let is_full = waiting.events.len() + events.len() > EVENTS_MAX;
        if is_full {
            let is_refused = waiter == Waiter::Client;
            self.lose(waiter.lost());
            return Put::Known(!is_refused);
        }
        waiting.events.extend(events);
        let put = match waiter {
            Waiter::Client => Put::Waits(waiting.clients.clone(), CLIENT_WAIT),
            Waiter::Click(_) if !self.is_late.get() => {
                Put::Waits(waiting.clicks.clone(), self.redirect_wait)
            }
            Waiter::Click(_) | Waiter::Nobody(_) => Put::Known(true),
        };
        waiting.lost.extend(waiter.lost());
        put
    }

    /// Makes calls until nothing waits, or until another request has taken over.
    async fn call(self: Rc<Self>, shard: FindShard, turn: u64) {
        loop {
            if let Some(linger) = self.linger() {
                Delay::from(linger).await;
            }
            let waiting = self.waiting.take();
            if !waiting.events.is_empty() {
                let is_many = waiting.events.len() >= MANY;
                self.hand_over(waiting, &shard).await;
                if is_many {
                    self.many_at.set(now());
                }
            }
            if self.caller.get().0 != turn {
                return;
            }
            if self.waiting.borrow().events.is_empty() {
                self.caller.set((turn, None));
                return;
            }
        }
    }

    /// How long to wait for more events before the next call.
    fn linger(&self) -> Option<Duration> {
        let waiting = self.waiting.borrow();
        if waiting.clicks.length() + waiting.clients.length() == 0 {
            return Some(LINGER);
        }
        let are_many = age_ms(self.many_at.get()) < LONG_AGO_MS;
        are_many.then_some(LINGER_AWAITED)
    }

    /// Makes one call, and repeats it when the shard does not answer and no client would send some
    /// of the events again. A shard that is asked twice may have an event twice; its token shows
    /// that.
    async fn hand_over(&self, waiting: Waiting, shard: &FindShard) {
        let Waiting { events, lost, clicks, clients } = waiting;
        let parcel = Parcel { events, losses: self.take_losses() };
        let mut outcome = {
            let append = Box::pin(self.append(&parcel, shard));
            match select(append, Delay::from(self.redirect_wait)).await {
                Either::Left((outcome, _)) => outcome,
                Either::Right(((), append)) => {
                    self.is_late.set(true);
                    tell(&clicks, true);
                    let next = std::mem::take(&mut self.waiting.borrow_mut().clicks);
                    tell(&next, true);
                    match select(append, Delay::from(PATIENCE)).await {
                        Either::Left((outcome, _)) => outcome,
                        Either::Right(_) => Err(ShardError::Away("no answer".to_owned())),
                    }
                }
            }
        };
        tell(&clicks, true);
        tell(&clients, outcome.is_ok());
        if !lost.is_empty() {
            for _ in 0..TRIES {
                let Err(ShardError::Away(why)) = &outcome else { break };
                self.is_late.set(true);
                console_warn!("events are handed over again: {why}");
                Delay::from(TRY_PAUSE).await;
                outcome = self.append(&parcel, shard).await;
            }
        }
        self.is_late.set(matches!(outcome, Err(ShardError::Away(_))));
        if let Err(error) = outcome {
            console_error!("{} events were not taken: {error:?}", parcel.events.len());
            self.lose(parcel.losses);
            self.lose(lost);
        }
    }

    async fn append(&self, parcel: &Parcel, shard: &FindShard) -> Result<(), ShardError> {
        let low = |ids: &IdRange| ids.left() < LEASE_LOW;
        let wants_lease = self.lease.borrow().as_ref().is_some_and(low);
        let shard: Shard = shard()?;
        let leased = shard.append(parcel, wants_lease).await?;
        parcel.events.iter().for_each(|event| self.repeats.remember(event));
        if let Some(leased) = leased {
            // The few ids that are left of the previous lease stay unused.
            self.lease.replace(Some(leased));
        }
        Ok(())
    }
}
