//! Reads a log and makes chunks of it. It blocks, on a thread of its own.

use std::io::{BufRead as _, BufReader, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;

use shared::import::{CHUNK_ROWS_MAX, ImportChunk, ImportEvent};
use shared::limits::{CHUNK_EVENTS_MAX, CHUNK_NAMES_BYTES_MAX, CLOCK_AHEAD_MS_MAX};
use shared::name::NAME_BYTES_MAX;
use shared::{Clock, SourceId, Timestamp};

use super::access::Pattern;
use super::columns::{ColumnNames, Columns};
use super::follow::Watch;
use super::open::{self, Input, cannot_read};
use super::records::{Digests, Record, Records};
use super::rejects::{RejectedRow, Rejects};
use super::row::Events;
use super::rows::{Rows, Said, Unread, is_before_header};
use crate::cli::Format;
use crate::failure::Failure;

const DAY_MS: u64 = 24 * 3_600_000;
/// How many bytes are looked at to find the form and the separator.
const START_BYTES: usize = 64 << 10;

/// How far a log was taken before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Taken {
    /// How many rows were taken.
    pub(super) rows: u64,
    /// BLAKE3 of the log up to their end.
    pub(super) digest: [u8; 32],
}

/// What to read, and how.
#[derive(Clone)]
pub(super) struct Log {
    /// The file.
    pub(super) path: PathBuf,
    /// Its form; `None`: found by its name and content.
    pub(super) format: Option<Format>,
    /// What separates its fields; `None`: found by its header.
    pub(super) delimiter: Option<u8>,
    /// What its columns are called.
    pub(super) names: ColumnNames,
    /// Of an access log, the requests that are events.
    pub(super) requests: Vec<Pattern>,
    /// Whether its identity comes from `--source`, and not from how it begins.
    pub(super) is_named: bool,
    /// Whether a last line without a newline may be half written.
    pub(super) may_grow: bool,
    /// The clock that rows are compared with.
    pub(super) clock: Arc<dyn Clock>,
}

/// What was in a log.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct LogSummary {
    /// Rows, bad ones too.
    pub(super) rows: u64,
    /// Events of all rows.
    pub(super) events: u64,
    /// Events of the rows that were not taken before.
    pub(super) events_new: u64,
    /// Bad rows.
    pub(super) rejected: u64,
    /// Rows that are no events: other requests of an access log, or the header again.
    pub(super) other: u64,
    /// Rows of programs that say that they are programs; they are not counted.
    pub(super) bots: u64,
    /// The file that bad rows were written to.
    pub(super) rejects: PathBuf,
    /// The line from which on something waits, for its newline or the end of a quote.
    pub(super) held_back: Option<u64>,
    /// Rows of several lines, and the first of them.
    pub(super) long: Option<(u64, u64)>,
    /// The first row whose time has not come, by line, and its time. It waits, and so do those that
    /// follow.
    pub(super) early: Option<(u64, Timestamp)>,
    /// Texts that were not understood in rows that count, for network, country and device.
    pub(super) unread: [Unread; 3],
    /// Digests of the log up to the end of its last row.
    pub(super) digests: Digests,
    /// Columns, or the fields of the first row, that are used: ours, the log's.
    pub(super) used: Vec<(&'static str, String)>,
}

/// Takes a chunk; false when nobody wants more.
pub(super) type Sink<'a> = &'a mut dyn FnMut(ImportChunk) -> bool;

/// A record that is kept.
struct Kept {
    bytes: Vec<u8>,
    line: u64,
    fault: Option<&'static str>,
}

/// A log that was opened, its header and its first row read.
pub(super) struct Reader {
    pub(super) log: Log,
    /// Its form.
    pub(super) format: Format,
    /// Digests of the log up to the end of its first row: its identity when it has no name. `None`
    /// while it has no row.
    pub(super) begin: Option<Digests>,
    first: Option<Kept>,
    records: Records<BufReader<Input>>,
    rows: Rows,
    pub(super) watch: Option<Watch>,
}

impl Reader {
    /// The line from which on something waits.
    pub(super) fn waits(&self) -> Option<u64> {
        self.records.held_back()
    }

    /// Reads the beginning of a log.
    ///
    /// # Errors
    /// When it cannot be read, or has no columns that we know.
    pub(super) fn new(log: Log, input: Input, watch: Option<Watch>) -> Result<Self, Failure> {
        let cannot = |error| cannot_read(&log.path, &error);
        let mut input = BufReader::with_capacity(START_BYTES, input);
        let start = input.fill_buf().map_err(cannot)?;
        let format = open::format_of(&log.path, log.format, start)?;
        let delimiter = delimiter_of(&log, format, start);
        // In fields between tabs a quote is a character like any other.
        let quoted = delimiter.filter(|delimiter| *delimiter != b'\t');
        let mut records = Records::new(input, quoted, log.may_grow);
        let mut rows = Rows::read_header(&mut records, format, delimiter, &log)?;
        let keep = |record: Record<'_>| Kept {
            bytes: record.bytes.to_vec(),
            line: record.line,
            fault: record.fault,
        };
        let first = records.next().map_err(cannot)?.map(keep);
        if let Some(first) = &first {
            rows.look(&first.bytes, &log)?;
        }
        let begin = first.as_ref().map(|_| records.digests());
        Ok(Self { log, format, begin, first, records, rows, watch })
    }

    /// Reads the log to its end and hands on what was not taken before.
    ///
    /// # Errors
    /// When the file cannot be read, or is another log than before.
    pub(super) fn run(
        mut self,
        source: SourceId,
        taken: Option<Taken>,
        mut rejects: Rejects,
        sink: Sink<'_>,
    ) -> Result<LogSummary, Failure> {
        let mut chunk = Chunk::new(source, taken.map_or(0, |taken| taken.rows));
        // Chunks are kept back until one has an event: nothing is sent of a log in which no row can
        // be read, so that it may be read with other options next time.
        let (mut held, mut has_any) = (Vec::new(), taken.is_some());
        let mut sink = |chunk: ImportChunk| {
            has_any |= !chunk.events.is_empty();
            held.push(chunk);
            !has_any || held.drain(..).all(&mut *sink)
        };
        let mut read = LogSummary::default();
        let (mut first, file) = (self.first.take(), self.log.path.to_string_lossy().into_owned());
        loop {
            let next = next(&mut self.records, first.as_ref(), self.watch.is_some());
            let record = match next.map_err(|error| cannot_read(&self.log.path, &error))? {
                Next::Record(record) => record,
                Next::End => break,
                // Nothing has come for a moment: send what did.
                Next::Idle => {
                    rejects.flush()?;
                    let digest = self.records.digests_before().text;
                    if read.rows > chunk.first_row && !sink(chunk.seal(read.rows, digest)) {
                        return Ok(read);
                    }
                    continue;
                }
            };
            let said = self.rows.read(&record, read.rows);
            let is_new = read.rows >= chunk.first_row;
            let said = match said.and_then(|said| is_in_its_day(said, self.log.clock.now())) {
                // A row that was taken before had come in its time.
                Ok(Said::Events(events))
                    if is_new && is_early(&events, &*self.log.clock, self.watch.as_ref()) =>
                {
                    read.early = Some((record.line, events.0.at));
                    break;
                }
                Ok(said) => Some(said),
                Err(reason) => {
                    let header = self.rows.header.as_deref();
                    let row = RejectedRow {
                        header,
                        ..RejectedRow::from_record(source, &file, &record, &reason)
                    };
                    rejects.take(&row, is_new)?;
                    None
                }
            };
            if record.bytes.contains(&b'\n') {
                let (rows, _) = read.long.get_or_insert((0, record.line));
                *rows += 1;
            }
            first = None;
            read.take(said.as_ref(), is_new);
            if is_new {
                chunk.push(said);
                if chunk.is_full(read.rows)
                    && !sink(chunk.seal(read.rows, self.records.digests().text))
                {
                    return Ok(read);
                }
            } else if read.rows == chunk.first_row {
                check_taken(&self.log, taken, &self.records.digests())?;
            }
        }
        if read.rows < chunk.first_row {
            return Err(shrunk(&self.log, taken, read.rows));
        }
        read.digests = match read.early {
            Some(_) => self.records.digests_before(),
            None => self.records.digests(),
        };
        if read.rows > chunk.first_row {
            sink(chunk.seal(read.rows, read.digests.text));
        }
        read.held_back = self.records.held_back();
        if !has_any {
            // Nothing was sent, and the next import may read the log with other options: its
            // rejected rows need no mending.
            rejects.undo()?;
        }
        self.finish(read, rejects)
    }

    fn finish(self, mut read: LogSummary, mut rejects: Rejects) -> Result<LogSummary, Failure> {
        rejects.flush()?;
        read.rejected = rejects.count;
        read.rejects = rejects.path().to_owned();
        (read.unread, read.used) = (self.rows.unread, self.rows.used);
        Ok(read)
    }
}

/// The next step in a log.
enum Next<'a> {
    Record(Record<'a>),
    /// Nothing new, in a log that is followed.
    Idle,
    End,
}

/// The first record, which was read already, if it is still to be taken; else the next one.
fn next<'a>(
    records: &'a mut Records<BufReader<Input>>,
    first: Option<&'a Kept>,
    is_followed: bool,
) -> std::io::Result<Next<'a>> {
    if let Some(Kept { bytes, line, fault }) = first {
        return Ok(Next::Record(Record { bytes, line: *line, fault: *fault }));
    }
    match records.next() {
        Ok(Some(record)) => Ok(Next::Record(record)),
        Ok(None) => Ok(Next::End),
        Err(error) if is_followed && error.kind() == ErrorKind::WouldBlock => Ok(Next::Idle),
        Err(error) => Err(error),
    }
}

impl LogSummary {
    fn take(&mut self, said: Option<&Said>, is_new: bool) {
        self.rows += 1;
        match said {
            Some(Said::Events(events)) => {
                self.events += events.count();
                self.events_new += if is_new { events.count() } else { 0 };
            }
            Some(Said::Nothing) => self.other += 1,
            Some(Said::Bot) => self.bots += 1,
            None => {}
        }
    }
}

/// The separator between a log's fields: the one that was asked for, or the one with which the
/// header has columns that we know. `None` for forms in which quotes mean nothing.
fn delimiter_of(log: &Log, format: Format, start: &[u8]) -> Option<u8> {
    let usual = match format {
        Format::Csv => b',',
        Format::Tsv => b'\t',
        Format::Ndjson | Format::Access | Format::W3c => return None,
    };
    let header = start.split(|byte| *byte == b'\n').find(|line| !is_before_header(line));
    Some(log.delimiter.unwrap_or_else(|| guessed(header.unwrap_or_default(), usual, &log.names)))
}

/// The separator with which a header has the columns that it must have; the usual one when none
/// does. Tried in this order, the first that fits wins.
pub(super) fn guessed(header: &[u8], usual: u8, names: &ColumnNames) -> u8 {
    let header = header.trim_ascii_end();
    let is_one = |delimiter: &u8| Columns::read(header, *delimiter, names).is_ok();
    [usual, b';', b'\t', b'|', b','].into_iter().find(is_one).unwrap_or(usual)
}

/// Whether a row is of the next hours: it comes from a clock that is ahead, or from a zone east of
/// here in a log that does not name it. Such a row waits, and so does what follows it. Where the
/// log is followed, this waits with it.
fn is_early(events: &Events, clock: &dyn Clock, watch: Option<&Watch>) -> bool {
    let is_early = || events.0.at > clock.now().plus_ms(CLOCK_AHEAD_MS_MAX);
    match watch {
        None => is_early(),
        Some(watch) => watch.wait_while(is_early),
    }
}

/// Rejects a row that is more than a day ahead: that is a mistake, which must not hold back the
/// rows that follow.
pub(super) fn is_in_its_day(said: Said, now: Timestamp) -> Result<Said, String> {
    match said {
        Said::Events(Events(event, _)) if event.at > now.plus_ms(DAY_MS) => {
            let at = event.at;
            Err(format!("timestamp: {at} is more than a day ahead of this machine's clock"))
        }
        said => Ok(said),
    }
}

fn check_taken(log: &Log, taken: Option<Taken>, digests: &Digests) -> Result<(), Failure> {
    match taken {
        Some(taken) if !digests.has(&taken.digest) => Err(Failure::other_log(format!(
            "{}: its first {} rows are not those that were imported {}: a log may grow, not change. Nothing \
             was sent. {}",
            log.path.display(),
            taken.rows,
            log.under_which_name(),
            log.what_to_do()
        ))),
        _ => Ok(()),
    }
}

fn shrunk(log: &Log, taken: Option<Taken>, rows: u64) -> Failure {
    Failure::other_log(format!(
        "{}: it has {rows} rows, but {} were imported {}: a log may grow, not shrink. Nothing was sent. {}",
        log.path.display(),
        taken.map_or(0, |taken| taken.rows),
        log.under_which_name(),
        log.what_to_do()
    ))
}

impl Log {
    const fn under_which_name(&self) -> &'static str {
        if self.is_named { "under this name" } else { "of the log that begins as this one does" }
    }

    const fn what_to_do(&self) -> &'static str {
        "Rows that were mended are imported from the file of the rejected ones; what is new as a file of its \
         own. If it is another log, give it a name of its own (--source NAME): then all of its rows are \
         counted, and those that are counted already are counted again"
    }
}

/// Events on their way into a chunk.
pub(super) struct Chunk {
    pub(super) source: SourceId,
    pub(super) first_row: u64,
    events: Vec<ImportEvent>,
    names_bytes: usize,
}

impl Chunk {
    pub(super) fn new(source: SourceId, first_row: u64) -> Self {
        Self { source, first_row, events: Vec::new(), names_bytes: 0 }
    }

    pub(super) fn push(&mut self, said: Option<Said>) {
        if let Some(Said::Events(Events(first, second))) = said {
            for event in std::iter::once(first).chain(second) {
                self.names_bytes += event.names_bytes();
                self.events.push(event);
            }
        }
    }

    pub(super) fn has_any(&self) -> bool {
        !self.events.is_empty()
    }

    /// Whether another row might not fit.
    pub(super) fn is_full(&self, end_row: u64) -> bool {
        self.events.len() + 2 > CHUNK_EVENTS_MAX
            || self.names_bytes + 2 * 3 * NAME_BYTES_MAX > CHUNK_NAMES_BYTES_MAX
            || end_row - self.first_row == CHUNK_ROWS_MAX
    }

    pub(super) fn seal(&mut self, end_row: u64, digest: [u8; 32]) -> ImportChunk {
        let first_row = std::mem::replace(&mut self.first_row, end_row);
        let events = std::mem::take(&mut self.events);
        self.names_bytes = 0;
        ImportChunk { source: self.source, first_row, end_row, digest, events }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod any_log;
#[cfg(test)]
mod tests;
