//! `countersign collector`: takes batches from the work queue, checks them and appends them to the
//! log; several share the work. Its gateway takes batches and chunks of imported logs over HTTP.
//!
//! A batch is acknowledged at the queue when every partition has it, or when it lies with the dead
//! letters; of a sender with too many of these it is given back for a minute, and beyond some let go of. A collector that has not seen the keys for a while takes nothing: a new one signs ten
//! seconds after it was made, and by then everybody who judges knows it.

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::collector::{Collector, CollectorKeys, SubmitError};
use axum::routing::get;
use catalogue::CatalogueFile;
use eventlog::nats::{Document, Documents, EdgeQueue, Taken};
use eventlog::{AnyLog, LogError};
use prometheus_client::registry::Registry;
use shared::ambient::SteadyClock;
use shared::keys::{CentreKeys, DeploymentId};
use shared::limits::CLOCK_AHEAD_MS_MAX;
use shared::{Clock, Id, Ready};
use tokio::sync::{Semaphore, watch};

use super::follow::{Seen, follow};
use crate::assemble::listen::{self, Times};
use crate::assemble::published;
use crate::assemble::{guard, log, parts};
use crate::cli::RoleArgs;
use crate::deployment::{self, KEYS_CENTRE};
use crate::failure::{EXIT_CODES, Failure};
use crate::process;
use crate::settings::{Settings, table};
use crate::terminal::line;

const OWN: [&str; 4] = ["log", "collector", "eventlog", "api"];
/// Batches that are taken and not acknowledged, and their bytes; the queue gives the rest to others.
const TAKEN: Held = Held { batches: 4_096, bytes: 256 << 20 };
/// … and of one issuer, of which the others' would wait for those that take hours: a quarter, as it has of the
/// collector's queue, and no less than one edge may have in NATS, for what is given back comes seconds later.
const TAKEN_OF_ONE: Held = Held { batches: TAKEN.batches / 4, bytes: TAKEN.bytes / 4 };
/// The queue is asked again after this …
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// … and it is looked again whether anything may be taken.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A batch that could not be appended is given out again after this.
const BACK_AFTER: Duration = Duration::from_secs(2);
/// … and one of an edge that nobody knows so often, before it is a dead letter.
const UNKNOWN_TIMES: u64 = 4;
/// One that is held back, for its issuer has sent too much, is given out again after this at the latest.
const HELD_BACK_MAX: Duration = Duration::from_secs(60);
/// Who has not seen the keys for so long takes nothing.
const KEYS_SEEN_MAX: Duration = Duration::from_secs(8);

/// `collector`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct CollectorArgs {
    #[command(flatten)]
    pub(crate) role: RoleArgs,
    /// The time now (RFC 3339): the machine's clock is right, whatever the log says; good for an hour
    #[arg(long, value_name = "TIME")]
    pub(crate) clock_is_right: Option<String>,
}

impl CollectorArgs {
    /// With the settings that a collector has.
    pub(crate) fn given(&self, own: &'static [&'static str]) -> crate::settings::Given {
        let mut given = self.role.given("collector", own);
        let word = self.clock_is_right.clone().map(figment::value::Value::from);
        given.flags.push(("collector.clock_is_right", word));
        given
    }
}

/// Runs the command until a signal ends it.
///
/// # Errors
/// When a setting is wrong, NATS cannot be used, or a part fails for good.
pub(crate) fn run(args: &CollectorArgs) -> Result<ExitCode, Failure> {
    let settings = Settings::load(&args.given(&OWN), process::environment())?;
    process::run(&settings.log, collect(settings.clone()))
}

async fn collect(settings: Settings) -> Result<(), Failure> {
    let stop = process::signals()?;
    let catalogue = table(&settings.collector.catalogue);
    if let Some(path) = &catalogue {
        CatalogueFile::open(path).map_err(|error| {
            Failure::usage(format!("collector.catalogue: it is wrong:\n{error}"))
        })?;
    }
    let listener = parts::bind("api.listen", settings.api.listen).await?;
    let url = parts::url_of("api.listen", &listener)?;
    let config = deployment::nats(&settings, "collector", 1)?;
    deployment::warn_if_lax(&settings).await;
    let documents = deployment::patiently(|| Documents::open(&config, false)).await?;
    let fixed = deployment::deployment(&documents).await?;
    let operator = deployment::operator(&documents).await?;
    let log = Arc::new(log::of_deployment(&config, &fixed).await?);
    let queue = deployment::patiently(|| EdgeQueue::open(&config, false)).await?;

    let clock: Arc<dyn Clock> = Arc::new(SteadyClock::start());
    let mut registry = Registry::default();
    let doors = listen::api_doors(&settings);
    listen::register(&doors, &mut registry);
    let document = deployment::require(&documents, KEYS_CENTRE).await?;
    let keys = read(&document, fixed.deployment).map_err(Failure::data)?;
    let (collector, sender) = parts::open_collector(&settings, keys, &log, &clock, &mut registry)?;
    let public = guard::open_keys(sender.subscribe());
    let known = sender.subscribe();
    let take = move |document: &Document| {
        sender.send_replace(Arc::new(read(document, fixed.deployment)?));
        Ok(())
    };
    let (seen, follower) =
        follow(Arc::new(documents), KEYS_CENTRE.to_owned(), document.revision, take);
    let follower = tokio::spawn(follower);

    let unready = watch::Sender::new(None);
    let seen_by_told = seen.clone();
    let ready = {
        let (unready, seen) = (unready.subscribe(), seen.clone());
        let collector = Arc::clone(&collector);
        get(move || {
            let why = unready.borrow().clone().or_else(|| keys_unseen(&seen));
            let why = why.or_else(|| collector.trouble().map(|why| format!("clock: {why}")));
            async move { api::ready(&Ready::unless(why.into_iter().collect())) }
        })
    };
    let routes = ::collector::gateway::router(Arc::clone(&collector)).route(Ready::PATH, ready);
    let routes =
        guard::guarded(guard::Side::Collector, routes, Arc::new(registry), Arc::new(operator));
    let told = published::router(known, catalogue, move || keys_unseen(&seen_by_told));
    let routes = routes.merge(public).merge(told);
    line(format!("api listening on {url}"));
    let stopped = process::stopped(stop.clone());
    let api = listen::serve_api(listener, routes, doors, Times::default(), stopped);
    let taking = take_batches(queue, Arc::clone(&collector), seen, unready, stop);
    let result = tokio::select! {
        biased;
        why = collector.fatal() => Err(Failure::fatal(format!("collector: {why}"))),
        ((), ()) = async { tokio::join!(api, taking) } => Ok(()),
    };
    follower.abort();
    process::within("the collector: it could not empty its queue", collector.close()).await?;
    result?;
    tracing::info!("ended in order");
    Ok(())
}

fn read(document: &Document, deployment: DeploymentId) -> Result<CollectorKeys, String> {
    let keys: CentreKeys =
        serde_json::from_slice(&document.bytes).map_err(|error| error.to_string())?;
    if keys.deployment != deployment {
        return Err(format!("they are of deployment {}", keys.deployment));
    }
    CollectorKeys::new(&keys).map_err(|error| error.to_string())
}

fn keys_unseen(seen: &Seen) -> Option<String> {
    let ago = seen.ago();
    (ago > KEYS_SEEN_MAX).then(|| {
        format!(
            "keys_unseen: the keys were last seen {} s ago, and may have changed since",
            ago.as_secs()
        )
    })
}

/// Keys of a build before edges were registered, or of a deployment that was just made: what comes
/// waits in the queue until the first one is.
fn no_edges(collector: &Collector<AnyLog>) -> Option<String> {
    (!collector.knows_edges()).then(|| {
        "no_edges: none is registered: `countersign edges register NAME… --issuer ISSUER`; until then nothing \
         is taken from the queue"
            .to_owned()
    })
}

/// Takes until the signal, and then finishes what was taken.
async fn take_batches(
    queue: EdgeQueue,
    collector: Arc<Collector<AnyLog>>,
    seen: Seen,
    unready: watch::Sender<Option<String>>,
    stop: watch::Receiver<bool>,
) {
    let (places, bytes) =
        (Semaphore::new(TAKEN.batches as usize), Semaphore::new(TAKEN.bytes as usize));
    let (places, bytes, hands) = (Arc::new(places), Arc::new(bytes), Arc::new(Hands::default()));
    let mut taker = queue.taker();
    let mut stopped = std::pin::pin!(process::stopped(stop));
    loop {
        let next = async {
            // Never closed, so permits always come in the end.
            let place = Arc::clone(&places).acquire_owned().await;
            while keys_unseen(&seen).is_some()
                || !collector.knows_edges()
                || collector.trouble().is_some()
            {
                if let Some(why) = no_edges(&collector) {
                    unready.send_if_modified(|told| told.replace(why.clone()).is_none());
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
            unready.send_if_modified(|why| why.take().is_some());
            let next = taker.next().await;
            let bytes =
                Arc::clone(&bytes).acquire_many_owned(next.as_ref().map_or(0, weight)).await;
            (next, (place, bytes))
        };
        let (next, room) = tokio::select! {
            () = &mut stopped => break,
            next = next => next,
        };
        match next {
            Ok(taken) => {
                unready.send_if_modified(|why| why.take().is_some());
                let hand = Hands::take(&hands, collector.issuer_of(&taken.edge), weight(&taken));
                let (queue, collector) = (queue.clone(), Arc::clone(&collector));
                tokio::spawn(async move {
                    match hand {
                        Some(_hand) => one(&queue, &collector, &taken).await,
                        None => answered(&taken, taken.again(BACK_AFTER).await),
                    }
                    drop(room);
                });
            }
            Err(error) => {
                tracing::warn!("the work queue: {error}; asked again");
                unready.send_replace(Some(format!("queue: {error}")));
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
    }
    // All are back when all that was taken has its answer.
    let _ = places.acquire_many(TAKEN.batches).await;
}

fn weight(taken: &Taken) -> u32 {
    u32::try_from(taken.batch.len()).unwrap_or(u32::MAX).min(TAKEN_OF_ONE.bytes)
}

async fn one(queue: &EdgeQueue, collector: &Collector<AnyLog>, taken: &Taken) {
    // It may have been registered a moment ago, and this collector has not seen that yet.
    if collector.issuer_of(&taken.edge).is_none() && taken.deliveries() <= UNKNOWN_TIMES {
        return answered(taken, taken.again(BACK_AFTER).await);
    }
    let submitted = collector.submit_of(&taken.edge, taken.batch.clone());
    let done = match taken.while_it_lasts(submitted).await {
        Ok(receipt) => {
            if receipt.clock_ahead_ms > CLOCK_AHEAD_MS_MAX
                && let Err(error) =
                    queue.tell_clock_ahead(&taken.edge, receipt.clock_ahead_ms).await
            {
                tracing::warn!(edge = taken.edge, %error, "the edge could not be told of its clock");
            }
            taken.done().await
        }
        // It lies with the dead letters, or is let go of.
        Err(SubmitError::Refused(_) | SubmitError::NotAllowed(..)) => taken.done().await,
        Err(SubmitError::TooManyLetters(after, _)) => taken.again(after).await,
        Err(SubmitError::Retry(why)) => {
            tracing::debug!(edge = taken.edge, %why, "a batch goes back to the queue");
            taken.again(BACK_AFTER).await
        }
        // Nothing is lost: it is given out again when there may be room for it.
        Err(SubmitError::OverQuota { why, after }) => {
            tracing::debug!(edge = taken.edge, %why, "a batch is held back");
            taken.again(after.clamp(BACK_AFTER, HELD_BACK_MAX)).await
        }
    };
    answered(taken, done);
}

fn answered(taken: &Taken, done: Result<(), LogError>) {
    if let Err(error) = done {
        tracing::debug!(edge = taken.edge, %error, "not answered; the batch comes again");
    }
}

/// Batches that are taken and have no answer yet.
#[derive(Clone, Copy, Default)]
struct Held {
    batches: u32,
    bytes: u32,
}

/// Those of each issuer.
#[derive(Default)]
struct Hands(Mutex<HashMap<Option<Id>, Held>>);

/// One of them.
struct Hand {
    hands: Arc<Hands>,
    issuer: Option<Id>,
    bytes: u32,
}

impl Hands {
    /// `None`: there are too many of this issuer. Edges that nobody knows are as one.
    fn take(hands: &Arc<Self>, issuer: Option<Id>, bytes: u32) -> Option<Hand> {
        let mut held = hands.0.lock().unwrap_or_else(PoisonError::into_inner);
        let held = held.entry(issuer).or_default();
        if held.batches >= TAKEN_OF_ONE.batches || bytes > TAKEN_OF_ONE.bytes - held.bytes {
            return None;
        }
        *held = Held { batches: held.batches + 1, bytes: held.bytes + bytes };
        Some(Hand { hands: Arc::clone(hands), issuer, bytes })
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        let mut held = self.hands.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = held.get_mut(&self.issuer) {
            *held = Held { batches: held.batches - 1, bytes: held.bytes - self.bytes };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issuer_has_a_part_of_the_hands_and_gives_them_back() {
        let hands = Arc::new(Hands::default());
        let [one, other] = ["one", "other"].map(|name| Some(Id::literal(name)));
        let take = |issuer, bytes| Hands::take(&hands, issuer, bytes);
        let mut held: Vec<_> = (0..TAKEN_OF_ONE.batches).map(|_| take(one, 1)).collect();
        assert!(held.iter().all(Option::is_some) && take(one, 1).is_none());
        assert!(take(other, 1).is_some() && take(None, 1).is_some());
        drop(held.pop());
        let again = take(one, 1);
        assert!(again.is_some() && take(one, 1).is_none());
        let (large, small) = (take(other, TAKEN_OF_ONE.bytes), take(other, 1));
        assert!(large.is_some() && small.is_none());
        drop(large);
        assert!(take(other, 1).is_some());
    }
}
