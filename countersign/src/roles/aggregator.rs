//! `countersign aggregator`: counts what is in the log, and answers. Of several, one holds the lease
//! and counts all partitions; the others stand by, and say so on `/readyz`.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use ::aggregator::Aggregator;
use api::Refusal;
use archive::Archiver;
use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use edge::native::doors::Doors;
use eventlog::AnyLog;
use eventlog::nats::{Document, Documents, JetStreamConfig};
use prometheus_client::registry::Registry;
use shared::ambient::{SystemClock, SystemRandom};
use shared::keys::{CentreKeys, EdgeRegistry};
use shared::{Clock, Random as _, Ready};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tower::ServiceExt as _;

use super::follow::follow;
use super::lease::{Held, Holder, Lease};
use crate::admin::AdminKey;
use crate::assemble::archiving;
use crate::assemble::counting::{self, Counting};
use crate::assemble::disk::Disk;
use crate::assemble::listen::{self, ClientTimeouts};
use crate::assemble::{guard, log, parts};
use crate::cli::AggregatorArgs;
use crate::data::{DataDir, Deployment};
use crate::deployment::{self, KEYS_CENTRE};
use crate::failure::Failure;
use crate::process;
use crate::settings::Settings;
use crate::terminal::line;

const OWN: [&str; 7] = ["data", "disk", "log", "aggregator", "archive", "eventlog", "api"];
/// An aggregator that another one has fenced off fails first, and hears at most this much later
/// that it has lost the lease.
const LOSS_HEARD_AFTER: Duration = Duration::from_secs(2);
/// How long to wait before a state directory is tried again that another process still uses.
const LOCKED_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Runs the command until a signal ends it.
///
/// # Errors
/// When a setting is wrong, NATS or the state cannot be used, or a part fails for good.
pub(crate) fn run(args: &AggregatorArgs) -> Result<ExitCode, Failure> {
    let settings = Settings::load(&args.given(&OWN), process::environment())?;
    process::run(&settings.log, aggregate(settings.clone()))
}

async fn aggregate(settings: Settings) -> Result<(), Failure> {
    let stop = process::signals()?;
    archiving::check(&settings)?;
    let listener = parts::bind("api.listen", settings.api.listen).await?;
    let url = parts::url_of("api.listen", &listener)?;
    let config = deployment::nats(&settings, "aggregator", 1)?;
    deployment::warn_if_lax(&settings).await;
    let documents = deployment::patiently(|| Documents::open(&config, false)).await?;
    let fixed = deployment::deployment(&documents).await?;
    let operator = Arc::new(deployment::operator(&documents).await?);
    line(format!("api listening on {url}"));

    let front = Arc::new(Front::default());
    let router = Arc::clone(&front).router();
    let (sender, registered) = watch::channel(EdgeRegistry::default());
    let take = move |document: &Document| {
        let keys: CentreKeys =
            serde_json::from_slice(&document.bytes).map_err(|error| error.to_string())?;
        sender.send_replace(keys.edges);
        Ok(())
    };
    // Only answers need to know the registered edges, so counting does not wait for them.
    let known = Arc::new(documents.clone());
    let (_, follower) = follow(known, KEYS_CENTRE.to_owned(), 0, take);
    let follower = tokio::spawn(follower);
    let (answering, answered) = watch::channel(());
    let doors = listen::api_doors(&settings);
    let stopped = process::stopped(stop.clone());
    let api =
        listen::serve_api(listener, router, Arc::clone(&doors), ClientTimeouts::default(), stopped);
    let api = tokio::spawn(async move {
        api.await;
        drop(answering);
    });
    let mut id = [0; 16];
    SystemRandom.fill(&mut id);
    let term = Term {
        settings,
        config,
        fixed,
        operator,
        front,
        doors,
        registered,
        stop: stop.clone(),
        answered,
    };
    let me = Holder::new(shared::text::hex(&id), url);
    loop {
        let lease = tokio::select! {
            () = process::stopped(stop.clone()) => break,
            lease = Lease::acquire(&documents, &me, &term.front.holder) => lease,
        };
        match term.serve(lease).await {
            Ok(Ended::Asked) => break,
            Ok(Ended::Lost(who)) => {
                tracing::warn!("another aggregator counts now: {who}; this one stands by");
            }
            Err(failure) => {
                api.abort();
                return Err(failure);
            }
        }
    }
    follower.abort();
    api.await.map_err(|error| Failure::fatal(format!("api: {error}")))?;
    tracing::info!("ended in order");
    Ok(())
}

/// How a term, the time with the lease, ended.
enum Ended {
    /// A signal asked for it.
    Asked,
    /// Another aggregator has the lease; its address.
    Lost(String),
}

/// What an aggregator needs to count for a term.
struct Term {
    settings: Settings,
    config: JetStreamConfig,
    fixed: Deployment,
    operator: Arc<AdminKey>,
    front: Arc<Front>,
    doors: Arc<Doors>,
    /// Which issuer each edge belongs to, as last seen.
    registered: watch::Receiver<EdgeRegistry>,
    stop: watch::Receiver<bool>,
    /// Closed when the last request has been answered.
    answered: watch::Receiver<()>,
}

/// What runs while the lease is held.
struct Leading {
    aggregator: Aggregator<AnyLog>,
    archiver: Option<Archiver<AnyLog>>,
    /// Watches the disk, and compares archive and counts.
    tasks: JoinSet<()>,
}

impl Term {
    /// Counts and answers as long as the lease is held and nobody asks to end.
    async fn serve(&self, lease: Lease) -> Result<Ended, Failure> {
        tracing::info!("this aggregator has the lease, and counts");
        let held = lease.held();
        let (mut keeper, enough) = lease.keep_until();
        let mut leading = None;
        let result = tokio::select! {
            biased;
            lost = &mut keeper => Ok(Ended::Lost(lost_to(lost))),
            () = process::stopped(self.stop.clone()) => Ok(Ended::Asked),
            failure = self.lead(held, &mut leading) => Err(failure),
        };
        let result = match result {
            // Being fenced off is a failure that the lease explains, but the loss is heard a moment
            // later.
            Err(failure) => match tokio::time::timeout(LOSS_HEARD_AFTER, &mut keeper).await {
                Ok(lost) => Ok(Ended::Lost(lost_to(lost))),
                Err(_) => Err(failure),
            },
            result => result,
        };
        if matches!(result, Ok(Ended::Asked)) {
            // Wait until the last requests are answered: then the sender is dropped, and `changed`
            // fails.
            while self.answered.clone().changed().await.is_ok() {}
        }
        self.front.leading.send_replace(None);
        if let Some(Leading { aggregator, archiver, mut tasks }) = leading {
            tasks.shutdown().await;
            let what = "the aggregator: it could not save its state";
            process::within(what, aggregator.close()).await?;
            // After a loss the next holder archives too, and goes on where the files end.
            if matches!(result, Ok(Ended::Asked)) {
                archiving::close(archiver).await?;
            }
        }
        // The lease is let go of only now: nobody else may begin while this one saves its state.
        drop(enough);
        if !keeper.is_finished()
            && let Ok((lease, None)) = keeper.await
        {
            lease.release().await;
        }
        result
    }

    /// Counts and answers, until something fails.
    async fn lead(&self, held: Held, leading: &mut Option<Leading>) -> Failure {
        match self.begin(held).await {
            Ok(begun) => parts::partition_stopped(&leading.insert(begun).aggregator).await,
            Err(failure) => failure,
        }
    }

    async fn begin(&self, held: Held) -> Result<Leading, Failure> {
        let settings = &self.settings;
        let log = Arc::new(log::open_existing(&self.config, &self.fixed).await?);
        let dir = DataDir::new(&settings.data);
        let stores = loop {
            match parts::open_stores(settings, &dir).await {
                Err(failure) if failure.code == crate::failure::LOCKED => {
                    tracing::warn!("{}; waiting until it ends", failure.message);
                    tokio::time::sleep(LOCKED_AGAIN_AFTER).await;
                }
                done => break done?,
            }
        };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let mut registry = Registry::default();
        listen::register(&self.doors, &mut registry);
        let known = self.registered.clone();
        let registered = Box::new(move || known.borrow().clone());
        let Counting { aggregator, archiver, reconciler, more } =
            counting::open(settings, &dir, stores, &log, &clock, registered, &mut registry).await?;
        let disk = Disk::new(settings.data.clone(), settings.disk.warn_free_bytes, &mut registry);
        let routes = guard::degradable(aggregator.router().merge(more), disk.degraded());
        let mut tasks = JoinSet::new();
        tasks.spawn(reconciler.run());
        if settings.aggregator.state_url.is_empty() {
            tasks.spawn(disk.watch());
        }
        let routes = guard::guarded(
            guard::Side::Aggregator,
            routes,
            Arc::new(registry),
            Arc::clone(&self.operator),
        );
        self.front.leading.send_replace(Some((routes, held)));
        Ok(Leading { aggregator, archiver, tasks })
    }
}

fn lost_to(kept: Result<(Lease, Option<String>), tokio::task::JoinError>) -> String {
    kept.map_or_else(|error| error.to_string(), |(_, who)| who.unwrap_or_default())
}

/// Answers at this address: as the aggregator while it holds the lease, else with a refusal.
#[derive(Default)]
struct Front {
    /// The routes while this aggregator counts, and whether it still holds the lease.
    leading: watch::Sender<Option<(Router, Held)>>,
    /// The address of the aggregator that counts instead, as far as is known.
    holder: watch::Sender<Option<Arc<str>>>,
}

impl Front {
    fn router(self: Arc<Self>) -> Router {
        let answer = move |request: Request| {
            let front = Arc::clone(&self);
            async move { front.answer(request).await }
        };
        Router::new().route("/healthz", get(|| async { "ok\n" })).fallback(answer)
    }

    async fn answer(&self, request: Request) -> Response {
        let unavailable = match request.uri().path() == Ready::PATH {
            true => unready,
            false => unavailable,
        };
        let leading = self.leading.borrow().clone();
        let Some((routes, held)) = leading else {
            let holder = self.holder.borrow().clone();
            let who = holder.map_or_else(String::new, |api| format!(": {api} counts"));
            return unavailable("standby", format!("this aggregator stands by{who}"));
        };
        let lost = || {
            let why = "the lease could not be renewed: NATS is away, or another aggregator counts";
            unavailable("lease_lost", why.to_owned())
        };
        if !held.now() {
            return lost();
        }
        let response = routes.oneshot(request).await.unwrap_or_else(|never| match never {});
        // The process may have been suspended meanwhile, for longer than the lease lasts.
        if held.now() { response } else { lost() }
    }
}

fn unready(kind: &str, why: String) -> Response {
    api::ready(&Ready::Unready { reasons: vec![format!("{kind}: {why}")] })
}

fn unavailable(kind: &str, why: String) -> Response {
    let refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, kind, why);
    refusal.retry_after(Duration::from_secs(1)).into_response()
}
