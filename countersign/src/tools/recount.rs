//! `countersign recount`: counts the archive again and compares it with the aggregator's counts, by
//! [`crate::recount`]. A line for each difference.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;

use api::restatements::{Restatement, Restatements};
use api::routes;
use archive::Archive;
use shared::Timestamp;
use shared::ambient::Stopwatch;

use crate::assemble::archiving::{FOLDER, open_url};
use crate::cli::RecountArgs;
use crate::client::Api;
use crate::failure::{self, Failure};
use crate::recount::{Asked, Compared, Limits, Recount};
use crate::terminal::line;

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

async fn recount(args: &RecountArgs) -> Result<ExitCode, Failure> {
    let api = Api::new(&args.api)?;
    let archive = open(args).await?;
    let recount = Recount {
        asked: Asked::Api(&api),
        archive: &archive,
        range: args.from..args.to,
        patience: args.api.patience,
        limits: Limits::NONE,
        is_shown: true,
    };
    let watch = Stopwatch::start();
    let (mut facts, mut differences, mut events, mut bytes) = (0, 0, 0, 0);
    let mut conflicts = BTreeSet::new();
    let (mut partition, mut partitions) = (0, 1);
    while partition < partitions {
        let compared = recount.partition(partition).await?;
        tell(partition, &compared, &mut conflicts);
        facts += compared.facts;
        differences += compared.differences_all;
        events += compared.events;
        bytes += compared.bytes;
        partitions = compared.partitions;
        partition += 1;
    }
    let seconds = watch.elapsed().as_secs_f64();
    let compared = format!(
        "{facts} counts of {partitions} partitions compared, from {events} events in {} MiB, {seconds:.1} s",
        bytes >> 20
    );
    tell_restated(&api, args).await;
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

/// Prints what was found in a partition; `conflicts` has those that others have told of.
fn tell(partition: u16, compared: &Compared, conflicts: &mut BTreeSet<String>) {
    for cut_off in &compared.cut_off {
        line(format!(
            "partition {partition}: edge {} had too many gaps or outboxes: from message {} on \
             what it brings is over_quota",
            cut_off.edge, cut_off.sequence
        ));
    }
    for difference in &compared.differences {
        line(format!("partition {partition}: {difference}"));
    }
    for conflict in &compared.conflicts {
        if conflicts.insert(conflict.clone()) {
            line(format!("CONFLICT: {conflict}"));
        }
    }
}

/// Tells of restatements that hold: they are put over counts when these are asked for. An earlier
/// build has none.
async fn tell_restated(api: &Api, args: &RecountArgs) {
    let Ok(found) = api.require::<Restatements>(routes::reports::RESTATEMENTS.path).await else {
        return;
    };
    let time = |text: &str| Timestamp::parse(text).unwrap_or_default();
    let meets = |one: &&Restatement| {
        let holds = one.takes_back.is_none() && one.taken_back_by.is_none();
        holds && time(&one.from) < args.to.start() && args.from.start() < time(&one.to)
    };
    match found.restatements.iter().filter(meets).count() {
        0 => {}
        count => line(format!(
            "{count} restatements judge events of these minutes again; what is compared is how they \
             were judged when they came"
        )),
    }
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
