//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use shared::Id;
use shared::keys::KeyId;

use crate::failure::EXIT_CODES;

/// Ad tracking that can be proved: countersigns every impression and click at the edge, and counts
/// them exactly in the centre.
#[derive(Parser, Debug)]
#[command(name = "countersign", version, about, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What can be done.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Run everything in one process: edge, outbox, collector, log, aggregator, API
    Up(UpArgs),
    /// Count the events of log files, each exactly once, however often they are imported
    Import(ImportArgs),
    /// Play visitors, misbehaviour included, and compare what was sent with what was counted
    Simulate(SimulateArgs),
    /// Make, list, rotate, retire and revoke signing keys; a running `up` follows within seconds
    Keys(KeysArgs),
    /// Copy a data directory, also while `up` runs on it
    Backup(BackupArgs),
    /// Make a data directory of a copy that `backup` took
    Restore(RestoreArgs),
}

/// `up`. Flags win over environment variables (`COUNTERSIGN_EDGE__LISTEN`), which win over the
/// settings file.
#[derive(Args, Debug)]
#[command(after_help = EXIT_CODES)]
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
    /// Write a catalogue with a demo advertiser if there is none, and serve a demo page at /demo
    #[arg(long)]
    pub(crate) demo: bool,
}

/// Where the API is, and the key to it.
#[derive(Args, Debug, Clone)]
pub(crate) struct ApiArgs {
    /// Address of the API, e.g. http://127.0.0.1:8081
    #[arg(long, value_name = "URL")]
    pub(crate) api: String,
    /// The operator's key, which `up` printed at its first start
    #[arg(long, value_name = "KEY", env = "COUNTERSIGN_ADMIN_KEY", hide_env_values = true)]
    pub(crate) key: String,
    /// How long an API that does not answer is tried again, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "120", value_parser = seconds)]
    pub(crate) patience: Duration,
}

/// The form of a log.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Comma-separated values with a header line (RFC 4180)
    Csv,
    /// Tab-separated values with a header line
    Tsv,
    /// One JSON object a line
    Ndjson,
}

/// Counts the events of log files, each exactly once, however often they are imported.
///
/// Columns are found by name, in any order: `ad_id`; `timestamp` or `click_timestamp` (RFC 3339 or
/// Unix seconds); and, where there are, `event` (served, impression, viewable, click), `click`,
/// `user_id`, `ip`, `country`, `publisher`, `placement`, `device`. A row without `event` and
/// `click` is a click. A row with `click` is an impression, and a click too when it is 1.
///
/// A file without --source is known by the digest of its (decompressed) content. With --source it
/// is known by that name and may grow: the next import checks that it still begins with the rows
/// that were taken, and counts those that follow. A last line without a newline may be half
/// written: with --source it waits for the next import, unless --complete says that it is whole.
#[derive(Args, Debug)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct ImportArgs {
    /// Log files: CSV, TSV or NDJSON, plain or gzip
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) api: ApiArgs,
    /// The log's name; it may then grow. One file only
    #[arg(long, value_name = "NAME")]
    pub(crate) source: Option<String>,
    /// The form, when neither the file's ending nor its first line tells
    #[arg(long, value_enum)]
    pub(crate) format: Option<Format>,
    /// Where rows that cannot be read are written, with file, line and reason
    /// [default: FILE.rejects.csv or FILE.rejects.ndjson]
    #[arg(long, value_name = "FILE")]
    pub(crate) rejects: Option<PathBuf>,
    /// With --source: take a last line that has no newline
    #[arg(long, requires = "source")]
    pub(crate) complete: bool,
}

/// Plays visitors through the edge, misbehaviour included, then compares what was sent with what
/// was counted and explains every difference.
///
/// The comparison covers the run's ads and minutes: nobody else should use the deployment
/// meanwhile. The server may be killed and started again on the same addresses while it runs.
/// Expired tokens are played when the catalogue's lifetimes are 30 seconds or less.
#[derive(Args, Debug)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct SimulateArgs {
    /// Address of the edge, e.g. http://127.0.0.1:8080
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
    pub(crate) placements: Vec<Id>,
    /// Well-behaved visitors only: a load generator
    #[arg(long)]
    pub(crate) plain: bool,
}

/// Copies a data directory, also while `up` runs on it.
///
/// The copy is what a crash would have left at one moment: what was accepted before the backup began
/// is in it. It holds the keys and secrets, with the modes that they have. Not in it: a settings
/// file, a catalogue outside of the data directory, and a log or state that settings put elsewhere.
#[derive(Args, Debug)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct BackupArgs {
    /// The data directory of `up`
    #[arg(long, value_name = "DIR", default_value = "countersign-data")]
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
#[command(after_help = EXIT_CODES)]
pub(crate) struct RestoreArgs {
    /// The copy
    #[arg(long, value_name = "DIR")]
    pub(crate) from: PathBuf,
    /// The data directory to be made: a new one
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
}

/// `keys`.
#[derive(Args, Debug)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct KeysArgs {
    #[command(subcommand)]
    pub(crate) command: KeysCommand,
}

/// Which directory.
#[derive(Args, Debug)]
pub(crate) struct DataArgs {
    /// The data directory of `up`
    #[arg(long, value_name = "DIR", default_value = "countersign-data")]
    pub(crate) data: PathBuf,
}

/// What can be done with keys.
#[derive(Subcommand, Debug)]
pub(crate) enum KeysCommand {
    /// Make the first key of an issuer
    New {
        #[command(flatten)]
        data: DataArgs,
        /// Whose key: 1 to 16 characters of A-Z a-z 0-9 _ -
        #[arg(long, value_name = "ID")]
        issuer: Id,
        /// A publisher that it may sign for; may be repeated [default: all]
        #[arg(long = "publisher", value_name = "ID")]
        publishers: Vec<Id>,
    },
    /// Show all keys; secrets are never shown
    List {
        #[command(flatten)]
        data: DataArgs,
        /// As JSON, for scripts
        #[arg(long)]
        json: bool,
    },
    /// Give an issuer a new key, and retire the one before after an overlap
    Rotate {
        #[command(flatten)]
        data: DataArgs,
        /// Whose key
        #[arg(long, value_name = "ID")]
        issuer: Id,
        /// How long the old key still signs, for edges that have not heard of the new one
        #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
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

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: u32 = text.parse().map_err(|_| "a whole number of seconds".to_owned())?;
    Ok(Duration::from_secs(seconds.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
