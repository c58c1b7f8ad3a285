//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use figment::value::Value;
use shared::Currency;
use shared::Minute;
use shared::keys::KeyId;
use shared::{AdvertiserName, EdgeId, IssuerId, PlacementName, PublisherName};

use crate::failure::EXIT_CODES;
use crate::settings::Given;
pub(crate) use deadletter::{DeadletterArgs, DeadletterCommand};
pub(crate) use facts::{FactsArgs, FactsCommand, StateArgs};
pub(crate) use import::{Format, ImportArgs};
pub(crate) use values::minute;
use values::{overlap, seconds};

mod deadletter;
mod facts;
mod import;
mod values;

/// Ad tracking that can be proved: countersigns every impression and click at the edge, and counts
/// them exactly in the centre.
#[derive(Parser, Debug)]
#[command(name = "countersign", version, about)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    /// Reads the command line. The help of each command lists the exit codes.
    ///
    /// # Errors
    /// The help that was asked for, or what is wrong with the command line.
    pub(crate) fn read() -> Result<Self, clap::Error> {
        let mut command = with_exit_codes(Self::command());
        let read = Self::from_arg_matches(&command.try_get_matches_from_mut(std::env::args_os())?);
        read.map_err(|error| error.format(&mut command))
    }
}

fn with_exit_codes(command: clap::Command) -> clap::Command {
    command.after_help(EXIT_CODES).mut_subcommands(with_exit_codes)
}

/// What can be done.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Run everything in one process: edge, outbox, collector, log, aggregator, API
    Up(UpArgs),
    /// Make a deployment on NATS: its streams, its keys, the operator's key
    Init(InitArgs),
    /// Run an edge alone: serves, redirects, and sends its batches to the collectors over NATS
    Edge(EdgeArgs),
    /// Run a collector alone: takes the edges' batches from NATS, checks them, appends them to the log
    Collector(CollectorArgs),
    /// Run an aggregator alone: counts what is in the log, and answers; a second one stands by
    Aggregator(AggregatorArgs),
    /// Count the events of log files, each exactly once, however often they are imported
    Import(ImportArgs),
    /// Play visitors, misbehaviour included, and compare what was sent with what was counted
    Simulate(SimulateArgs),
    /// Count the archive again, by another engine, and compare cell by cell
    Recount(RecountArgs),
    /// Check the segments of facts, and make anew what can be of them
    Facts(FactsArgs),
    /// Make, list, rotate, retire and revoke signing keys; a running `up` follows within seconds
    Keys(KeysArgs),
    /// Check a catalogue before an edge reads it
    Catalogue(CatalogueArgs),
    /// List edges with how far each is counted; take one out of service
    Edges(EdgesArgs),
    /// List, show and resolve what came to a collector and could not be decoded
    Deadletter(DeadletterArgs),
    /// Copy a data directory, of `up` or a role, also while it runs
    Backup(BackupArgs),
    /// Make a data directory of a copy that `backup` took
    Restore(RestoreArgs),
}

/// `up`. Flags win over environment variables (`COUNTERSIGN_EDGE__LISTEN`), which win over the
/// settings file.
#[derive(Args, Debug)]
pub(crate) struct UpArgs {
    /// Settings file (TOML); see countersign.example.toml for all settings
    #[arg(long, value_name = "FILE", env = "COUNTERSIGN_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Directory of everything that is kept; made when it is missing [default: countersign-data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Where the event log is: nats://HOST:PORT; without it, in the data directory
    #[arg(long, value_name = "URL")]
    pub(crate) log: Option<String>,
    /// Address of the public edge; port 0 takes a free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    pub(crate) edge_listen: Option<SocketAddr>,
    /// Address of the API; port 0 takes a free one [default: 127.0.0.1:8081]
    #[arg(long, value_name = "ADDR")]
    pub(crate) api_listen: Option<SocketAddr>,
    /// The time now (RFC 3339): the machine's clock is right, whatever the log says; good for an hour
    #[arg(long, value_name = "TIME")]
    pub(crate) clock_is_right: Option<String>,
    /// Write a catalogue with a demo advertiser if there is none, and serve a demo page at /demo
    #[arg(long)]
    pub(crate) demo: bool,
    /// Folder of the SDK's files (`cargo xtask sdk` makes sdk-js/dist): the demo page is then made
    /// with it, and serves it under /sdk
    #[arg(long, value_name = "DIR", requires = "demo")]
    pub(crate) sdk: Option<PathBuf>,
}

impl UpArgs {
    /// The flags as settings; `up` has every setting.
    pub(crate) fn given(&self) -> Given {
        let flags = vec![
            ("data", path(self.data.as_deref())),
            ("eventlog.url", self.log.clone().map(Value::from)),
            ("edge.listen", self.edge_listen.map(text)),
            ("api.listen", self.api_listen.map(text)),
            ("collector.clock_is_right", self.clock_is_right.clone().map(Value::from)),
        ];
        Given { command: "up", own: &[], config: self.config.clone(), flags }
    }
}

fn text(value: impl ToString) -> Value {
    Value::from(value.to_string())
}

fn path(path: Option<&std::path::Path>) -> Option<Value> {
    path.map(|path| text(path.display()))
}

/// Which settings, and where NATS is.
#[derive(Args, Debug, Clone)]
pub(crate) struct RoleArgs {
    /// Settings file (TOML); a setting that is another role's is refused
    #[arg(long, value_name = "FILE", env = "COUNTERSIGN_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// The NATS servers: nats://HOST:PORT, several with commas between
    #[arg(long, value_name = "URL")]
    pub(crate) log: Option<String>,
    /// Address of the operator's side: health, metrics, and what the role answers; port 0 takes a
    /// free one [default: 127.0.0.1:8081]
    #[arg(long, value_name = "ADDR")]
    pub(crate) api_listen: Option<SocketAddr>,
}

impl RoleArgs {
    /// The flags as settings, for a role that has the groups `own`.
    pub(crate) fn given(&self, command: &'static str, own: &'static [&'static str]) -> Given {
        let flags = vec![
            ("eventlog.url", self.log.clone().map(Value::from)),
            ("api.listen", self.api_listen.map(text)),
        ];
        Given { command, own, config: self.config.clone(), flags }
    }
}

/// `edge`.
#[derive(Args, Debug)]
pub(crate) struct EdgeArgs {
    #[command(flatten)]
    pub(crate) role: RoleArgs,
    /// Directory of the outbox, the catalogue and the keys as they were last seen; made when it is
    /// missing [default: countersign-data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// This edge's name in its batches; no two edges have one
    #[arg(long, value_name = "ID")]
    pub(crate) name: Option<IssuerId>,
    /// Address of the public side; port 0 takes a free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    pub(crate) edge_listen: Option<SocketAddr>,
}

impl EdgeArgs {
    /// The flags as settings, for an edge that has the groups `own`.
    pub(crate) fn given(&self, own: &'static [&'static str]) -> Given {
        let mut given = self.role.given("edge", own);
        given.flags.extend([
            ("data", path(self.data.as_deref())),
            ("edge.name", self.name.map(text)),
            ("edge.listen", self.edge_listen.map(text)),
        ]);
        given
    }
}

/// `collector`.
#[derive(Args, Debug)]
pub(crate) struct CollectorArgs {
    #[command(flatten)]
    pub(crate) role: RoleArgs,
    /// The time now (RFC 3339): the machine's clock is right, whatever the log says; good for an hour
    #[arg(long, value_name = "TIME")]
    pub(crate) clock_is_right: Option<String>,
}

impl CollectorArgs {
    /// The flags as settings, for a collector that has the groups `own`.
    pub(crate) fn given(&self, own: &'static [&'static str]) -> Given {
        let mut given = self.role.given("collector", own);
        let word = self.clock_is_right.clone().map(Value::from);
        given.flags.push(("collector.clock_is_right", word));
        given
    }
}

/// `aggregator`.
#[derive(Args, Debug)]
pub(crate) struct AggregatorArgs {
    #[command(flatten)]
    pub(crate) role: RoleArgs,
    /// Directory of the counts, unless aggregator.state_url names an object store; made when it is
    /// missing [default: countersign-data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
}

impl AggregatorArgs {
    /// The flags as settings, for an aggregator that has the groups `own`.
    pub(crate) fn given(&self, own: &'static [&'static str]) -> Given {
        let mut given = self.role.given("aggregator", own);
        given.flags.push(("data", path(self.data.as_deref())));
        given
    }
}

/// Which deployment on NATS, for an operator's commands.
#[derive(Args, Debug, Clone)]
pub(crate) struct DeploymentArgs {
    /// Settings file (TOML) with the group [eventlog]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The NATS servers: nats://HOST:PORT, several with commas between
    #[arg(long, value_name = "URL")]
    pub(crate) log: Option<String>,
}

impl DeploymentArgs {
    /// The flags as settings, for this command.
    pub(crate) fn given(&self, command: &'static str) -> Given {
        let flags = vec![("eventlog.url", self.log.clone().map(Value::from))];
        Given {
            command,
            own: &["partitions", "log", "eventlog"],
            config: self.config.clone(),
            flags,
        }
    }
}

/// `init`. Goes on where an earlier one was interrupted; makes nothing anew that was there.
#[derive(Args, Debug)]
pub(crate) struct InitArgs {
    #[command(flatten)]
    pub(crate) deployment: DeploymentArgs,
    /// How many partitions count, for ever [default: 16]
    #[arg(long, value_name = "N")]
    pub(crate) partitions: Option<u16>,
    /// Copies of each stream, when NATS is a cluster [default: 1]
    #[arg(long, value_name = "N")]
    pub(crate) replicas: Option<usize>,
    /// The first issuer, with whose key edges sign
    #[arg(long, value_name = "ID", default_value = "edge")]
    pub(crate) issuer: IssuerId,
    /// An edge of this issuer, to be registered; may be repeated
    #[arg(long = "edge", value_name = "ID")]
    pub(crate) edges: Vec<EdgeId>,
}

impl InitArgs {
    /// The flags as settings.
    pub(crate) fn given(&self) -> Given {
        let mut given = self.deployment.given("init");
        given.flags.push(("partitions", self.partitions.map(Value::from)));
        given.flags.push(("eventlog.replicas", self.replicas.map(Value::from)));
        given
    }
}

/// Where the API is, and the key to it.
#[derive(Args, Debug, Clone)]
pub(crate) struct ApiArgs {
    /// Address of the API, e.g. http://127.0.0.1:8081; several with commas between: the one that
    /// answers is asked (two aggregators, of which one stands by)
    #[arg(long, value_name = "URL")]
    pub(crate) api: String,
    /// The operator's key, which `up` or `init` printed once; better in the environment
    #[arg(long, value_name = "KEY", env = "COUNTERSIGN_ADMIN_KEY", hide_env_values = true)]
    pub(crate) key: String,
    /// For how long an API that does not answer is tried again, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "120", value_parser = seconds)]
    pub(crate) patience: Duration,
}

/// Plays visitors through the edge, misbehaviour included, then compares what was sent with what
/// was counted and explains every difference.
///
/// The comparison covers the run's ads and minutes: nobody else should use the deployment
/// meanwhile. The server may be killed and started again on the same addresses while it runs.
/// Expired tokens are played when the catalogue's lifetimes are 30 seconds or less.
#[derive(Args, Debug)]
pub(crate) struct SimulateArgs {
    /// Address of the edge, e.g. http://127.0.0.1:8080; several with commas between are asked in
    /// turn
    #[arg(long, value_name = "URL")]
    pub(crate) edge: String,
    #[command(flatten)]
    pub(crate) api: ApiArgs,
    /// New visitors a second
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) rate: u32,
    /// For how long visitors come, in seconds
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub(crate) seconds: u32,
    /// What decides who does what; the same seed plays the same visitors
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Placement to ask ads for; may be repeated
    #[arg(long = "placement", value_name = "ID", default_values = ["demo-top"])]
    pub(crate) placements: Vec<PlacementName>,
    /// Well-behaved visitors only: a load generator
    #[arg(long)]
    pub(crate) plain: bool,
}

/// Copies a data directory, of `up`, an edge or an aggregator, also while it runs.
///
/// The copy is what a crash would have left at one moment: what was accepted before the backup began
/// is in it. It holds the keys and secrets, with the modes that they have. Not in it: a settings
/// file, a catalogue outside of the data directory, and a log or state that settings put elsewhere.
#[derive(Args, Debug)]
pub(crate) struct BackupArgs {
    /// The data directory
    #[arg(long, value_name = "DIR", env = "COUNTERSIGN_DATA", default_value = "countersign-data")]
    pub(crate) data: PathBuf,
    /// Where the copy goes: a new directory
    #[arg(long, value_name = "DIR")]
    pub(crate) to: PathBuf,
}

/// Makes a data directory of a copy that `backup` took, and checks every byte of it.
///
/// Start `up` on it as on any other. Never run it beside the one that it was copied from on the same
/// event log: both would count under one name.
#[derive(Args, Debug)]
pub(crate) struct RestoreArgs {
    /// The copy
    #[arg(long, value_name = "DIR")]
    pub(crate) from: PathBuf,
    /// The data directory to be made: a new one
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
}

/// Counts the archive of a range of minutes again, by SQL of its own, and compares it with the
/// engine: every cell, its spend, and the account of every minute, in every partition.
///
/// Each difference is one line. The archive is waited for until it has what the engine has counted
/// (the API is asked to write it at once). For many events, compare a day at a time.
#[derive(Args, Debug)]
pub(crate) struct RecountArgs {
    /// The first minute: RFC 3339 or Unix seconds
    #[arg(long, value_name = "TIME", value_parser = minute)]
    pub(crate) from: Minute,
    /// The minute after the last
    #[arg(long, value_name = "TIME", value_parser = minute)]
    pub(crate) to: Minute,
    #[command(flatten)]
    pub(crate) api: ApiArgs,
    /// Where the archive is: a directory, or s3://BUCKET/FOLDER [default: `archive` in --data]
    #[arg(long, value_name = "DIR")]
    pub(crate) archive: Option<String>,
    /// The data directory of `up`, or of the aggregator
    #[arg(long, value_name = "DIR", env = "COUNTERSIGN_DATA", default_value = "countersign-data")]
    pub(crate) data: PathBuf,
}

/// `keys`.
#[derive(Args, Debug)]
pub(crate) struct KeysArgs {
    #[command(subcommand)]
    pub(crate) command: KeysCommand,
}

/// Where the keys are.
#[derive(Args, Debug)]
pub(crate) struct DataArgs {
    /// The data directory of `up` [env: COUNTERSIGN_DATA] [default: countersign-data]
    #[arg(long, value_name = "DIR", conflicts_with_all = ["config", "log"])]
    pub(crate) data: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) deployment: DeploymentArgs,
}

impl DataArgs {
    /// The data directory: the flag, else the variable, else the default. The variable is read here
    /// and not by clap, for which it would conflict with `--config`.
    pub(crate) fn dir(&self) -> PathBuf {
        let named = || std::env::var_os("COUNTERSIGN_DATA").filter(|dir| !dir.is_empty());
        let dir = self.data.clone().or_else(|| named().map(PathBuf::from));
        dir.unwrap_or_else(|| PathBuf::from("countersign-data"))
    }
}

/// What can be done with keys.
#[derive(Subcommand, Debug)]
pub(crate) enum KeysCommand {
    /// Make the first key of an issuer, or one more when none of its keys signs any more (where none is
    /// named, it has the limits of the one before)
    New {
        #[command(flatten)]
        data: DataArgs,
        /// Whose key: 1 to 16 characters of A-Z a-z 0-9 _ -
        #[arg(long, value_name = "ID")]
        issuer: IssuerId,
        /// A publisher that it may sign for; may be repeated [default: all]
        #[arg(long = "publisher", value_name = "ID")]
        publishers: Vec<PublisherName>,
        /// An advertiser that it may sign for; may be repeated [default: all]
        #[arg(long = "advertiser", value_name = "ID")]
        advertisers: Vec<AdvertiserName>,
        /// The highest price of an event that it may sign for, in micros [default: any]
        #[arg(long, value_name = "MICROS", requires = "currency", value_parser = clap::value_parser!(i64).range(0..))]
        price_max_micros: Option<i64>,
        /// The currency of that price, and then of all that it signs for: three letters such as EUR
        #[arg(long, value_name = "CODE", requires = "price_max_micros")]
        currency: Option<Currency>,
    },
    /// Show all keys; secrets are never shown
    List {
        #[command(flatten)]
        data: DataArgs,
        /// As JSON, for scripts
        #[arg(long)]
        json: bool,
    },
    /// Print what an edge elsewhere signs with, a secret: `… | wrangler secret put EDGE_KEYS`
    Edge {
        #[command(flatten)]
        data: DataArgs,
        /// Whose keys it signs with
        #[arg(long, value_name = "ID")]
        issuer: IssuerId,
    },
    /// Give an issuer a new key, and retire the one before after an overlap
    Rotate {
        #[command(flatten)]
        data: DataArgs,
        /// Whose key
        #[arg(long, value_name = "ID")]
        issuer: IssuerId,
        /// How long the old key still signs, for edges that have not heard of the new one: 0 to 604800,
        /// seven days
        #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = overlap)]
        overlap: Duration,
    },
    /// Stop signing with a key; what it signed stays good for 7 days
    Retire {
        #[command(flatten)]
        data: DataArgs,
        /// The key: 8 hexadecimal digits, see `keys list`
        key: KeyId,
    },
    /// Believe nothing that a key signed, whenever it was; for a key that leaked
    Revoke {
        #[command(flatten)]
        data: DataArgs,
        /// The key: 8 hexadecimal digits, see `keys list`
        key: KeyId,
    },
}

/// Looks at catalogues.
#[derive(Args, Debug)]
pub(crate) struct CatalogueArgs {
    #[command(subcommand)]
    pub(crate) command: CatalogueCommand,
}

/// What can be done with catalogues.
#[derive(Subcommand, Debug)]
pub(crate) enum CatalogueCommand {
    /// Read a catalogue as an edge does, and say every place that is wrong or is kept otherwise
    Check {
        /// The file: TOML, or JSON when its name ends with .json
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

/// `edges`.
#[derive(Args, Debug)]
pub(crate) struct EdgesArgs {
    #[command(subcommand)]
    pub(crate) command: EdgesCommand,
}

/// What can be done with edges.
#[derive(Subcommand, Debug)]
pub(crate) enum EdgesCommand {
    /// Show all edges: whose each is, its outboxes, how far each is counted, and what is missing
    List {
        #[command(flatten)]
        api: ApiArgs,
        /// As JSON, for scripts
        #[arg(long)]
        json: bool,
    },
    /// Give edges to an issuer, for ever: what comes of an edge that is not registered is refused. The
    /// shards of an edge, `NAME--…`, go with it
    Register {
        #[command(flatten)]
        data: DataArgs,
        /// The issuer with whose keys they sign
        #[arg(long, value_name = "ID")]
        issuer: IssuerId,
        /// The edges' names
        #[arg(required = true, value_name = "EDGE")]
        edges: Vec<EdgeId>,
    },
    /// Show all registered edges, and whose each is
    Registered {
        #[command(flatten)]
        data: DataArgs,
        /// As JSON, for scripts
        #[arg(long)]
        json: bool,
    },
    /// Take an edge and its shards out of service, for ever: minutes become final without them, and what
    /// still comes of them is rejected as `edge_retired`. An edge that comes back needs another name
    Retire {
        #[command(flatten)]
        data: DataArgs,
        /// The edge's name
        edge: EdgeId,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_each_command_says_how_it_may_end() {
        fn check(command: &mut clap::Command) {
            let help = command.render_help().to_string();
            if command.get_name() == "help" {
                return;
            }
            // Its lines are wrapped.
            let says = help.contains("Exit codes:") && help.contains("70  up and the roles");
            assert!(says, "{}: {help}", command.get_name());
            command.get_subcommands_mut().for_each(check);
        }
        let mut command = with_exit_codes(Cli::command());
        command.clone().debug_assert();
        check(&mut command);
    }
}
