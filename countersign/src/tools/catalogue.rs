//! `countersign catalogue check`: what an edge would make of a file, before one reads it.

use std::path::PathBuf;
use std::process::ExitCode;

use catalogue::CatalogueFile;
use clap::{Args, Subcommand};

use crate::failure::Failure;
use crate::terminal::line;

/// Looks at catalogues.
#[derive(Args, Debug)]
pub(crate) struct CatalogueArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Read a catalogue as an edge does, and say every place that is wrong or is kept otherwise
    Check {
        /// The file: TOML, or JSON when its name ends with .json
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

/// Runs the command.
///
/// # Errors
/// Names every place that is wrong.
pub(crate) fn run(args: &CatalogueArgs) -> Result<ExitCode, Failure> {
    let Command::Check { file } = &args.command;
    let (_, catalogue) = CatalogueFile::open(file).map_err(Failure::usage)?;
    catalogue.notes().iter().for_each(line);
    let (ads, placements) = (catalogue.ads().len(), catalogue.placements().count());
    line(format!("{}: {ads} ads on {placements} placements, nothing wrong", file.display()));
    Ok(ExitCode::SUCCESS)
}
