//! `countersign import`: log files of other servers, each row counted once.
//!
//! A blocking thread reads: [`open`] (decompressed; [`follow`] for a log that is being written) →
//! [`records`] (rows with exact ends and running digests) → [`rows`] (by [`columns`] or as
//! [`access`] logs are) → [`row`] (fields to events) → [`read`] (chunks). A task sends the chunks
//! ([`send`]) and asks for the [`account`]. Rows that cannot be read are written to a file
//! ([`rejects`]), from which they are imported when somebody has mended them ([`mended`]). Memory
//! is bounded by a few chunks, however long the file is.

mod access;
mod account;
mod columns;
mod dry;
mod follow;
mod mended;
mod open;
mod progress;
mod read;
mod records;
mod rejects;
mod row;
mod rows;
mod send;
mod times;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use shared::ambient::SystemClock;
use shared::{SourceId, import};

use crate::cli::{Format, ImportArgs};
use crate::client::Api;
use crate::failure::{self, Failure, OTHER_LOG, USAGE};
use crate::{process, terminal};
use columns::ColumnNames;
use follow::Watch;
use progress::Progress;
use read::{Log, Reader};
use rejects::Rejects;
use send::Run;
use times::Times;

/// The rows that the server has durably are waited for until nothing was counted for so long.
const APPLY_MAX: Duration = Duration::from_secs(60);
/// The same for rows that an earlier run sent: nobody knows whether the server has them.
const SETTLE_MAX: Duration = Duration::from_secs(10);
/// How often to look whether a log that is followed has its first row.
const BEGUN_POLL: Duration = Duration::from_millis(500);

/// Runs the command.
///
/// # Errors
/// When a file cannot be read, is another log than before, or the API does not answer in time.
pub(crate) fn run(args: &ImportArgs) -> Result<ExitCode, Failure> {
    let files = open::logs(&args.files)?;
    if files.len() > 1 && (args.source.is_some() || args.follow) {
        return Err(Failure::usage(
            "--source and --follow are about one log: give one FILE with them, or import each by itself",
        ));
    }
    if args.follow && args.source.is_some() {
        return Err(Failure::usage(
            "--follow: each file that comes in the log's place is known by how it begins: leave out --source",
        ));
    }
    if args.source.as_deref() == Some("") {
        return Err(Failure::usage("--source: a log's name is not empty"));
    }
    check_rejects(args, &files)?;
    let names = ColumnNames::new(&args.map, &args.default);
    let names = names.map_err(|what| Failure::usage(format!("--map, --default: {what}")))?;
    let times = Times::new(args.time_format.as_deref(), args.tz.as_deref());
    let names = names.with_times(times.map_err(Failure::usage)?);
    let patterns = args.request.iter().map(|text| {
        text.parse().map_err(|what| Failure::usage(format!("--request {text}: {what}")))
    });
    let requests = patterns.collect::<Result<Vec<_>, _>>()?;
    let log = |path: &PathBuf| Log {
        path: path.clone(),
        format: args.format,
        delimiter: args.delimiter,
        names: names.clone(),
        requests: requests.clone(),
        is_named: args.source.is_some(),
        may_grow: (args.source.is_some() || args.follow) && !args.complete,
        clock: Arc::new(SystemClock),
    };
    if args.dry_run {
        return dry::run(&files, args.strict, log);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::fatal(format!("cannot start: {error}")))?;
    let logs: Vec<_> = files.iter().map(log).collect();
    let complete = runtime.block_on(async {
        let import = Import::new(args)?;
        if args.follow { import.follow(&logs[0]).await } else { import.import_all(logs).await }
    });
    Ok(if complete? { ExitCode::SUCCESS } else { ExitCode::from(failure::DIFFERENT) })
}

/// Refuses a file for rejected rows that is one of the logs: its rows would be read and rejected
/// again.
fn check_rejects(args: &ImportArgs, files: &[PathBuf]) -> Result<(), Failure> {
    let Some(rejects) = &args.rejects else { return Ok(()) };
    let real = |path: &Path| std::fs::canonicalize(path).ok();
    if files.iter().any(|file| real(file).is_some() && real(file) == real(rejects)) {
        return Err(Failure::usage(format!(
            "--rejects {}: that is one of the logs; name another file",
            rejects.display()
        )));
    }
    rejects::check(rejects)
}

/// An import of one or several logs.
struct Import<'a> {
    args: &'a ImportArgs,
    api: Api,
    collector: Option<Api>,
}

impl<'a> Import<'a> {
    fn new(args: &'a ImportArgs) -> Result<Self, Failure> {
        let api = Api::new(&args.api)?;
        let collector = args.collector.as_ref();
        let collector =
            collector.map(|url| Api::with_addresses("--collector", url, &args.api)).transpose()?;
        Ok(Self { args, api, collector })
    }

    fn collector(&self) -> &Api {
        self.collector.as_ref().unwrap_or(&self.api)
    }

    /// Imports all logs; true when every row is accounted for.
    async fn import_all(&self, logs: Vec<Log>) -> Result<bool, Failure> {
        let (mut complete, mut refused) = (true, None);
        for log in logs {
            let done = match mended::detect(&log.path) {
                Ok(Some(format)) => self.mended(log, format).await,
                Ok(None) => self.import_log(log).await,
                Err(failure) => Err(failure),
            };
            match done {
                Ok(done) => complete &= done,
                // A log that is refused does not stop the others. The first refusal becomes the
                // command's own at the end; further ones are told at once.
                Err(failure) if [USAGE, OTHER_LOG].contains(&failure.code) => match &refused {
                    None => refused = Some(failure),
                    Some(_) => eprintln!("{}", failure.message),
                },
                Err(failure) => return Err(failure),
            }
        }
        refused.map_or(Ok(complete), Err)
    }

    /// Imports one log and prints its account; true when every row is accounted for.
    async fn import_log(&self, log: Log) -> Result<bool, Failure> {
        let path = log.path.clone();
        if self.args.strict && !self.is_good(&log).await? {
            return Ok(false);
        }
        let progress = Progress::start(&path, "importing")?;
        let seen = progress.seen();
        let reader = blocking(move || {
            let input = open::open(&log.path, seen)?;
            Reader::new(log, input, None)
        });
        let complete = self.send(reader.await?).await;
        progress.finish();
        complete
    }

    /// Follows a log, and those that come in its place, until a signal ends it.
    async fn follow(&self, log: &Log) -> Result<bool, Failure> {
        let (watch, mut complete) = (Watch::default(), true);
        let (stop, ended) = (process::signals()?, watch.clone());
        tokio::spawn(async move {
            process::stopped(stop).await;
            ended.end();
        });
        let (path, mut is_told) = (log.path.display(), false);
        while !watch.is_over() {
            let (own, begun) = (log.clone(), watch.for_next_file());
            let tail = begun.clone();
            let reader = blocking(move || {
                let input = follow::open(&own.path, tail.clone())?;
                Reader::new(own, input, Some(tail))
            });
            let reader = match reader.await {
                Ok(reader) if reader.begin.is_some() => reader,
                Ok(_) => {
                    if !std::mem::replace(&mut is_told, true) {
                        terminal::line(format!("{path}: nothing is in it yet"));
                    }
                    tokio::time::sleep(BEGUN_POLL).await;
                    continue;
                }
                // The log was moved away, and the next file is not there yet.
                Err(_) if is_told && !log.path.exists() => {
                    tokio::time::sleep(BEGUN_POLL).await;
                    continue;
                }
                Err(failure) => return Err(failure),
            };
            terminal::line(format!("{path}: followed until Ctrl-C"));
            is_told = true;
            begun.begin();
            complete &= match self.send(reader).await {
                // Somebody else has imported the log meanwhile: the server knows what they sent,
                // and this import goes on behind it.
                Err(failure) if failure.is_taken_over => {
                    terminal::line(format!("{path}: another import has followed; going on"));
                    continue;
                }
                sent => sent?,
            };
        }
        Ok(complete)
    }

    /// Sends the rows that were not taken before and prints the account.
    async fn send(&self, reader: Reader) -> Result<bool, Failure> {
        let path = reader.log.path.clone();
        let Some(begin) = reader.begin else {
            // A log without rows still asks, so that an API that cannot be used is told.
            account::ask(&self.api, SourceId([0; 16])).await?;
            let waits = reader.waits();
            let all = if waits.is_some() { "all rows before it are" } else { "all rows are" };
            terminal::line(format!("{}\n  rows        0", path.display()));
            account::print_held_back(waits);
            terminal::line(format!("  {all} accounted for"));
            return Ok(true);
        };
        let source = self.source_of(&path, &begin.text).await?;
        let (run, end) = Run::begin(self.collector(), source).await?;
        // Rows that the run before this one sent may still be on their way to the counts.
        let before = account::wait(&self.api, source, end, SETTLE_MAX).await?;
        let rejects = Rejects::new(Some(self.rejects_of(&path)), reader.format);
        let (taken, watch) = (account::taken(&before), reader.watch.clone());
        let read = send::send(self.collector(), Some(&run), move |sink| {
            reader.run(source, taken, rejects, sink)
        });
        let read = read.await.inspect_err(|_| {
            // A reader that follows a log would go on for ever.
            watch.iter().for_each(Watch::leave);
        })?;
        // Nothing is sent of a log without events, so there is nothing to wait for.
        let rows = if read.events == 0 { before.rows } else { read.rows };
        let after = account::wait(&self.api, source, rows, APPLY_MAX).await?;
        account::check(&after, &path, &read)?;
        Ok(account::print(&path, source, &read, before.rows, &after))
    }

    /// Imports mended rows from a file of rejected ones, and prints the account.
    async fn mended(&self, log: Log, format: Format) -> Result<bool, Failure> {
        let path = log.path.clone();
        let mut before = BTreeMap::new();
        for source in mended::sources(&path, format)? {
            before.insert(source, account::ask(&self.api, source).await?);
        }
        let rejects = Rejects::new(Some(self.rejects_of(&path)), format);
        let progress = Progress::start(&path, "importing")?;
        let seen = progress.seen();
        let read = send::send(self.collector(), None, move |sink| {
            mended::read(&log, format, seen, rejects, sink)
        });
        let read = read.await;
        progress.finish();
        account::print_mended(&self.api, &path, &read?, &before).await
    }

    /// `--strict`: whether every row can be read completely; sends nothing.
    async fn is_good(&self, log: &Log) -> Result<bool, Failure> {
        let (log, path) = (log.clone(), log.path.clone());
        if !open::is_plain(&path) {
            return Err(Failure::usage(format!(
                "{}: --strict reads a log twice, and a pipe can be read but once",
                path.display()
            )));
        }
        let progress = Progress::start(&path, "reading")?;
        let seen = progress.seen();
        let read = blocking(move || {
            let input = open::open(&log.path, seen)?;
            let reader = Reader::new(log, input, None)?;
            let rejects = Rejects::new(None, reader.format);
            reader.run(SourceId([0; 16]), None, rejects, &mut |_| true)
        });
        let read = read.await;
        progress.finish();
        let read = read?;
        let unread: u64 = read.unread.iter().map(|unread| unread.rows).sum();
        if read.rejected + unread == 0 {
            return Ok(true);
        }
        terminal::line(format!(
            "{}: nothing was sent (--strict): of {} rows {} cannot be read",
            path.display(),
            read.rows,
            read.rejected
        ));
        account::print_unread(&read);
        Ok(false)
    }

    /// The identity of a log: by its name, or by how it begins.
    async fn source_of(&self, path: &Path, begin: &[u8; 32]) -> Result<SourceId, Failure> {
        if let Some(name) = &self.args.source {
            return Ok(import::named_source(name));
        }
        let source = import::begun_source(begin);
        let is_known = async |source| -> Result<bool, Failure> {
            Ok(account::taken(&account::ask(&self.api, source).await?).is_some())
        };
        if self.args.follow || !open::is_plain(path) || is_known(source).await? {
            return Ok(source);
        }
        // A build before 28 November 2026 may have imported it, and identified it by a digest of
        // its whole content.
        let progress = Progress::start(path, "reading")?;
        let (path, seen) = (path.to_owned(), progress.seen());
        let digest = blocking(move || open::digest(&path, seen)).await;
        progress.finish();
        let former = import::unnamed_source(&digest?);
        Ok(if is_known(former).await? { former } else { source })
    }

    /// The file for rejected rows: beside the log, with an ending that no pattern such as `*.csv`
    /// finds. For a pipe it is in the working directory.
    fn rejects_of(&self, path: &Path) -> PathBuf {
        if let Some(path) = &self.args.rejects {
            return path.clone();
        }
        let mut name = match open::is_plain(path) {
            true => path.as_os_str().to_owned(),
            false => path.file_name().unwrap_or_default().to_owned(),
        };
        name.push(open::REJECTS);
        PathBuf::from(name)
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(Failure::fatal)?
}
