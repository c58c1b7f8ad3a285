//! Countersign: ad tracking that can be proved. The one binary.
//!
//! Layout: [`cli`] is what can be asked for; [`settings`] what can be set; [`data`] the data
//! directory; [`disk`] watches its room; [`admin`] the operator's key; [`keys`], [`import`], [`simulate`], [`backup`] and [`up`]
//! are the commands. The rooms below know nothing of each other: what connects them is in [`up`].

mod admin;
mod backup;
mod cli;
mod client;
mod data;
mod disk;
mod failure;
mod import;
mod keys;
mod settings;
mod simulate;
mod terminal;
mod up;

use std::process::ExitCode;

use clap::Parser as _;

use cli::{Cli, Command};
use failure::Failure;

/// Gives memory back sooner than the system's, and costs less under many small allocations.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("countersign: {}", failure.message);
            ExitCode::from(failure.code)
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode, Failure> {
    match cli.command {
        Command::Up(args) => up::run(&args),
        Command::Simulate(args) => simulate::run(&args),
        Command::Import(args) => import::run(&args),
        Command::Keys(args) => keys::run(&args),
        Command::Backup(args) => backup::backup(&args),
        Command::Restore(args) => backup::restore(&args),
    }
}
