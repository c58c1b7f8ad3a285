//! What the server has counted of a log, and how that is printed.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use api::answers::Source;
use api::routes;
use shared::SourceId;
use shared::ambient::Stopwatch;

use super::mended;
use super::read::{LogSummary, Taken};
use super::rows::Unread;
use crate::client::Api;
use crate::failure::Failure;
use crate::terminal;

const POLL: Duration = Duration::from_millis(20);

/// The server's account of a log; without rows when the server does not know the log.
pub(super) async fn ask(api: &Api, source: SourceId) -> Result<Source, Failure> {
    // So a 404 comes from something that is no aggregator.
    api.require(&routes::SOURCE.at(&[&source])).await
}

/// Waits until `rows` are taken, as long as it goes on: until nothing was counted for `most`. The
/// account shows when they were not.
pub(super) async fn wait(
    api: &Api,
    source: SourceId,
    rows: u64,
    most: Duration,
) -> Result<Source, Failure> {
    wait_until(api, source, most, |account| account.rows >= rows).await
}

/// Waits until so many events have an outcome, until nothing was counted for [`super::APPLY_MAX`].
/// The account shows when they have not.
async fn wait_for(api: &Api, source: SourceId, events: u64) -> Result<Source, Failure> {
    wait_until(api, source, super::APPLY_MAX, |account| events_of(account) >= events).await
}

async fn wait_until(
    api: &Api,
    source: SourceId,
    most: Duration,
    is_enough: impl Fn(&Source) -> bool,
) -> Result<Source, Failure> {
    let (mut watch, mut last) = (Stopwatch::start(), 0);
    loop {
        let account = ask(api, source).await?;
        let now = account.rows + events_of(&account);
        if now > last {
            (watch, last) = (Stopwatch::start(), now);
        }
        if is_enough(&account) || watch.elapsed() > most {
            return Ok(account);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Checks that the rows which were taken are those of this log: another log may have been imported
/// under its name meanwhile.
///
/// # Errors
/// When they are another log's.
pub(super) fn check(account: &Source, path: &Path, read: &LogSummary) -> Result<(), Failure> {
    let is_other = |taken: Taken| {
        taken.rows > read.rows || (taken.rows == read.rows && !read.digests.has(&taken.digest))
    };
    if !taken(account).is_some_and(is_other) {
        return Ok(());
    }
    Err(Failure::other_log(format!(
        "{}: another log was imported under this name at the same time: of {} rows that are taken some \
         are its own. Import each log under a name of its own, one at a time",
        path.display(),
        account.rows
    )))
}

/// How far the log was taken, by the server's account.
pub(super) fn taken(account: &Source) -> Option<Taken> {
    let digest = account.digest.as_deref().and_then(shared::text::unhex)?;
    (account.rows > 0).then_some(Taken { rows: account.rows, digest })
}

fn reasoned(account: &Source) -> u64 {
    account.reasons.values().sum()
}

/// The number of events that have an outcome, repeated ones included.
fn events_of(account: &Source) -> u64 {
    account.counted + reasoned(account) + account.duplicate
}

/// Prints the account of one log. True when every row is accounted for, and none is rejected or
/// waits for its time.
pub(super) fn print(
    path: &Path,
    source: SourceId,
    read: &LogSummary,
    rows_before: u64,
    after: &Source,
) -> bool {
    if read.rejected > 0 && read.events == 0 && after.rows == 0 {
        return print_unreadable(path, read);
    }
    let complete = is_complete(read, after);
    terminal::line(format!("{} (source {source})", path.display()));
    line("rows", format!("{}, of them {} taken before", read.rows, rows_before.min(read.rows)));
    line("events", format!("{}, of them {} sent now", read.events, read.events_new));
    line("counted", after.counted.to_string());
    for (reason, count) in after.reasons.iter().filter(|(_, count)| **count > 0) {
        line(reason, count.to_string());
    }
    if after.duplicate > 0 {
        line("duplicate", format!("{} (sent again, not counted again)", after.duplicate));
    }
    if read.rejected > 0 {
        print_rejected(read.rejected, &read.rejects);
    }
    print_unread(read);
    let waits = read.held_back.is_some() || read.early.is_some();
    let all = if waits { "all rows before those that wait are" } else { "all rows are" };
    terminal::line(match complete {
        true if read.rejected > 0 => {
            format!("  {all} accounted for, {} of them rejected", read.rejected)
        }
        true => format!("  {all} accounted for"),
        false if after.rows >= read.rows => format!(
            "  {} of {} events are counted: these rows were taken before with other options, and stay as they \
             were read then; what was rejected then is imported from the file that it was written to, with \
             the options of now",
            after.counted + reasoned(after),
            read.events
        ),
        false => format!(
            "  NOT all rows are accounted for: the server has {} of {} rows, and {} of {} events; \
             run the same command again",
            after.rows,
            read.rows,
            after.counted + reasoned(after),
            read.events
        ),
    });
    complete && read.rejected == 0 && read.early.is_none()
}

fn line(name: &str, text: impl std::fmt::Display) {
    terminal::line(format!("  {name:<12}{text}"));
}

/// Says that no row of a log can be read, and nothing was sent. Always false.
fn print_unreadable(path: &Path, read: &LogSummary) -> bool {
    terminal::line(format!("{}: none of its {} rows can be read", path.display(), read.rows));
    line("rejected", "nothing was sent");
    terminal::line(
        "  look with --dry-run; --format, --map, --time-format and --default say how it is to be read",
    );
    false
}

fn print_rejected(count: u64, file: &Path) {
    let file = file.display();
    line(
        "rejected",
        format!("{count} rows that cannot be read: mend a copy of {file} and import that"),
    );
}

/// Prints which readable rows are not counted, which texts were not understood in rows that count,
/// and which rows wait.
pub(super) fn print_unread(read: &LogSummary) {
    if read.other > 0 {
        line(
            "other",
            format!("{} rows are no events: other requests, or the header again", read.other),
        );
    }
    if read.bots > 0 {
        line(
            "bots",
            format!("{} rows are of programs that say so, and are not counted", read.bots),
        );
    }
    print_texts(&read.unread);
    if let Some((at_line, at)) = read.early {
        line(
            "waiting",
            format!(
                "from line {at_line} on, whose time is {at}: import again when it has come. Where the log's \
                 times are of a zone east of here, --tz says so, before anything of it is counted"
            ),
        );
    }
    print_held_back(read.held_back);
    if let Some((rows, first)) = read.long {
        line(
            "quotes",
            format!("{rows} rows span several lines in quotes, the first from line {first} on"),
        );
    }
}

/// Says which texts were not understood, for network, country and device.
fn print_texts(unread: &[Unread; 3]) {
    let columns = [
        ("network", "ip names no address"),
        ("country", "country is no code or name of one"),
        ("device", "device is no class that is known"),
    ];
    for ((name, what), unread) in columns.into_iter().zip(unread) {
        if unread.rows > 0 {
            let (rows, examples) = (unread.rows, unread.examples());
            line(name, format!("unknown for {rows} rows: {what}, as {examples}"));
        }
    }
}

/// Says from which line on something waits.
pub(super) fn print_held_back(line_number: Option<u64>) {
    if let Some(at_line) = line_number {
        line(
            "waiting",
            format!(
                "line {at_line} and what follows: it has no newline yet, or a quote in it is not closed. The \
                 next import takes it when it is whole. If it is: the same import with --complete where it has \
                 a --source, without --follow where it has none"
            ),
        );
    }
}

/// Waits until the mended rows have an outcome, and prints the account. True when every row is
/// accounted for and none was rejected again.
pub(super) async fn print_mended(
    api: &Api,
    path: &Path,
    read: &mended::MendedSummary,
    before: &BTreeMap<SourceId, Source>,
) -> Result<bool, Failure> {
    let (mut all, mut complete) = (Totals::default(), true);
    for (source, events) in &read.events {
        let before = &before[source];
        let after = wait_for(api, *source, events_of(before) + events).await?;
        complete &= events_of(&after) >= events_of(before) + events;
        all.counted += after.counted - before.counted;
        all.duplicate += after.duplicate - before.duplicate;
        for (reason, count) in after.reasons {
            let before = before.reasons.get(&reason).copied().unwrap_or_default();
            *all.reasons.entry(reason).or_default() += count - before;
        }
    }
    terminal::line(format!("{} (rows that were rejected before)", path.display()));
    line("rows", read.rows);
    line("events", read.events.values().sum::<u64>());
    line("counted", format!("{} now", all.counted));
    for (reason, count) in all.reasons.iter().filter(|(_, count)| **count > 0) {
        line(reason, count);
    }
    if all.duplicate > 0 {
        line("duplicate", format!("{} (counted before)", all.duplicate));
    }
    if read.rejected > 0 {
        print_rejected(read.rejected, &read.rejects);
    }
    print_texts(&read.unread);
    if !complete {
        terminal::line("  NOT all rows are accounted for yet: run the same command again");
    }
    Ok(complete && read.rejected == 0)
}

/// Sums of the outcomes of several logs.
#[derive(Default)]
struct Totals {
    counted: u64,
    duplicate: u64,
    reasons: BTreeMap<String, u64>,
}

/// Whether every row is taken and every event in them is counted or has a reason. Duplicates do not
/// matter: they were sent again after an answer was lost.
fn is_complete(read: &LogSummary, after: &Source) -> bool {
    read.events == 0 || after.rows >= read.rows && after.counted + reasoned(after) >= read.events
}
