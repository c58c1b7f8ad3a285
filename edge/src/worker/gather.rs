//! Requests that wait for the shard at the same time go there together: the first one makes the call,
//! those that come meanwhile are the next call's. So a shard that answers in a millisecond does not
//! hold an isolate to a thousand events a second.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use futures::future::{Either, select};
use shared::Timestamp;
use shared::id::IdRange;
use wasm_bindgen::JsValue;
use worker::js_sys::futures::JsFuture;
use worker::js_sys::{Function, Promise};
use worker::{Context, Delay, console_error, console_warn};

use super::platform::now;
use super::shard::{FindShard, Shard, ShardError};
use crate::decision::{Draft, Loss};
use crate::outbox::parcel::{EVENTS_MAX, Parcel};

/// So many ids before the end of a lease a new one is asked for.
const LEASE_LOW: u32 = 32;
/// A request that has made calls for others for so long is relieved by the next that comes, ms: the
/// platform ends it after 30 s.
const TURN_MS: u64 = 5_000;
/// How often, and after which pause, events are handed over again whose replies are out.
const TRIES: u32 = 5;
const TRY_PAUSE: Duration = Duration::from_millis(500);
/// Events whose replies are out wait so long for others.
const LINGER: Duration = Duration::from_millis(5);
/// A call that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// What waits for the next call, and what all calls share.
#[derive(Debug)]
pub(super) struct Gather {
    waiting: RefCell<Waiting>,
    /// Who makes the calls, and since when; counts up.
    caller: Cell<(u64, Option<Timestamp>)>,
    /// A click waits so long for its call …
    redirect_wait: Duration,
    /// … and not at all while the shard is slow or away.
    is_late: Cell<bool>,
    /// The ids that this isolate may hand out.
    pub(super) lease: RefCell<Option<IdRange>>,
    /// What is only counted, until a parcel takes it along.
    pub(super) losses: RefCell<Vec<Loss>>,
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

#[derive(Debug, Default)]
struct Waiting {
    events: Vec<Draft>,
    /// What is counted in place of events that are not taken, and that nobody will send again.
    lost: Vec<Loss>,
    /// A promise for each request, not a channel: the platform brings whoever waits for one back
    /// into its own request before it goes on.
    clicks: Vec<Function>,
    clients: Vec<Function>,
}

impl Gather {
    pub(super) const fn new(redirect_wait: Duration) -> Self {
        Self {
            waiting: RefCell::new(Waiting {
                events: Vec::new(),
                lost: Vec::new(),
                clicks: Vec::new(),
                clients: Vec::new(),
            }),
            caller: Cell::new((0, None)),
            redirect_wait,
            is_late: Cell::new(false),
            lease: RefCell::new(None),
            losses: RefCell::new(Vec::new()),
        }
    }

    /// Puts events among those that wait for the next call. The future tells whether they were
    /// taken, as soon as the reply may know.
    pub(super) fn put(
        self: &Rc<Self>,
        events: Vec<Draft>,
        waits: Waits,
        shard: &FindShard,
        context: &Context,
    ) -> impl Future<Output = bool> + use<> {
        let (patience, unanswered) = match &waits {
            Waits::Click(_) => (self.redirect_wait, true),
            Waits::Client | Waits::Nobody(_) => (PATIENCE, false),
        };
        let told = self.wait(events, waits);
        let (call, since) = self.caller.get();
        if since.is_none_or(|since| now().0.saturating_sub(since.0) > TURN_MS) {
            self.caller.set((call + 1, Some(now())));
            context.wait_until(Rc::clone(self).call(Rc::clone(shard), call + 1));
        }
        async move {
            let Some(told) = told else { return true };
            // The timer is this request's own. The platform takes a request that waits for nothing
            // but another one to hang, and ends it with an error as soon as it has nothing to do.
            match select(JsFuture::from(told), Delay::from(patience)).await {
                Either::Left((told, _)) => told.is_ok_and(|taken| taken.is_truthy()),
                Either::Right(_) => unanswered,
            }
        }
    }

    /// The promise of whoever waits; already broken when there is no room.
    fn wait(&self, events: Vec<Draft>, waits: Waits) -> Option<Promise> {
        let mut waiting = self.waiting.borrow_mut();
        let is_full = waiting.events.len() + events.len() > EVENTS_MAX;
        let lost = match &waits {
            Waits::Nobody(lost) => lost.clone(),
            Waits::Click(lost) => vec![*lost],
            Waits::Client => Vec::new(),
        };
        if is_full {
            self.losses.borrow_mut().extend(lost);
            let refused = || Promise::resolve(&JsValue::FALSE);
            return (waits == Waits::Client).then(refused);
        }
        waiting.events.extend(events);
        waiting.lost.extend(lost);
        let Waiting { clicks, clients, .. } = &mut *waiting;
        let list = match waits {
            Waits::Nobody(_) => return None,
            Waits::Click(_) if self.is_late.get() => return None,
            Waits::Click(_) => clicks,
            Waits::Client => clients,
        };
        Some(Promise::new(&mut |tell, _| list.push(tell)))
    }

    /// Makes calls until nothing waits, or somebody else does.
    async fn call(self: Rc<Self>, shard: FindShard, turn: u64) {
        loop {
            let is_awaited = {
                let waiting = self.waiting.borrow();
                !(waiting.clicks.is_empty() && waiting.clients.is_empty())
            };
            if !is_awaited {
                Delay::from(LINGER).await;
            }
            let waiting = self.waiting.take();
            if !waiting.events.is_empty() {
                self.hand_over(waiting, &shard).await;
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

    /// One call, and what must be done for it to be kept. A shard that does not answer is asked
    /// again, for nobody else would: asked twice, it may have an event twice, and its token tells.
    async fn hand_over(&self, waiting: Waiting, shard: &FindShard) {
        let Waiting { events, lost, clicks, clients } = waiting;
        let parcel = Parcel { events, losses: std::mem::take(&mut *self.losses.borrow_mut()) };
        let mut clicks = clicks;
        let mut outcome = {
            let append = Box::pin(self.append(&parcel, shard));
            match select(append, Delay::from(self.redirect_wait)).await {
                Either::Left((outcome, _)) => outcome,
                Either::Right(((), append)) => {
                    self.is_late.set(true);
                    tell(std::mem::take(&mut clicks), true);
                    tell(std::mem::take(&mut self.waiting.borrow_mut().clicks), true);
                    match select(append, Delay::from(PATIENCE)).await {
                        Either::Left((outcome, _)) => outcome,
                        Either::Right(_) => Err(ShardError::Away("no answer".to_owned())),
                    }
                }
            }
        };
        tell(clicks, true);
        tell(clients, outcome.is_ok());
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
            self.losses.borrow_mut().extend([parcel.losses, lost].concat());
        }
    }

    async fn append(&self, parcel: &Parcel, shard: &FindShard) -> Result<(), ShardError> {
        let low = |ids: &IdRange| ids.left() < LEASE_LOW;
        let wants_lease = self.lease.borrow().as_ref().is_some_and(low);
        let shard: Shard = shard()?;
        if let Some(leased) = shard.append(parcel, wants_lease).await? {
            // What is left of the one before is not used: a few ids of a block.
            self.lease.replace(Some(leased));
        }
        Ok(())
    }
}

fn tell(waiting: Vec<Function>, taken: bool) {
    for told in waiting {
        // A promise's own function: it never throws.
        let _ = told.call1(&JsValue::UNDEFINED, &taken.into());
    }
}
