//! `import --dry-run`: shows how a log would be read, and sends nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use shared::import::ImportEvent;
use shared::{Country, Device, Kind, SourceId, Timestamp};

use super::account;
use super::open::{self, Seen};
use super::read::{Log, LogSummary, Reader};
use super::rejects::Rejects;
use crate::failure::{self, Failure};
use crate::terminal::line;

/// How many events are shown.
const SHOWN_MAX: usize = 5;
/// How many countries are named, the most frequent first.
const COUNTRIES_MAX: usize = 10;

/// Reads and describes the logs.
///
/// # Errors
/// When one cannot be read.
pub(super) fn run(
    files: &[PathBuf],
    strict: bool,
    log: impl Fn(&PathBuf) -> Log,
) -> Result<ExitCode, Failure> {
    let mut all = true;
    for path in files {
        all &= look(log(path), strict)?;
    }
    Ok(if all { ExitCode::SUCCESS } else { ExitCode::from(failure::DIFFERENT) })
}

/// Reads and describes one log; true when every row can be read.
fn look(log: Log, strict: bool) -> Result<bool, Failure> {
    let path = log.path.clone();
    let reader = Reader::new(log, open::open(&path, Seen::default())?, None)?;
    let (format, mut seen) = (reader.format, EventSummary::default());
    let rejects = Rejects::new(None, format);
    let read = reader.run(SourceId([0; 16]), None, rejects, &mut |chunk| {
        chunk.events.into_iter().for_each(|event| seen.take(event));
        true
    })?;
    line(format!("{} as {format:?}, nothing sent", path.display()));
    seen.print(&read);
    let unread: u64 = read.unread.iter().map(|unread| unread.rows).sum();
    Ok(read.rejected == 0 && read.early.is_none() && (!strict || unread == 0))
}

/// What the events of a log have in common.
#[derive(Default)]
struct EventSummary {
    first: Vec<ImportEvent>,
    kinds: BTreeMap<Kind, u64>,
    countries: BTreeMap<Country, u64>,
    devices: BTreeMap<Device, u64>,
    times: Option<(Timestamp, Timestamp)>,
}

impl EventSummary {
    fn take(&mut self, event: ImportEvent) {
        *self.kinds.entry(event.kind).or_default() += 1;
        *self.countries.entry(event.country).or_default() += 1;
        *self.devices.entry(event.device.unwrap_or(Device::Unknown)).or_default() += 1;
        let (first, last) = self.times.unwrap_or((event.at, event.at));
        self.times = Some((first.min(event.at), last.max(event.at)));
        if self.first.len() < SHOWN_MAX {
            self.first.push(event);
        }
    }

    fn print(&self, read: &LogSummary) {
        let part = |name: &str, text: String| line(format!("  {name:<12}{text}"));
        for (ours, theirs) in &read.used {
            part("column", format!("{ours} is {theirs:?}"));
        }
        for event in &self.first {
            part("row", shown(event));
        }
        part("rows", format!("{}, {} of them rejected", read.rows, read.rejected));
        part("events", list(self.kinds.iter(), usize::MAX));
        if let Some((first, last)) = self.times {
            part("time", format!("{first} to {last}"));
        }
        part("country", list(self.countries.iter(), COUNTRIES_MAX));
        part("device", list(self.devices.iter(), usize::MAX));
        account::print_unread(read);
    }
}

/// Names with their counts, the most frequent first.
fn list<'a, T: ToString + 'a>(
    counts: impl Iterator<Item = (&'a T, &'a u64)>,
    most: usize,
) -> String {
    let mut all: Vec<_> = counts.map(|(what, count)| (*count, what.to_string())).collect();
    all.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
    let more = all.len().saturating_sub(most);
    let named = all.iter().take(most).map(|(count, what)| format!("{what} {count}"));
    let mut named: Vec<_> = named.collect();
    if more > 0 {
        named.push(format!("and {more} more"));
    }
    if named.is_empty() { "none".to_owned() } else { named.join(", ") }
}

fn shown(event: &ImportEvent) -> String {
    let mut text = format!("{}: {} of ad {} at {}", event.row + 1, event.kind, event.ad, event.at);
    text += &event.publisher.iter().map(|name| format!(", publisher {name}")).collect::<String>();
    text += &event.placement.iter().map(|name| format!(", placement {name}")).collect::<String>();
    text += &format!(", {}, {}", event.country, event.device.unwrap_or(Device::Unknown));
    for (what, is_there) in [("a network", event.ip.is_some()), ("a user", event.user.is_some())] {
        text += &if is_there { format!(", {what}") } else { String::new() };
    }
    text
}
