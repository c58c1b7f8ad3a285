//! `countersign collector`: takes batches from the work queue, checks them and appends them to the
//! log; several share the work. Its gateway takes batches and chunks of imported logs over HTTP.
//!
//! A batch is acknowledged at the queue when every partition has it, or when it is among the dead
//! letters. When a sender has too many dead letters already, its next one is given back for a
//! minute; of more than a bounded number of those some are dropped.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use ::collector::{Collector, CollectorKeys};
use axum::routing::get;
use catalogue::CatalogueFile;
use eventlog::AnyLog;
use eventlog::nats::{Document, Documents, EdgeQueue};
use prometheus_client::registry::Registry;
use shared::ambient::SteadyClock;
use shared::keys::{CentreKeys, DeploymentId};
use shared::{Clock, Ready};
use tokio::sync::watch;

use self::taking::take_batches;
use super::follow::{Seen, follow};
use crate::assemble::listen::{self, ClientTimeouts};
use crate::assemble::published;
use crate::assemble::{guard, log, parts};
use crate::cli::CollectorArgs;
use crate::deployment::{self, KEYS_CENTRE};
use crate::failure::Failure;
use crate::process;
use crate::settings::{Settings, table};
use crate::terminal::line;

mod taking;

const OWN: [&str; 4] = ["log", "collector", "eventlog", "api"];
/// A collector that has not seen the keys for this long takes nothing. A new key signs ten seconds
/// after it was made; by then every collector that still takes batches knows it.
const KEYS_SEEN_MAX: Duration = Duration::from_secs(8);

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
    let log = Arc::new(log::open_existing(&config, &fixed).await?);
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
    let api = listen::serve_api(listener, routes, doors, ClientTimeouts::default(), stopped);
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

/// Why nothing is taken while no edge is registered: in a deployment that was just made, or with
/// keys from a build that did not register edges. Until the first edge is, batches wait in the
/// queue.
fn no_edges(collector: &Collector<AnyLog>) -> Option<String> {
    (!collector.knows_edges()).then(|| {
        "no_edges: none is registered: `countersign edges register NAME… --issuer ISSUER`; until then nothing \
         is taken from the queue"
            .to_owned()
    })
}
