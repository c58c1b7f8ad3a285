//! `countersign edge`: serves, redirects, and puts its batches into the work queue.
//!
//! A click depends on the edge alone. With NATS away redirects go on and batches wait in the outbox,
//! and an edge that starts meanwhile goes by the keys that it saw last.

use std::fs;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use eventlog::nats::{Document, Documents, JetStreamConfig};
use futures::StreamExt as _;
use prometheus_client::registry::Registry;
use shared::Clock;
use shared::ambient::SteadyClock;
use shared::keys::EdgeKeys;

use self::sink::QueueSink;
use super::follow::follow;
use crate::admin::AdminKey;
use crate::assemble::disk::Disk;
use crate::assemble::listen::{self, ClientTimeouts};
use crate::assemble::{guard, parts};
use crate::cli::EdgeArgs;
use crate::data::{DataDir, Mode, write_file};
use crate::deployment;
use crate::failure::Failure;
use crate::process;
use crate::settings::Settings;
use crate::terminal::line;

mod sink;

const OWN: [&str; 7] = ["data", "disk", "log", "edge", "outbox", "eventlog", "api"];
/// Copies of the documents on NATS, kept in the data directory for a start while NATS is away.
const KEYS_FILE: &str = "keys-edge.json";
const OPERATOR_FILE: &str = "admin.key";
/// What collectors said about this edge's clock is forgotten when they have not repeated it for
/// this long.
const CLOCK_NEWS_LAST: Duration = Duration::from_secs(30);
/// How long to wait before NATS is asked again for the keys or for news of the clock.
const NATS_AGAIN_AFTER: Duration = Duration::from_secs(30);

/// Runs the command until a signal ends it.
///
/// # Errors
/// When a setting is wrong, the data directory cannot be used, or a part fails for good.
pub(crate) fn run(args: &EdgeArgs) -> Result<ExitCode, Failure> {
    let settings = Settings::load(&args.given(&OWN), process::environment())?;
    process::run(&settings.log, serve(settings.clone()))
}

async fn serve(settings: Settings) -> Result<(), Failure> {
    let stop = process::signals()?;
    let dir = DataDir::new(&settings.data);
    let lock = dir.take()?;
    let listener = parts::bind("edge.listen", settings.edge.listen).await?;
    let api_listener = parts::bind("api.listen", settings.api.listen).await?;
    let url = parts::url_of("edge.listen", &listener)?;
    let api_url = parts::url_of("api.listen", &api_listener)?;

    let name = settings.edge.name.to_string();
    let config = deployment::nats(&settings, &format!("edge-{name}"), 1)?;
    let known = Known::find(&settings, &dir, &config).await?;
    let keys = ::edge::Keys::new(&known.keys).map_err(Failure::data)?;
    let clock: Arc<dyn Clock> = Arc::new(SteadyClock::start());
    let mut registry = Registry::default();
    let doors = listen::api_doors(&settings);
    listen::register(&doors, &mut registry);
    let disk = Disk::new(settings.data.clone(), settings.disk.warn_free_bytes, &mut registry);
    let edge = parts::open_edge(&settings, &dir, keys, &url, &clock, &mut registry)?;

    let sink = Arc::new(QueueSink::new(config.clone(), name));
    let policies = Arc::clone(&edge.policies);
    let helpers = [
        tokio::spawn(follow_keys(config, dir, known.keys, known.revision, policies)),
        tokio::spawn(hear_of_clock(Arc::clone(&sink))),
        tokio::spawn(disk.watch()),
    ];
    let routes = guard::guarded(
        guard::Side::Edge,
        axum::Router::new(),
        Arc::new(registry),
        Arc::new(known.operator),
    );
    line(format!("edge listening on {url}"));
    line(format!("api listening on {api_url}"));
    let edge = ::edge::native::run(listener, edge.with(sink), process::stopped(stop.clone()));
    let stopped = process::stopped(stop);
    let api = listen::serve_api(api_listener, routes, doors, ClientTimeouts::default(), stopped);
    let result = process::edge_and_api(edge, api).await;
    helpers.iter().for_each(tokio::task::JoinHandle::abort);
    drop(lock);
    result?;
    tracing::info!("ended in order");
    Ok(())
}

/// What an edge must know before it can serve.
struct Known {
    keys: EdgeKeys,
    revision: u64,
    operator: AdminKey,
}

impl Known {
    /// Reads it from NATS; or from the data directory, when NATS is away and an earlier start left
    /// it there.
    async fn find(
        settings: &Settings,
        dir: &DataDir,
        config: &JetStreamConfig,
    ) -> Result<Self, Failure> {
        let kept = Self::kept(dir)?.filter(|kept| kept.keys.issuer == settings.edge.issuer);
        let open = || Documents::open(config, false);
        let documents = match (kept, open().await) {
            (_, Ok(documents)) => documents,
            (Some(kept), Err(error)) if error.is_retryable() => {
                tracing::warn!("{error}; going by the keys that were seen last");
                return Ok(kept);
            }
            (_, Err(error)) if !error.is_retryable() => return Err(deployment::failed(error)),
            _ => deployment::patiently(open).await?,
        };
        let name = deployment::keys_edge(settings.edge.issuer);
        let document = deployment::require(&documents, &name).await?;
        let keys: EdgeKeys = deployment::parse(&name, &document)?;
        if keys.issuer != settings.edge.issuer {
            let why = format!(
                "the document {name} on NATS has the keys of {}: somebody has put them there who may not; \
                 `countersign keys rotate --issuer {}` puts the right ones, and look at who may publish \
                 what (deploy/nats/accounts.conf)",
                keys.issuer, settings.edge.issuer
            );
            return Err(Failure::data(why));
        }
        let operator = deployment::operator(&documents).await?;
        keep(dir, &document)?;
        write_file(&dir.path(OPERATOR_FILE), operator.kept().as_bytes(), Mode::Secret)?;
        Ok(Self { keys, revision: document.revision, operator })
    }

    fn kept(dir: &DataDir) -> Result<Option<Self>, Failure> {
        // A copy that is damaged or missing is no copy: NATS has the original.
        let kept = |name| fs::read(dir.path(name)).unwrap_or_default();
        let keys = serde_json::from_slice(&kept(KEYS_FILE)).ok();
        let variable = std::env::var(crate::admin::VARIABLE).ok();
        let operator = match AdminKey::from_environment(variable.as_deref())? {
            Some(key) => Some(key),
            None => AdminKey::read(&String::from_utf8_lossy(&kept(OPERATOR_FILE))),
        };
        Ok(keys.zip(operator).map(|(keys, operator)| Self { keys, revision: 0, operator }))
    }
}

fn keep(dir: &DataDir, document: &Document) -> Result<(), Failure> {
    write_file(&dir.path(KEYS_FILE), &document.bytes, Mode::Secret)
}

async fn follow_keys(
    config: JetStreamConfig,
    dir: DataDir,
    first: EdgeKeys,
    revision: u64,
    policies: Arc<::edge::native::Policies>,
) {
    let documents = loop {
        match Documents::open(&config, false).await {
            Ok(documents) => break Arc::new(documents),
            Err(error) => tracing::warn!("{error}; the keys stay as they are"),
        }
        tokio::time::sleep(NATS_AGAIN_AFTER).await;
    };
    let take = move |document: &Document| {
        let keys: EdgeKeys =
            serde_json::from_slice(&document.bytes).map_err(|error| error.to_string())?;
        if keys.deployment != first.deployment {
            return Err(format!("they are of deployment {}", keys.deployment));
        }
        if keys.issuer != first.issuer {
            return Err(format!("they are of the issuer {}", keys.issuer));
        }
        policies.set_keys(::edge::Keys::new(&keys).map_err(|error| error.to_string())?);
        keep(&dir, document).map_err(|failure| failure.message)
    };
    follow(documents, deployment::keys_edge(first.issuer), revision, take).1.await;
}

/// Listens to what collectors say about this edge's clock, for ever; connects again when it must.
async fn hear_of_clock(sink: Arc<QueueSink>) {
    loop {
        let heard = match sink.queue().await {
            Ok(queue) => queue.clock_ahead_ms(sink.edge()).await,
            Err(_) => {
                tokio::time::sleep(NATS_AGAIN_AFTER).await;
                continue;
            }
        };
        let Ok(mut heard) = heard else {
            tokio::time::sleep(NATS_AGAIN_AFTER).await;
            continue;
        };
        loop {
            match tokio::time::timeout(CLOCK_NEWS_LAST, heard.next()).await {
                Ok(Some(ms)) => sink.told_clock_ahead(ms),
                Ok(None) => break,
                Err(_) => sink.told_clock_ahead(0),
            }
        }
    }
}
