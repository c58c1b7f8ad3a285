//! Reads a log and makes chunks of it: blocking, on a thread of its own.

use std::path::PathBuf;

use shared::SourceId;
use shared::import::{CHUNK_ROWS_MAX, ImportChunk, ImportEvent};
use shared::limits::CHUNK_EVENTS_MAX;

use super::columns::{Columns, JsonRow};
use super::open::{self, Seen, cannot_read};
use super::records::{Record, Records};
use super::rejects::Rejects;
use super::row::Events;
use crate::cli::Format;
use crate::failure::Failure;

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
    /// Under which identity its rows are counted.
    pub(super) source: SourceId,
    /// Whether a last line without a newline may be half written.
    pub(super) may_grow: bool,
    /// How far it was taken before, if it was.
    pub(super) taken: Option<Taken>,
    /// Where bad rows go.
    pub(super) rejects: Rejects,
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
}

/// Takes a chunk; false when nobody wants more.
pub(super) type Sink<'a> = &'a mut dyn FnMut(ImportChunk) -> bool;

/// Reads the log to its end and hands on what was not taken before.
///
/// # Errors
/// When the file cannot be read, has no columns that we know, or is another log than before.
pub(super) fn read(mut log: Log, seen: Seen, sink: Sink<'_>) -> Result<Read, Failure> {
    let delimiter = match log.format {
        Format::Csv => Some(b','),
        Format::Tsv => Some(b'\t'),
        Format::Ndjson => None,
    };
    let mut records = Records::new(open::open(&log.path, seen)?, delimiter, log.may_grow);
    let mut rows = Rows::default();
    if let Some(delimiter) = delimiter {
        rows.header(&mut records, delimiter, &log)?;
    }
    let mut chunk = Chunk::new(log.source, log.taken.map_or(0, |taken| taken.rows));
    let mut read = Read::default();
    loop {
        let record = records.next().map_err(|error| cannot_read(&log.path, &error))?;
        let Some(record) = record else { break };
        let events = rows.events(&record, read.rows, &log)?;
        let events = match events {
            Ok(events) => Some(events),
            Err(reason) => {
                log.rejects.take(&log.path, record.line, &reason, record.bytes)?;
                None
            }
        };
        let count = events.as_ref().map_or(0, Events::count);
        read.events += count;
        read.rows += 1;
        if read.rows > chunk.first_row {
            read.events_new += count;
            chunk.push(events);
            if chunk.is_full(read.rows) && !sink(chunk.seal(read.rows, records.digest())) {
                return Ok(read);
            }
        } else if read.rows == chunk.first_row {
            check_taken(&log, &records.digest())?;
        }
    }
    if read.rows < chunk.first_row {
        return Err(shrunk(&log, read.rows));
    }
    if read.rows > chunk.first_row {
        sink(chunk.seal(read.rows, records.digest()));
    }
    log.rejects.finish()?;
    read.held_back = records.held_back();
    read.rejected = log.rejects.count;
    read.rejects = log.rejects.path().to_owned();
    Ok(read)
}

fn check_taken(log: &Log, digest: &[u8; 32]) -> Result<(), Failure> {
    match log.taken {
        Some(taken) if taken.digest != *digest => Err(Failure::other_log(format!(
            "{}: its first {} rows are not those that were imported under this name: a log may \
             grow, not change. Import it under another --source, or without one; nothing was sent",
            log.path.display(),
            taken.rows
        ))),
        _ => Ok(()),
    }
}

fn shrunk(log: &Log, rows: u64) -> Failure {
    Failure::other_log(format!(
        "{}: it has {rows} rows, but {} were imported under this name: a log may grow, not shrink. \
         Import it under another --source, or without one; nothing was sent",
        log.path.display(),
        log.taken.map_or(0, |taken| taken.rows)
    ))
}

/// Turns records into events.
#[derive(Default)]
struct Rows {
    columns: Option<Columns>,
    fields: csv::StringRecord,
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
            || Columns::read(header.bytes, delimiter),
            |fault| Err(format!("its header is {fault}")),
        );
        let columns =
            columns.map_err(|what| Failure::usage(format!("{}: {what}", log.path.display())))?;
        note_unknown(log, &columns.unknown);
        self.columns = Some(columns);
        Ok(())
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
            return Ok(fields.and_then(|fields| fields.events(row)));
        }
        if row == 0 {
            let unknown = JsonRow::check_names(record.bytes);
            let unknown = unknown
                .map_err(|what| Failure::usage(format!("{}: {what}", log.path.display())))?;
            note_unknown(log, &unknown);
        }
        Ok(JsonRow::read(record.bytes).and_then(|json| json.fields()?.events(row)))
    }
}

fn note_unknown(log: &Log, unknown: &[String]) {
    if !unknown.is_empty() {
        eprintln!("{}: columns that are not used: {}", log.path.display(), unknown.join(", "));
    }
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
