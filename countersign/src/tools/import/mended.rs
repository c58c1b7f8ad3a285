//! Imports rejected rows that somebody has mended in the file that they were written to. Each is
//! identified by its log and its line, so it is counted once, however often and in whatever pieces
//! the file is imported.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use shared::import::{self, CHUNK_ROWS_MAX, ImportChunk};
use shared::limits::CLOCK_AHEAD_MS_MAX;
use shared::{SourceId, Timestamp};

use super::open::{self, Seen, cannot_read};
use super::read::{Chunk, Log, guessed, is_in_its_day};
use super::records::{RECORD_BYTES_MAX, Record};
use super::rejects::{self, RejectedRow, Rejects};
use super::rows::{Rows, Said, Unread, is_before_header};
use crate::cli::Format;
use crate::failure::Failure;

/// A row of such a file.
#[derive(Deserialize)]
struct Mended {
    source: SourceId,
    file: String,
    line: u64,
    reason: String,
    row: String,
}

/// What was in the file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct MendedSummary {
    /// Rows, bad ones too; headers are no rows.
    pub(super) rows: u64,
    /// Events, by the source under which they are counted.
    pub(super) events: BTreeMap<SourceId, u64>,
    /// Rows that still cannot be read.
    pub(super) rejected: u64,
    pub(super) rejects: PathBuf,
    /// Texts that were not understood in rows that count, for network, country and device.
    pub(super) unread: [Unread; 3],
}

/// The form of a file of rejected rows; `None` when it is no such file.
///
/// # Errors
/// When it cannot be read.
pub(super) fn detect(path: &Path) -> Result<Option<Format>, Failure> {
    if !open::is_plain(path) {
        return Ok(None);
    }
    let input = open::open(path, Seen::default())?;
    let mut line = Vec::new();
    let mut start = BufReader::new(input.take(2 * RECORD_BYTES_MAX as u64));
    let begun = skip_before_header(&mut start).and_then(|()| start.read_until(b'\n', &mut line));
    begun.map_err(|error| cannot_read(path, &error))?;
    let line = line.strip_prefix(super::records::BOM).unwrap_or(&line).trim_ascii();
    if delimiter_of(line).is_some() {
        return Ok(Some(Format::Csv));
    }
    Ok(serde_json::from_slice::<Mended>(line).is_ok().then_some(Format::Ndjson))
}

/// Skips the lines that a spreadsheet writes before the header. Ends at the first other line, or
/// the end of the file.
fn skip_before_header(input: &mut impl BufRead) -> io::Result<()> {
    loop {
        let start = input.fill_buf()?;
        if start.is_empty() || !is_before_header(first_line(start)) {
            return Ok(());
        }
        input.read_until(b'\n', &mut Vec::new())?;
    }
}

fn first_line(start: &[u8]) -> &[u8] {
    start.split(|byte| *byte == b'\n').next().unwrap_or_default()
}

/// The separator between the columns, if this is the header of a file of rejected rows: a
/// spreadsheet may have written the file with another one than ours.
fn delimiter_of(header: &[u8]) -> Option<u8> {
    let header = header.strip_prefix(super::records::BOM).unwrap_or(header).trim_ascii();
    // A spreadsheet may put quotes around all names.
    let header: Vec<u8> = header.iter().copied().filter(|byte| *byte != b'"').collect();
    let is_it = |delimiter: &u8| {
        header == rejects::COLUMNS.join(&char::from(*delimiter).to_string()).as_bytes()
    };
    [b',', b';', b'\t'].into_iter().find(is_it)
}

/// The sources under which the rows of a file are counted.
///
/// # Errors
/// When the file cannot be read, or a line is not from a file of rejected rows.
pub(super) fn sources(path: &Path, format: Format) -> Result<BTreeSet<SourceId>, Failure> {
    let input = BufReader::new(open::open(path, Seen::default())?);
    let sources = rows_of(input, format).zip(1_u64..).map(|(row, at)| {
        row.map(|row| import::mended_source(row.source)).map_err(|what| wrong(path, at, &what))
    });
    sources.collect()
}

/// Reads the file, hands on the rows that can be read now, and writes the others to `rejects`.
///
/// # Errors
/// When the file cannot be read, or a line is not from a file of rejected rows.
pub(super) fn read(
    log: &Log,
    format: Format,
    seen: Seen,
    mut rejects: Rejects,
    sink: &mut dyn FnMut(ImportChunk) -> bool,
) -> Result<MendedSummary, Failure> {
    let input = BufReader::new(open::open(&log.path, seen)?);
    let mut read = MendedSummary::default();
    let mut logs = Logs { log, headers: BTreeMap::new() };
    let mut chunk = Chunk::new(SourceId([0; 16]), 0);
    // One past the chunk's last row.
    let mut end = 0;
    for (row, at) in rows_of(input, format).zip(1_u64..) {
        let row: Mended = row.map_err(|what| wrong(&log.path, at, &what))?;
        if !(1..1 << 53).contains(&row.line) {
            return Err(wrong(&log.path, at, &format!("no log has a line {}", row.line)));
        }
        if row.reason == rejects::HEADER {
            logs.take_header(row).map_err(|what| wrong(&log.path, at, &what))?;
            continue;
        }
        read.rows += 1;
        let now = log.clock.now();
        let said = logs.read(&row).and_then(|said| is_in_its_day(said, now));
        let said = match said.and_then(|said| is_not_early(said, now)) {
            Ok(said) => said,
            Err(reason) => {
                let header = logs.header(row.source);
                let (file, line, bytes) = (row.file.as_str(), row.line, row.row.as_bytes());
                let row =
                    RejectedRow { source: row.source, file, line, reason: &reason, bytes, header };
                rejects.take(&row, true)?;
                continue;
            }
        };
        let source = import::mended_source(row.source);
        let fits = source == chunk.source
            && (end..chunk.first_row + CHUNK_ROWS_MAX).contains(&row.line)
            && !chunk.is_full(row.line + 1);
        if !fits {
            if chunk.has_any() && !sink(chunk.seal(end, [0; 32])) {
                return Ok(read);
            }
            chunk = Chunk::new(source, row.line);
        }
        if let Said::Events(events) = &said {
            *read.events.entry(source).or_default() += events.count();
        }
        chunk.push(Some(said));
        end = row.line + 1;
    }
    if chunk.has_any() {
        sink(chunk.seal(end, [0; 32]));
    }
    rejects.flush()?;
    read.unread = logs.unread();
    read.rejected = rejects.count;
    read.rejects = rejects.path().to_owned();
    Ok(read)
}

fn wrong(path: &Path, at: u64, what: &str) -> Failure {
    let path = path.display();
    Failure::usage(format!("{path}: row {at} is none of a file of rejected rows: {what}"))
}

fn is_not_early(said: Said, now: Timestamp) -> Result<Said, String> {
    match said {
        Said::Events(events) if events.0.at > now.plus_ms(CLOCK_AHEAD_MS_MAX) => {
            Err(format!("timestamp: {} has not come yet", events.0.at))
        }
        said => Ok(said),
    }
}

type MendedRows = Box<dyn Iterator<Item = Result<Mended, String>>>;

fn rows_of(mut input: BufReader<open::Input>, format: Format) -> MendedRows {
    if format == Format::Ndjson {
        return Box::new(
            input
                .lines()
                .filter(|line| !line.as_ref().is_ok_and(|line| line.trim().is_empty()))
                .map(|line| {
                    let line = line.map_err(|error| error.to_string())?;
                    serde_json::from_str(&line).map_err(|error| error.to_string())
                }),
        );
    }
    // An error of reading comes up again when the rows are read.
    let _ = skip_before_header(&mut input);
    let delimiter = delimiter_of(first_line(input.fill_buf().unwrap_or_default())).unwrap_or(b',');
    let rows = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(input);
    Box::new(rows.into_deserialize().map(|row| row.map_err(|error| error.to_string())))
}

/// The logs that the rows come from, with how their rows are read.
struct Logs<'a> {
    log: &'a Log,
    headers: BTreeMap<SourceId, Rows>,
}

impl Logs<'_> {
    fn take_header(&mut self, row: Mended) -> Result<(), String> {
        let header = row.row.as_bytes();
        let format = match () {
            () if header.starts_with(b"#Fields:") => Format::W3c,
            () => Format::Csv,
        };
        let delimiter = guessed(header, self.log.delimiter.unwrap_or(b','), &self.log.names);
        let mut rows = Rows::under(Some(header), format, Some(delimiter), self.log)?;
        // The header is there again where the log was imported again.
        if let Some(before) = self.headers.remove(&row.source) {
            rows.unread = before.unread;
        }
        self.headers.insert(row.source, rows);
        Ok(())
    }

    /// The texts that were not understood in all of the logs.
    fn unread(self) -> [Unread; 3] {
        let mut all = <[Unread; 3]>::default();
        for rows in self.headers.into_values() {
            all.iter_mut().zip(rows.unread).for_each(|(all, one)| all.add(one));
        }
        all
    }

    fn header(&self, source: SourceId) -> Option<&str> {
        self.headers.get(&source)?.header.as_deref()
    }

    /// Reads a row under its log's header. A log without a header in this file has a form that has
    /// none.
    fn read(&mut self, row: &Mended) -> Result<Said, String> {
        let rows = match self.headers.entry(row.source) {
            Entry::Occupied(rows) => rows.into_mut(),
            Entry::Vacant(free) => {
                let is_object = row.row.trim_start().starts_with('{');
                let format = if is_object { Format::Ndjson } else { Format::Access };
                free.insert(Rows::under(None, format, None, self.log)?)
            }
        };
        let record = Record { bytes: row.row.as_bytes(), line: row.line, fault: None };
        rows.read_mended(&record, &row.reason)
    }
}

#[cfg(test)]
mod tests;
