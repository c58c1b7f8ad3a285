//! `countersign import`: log files of other servers, each row counted once (DESIGN, idea 1).
//!
//! A blocking thread reads: [`open`] (decompressed) → [`records`] (rows with exact ends and a running
//! digest) → [`columns`] (names to fields) → [`row`] (fields to events) → [`read`] (chunks). A task
//! sends the chunks ([`send`]) and asks for the account ([`account`]). Memory is bounded by a few
//! chunks, however long the file is.

mod account;
mod columns;
mod dry;
mod open;
mod progress;
mod read;
mod records;
mod rejects;
mod row;
mod send;
mod times;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use shared::ambient::SystemClock;
use shared::{Clock as _, SourceId, import};

use crate::cli::ImportArgs;
use crate::client::Api;
use crate::failure::{self, Failure};
use account::SourceAccount;
use columns::Names;
use progress::Progress;
use rejects::Rejects;
use times::Times;

/// Runs the command.
///
/// # Errors
/// When a file cannot be read, is another log than before, or the API does not answer in time.
pub(crate) fn run(args: &ImportArgs) -> Result<ExitCode, Failure> {
    let files = open::logs(&args.files)?;
    if args.source.is_some() && files.len() > 1 {
        return Err(Failure::usage(
            "--source names one log: give one FILE with it, or import each under its own name",
        ));
    }
    let names = Names::new(&args.map, &args.default);
    let names = names.map_err(|what| Failure::usage(format!("--map, --default: {what}")))?;
    let times = Times::new(args.time_format.as_deref(), args.tz.as_deref());
    let names = names.with(times.map_err(|what| Failure::usage(format!("--tz {what}")))?);
    if args.dry_run {
        return dry::run(args, &files, &names);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::fatal(format!("cannot start: {error}")))?;
    runtime.block_on(import_all(args, &files, &names))
}

async fn import_all(
    args: &ImportArgs,
    files: &[PathBuf],
    names: &Names,
) -> Result<ExitCode, Failure> {
    let api = Api::new(&args.api)?;
    let collector = args.collector.as_ref();
    let collector = collector.map(|url| Api::at("--collector", url, &args.api)).transpose()?;
    let mut complete = true;
    for path in files {
        let collector = collector.as_ref().unwrap_or(&api);
        complete &= import_file(args, names, path, &api, collector).await?;
    }
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::from(failure::DIFFERENT) })
}

/// Imports one file and prints its account. True: every row is accounted for.
async fn import_file(
    args: &ImportArgs,
    names: &Names,
    path: &Path,
    api: &Api,
    collector: &Api,
) -> Result<bool, Failure> {
    open::check_kind(path, args)?;
    let format = open::format_of(path, args.format)?;
    let source = source_of(args, path).await?;
    let before = SourceAccount::ask(api, source).await?;
    let rejects = args.rejects.clone().unwrap_or_else(|| default_rejects(path));
    let log = read::Log {
        path: path.to_owned(),
        format,
        delimiter: args.delimiter,
        names: names.clone(),
        source,
        may_grow: args.source.is_some() && !args.complete,
        taken: before.taken(),
        rejects: Rejects::new(Some(rejects), format, args.rejects.is_some()),
        now: SystemClock.now(),
    };
    let progress = Progress::start(path, "importing")?;
    let read = send::send(log, collector, &progress).await;
    progress.finish();
    let read = read?;
    let after = SourceAccount::wait(api, source, read.rows).await?;
    after.check(path, &read)?;
    Ok(account::print(path, source, &read, before.rows, &after))
}

/// The identity of a log: its name's, or its content's, for which it is read once.
async fn source_of(args: &ImportArgs, path: &Path) -> Result<SourceId, Failure> {
    if let Some(name) = &args.source {
        return Ok(import::named_source(name));
    }
    let progress = Progress::start(path, "reading")?;
    let (path, seen) = (path.to_owned(), progress.seen());
    let digest = tokio::task::spawn_blocking(move || open::digest(&path, seen)).await;
    progress.finish();
    Ok(import::unnamed_source(&digest.map_err(Failure::fatal)??))
}

/// With an ending that no `*.csv` takes for a log. Of a pipe: where we are.
fn default_rejects(path: &Path) -> PathBuf {
    let mut name = match path.is_file() {
        true => path.as_os_str().to_owned(),
        false => path.file_name().unwrap_or_default().to_owned(),
    };
    name.push(".rejects");
    PathBuf::from(name)
}
