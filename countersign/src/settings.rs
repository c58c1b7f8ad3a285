//! Settings come from a TOML file, then environment variables, then flags; the later wins. Each
//! group belongs to one part of the process. An unknown setting is refused, with its name and
//! place.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use collector::Quotas;
use figment::providers::{Format as _, Serialized, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use serde::{Deserialize, Serialize};
use shared::{EdgeId, Id, IssuerId, Partitions, Timestamp};

use crate::failure::Failure;

mod ranges;
mod reconcile;
mod told;
mod visitors;

pub(crate) use reconcile::Reconcile;
use visitors::check_table;
pub(crate) use visitors::{EdgePrivacy, EdgeVerdicts, table};

/// The prefix of every setting's environment variable; two underscores separate a group from the
/// setting: `COUNTERSIGN_EDGE__LISTEN`.
const PREFIX: &str = "COUNTERSIGN_";
/// Variables with this prefix that are not settings: the settings file, the operator's key (never
/// in a file), and where the project's tests find the binary and a nats-server.
const NO_SETTINGS: [&str; 4] = ["CONFIG", "ADMIN_KEY", "BIN", "NATS_SERVER"];

/// All settings of `up`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// The data directory.
    pub(crate) data: PathBuf,
    /// Partitions of a new deployment; fixed when it is made.
    pub(crate) partitions: Option<u16>,
    /// The data directory's disk.
    pub(crate) disk: Disk,
    /// What the process writes to stderr.
    pub(crate) log: Log,
    /// The public side.
    pub(crate) edge: Edge,
    /// The edge's durable queue.
    pub(crate) outbox: Outbox,
    /// Checks what comes and splits it by partition.
    pub(crate) collector: Collector,
    /// What lies between those that check and those that count.
    pub(crate) eventlog: EventLog,
    /// Counts.
    pub(crate) aggregator: Aggregator,
    /// Keeps everything that was in the log.
    pub(crate) archive: Archive,
    /// The operator's side.
    pub(crate) api: Api,
}

/// The data directory's disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Disk {
    /// Below so many bytes of room it says so; 0: never.
    pub(crate) warn_free_bytes: u64,
}

/// What the process writes to stderr.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Log {
    /// For people or for machines.
    pub(crate) format: LogFormat,
    /// As in `RUST_LOG`: `info`, or `info,edge=debug`.
    pub(crate) filter: String,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The public side.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Edge {
    /// Where it listens.
    pub(crate) listen: SocketAddr,
    /// Its name in batches.
    pub(crate) name: EdgeId,
    /// Whose key signs.
    pub(crate) issuer: IssuerId,
    /// The catalogue; relative to the data directory.
    pub(crate) catalogue: PathBuf,
    /// How it is reached from outside, for links; empty: where it listens.
    pub(crate) public_url: String,
    /// So many days after its issue a link leads somewhere.
    pub(crate) link_days: u64,
    /// Whether a beacon's reply waits for the disk: `durable` or `queued`.
    pub(crate) beacons: String,
    /// The same for redirects.
    pub(crate) clicks: String,
    /// A redirect waits no longer.
    pub(crate) redirect_wait_ms: u64,
    /// Networks whose `X-Forwarded-For` is believed.
    pub(crate) trusted_proxies: Vec<String>,
    /// The header with the visitor's country; empty: none.
    pub(crate) country_header: String,
    /// A table of countries, for whom no proxy says it; empty: none.
    pub(crate) countries: PathBuf,
    /// Connections at once.
    pub(crate) connections_max: usize,
    /// Those of one network; 0: a quarter.
    pub(crate) connections_per_network_max: usize,
    /// How often one network may ask.
    pub(crate) limits: EdgeLimits,
    /// What is taken for no person's act.
    pub(crate) verdicts: EdgeVerdicts,
    /// What is kept of visitors.
    pub(crate) privacy: EdgePrivacy,
}

/// How often one network may ask; a rate of 0: no limit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct EdgeLimits {
    /// Requests a second, clicks not counted.
    pub(crate) requests_per_s: u64,
    /// So many at once.
    pub(crate) requests_burst: u64,
    /// Clicks a second.
    pub(crate) clicks_per_s: u64,
    /// So many at once.
    pub(crate) clicks_burst: u64,
}

/// The edge's durable queue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Outbox {
    /// It is full beyond this many bytes on disk.
    pub(crate) disk_bytes_max: u64,
}

/// Checks what comes and splits it by partition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Collector {
    /// Threads that verify; 0: one per core.
    pub(crate) verify_threads: usize,
    /// Tokens whose good signature is remembered.
    pub(crate) verified_tokens_max: u64,
    /// What was gathered goes to the log after this time at the latest.
    pub(crate) flush_ms: u64,
    /// Dead letters that are kept of one issuer in an hour.
    pub(crate) dead_letter_bytes_per_hour: u64,
    /// When the operator says that the clock is right; empty: nothing is said.
    pub(crate) clock_is_right: String,
    /// The catalogue that edges elsewhere are told of; empty: none. `up` tells of its edge's.
    pub(crate) catalogue: PathBuf,
    /// What one issuer may cost.
    pub(crate) quotas: Quotas,
}

impl Collector {
    /// The operator's word.
    ///
    /// # Errors
    /// When it is no time.
    pub(crate) fn clock_is_right(&self) -> Result<Option<Timestamp>, Failure> {
        if self.clock_is_right.is_empty() {
            return Ok(None);
        }
        Timestamp::parse(&self.clock_is_right)
            .map(Some)
            .map_err(|error| Failure::usage(format!("collector.clock_is_right: {error}")))
    }
}

/// What lies between those that check and those that count.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct EventLog {
    /// The NATS servers; empty: the data directory.
    pub(crate) url: String,
    /// The NATS user; empty: none.
    pub(crate) user: String,
    /// The file with its password.
    pub(crate) password_file: String,
    /// A `.creds` file; empty: none.
    pub(crate) credentials: String,
    /// A file with an nkey seed; empty: none.
    pub(crate) nkey: String,
    /// The client's certificate and its key; empty: none.
    pub(crate) certificate: String,
    /// See there.
    pub(crate) certificate_key: String,
    /// Root certificates, instead of the system's; empty: the system's.
    pub(crate) ca: String,
    /// The servers' monitoring addresses; empty: none.
    pub(crate) monitor_url: String,
    /// Stands before the names of streams and subjects.
    pub(crate) prefix: String,
    /// Copies of each stream that is made.
    pub(crate) replicas: usize,
    /// The most bytes of each stream that is made; 0: as the server has room.
    pub(crate) stream_bytes_max: u64,
}

/// Counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Aggregator {
    /// The longest time between checkpoints.
    pub(crate) checkpoint_ms: u64,
    /// Bytes of stored state kept in memory.
    pub(crate) cache_bytes: u64,
    /// For how many days facts are kept from their events on; 0: for ever.
    pub(crate) facts_days: u32,
    /// Bytes of segments of facts kept in memory for the next question.
    pub(crate) facts_cache_bytes: u64,
    /// How long the log keeps what is counted.
    pub(crate) retention_hours: u32,
    /// The object store of the checkpoints; empty: the data directory.
    pub(crate) state_url: String,
    /// The archive is counted again, and compared.
    pub(crate) reconcile: Reconcile,
}

/// Keeps everything that was in the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Archive {
    /// Whether it does.
    pub(crate) enabled: bool,
    /// The object store of the files; empty: the data directory.
    pub(crate) url: String,
    /// The longest time until an event is in a file.
    pub(crate) every_ms: u64,
    /// Bytes of messages in one file.
    pub(crate) file_bytes: usize,
}

/// The operator's side.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Api {
    /// Where it listens.
    pub(crate) listen: SocketAddr,
    /// Connections at once.
    pub(crate) connections_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            data: PathBuf::from("countersign-data"),
            partitions: None,
            disk: Disk::default(),
            log: Log::default(),
            edge: Edge::default(),
            outbox: Outbox::default(),
            collector: Collector::default(),
            eventlog: EventLog::default(),
            aggregator: Aggregator::default(),
            archive: Archive::default(),
            api: Api::default(),
        }
    }
}

impl Default for Disk {
    fn default() -> Self {
        Self { warn_free_bytes: 2 << 30 }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info,slatedb=warn".to_owned() }
    }
}

impl Default for Edge {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            name: Id::literal("edge"),
            issuer: Id::literal("edge"),
            catalogue: PathBuf::from("catalogue.toml"),
            public_url: String::new(),
            trusted_proxies: Vec::new(),
            country_header: String::new(),
            countries: PathBuf::new(),
            link_days: told::default("LINK_DAYS"),
            beacons: "durable".to_owned(),
            clicks: "durable".to_owned(),
            redirect_wait_ms: told::default("REDIRECT_WAIT_MS"),
            connections_max: 4_096,
            connections_per_network_max: 0,
            limits: EdgeLimits::default(),
            verdicts: EdgeVerdicts::default(),
            privacy: EdgePrivacy::default(),
        }
    }
}

impl Default for EdgeLimits {
    fn default() -> Self {
        Self {
            requests_per_s: told::default("REQUESTS_PER_S"),
            requests_burst: told::default("REQUESTS_BURST"),
            clicks_per_s: told::default("CLICKS_PER_S"),
            clicks_burst: told::default("CLICKS_BURST"),
        }
    }
}

impl Default for Outbox {
    fn default() -> Self {
        Self { disk_bytes_max: 1 << 30 }
    }
}

impl Default for Collector {
    fn default() -> Self {
        Self {
            verify_threads: 0,
            verified_tokens_max: 100_000,
            flush_ms: shared::limits::FLUSH_MS,
            dead_letter_bytes_per_hour: 16 << 20,
            clock_is_right: String::new(),
            catalogue: PathBuf::new(),
            quotas: Quotas::default(),
        }
    }
}

impl Default for EventLog {
    fn default() -> Self {
        Self {
            url: String::new(),
            user: String::new(),
            password_file: String::new(),
            credentials: String::new(),
            nkey: String::new(),
            certificate: String::new(),
            certificate_key: String::new(),
            ca: String::new(),
            monitor_url: String::new(),
            prefix: String::new(),
            replicas: 1,
            stream_bytes_max: 0,
        }
    }
}

impl Default for Aggregator {
    fn default() -> Self {
        Self {
            checkpoint_ms: 10_000,
            cache_bytes: 16 << 20,
            facts_days: 0,
            facts_cache_bytes: 64 << 20,
            retention_hours: 7 * 24,
            state_url: String::new(),
            reconcile: Reconcile::default(),
        }
    }
}

impl Default for Archive {
    fn default() -> Self {
        Self { enabled: true, url: String::new(), every_ms: 300_000, file_bytes: 32 << 20 }
    }
}

impl Default for Api {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 8081)), connections_max: 1_024 }
    }
}

impl Settings {
    /// Reads the file, the environment and the flags that a command was given.
    ///
    /// # Errors
    /// Says which setting is unknown, wrong or another command's, and where it was set.
    pub(crate) fn load(
        given: &Given,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Failure> {
        let mut figment = Figment::new();
        if let Some(path) = &given.config {
            let text = std::fs::read_to_string(path).map_err(|error| {
                Failure::usage(format!("cannot read the settings {}: {error}", path.display()))
            })?;
            figment = figment.merge(File { path: path.clone(), text });
        }
        figment = figment.merge(Environment(environment.into_iter().collect()));
        for (name, value) in &given.flags {
            if let Some(value) = value {
                figment = figment.merge(Serialized::default(name, value));
            }
        }
        given.refuse_others(&figment)?;
        let settings: Self = figment.extract().map_err(|error| explain(&error))?;
        settings.check()
    }

    fn check(self) -> Result<Self, Failure> {
        self.partitions()?;
        self.edge.told()?;
        check_table("edge.verdicts.networks", &self.edge.verdicts.networks)?;
        check_table("edge.countries", &self.edge.countries)?;
        let header = &self.edge.country_header;
        if !header.is_empty() && header.parse::<axum::http::HeaderName>().is_err() {
            return Err(Failure::usage("edge.country_header: no name that HTTP allows"));
        }
        self.check_numbers()?;
        self.check_prefix()?;
        self.check_filter()?;
        self.collector.clock_is_right()?;
        if self.edge.issuer == shared::import::ISSUER {
            return Err(Failure::usage("edge.issuer: the name `import` is kept for imported logs"));
        }
        if self.eventlog.certificate.is_empty() != self.eventlog.certificate_key.is_empty() {
            return Err(Failure::usage(
                "eventlog.certificate and eventlog.certificate_key: set both or none",
            ));
        }
        if self.eventlog.user.is_empty() != self.eventlog.password_file.is_empty() {
            return Err(Failure::usage(
                "eventlog.user and eventlog.password_file: set both or none",
            ));
        }
        if self.eventlog.url.contains('@') {
            // Addresses stand in log lines and error messages.
            return Err(Failure::usage(
                "eventlog.url: no user and password in an address: eventlog.user and \
                 eventlog.password_file are for that",
            ));
        }
        Ok(self)
    }

    /// The partitions that are set, if they are.
    ///
    /// # Errors
    /// When there cannot be so many.
    pub(crate) fn partitions(&self) -> Result<Option<Partitions>, Failure> {
        let wrong = || {
            let most = shared::limits::PARTITIONS_MAX;
            Failure::usage(format!("partitions: from 1 to {most}"))
        };
        self.partitions.map(|count| Partitions::new(count).ok_or_else(wrong)).transpose()
    }

    /// The catalogue's file.
    pub(crate) fn catalogue(&self) -> PathBuf {
        self.data.join(&self.edge.catalogue)
    }
}

/// What a command was given on its command line, and which settings are its own.
#[derive(Debug, Clone)]
pub(crate) struct Given {
    /// As it is called: `edge`.
    pub(crate) command: &'static str,
    /// The settings and groups that it has; empty: all.
    pub(crate) own: &'static [&'static str],
    /// The settings file.
    pub(crate) config: Option<PathBuf>,
    /// Settings with the flags' values.
    pub(crate) flags: Vec<(&'static str, Option<Value>)>,
}

impl Given {
    /// A setting of another command would do nothing here, and its author believes that it does.
    fn refuse_others(&self, figment: &Figment) -> Result<(), Failure> {
        let known = Value::serialize(Settings::default()).ok().and_then(Value::into_dict);
        for name in known.unwrap_or_default().keys() {
            if self.own.is_empty() || self.own.contains(&name.as_str()) {
                continue;
            }
            if figment.contains(name) {
                let place = figment.find_metadata(name).map(|metadata| metadata.name.to_string());
                let place = place.unwrap_or_else(|| "the settings".to_owned());
                return Err(Failure::usage(format!(
                    "{place}: {name}: `countersign {}` has no such setting, it has {}; take it out, \
                     or give it to the command that it is for",
                    self.command,
                    self.own.join(", ")
                )));
            }
        }
        Ok(())
    }
}

struct File {
    path: PathBuf,
    text: String,
}

impl Provider for File {
    fn metadata(&self) -> Metadata {
        Metadata::named(format!("file {}", self.path.display()))
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Toml::string(&self.text).data()
    }
}

struct Environment(BTreeMap<String, String>);

impl Provider for Environment {
    fn metadata(&self) -> Metadata {
        Metadata::named("the environment")
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let mut all = Dict::new();
        for (name, text) in &self.0 {
            let Some(rest) = name.strip_prefix(PREFIX) else { continue };
            if NO_SETTINGS.contains(&rest) {
                continue;
            }
            let path = rest.to_lowercase().replace("__", ".");
            let value: Value = text.parse().unwrap_or_else(|never| match never {});
            let nested = figment::util::nest(&path, value);
            merge(&mut all, nested.into_dict().unwrap_or_default());
        }
        Ok(Profile::Default.collect(all))
    }
}

fn merge(into: &mut Dict, from: Dict) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Dict(_, there)), Value::Dict(_, new)) => merge(there, new),
            (_, value) => drop(into.insert(key, value)),
        }
    }
}

/// One line for all that is wrong: which setting, where it was set, what was expected.
fn explain(errors: &figment::Error) -> Failure {
    let describe = |error: figment::Error| {
        let place = error.metadata.as_ref().map(|metadata| metadata.name.to_string());
        let name = error.path.join(".");
        let place = match place.as_deref() {
            Some("the environment") => {
                format!(
                    "the environment variable {PREFIX}{}",
                    name.to_uppercase().replace('.', "__")
                )
            }
            Some(file) => file.to_owned(),
            None => "the settings".to_owned(),
        };
        let at = if name.is_empty() { String::new() } else { format!("{name}: ") };
        let more = Settings::range_of(&name).or_else(|| told::elsewhere(&error.kind));
        let more = more.unwrap_or_default();
        format!("{place}: {at}{}{more}", error.kind.to_string().trim_end())
    };
    let all: Vec<String> = errors.clone().into_iter().map(describe).collect();
    Failure::usage(all.join("; "))
}

/// The example that ships with the program.
#[cfg(test)]
const EXAMPLE: &str = include_str!("../countersign.example.toml");

/// Whether a path is the default data directory's, for hints that name it only when they must.
pub(crate) fn is_default_data(path: &Path) -> bool {
    path == Settings::default().data
}

#[cfg(test)]
mod tests;
