//! Reads a log and makes chunks of it: blocking, on a thread of its own.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;

use shared::import::{CHUNK_ROWS_MAX, ImportChunk, ImportEvent};
use shared::limits::{CHUNK_EVENTS_MAX, CLOCK_AHEAD_MS_MAX};
use shared::{SourceId, Timestamp};

use super::columns::{Columns, Found, JsonRow, Names};
use super::open::{self, Seen, cannot_read};
use super::records::{Record, Records};
use super::rejects::Rejects;
use super::row::{Events, Fields};
use crate::cli::Format;
use crate::failure::Failure;

const DAY_MS: u64 = 24 * 3_600_000;
/// A header is looked for in so many bytes.
const HEADER_BYTES: usize = 64 << 10;

/// How far a log was taken before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Taken {
    /// The rows before this one.
    pub(super) rows: u64,
    /// BLAKE3 of the log up to their end.
    pub(super) digest: [u8; 32],
}

/// What to read.
pub(super) struct Log {
    /// The file.
    pub(super) path: PathBuf,
    /// Its form.
    pub(super) format: Format,
    /// What separates its fields; none: as its header tells.
    pub(super) delimiter: Option<u8>,
    /// What its columns are called.
    pub(super) names: Names,
    /// Under which identity its rows are counted.
    pub(super) source: SourceId,
    /// Whether a last line without a newline may be half written.
    pub(super) may_grow: bool,
    /// How far it was taken before, if it was.
    pub(super) taken: Option<Taken>,
    /// Where bad rows go.
    pub(super) rejects: Rejects,
    /// What time it is.
    pub(super) now: Timestamp,
}

/// What there was.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Read {
    /// Rows, bad ones too.
    pub(super) rows: u64,
    /// Events of all rows.
    pub(super) events: u64,
    /// Events of the rows that were not taken before.
    pub(super) events_new: u64,
    /// Bad rows.
    pub(super) rejected: u64,
    /// The file that bad rows were written to.
    pub(super) rejects: PathBuf,
    /// Whether a last line waits for its newline.
    pub(super) held_back: bool,
    /// The first row that is of a time that has not come, and its time: it and what follows wait.
    pub(super) early: Option<(u64, Timestamp)>,
    /// Rows that are counted without their network, their country, or their device.
    pub(super) unread: [Unread; 3],
    /// BLAKE3 of the log up to the end of its rows.
    pub(super) digest: [u8; 32],
    /// Columns, or the fields of the first row, that are used: ours, the log's.
    pub(super) used: Vec<(&'static str, String)>,
}

/// A column whose text names nothing that we know in some rows.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Unread {
    pub(super) rows: u64,
    /// The first such text.
    pub(super) first: String,
}

impl Unread {
    fn take(&mut self, text: &str) {
        if self.rows == 0 {
            self.first = text.chars().take(64).collect();
        }
        self.rows += 1;
    }
}

/// Takes a chunk, and the digest of the log up to the end of its first row; false when nobody wants more.
pub(super) type Sink<'a> = &'a mut dyn FnMut(ImportChunk, &[u8; 32]) -> bool;

/// Reads the log to its end and hands on what was not taken before.
///
/// # Errors
/// When the file cannot be read, has no columns that we know, or is another log than before.
pub(super) fn read(mut log: Log, seen: Seen, sink: Sink<'_>) -> Result<Read, Failure> {
    let mut input = BufReader::with_capacity(HEADER_BYTES, open::open(&log.path, seen)?);
    let start = input.fill_buf().map_err(|error| cannot_read(&log.path, &error))?;
    let delimiter = delimiter_of(&log, start);
    let mut records = Records::new(input, delimiter, log.may_grow);
    let mut rows = Rows::default();
    if let Some(delimiter) = delimiter {
        rows.header(&mut records, delimiter, &log)?;
    }
    let mut chunk = Chunk::new(log.source, log.taken.map_or(0, |taken| taken.rows));
    let mut read = Read::default();
    let mut begin = [0; 32];
    loop {
        let record = records.next().map_err(|error| cannot_read(&log.path, &error))?;
        let Some(record) = record else { break };
        let events = rows.events(&record, read.rows, &log)?;
        let events = match events.and_then(|events| is_in_its_day(events, log.now)) {
            // What was taken before was in its time then.
            Ok(events) if is_early(&events, log.now) && read.rows >= chunk.first_row => {
                read.early = Some((record.line, events.0.at));
                break;
            }
            Ok(events) => Some(events),
            Err(reason) => {
                log.rejects.take(&log.path, record.line, &reason, record.bytes)?;
                None
            }
        };
        let count = events.as_ref().map_or(0, Events::count);
        read.events += count;
        read.rows += 1;
        if read.rows == 1 {
            begin = records.digest();
        }
        if read.rows > chunk.first_row {
            read.events_new += count;
            chunk.push(events);
            if chunk.is_full(read.rows) && !sink(chunk.seal(read.rows, records.digest()), &begin) {
                return Ok(read);
            }
        } else if read.rows == chunk.first_row {
            check_taken(&log, &records.digest())?;
        }
    }
    if read.rows < chunk.first_row {
        return Err(shrunk(&log, read.rows));
    }
    read.digest = match read.early {
        Some(_) => records.digest_before(),
        None => records.digest(),
    };
    if read.rows > chunk.first_row {
        sink(chunk.seal(read.rows, read.digest), &begin);
    }
    log.rejects.finish()?;
    read.held_back = records.held_back();
    read.rejected = log.rejects.count;
    read.rejects = log.rejects.path().to_owned();
    (read.unread, read.used) = (rows.unread, rows.used);
    Ok(read)
}

/// What separates a log's fields: as asked for, or what makes columns that we know of its header; none in
/// NDJSON.
fn delimiter_of(log: &Log, start: &[u8]) -> Option<u8> {
    let usual = match log.format {
        Format::Csv => b',',
        Format::Tsv => b'\t',
        Format::Ndjson => return None,
    };
    let header = start.split(|byte| *byte == b'\n').find(|line| !line.trim_ascii().is_empty());
    let header = header.unwrap_or_default().trim_ascii_end();
    let is_one = |delimiter: &u8| Columns::read(header, *delimiter, &log.names).is_ok();
    let guessed = || [usual, b';', b'\t', b'|', b','].into_iter().find(is_one);
    Some(log.delimiter.or_else(guessed).unwrap_or(usual))
}

/// A row of the next hours is of a clock that is ahead, or of a zone east of here in a log that does not
/// say so: it waits, and what follows it.
fn is_early(events: &Events, now: Timestamp) -> bool {
    events.0.at > now.plus_ms(CLOCK_AHEAD_MS_MAX)
}

/// A row of a later day is a mistake, which may not hold back what follows it.
fn is_in_its_day(events: Events, now: Timestamp) -> Result<Events, String> {
    let at = events.0.at;
    if at <= now.plus_ms(DAY_MS) {
        return Ok(events);
    }
    Err(format!("timestamp: {at} is more than a day ahead of this machine's clock"))
}

fn check_taken(log: &Log, digest: &[u8; 32]) -> Result<(), Failure> {
    match log.taken {
        Some(taken) if taken.digest != *digest => Err(Failure::other_log(format!(
            "{}: its first {} rows are not those that were imported under this name: a log may grow, not \
             change. Nothing was sent. Under another name all of its rows would be counted, those that are \
             counted already too: import what is new as a file of its own",
            log.path.display(),
            taken.rows
        ))),
        _ => Ok(()),
    }
}

fn shrunk(log: &Log, rows: u64) -> Failure {
    Failure::other_log(format!(
        "{}: it has {rows} rows, but {} were imported under this name: a log may grow, not shrink. Nothing \
         was sent. If it was rotated, import the new file under a name of its own; under another name rows \
         that are counted already are counted again",
        log.path.display(),
        log.taken.map_or(0, |taken| taken.rows)
    ))
}

/// Turns records into events.
#[derive(Default)]
struct Rows {
    columns: Option<Columns>,
    fields: csv::StringRecord,
    unread: [Unread; 3],
    used: Vec<(&'static str, String)>,
}

impl Rows {
    fn header<R: std::io::Read>(
        &mut self,
        records: &mut Records<R>,
        delimiter: u8,
        log: &Log,
    ) -> Result<(), Failure> {
        let header = records.next().map_err(|error| cannot_read(&log.path, &error))?;
        // A named log may be there before anything was written to it.
        let Some(header) = header else { return Ok(()) };
        let columns = header.fault.map_or_else(
            || Columns::read(header.bytes, delimiter, &log.names),
            |fault| Err(format!("its header is {fault}")),
        );
        let columns =
            columns.map_err(|what| Failure::usage(format!("{}: {what}", log.path.display())))?;
        self.note(log, columns.found.clone());
        self.columns = Some(columns);
        Ok(())
    }

    /// Names what is not used.
    fn note(&mut self, log: &Log, found: Found) {
        if !found.unknown.is_empty() {
            let clicks = match found.says_what {
                true => "",
                false => "; without a column event or click each row is a click",
            };
            let names = found.unknown.join(", ");
            eprintln!("{}: columns that are not used: {names}{clicks}", log.path.display());
        }
        self.used = found.used;
    }

    /// The events of a record, or why it has none.
    fn events(
        &mut self,
        record: &Record<'_>,
        row: u64,
        log: &Log,
    ) -> Result<Result<Events, String>, Failure> {
        if let Some(fault) = record.fault {
            return Ok(Err(fault.to_owned()));
        }
        if let Some(columns) = &self.columns {
            let fields = columns.fields(record.bytes, &mut self.fields);
            return Ok(fields.and_then(|fields| decide(&fields, row, &mut self.unread)));
        }
        if row == 0 {
            let found = JsonRow::check_names(record.bytes, &log.names);
            let found =
                found.map_err(|what| Failure::usage(format!("{}: {what}", log.path.display())))?;
            self.note(log, found);
        }
        Ok(JsonRow::read(record.bytes, &log.names)
            .and_then(|json| decide(&json.fields(&log.names)?, row, &mut self.unread)))
    }
}

fn decide(fields: &Fields<'_>, row: u64, unread: &mut [Unread; 3]) -> Result<Events, String> {
    let events = fields.events(row)?;
    let texts = [fields.unread_ip(), fields.unread_country(), fields.unread_device()];
    for (unread, text) in unread.iter_mut().zip(texts) {
        if let Some(text) = text {
            unread.take(text);
        }
    }
    Ok(events)
}

struct Chunk {
    source: SourceId,
    first_row: u64,
    events: Vec<ImportEvent>,
}

impl Chunk {
    fn new(source: SourceId, first_row: u64) -> Self {
        Self { source, first_row, events: Vec::new() }
    }

    fn push(&mut self, events: Option<Events>) {
        if let Some(Events(first, second)) = events {
            self.events.extend(std::iter::once(first).chain(second));
        }
    }

    /// Whether another row might not fit.
    fn is_full(&self, end_row: u64) -> bool {
        self.events.len() + 2 > CHUNK_EVENTS_MAX || end_row - self.first_row == CHUNK_ROWS_MAX
    }

    fn seal(&mut self, end_row: u64, digest: [u8; 32]) -> ImportChunk {
        let first_row = std::mem::replace(&mut self.first_row, end_row);
        let events = std::mem::take(&mut self.events);
        ImportChunk { source: self.source, first_row, end_row, digest, events }
    }
}

#[cfg(test)]
mod tests;
