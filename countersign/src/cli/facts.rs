//! `facts`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::path;
use crate::settings::Given;

/// `facts`.
#[derive(Args, Debug)]
pub(crate) struct FactsArgs {
    #[command(subcommand)]
    pub(crate) command: FactsCommand,
}

/// What can be done with segments of facts.
#[derive(Subcommand, Debug)]
pub(crate) enum FactsCommand {
    /// Read every object of the segments of facts, and say which are damaged or missing
    ///
    /// Nothing is written, and `up` or the aggregator may run meanwhile. Example:
    ///
    /// countersign facts check --data countersign-data
    Check(StateArgs),
    /// Make anew what is damaged or missing beside the Parquet files of segments
    ///
    /// Everything is checked first, and what is sound is not touched. `up` or the aggregator may run
    /// meanwhile, and answers again without a restart. A Parquet file itself cannot be made anew.
    /// Example, with the settings of an aggregator whose state is in an object store:
    ///
    /// countersign facts rebuild --config aggregator.toml
    Rebuild(StateArgs),
}

/// Where the counts are.
#[derive(Args, Debug, Clone)]
pub(crate) struct StateArgs {
    /// Settings file (TOML) of `up` or of an aggregator: its data, and aggregator.state_url
    #[arg(long, value_name = "FILE", env = "COUNTERSIGN_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// The data directory of `up` or of an aggregator [default: countersign-data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
}

impl StateArgs {
    /// The flags as settings; the file may have every setting of `up`.
    pub(crate) fn given(&self) -> Given {
        let flags = vec![("data", path(self.data.as_deref()))];
        Given { command: "facts", own: &[], config: self.config.clone(), flags }
    }
}
