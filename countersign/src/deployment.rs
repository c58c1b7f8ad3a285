//! A deployment on NATS: the documents that its parts share when each is a process of its own.
//!
//! | document | what | who reads it |
//! |---|---|---|
//! | `deployment` | what is fixed: partitions, the log's identity | collectors, aggregators |
//! | `keys` | all keys | the operator's commands alone |
//! | `keys-centre` | public keys, the covers of prices, whose edges are | collectors, aggregators |
//! | `keys-edge-ISSUER` | the signing keys of one issuer | edges of that issuer |
//! | `operator` | the hash of the operator's key | every role, unless its environment has the key |
//! | `aggregator` | which aggregator counts, see [`crate::roles`] | aggregators |
//!
//! `countersign init` makes them, `countersign keys` changes them, the roles look at them every
//! second.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use eventlog::jetstream::JetStreamLog;
use eventlog::nats::{Document, Documents, EdgeQueue, JetStreamConfig, OpenError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use shared::ambient::{SystemClock, SystemRandom};
use shared::keys::{KeyError, KeyStore};
use shared::{Clock as _, EdgeId, IssuerId};

use crate::admin::AdminKey;
use crate::cli::InitArgs;
use crate::client::{http_client, reason};
use crate::data::Deployment;
use crate::failure::Failure;
use crate::process;
use crate::settings::Settings;
use crate::terminal::line;

pub(crate) const DEPLOYMENT: &str = "deployment";
pub(crate) const KEYS: &str = "keys";
pub(crate) const KEYS_CENTRE: &str = "keys-centre";
pub(crate) const OPERATOR: &str = "operator";

/// A server that does not answer at the start is asked again after this …
const AGAIN_EVERY: Duration = Duration::from_secs(1);
/// … and at most so many times.
const TRIES_MAX: u32 = 30;
/// How long a server's monitoring address may take to answer.
const MONITOR_MAX: Duration = Duration::from_secs(5);

/// The document with the keys of an issuer's edges.
pub(crate) fn keys_edge(issuer: IssuerId) -> String {
    format!("keys-edge-{issuer}")
}

/// The settings for reaching NATS, for a client of this name.
///
/// # Errors
/// When the settings name no server.
pub(crate) fn nats(
    settings: &Settings,
    client_name: &str,
    partitions: u16,
) -> Result<JetStreamConfig, Failure> {
    let wanted = &settings.eventlog;
    if wanted.url.is_empty() {
        return Err(Failure::usage(
            "eventlog.url: where is NATS? --log nats://HOST:4222, or the setting; `countersign up` \
             is the command that needs none",
        ));
    }
    let path = |text: &str| (!text.is_empty()).then(|| text.into());
    Ok(JetStreamConfig {
        credentials: path(&wanted.credentials),
        login: path(&wanted.password_file).map(|file| (wanted.user.clone(), file)),
        nkey: path(&wanted.nkey),
        certificate: path(&wanted.certificate).zip(path(&wanted.certificate_key)),
        ca: path(&wanted.ca),
        client_name: client_name.to_owned(),
        prefix: wanted.prefix.clone(),
        replicas: wanted.replicas,
        stream_bytes_max: i64::try_from(wanted.stream_bytes_max).ok().filter(|most| *most > 0),
        ..JetStreamConfig::new(&wanted.url, partitions)
    })
}

/// Opens something on NATS, patiently: a server that is away is asked again for half a minute.
///
/// # Errors
/// When the server stays away, refuses, or a signal ends the wait.
pub(crate) async fn patiently<T, F: Future<Output = Result<T, OpenError>>>(
    open: impl Fn() -> F,
) -> Result<T, Failure> {
    let opened = async {
        let mut tries = 0;
        loop {
            match open().await {
                Err(error) if error.is_retryable() && tries < TRIES_MAX => {
                    tries += 1;
                    tracing::warn!("{error}; asked again every {} s", AGAIN_EVERY.as_secs());
                    tokio::time::sleep(AGAIN_EVERY).await;
                }
                done => break done.map_err(failed),
            }
        }
    };
    // A signal may end the wait at once: nothing has begun yet that must be ended in order.
    tokio::select! {
        opened = opened => opened,
        () = process::signalled() => {
            Err(Failure::server("ended by a signal before NATS answered"))
        }
    }
}

/// Asks each server whether it fsyncs before it acknowledges, and warns where it does not: what it
/// has acknowledged can be lost with the machine's power. Only the monitoring address tells a
/// client.
pub(crate) async fn warn_if_lax(settings: &Settings) {
    let urls = settings.eventlog.monitor_url.split(',').map(str::trim);
    for url in urls.filter(|url| !url.is_empty()) {
        match syncs_always(url).await {
            Ok(true) => {}
            Ok(false) => tracing::warn!(
                "NATS AT {url} DOES NOT FSYNC BEFORE IT ACKNOWLEDGES: events can be lost when a \
                 machine loses power; set `sync_interval: always` in its jetstream {{}} block"
            ),
            Err(why) => {
                tracing::warn!("eventlog.monitor_url: {url}: {why}; is it the `http` port?")
            }
        }
    }
}

async fn syncs_always(url: &str) -> Result<bool, String> {
    let http = http_client(MONITOR_MAX).map_err(|failure| failure.message)?;
    let asked = http.get(format!("{}/varz", url.trim_end_matches('/'))).send();
    let answer = asked.await.map_err(|error| reason(&error))?;
    let varz: serde_json::Value = answer.json().await.map_err(|error| reason(&error))?;
    Ok(varz["jetstream"]["config"]["sync_always"] == true)
}

/// The failure, with its exit code, that an error at the start becomes.
pub(crate) fn failed(error: OpenError) -> Failure {
    match error {
        OpenError::Foreign(_) => Failure::data(error.to_string()),
        OpenError::Away { .. } | OpenError::NotYet { .. } => Failure::server(error.to_string()),
        OpenError::Unfit(_) => Failure::usage(format!("eventlog.url: {error}")),
    }
}

/// Reads a document that must exist.
///
/// # Errors
/// When it does not exist or cannot be read, or NATS is away.
pub(crate) async fn require(documents: &Documents, name: &str) -> Result<Document, Failure> {
    let found = documents.get(name).await;
    let found = found.map_err(|error| Failure::server(format!("document {name}: {error}")))?;
    found.ok_or_else(|| {
        Failure::data(format!(
            "there is no document {name} on NATS: `countersign init` was not run to its end, or \
             this account may not read it"
        ))
    })
}

/// Decodes a document.
///
/// # Errors
/// When it is not JSON of this type.
pub(crate) fn parse<T: DeserializeOwned>(name: &str, document: &Document) -> Result<T, Failure> {
    serde_json::from_slice(&document.bytes)
        .map_err(|error| Failure::data(format!("document {name} on NATS: {error}")))
}

/// Reads what is fixed for the deployment.
///
/// # Errors
/// As [`require`].
pub(crate) async fn deployment(documents: &Documents) -> Result<Deployment, Failure> {
    let there: Deployment = parse(DEPLOYMENT, &require(documents, DEPLOYMENT).await?)?;
    there.check("document deployment on NATS", None)?;
    Ok(there)
}

/// The operator's key: the environment's, else the one that `init` made.
///
/// # Errors
/// As [`require`]; when the environment's is too short.
pub(crate) async fn operator(documents: &Documents) -> Result<AdminKey, Failure> {
    let variable = std::env::var(crate::admin::VARIABLE).ok();
    if let Some(key) = AdminKey::from_environment(variable.as_deref())? {
        return Ok(key);
    }
    read_operator(&require(documents, OPERATOR).await?).ok_or_else(|| {
        Failure::data(format!(
            "document {OPERATOR} on NATS is damaged: `countersign init` makes a new operator's key; look \
             at who may publish what (deploy/nats/accounts.conf)"
        ))
    })
}

fn read_operator(document: &Document) -> Option<AdminKey> {
    std::str::from_utf8(&document.bytes).ok().and_then(AdminKey::read)
}

/// `countersign init`.
///
/// # Errors
/// When NATS cannot be used, or holds something of another deployment or of an `up`.
pub(crate) fn init(args: &InitArgs) -> Result<std::process::ExitCode, Failure> {
    let settings = Settings::load(&args.given(), process::environment())?;
    process::run(&settings.log, make(settings.clone(), args.issuer, args.edges.clone()))
}

async fn make(settings: Settings, issuer: IssuerId, edges: Vec<EdgeId>) -> Result<(), Failure> {
    let wanted = settings.partitions()?;
    warn_if_lax(&settings).await;
    let config = nats(&settings, "operator", 1)?;
    if patiently(|| belongs_to_up(&config)).await? {
        return Err(belongs_to_up_failure(&config));
    }
    let documents = patiently(|| Documents::open(&config, true)).await?;
    let (now, random) = (SystemClock.now(), &mut SystemRandom);
    let mut fresh = KeyStore::generate(random);
    fresh.create(issuer, Vec::new(), now, random).map_err(Failure::usage)?;
    // Whoever puts this first document makes the deployment: a second `init` at the same time goes
    // on with the keys of the first.
    let keys = put_first(&documents, KEYS, &fresh).await?;
    let store = parse_keys(&keys)?;
    publish(&documents, store.clone(), keys.revision).await?;
    if !edges.is_empty() {
        let register = |keys: &mut KeyStore| {
            edges.iter().try_for_each(|edge| keys.register_edge(*edge, issuer, now).map(drop))
        };
        change_keys(&settings, register).await?;
    }
    let made = Deployment::make(wanted, &store, now, random);
    let there: Deployment = parse(DEPLOYMENT, &put_first(&documents, DEPLOYMENT, &made).await?)?;
    there.check("document deployment on NATS", wanted)?;
    let (key, text) = AdminKey::make(random);
    let mut kept = put_first_bytes(&documents, OPERATOR, key.kept().into()).await?;
    if read_operator(&kept).is_none() {
        let put = documents.put(OPERATOR, key.kept().into(), kept.revision).await;
        let put = put.map_err(|error| Failure::server(format!("document {OPERATOR}: {error}")))?;
        if let Some(revision) = put {
            tracing::warn!("the document {OPERATOR} was damaged: there is a new operator's key");
            kept = Document { bytes: key.kept().into(), revision };
        }
    }
    let config = JetStreamConfig { partitions: there.partitions, ..config };
    let identity = there.log_identity().unwrap_or_default();
    let (log, new) = patiently(|| JetStreamLog::open(&config, Some(identity))).await?;
    if eventlog::Log::identity(&log) != identity {
        return Err(Failure::data(format!(
            "{}: the log's streams are not of the deployment that the documents describe (bucket \
             KV_{}countersign). Streams that a `countersign up --log` counts are in use: its keys are in \
             its data directory (--data), and this deployment needs an eventlog.prefix of its own, or \
             another NATS account. Nothing was changed in them",
            config.url, config.prefix
        )));
    }
    patiently(|| EdgeQueue::open(&config, true)).await?;
    let word = if new { "made" } else { "was made before and is complete" };
    line(format!(
        "deployment {} at {} {word}: {} partitions",
        there.deployment, config.url, there.partitions
    ));
    if kept.bytes == key.kept().as_bytes() {
        line(format!("operator's key (shown this once, only its hash is kept): {text}"));
    }
    Ok(())
}

/// Whether the log belongs to an `up`: it makes the streams too, but keeps its keys itself and so
/// makes no documents.
async fn belongs_to_up(config: &JetStreamConfig) -> Result<bool, OpenError> {
    match Documents::open(config, false).await {
        Ok(_) => Ok(false),
        Err(OpenError::Foreign(_)) => JetStreamLog::is_there(config).await,
        Err(error) => Err(error),
    }
}

fn belongs_to_up_failure(config: &JetStreamConfig) -> Failure {
    Failure::usage(format!(
        "{}: this log belongs to a `countersign up`: its keys and edges are in its data directory, so \
         give these commands --data DIR instead of --log; a deployment for `countersign init` beside it \
         needs an eventlog.prefix of its own, or another NATS account",
        config.url
    ))
}

/// Puts a document unless there is one; returns the one that is there afterwards.
async fn put_first(
    documents: &Documents,
    name: &str,
    value: &impl Serialize,
) -> Result<Document, Failure> {
    put_first_bytes(documents, name, json(value)?).await
}

async fn put_first_bytes(
    documents: &Documents,
    name: &str,
    bytes: Bytes,
) -> Result<Document, Failure> {
    let put = documents.put(name, bytes.clone(), 0).await;
    match put.map_err(|error| Failure::server(format!("document {name}: {error}")))? {
        Some(revision) => Ok(Document { bytes, revision }),
        None => require(documents, name).await,
    }
}

/// Reads, changes and writes the keys, and then the documents that the roles read. Commands that do
/// so at the same time do it one after the other: NATS takes a change only of the revision that was
/// read, so whoever comes second reads again.
///
/// # Errors
/// When `change` refuses, or NATS is away.
pub(crate) async fn change_keys<T>(
    settings: &Settings,
    change: impl Fn(&mut KeyStore) -> Result<T, KeyError>,
) -> Result<T, Failure> {
    let documents = open_as_operator(settings).await?;
    loop {
        let document = require(&documents, KEYS).await?;
        let mut store = parse_keys(&document)?;
        let done = change(&mut store).map_err(Failure::usage)?;
        let put = documents.put(KEYS, json(&store)?, document.revision).await;
        match put.map_err(|error| Failure::server(format!("document {KEYS}: {error}")))? {
            Some(revision) => {
                publish(&documents, store, revision).await?;
                return Ok(done);
            }
            None => tracing::info!("somebody else has just changed the keys: again"),
        }
    }
}

/// The keys.
///
/// # Errors
/// As [`require`].
pub(crate) async fn keys(settings: &Settings) -> Result<KeyStore, Failure> {
    parse_keys(&require(&open_as_operator(settings).await?, KEYS).await?)
}

async fn open_as_operator(settings: &Settings) -> Result<Documents, Failure> {
    let config = nats(settings, "operator", 1)?;
    match Documents::open(&config, false).await {
        // The error advises `countersign init`, which is wrong for the log of an `up`. Should the
        // server go away during this question, the error stands.
        Err(OpenError::Foreign(_)) if belongs_to_up(&config).await.unwrap_or(false) => {
            Err(belongs_to_up_failure(&config))
        }
        opened => opened.map_err(failed),
    }
}

fn parse_keys(document: &Document) -> Result<KeyStore, Failure> {
    let store: KeyStore = parse(KEYS, document)?;
    store.check().map_err(|error| Failure::data(format!("document {KEYS} on NATS: {error}")))?;
    Ok(store)
}

/// Writes the documents that the roles read. The centre's comes first: collectors must know a key
/// before an edge signs with it. Writes them again while somebody has changed the keys meanwhile,
/// so that whoever ends last has written the newest keys.
async fn publish(
    documents: &Documents,
    mut store: KeyStore,
    mut revision: u64,
) -> Result<(), Failure> {
    loop {
        replace(documents, KEYS_CENTRE, json(&store.for_centre())?).await?;
        let issuers: BTreeSet<IssuerId> =
            store.issuers.iter().map(|key| key.public.issuer).collect();
        for issuer in issuers {
            let part = store.for_edge(issuer).map_err(Failure::data)?;
            replace(documents, &keys_edge(issuer), json(&part)?).await?;
        }
        // A server that lags behind may show an older revision, which changes nothing.
        let there = require(documents, KEYS).await?;
        if there.revision <= revision {
            return Ok(());
        }
        (store, revision) = (parse_keys(&there)?, there.revision);
    }
}

/// Writes a document unless it says the same already. Tries again when somebody else has written it
/// meanwhile, so it ends when a write or a read of these bytes went through.
async fn replace(documents: &Documents, name: &str, bytes: Bytes) -> Result<(), Failure> {
    loop {
        let away = |error| Failure::server(format!("document {name}: {error}"));
        let there = documents.get(name).await.map_err(away)?;
        if there.as_ref().is_some_and(|there| there.bytes == bytes) {
            return Ok(());
        }
        let revision = there.map_or(0, |there| there.revision);
        if documents.put(name, bytes.clone(), revision).await.map_err(away)?.is_some() {
            return Ok(());
        }
    }
}

fn json(value: &impl Serialize) -> Result<Bytes, Failure> {
    serde_json::to_vec(value).map(Bytes::from).map_err(Failure::data)
}
