//! `countersign recount`: counts the archive again and compares it with the aggregator's counts.
//!
//! Partition by partition: [`engine`] asks the API for all that the partition has counted in the
//! range, at one position; [`files`] waits until the archive has everything up to there, and says
//! which files matter; [`records`] reads them; [`count`] counts and compares. Nothing of the count
//! engine's code is used.

mod count;
mod engine;
mod files;
mod names;
mod progress;
mod records;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;

use archive::{Archive, ArchiveError};
use shared::ambient::Stopwatch;

use crate::assemble::archiving::{FOLDER, open_url};
use crate::cli::RecountArgs;
use crate::client::Api;
use crate::failure::{self, Failure};
use crate::terminal::line;
use progress::Progress;

/// Runs the command.
///
/// # Errors
/// When the API or the archive cannot be read, or a file is missing, there twice or damaged.
pub(crate) fn run(args: &RecountArgs) -> Result<ExitCode, Failure> {
    if args.from >= args.to {
        return Err(Failure::usage("--to is not after --from; it is the minute after the last"));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::fatal(format!("cannot start: {error}")))?;
    runtime.block_on(recount(args))
}

/// What was compared.
#[derive(Debug, Default)]
struct Total {
    facts: u64,
    differences: u64,
    conflicts: BTreeSet<String>,
    records: u64,
    bytes: u64,
}

async fn recount(args: &RecountArgs) -> Result<ExitCode, Failure> {
    let api = Api::new(&args.api)?;
    let archive = open(args).await?;
    let range = args.from..args.to;
    let watch = Stopwatch::start();
    let mut total = Total::default();
    let (mut partition, mut partitions) = (0, 1);
    while partition < partitions {
        let counted = engine::counted(&api, partition, &range).await?;
        partitions = counted.partitions;
        for cut_off in &counted.cut_off {
            line(format!(
                "partition {partition}: edge {} had too many gaps or outboxes: from message {} on \
                 what it brings is over_quota",
                cut_off.edge, cut_off.sequence
            ));
        }
        let scope = files::scope(&archive, &api, &counted, &range, args.api.patience).await?;
        total.bytes += scope.bytes();
        total.records += scope.records();
        let progress = Progress::start(partition, partitions, scope.bytes());
        let compared = count::compare(&archive, scope, counted, &range, &progress).await;
        progress.finish();
        let compared = compared?;
        total.facts += compared.facts;
        for difference in compared.differences {
            total.differences += 1;
            line(format!("partition {partition}: {difference}"));
        }
        for conflict in compared.conflicts {
            if !total.conflicts.contains(&conflict) {
                line(format!("CONFLICT: {conflict}"));
                total.conflicts.insert(conflict);
            }
        }
        partition += 1;
    }
    let Total { facts, differences, conflicts, records, bytes } = total;
    let seconds = watch.elapsed().as_secs_f64();
    let compared = format!(
        "{facts} counts of {partitions} partitions compared, from {} events in {} MiB, {seconds:.1} s",
        records,
        bytes >> 20
    );
    if differences == 0 && conflicts.is_empty() {
        line(format!("the archive and the engine agree: {compared}"));
        return Ok(ExitCode::SUCCESS);
    }
    if !conflicts.is_empty() {
        let conflicts = conflicts.len();
        line(format!("{conflicts} batches CONFLICT with others of their numbers: {compared}"));
    }
    if differences > 0 {
        line(format!("{differences} DIFFERENCES: {compared}"));
    }
    Ok(ExitCode::from(failure::DIFFERENT))
}

async fn open(args: &RecountArgs) -> Result<Archive, Failure> {
    let opened = match &args.archive {
        Some(url) if url.contains("://") => open_url(url).await,
        Some(dir) => existing(dir.as_ref()),
        None => existing(&args.data.join(FOLDER)),
    };
    opened.map_err(|why| {
        Failure::usage(format!(
            "there is no archive: {why}; name it with --archive, or the data directory with --data"
        ))
    })
}

fn existing(dir: &Path) -> Result<Archive, String> {
    Archive::existing(dir).map_err(|error| error.to_string())
}

/// The exit code by the kind of error: a gap or an overlap in the archive is a difference, damage
/// belongs to the data.
fn archive_failure(error: &ArchiveError) -> Failure {
    match error {
        ArchiveError::Broken(why) => Failure::different(why),
        ArchiveError::Unavailable(why) => Failure::server(why),
        error => Failure::data(error),
    }
}
