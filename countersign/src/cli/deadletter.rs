//! `deadletter`.

use clap::{Args, Subcommand};

use super::ApiArgs;

/// `deadletter`.
#[derive(Args, Debug)]
pub(crate) struct DeadletterArgs {
    #[command(subcommand)]
    pub(crate) command: DeadletterCommand,
}

/// What can be done with dead letters. `--api` is the address of a collector, or of `up`.
#[derive(Subcommand, Debug)]
pub(crate) enum DeadletterCommand {
    /// Show those that nobody has resolved, oldest first, at most 1000 at once; and how many there are of
    /// each sender
    List {
        #[command(flatten)]
        api: ApiArgs,
        /// Those behind this one
        #[arg(long, value_name = "N", default_value_t = 0)]
        after: u64,
        /// At most so many, up to 1000
        #[arg(long, value_name = "N")]
        limit: Option<u32>,
        /// Those of one sender: `operator`, `issuer:NAME`, `edge:NAME`, or `unknown`
        #[arg(long, value_name = "SENDER")]
        sender: Option<String>,
        /// As JSON, for scripts
        #[arg(long)]
        json: bool,
    },
    /// Write one as it came to standard output
    Show {
        #[command(flatten)]
        api: ApiArgs,
        /// Its number, see `deadletter list`
        sequence: u64,
    },
    /// It has been looked at: nobody waits any more for the batch that it was, if it is missing (a later
    /// one of its outbox has come). Should that batch come all the same, it is skipped. What a letter
    /// says of itself is believed when the batch's edge belongs to whoever sent it
    Resolve {
        #[command(flatten)]
        api: ApiArgs,
        /// Its number, see `deadletter list`
        #[arg(required_unless_present = "sender")]
        sequence: Option<u64>,
        /// All that lie there of one sender, each as by its number: `operator`, `issuer:NAME`,
        /// `edge:NAME`, or `unknown`
        #[arg(long, value_name = "SENDER", conflicts_with_all = ["sequence", "batch"])]
        sender: Option<String>,
        /// Which batch it was, where its bytes do not say or are not believed: EDGE/EPOCH/NUMBER, as
        /// the accounting's gaps name it
        #[arg(long, value_name = "EDGE/EPOCH/NUMBER")]
        batch: Option<String>,
        /// It was no batch that anybody waits for
        #[arg(long, conflicts_with = "batch")]
        no_batch: bool,
    },
}
