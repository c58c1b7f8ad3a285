//! `countersign catalogue check`: reads a catalogue as an edge would, before one does.

use std::process::ExitCode;

use catalogue::CatalogueFile;

use crate::cli::{CatalogueArgs, CatalogueCommand};
use crate::failure::Failure;
use crate::terminal::line;

/// Runs the command.
///
/// # Errors
/// Names every place that is wrong.
pub(crate) fn run(args: &CatalogueArgs) -> Result<ExitCode, Failure> {
    let CatalogueCommand::Check { file } = &args.command;
    let (_, catalogue) = CatalogueFile::open(file).map_err(Failure::usage)?;
    catalogue.notes().iter().for_each(line);
    let (ads, placements) = (catalogue.ads().len(), catalogue.placements().count());
    line(format!("{}: {ads} ads on {placements} placements, nothing wrong", file.display()));
    Ok(ExitCode::SUCCESS)
}
