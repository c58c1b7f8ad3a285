//! Countersign: ad tracking that can be proved. All of the one binary; `main.rs` only calls it.
//! Cargo compiles what depends on a library while it compiles the library, but makes what depends
//! on a binary wait for it.
//!
//! Layout: [`cli`] is what can be asked for; [`settings`] what can be set; [`data`] the data
//! directory; [`deployment`] what the parts share on NATS; [`admin`] the operator's key;
//! [`process`] what every command needs that runs until a signal. [`up`] is all roles in one
//! process, [`roles`] each in its own, and [`assemble`] what both are put together of; [`tools`]
//! are the commands that do something and end. [`recount`] counts the archive again, [`reconcile`]
//! does so on a schedule. The rooms below know nothing of each other: what
//! connects them is here.

mod admin;
mod arenas;
mod assemble;
mod cli;
mod client;
mod data;
mod deployment;
mod failure;
mod process;
mod progress;
mod reconcile;
mod recount;
mod roles;
mod settings;
mod terminal;
mod tools;
mod up;

use std::process::ExitCode;

use cli::{Cli, Command};
use failure::Failure;

/// Does what the command line says; the exit code tells how it went (`failure`).
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::read() {
        Ok(cli) => cli,
        Err(error) => return misread(&error),
    };
    if matches!(
        cli.command,
        Command::Up(_) | Command::Edge(_) | Command::Collector(_) | Command::Aggregator(_)
    ) {
        arenas::bound();
    }
    match run(cli) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("countersign: {}", failure.message);
            ExitCode::from(failure.code)
        }
    }
}

/// Prints the help that was asked for, or what is wrong with the command line.
fn misread(error: &clap::Error) -> ExitCode {
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    // If the terminal is gone, nobody can read the message and nothing can be done about it.
    let _ = error.print();
    let lacks_key = error.kind() == ErrorKind::MissingRequiredArgument
        && matches!(
            error.get(ContextKind::InvalidArg),
            Some(ContextValue::Strings(names)) if names.iter().any(|name| name.starts_with("--key"))
        );
    if lacks_key {
        eprintln!(
            "\nThe operator's key: set {}, or give --key (which other users of the machine can see)",
            admin::VARIABLE
        );
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(failure::USAGE))
}

fn run(cli: Cli) -> Result<ExitCode, Failure> {
    match cli.command {
        Command::Up(args) => up::run(&args),
        Command::Init(args) => deployment::init(&args),
        Command::Edge(args) => roles::edge::run(&args),
        Command::Collector(args) => roles::collector::run(&args),
        Command::Aggregator(args) => roles::aggregator::run(&args),
        Command::Simulate(args) => tools::simulate::run(&args),
        Command::Import(args) => tools::import::run(&args),
        Command::Recount(args) => tools::recount::run(&args),
        Command::Facts(args) => tools::facts::run(&args),
        Command::Keys(args) => tools::keys::run(&args),
        Command::Catalogue(args) => tools::catalogue::run(&args),
        Command::Edges(args) => tools::operate::edges(&args),
        Command::Deadletter(args) => tools::deadletter::deadletter(&args),
        Command::Backup(args) => tools::backup::backup(&args),
        Command::Restore(args) => tools::backup::restore(&args),
    }
}
