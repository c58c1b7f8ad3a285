//! Requests that wait for the shard at the same time go there together: the first one makes the call,
//! those that come meanwhile are the next call's. So a shard that answers in a millisecond does not
//! hold an isolate to a thousand events a second.

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

/// So many ids before the end of a lease a new one is asked for.
const LEASE_LOW: u32 = 32;
/// A request that has made calls for others for so long is relieved by the next that comes, ms: the
/// platform ends it after 30 s.
const TURN_MS: u64 = 5_000;
/// How often, and after which pause, events are handed over again whose replies are out.
const TRIES: u32 = 5;
const TRY_PAUSE: Duration = Duration::from_millis(500);
/// Events whose replies are out wait so long for others.
const LINGER: Duration = Duration::from_millis(20);
/// Replies that wait do so for this much longer when the last call had at least [`MANY`] events, and
/// was not long ago: a call costs as much as answering some ten requests.
const LINGER_AWAITED: Duration = Duration::from_millis(2);
const MANY: usize = 8;
const LONG_AGO_MS: u64 = 100;
/// A call that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(10);
/// Who waits for longer is refused, before the platform ends the request after 30 s.
const CLIENT_WAIT: Duration = Duration::from_secs(25);

/// What waits for the next call, and what all calls share.
#[derive(Debug)]
pub(super) struct Gather {
    waiting: RefCell<Waiting>,
    /// When the last call with many events ended.
    many_at: Cell<Timestamp>,
    /// Who makes the calls, and since when; counts up.
    caller: Cell<(u64, Option<Timestamp>)>,
    /// A click waits so long for its call …
    redirect_wait: Duration,
    /// … and not at all while the shard is slow or away.
    is_late: Cell<bool>,
    /// The ids that this isolate may hand out.
    pub(super) lease: RefCell<Option<IdRange>>,
    /// What is only counted, until a parcel takes it along.
    losses: RefCell<Vec<Loss>>,
    /// What the shard has taken of this isolate.
    pub(super) repeats: Repeats,
}

/// Whose reply waits for a call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Waits {
    /// Nobody's; should the events not be taken, this is counted.
    Nobody(Vec<Loss>),
    /// A redirect, which goes out in any case: not for long, and then the same.
    Click(Loss),
    /// Who is refused when the events are not taken.
    Client,
}

/// What became of events that were put.
#[derive(Debug)]
pub(super) enum Put {
    /// Known already: whether they were taken, or will be.
    Known(bool),
    /// Whoever is entered in this list (`glue::wait`, at once) is told, or waits for so long.
    Waits(Array, Duration),
}

#[derive(Debug, Default)]
struct Waiting {
    events: Vec<Draft>,
    /// What is counted in place of events that are not taken, and that nobody will send again.
    lost: Vec<Loss>,
    /// Lists for `glue::wait`.
    clicks: Array,
    clients: Array,
}

impl Waits {
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

    /// Whether there is an id for a request of now.
    pub(super) fn has_id(&self) -> bool {
        self.lease.borrow().is_some_and(|ids| ids.is_fresh(now()))
    }

    /// Counts what is kept no other way; so many requests a second may bring the same that each kind
    /// and reason has one entry, or no parcel could take them all.
    pub(super) fn lose(&self, losses: Vec<Loss>) {
        let mut all = self.losses.borrow_mut();
        losses.into_iter().for_each(|loss| loss.add_to(&mut all));
    }

    /// Whether something is counted that no parcel has taken along.
    pub(super) fn has_losses(&self) -> bool {
        !self.losses.borrow().is_empty()
    }

    /// What is counted, for a parcel.
    pub(super) fn take_losses(&self) -> Vec<Loss> {
        self.losses.take()
    }

    /// Puts events among those that wait for the next call.
    pub(super) fn put(
        self: &Rc<Self>,
        events: Vec<Draft>,
        waits: Waits,
        shard: impl FnOnce() -> FindShard,
        context: &Context,
    ) -> Put {
        let put = self.wait(events, waits);
        let (call, since) = self.caller.get();
        if since.is_none_or(|since| age_ms(since) > TURN_MS) {
            self.caller.set((call + 1, Some(now())));
            context.wait_until(Rc::clone(self).call(shard(), call + 1));
        }
        put
    }

    fn wait(&self, events: Vec<Draft>, waits: Waits) -> Put {
        let mut waiting = self.waiting.borrow_mut();
        let is_full = waiting.events.len() + events.len() > EVENTS_MAX;
        if is_full {
            let is_refused = waits == Waits::Client;
            self.lose(waits.lost());
            return Put::Known(!is_refused);
        }
        waiting.events.extend(events);
        let put = match waits {
            Waits::Client => Put::Waits(waiting.clients.clone(), CLIENT_WAIT),
            Waits::Click(_) if !self.is_late.get() => {
                Put::Waits(waiting.clicks.clone(), self.redirect_wait)
            }
            Waits::Click(_) | Waits::Nobody(_) => Put::Known(true),
        };
        waiting.lost.extend(waits.lost());
        put
    }

    /// Makes calls until nothing waits, or somebody else does.
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

    /// How long others may still come along.
    fn linger(&self) -> Option<Duration> {
        let waiting = self.waiting.borrow();
        if waiting.clicks.length() + waiting.clients.length() == 0 {
            return Some(LINGER);
        }
        let are_many = age_ms(self.many_at.get()) < LONG_AGO_MS;
        are_many.then_some(LINGER_AWAITED)
    }

    /// One call, and what must be done for it to be kept. A shard that does not answer is asked
    /// again, for nobody else would: asked twice, it may have an event twice, and its token tells.
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
            // What is left of the one before is not used: a few ids of a block.
            self.lease.replace(Some(leased));
        }
        Ok(())
    }
}
