//! Splits a log into records, with exact ends, line numbers and a running digest.
//!
//! A record of CSV ends at the first newline outside quotes (RFC 4180, quotes as the `csv` crate
//! reads them); of other forms at the first newline. Empty lines are no records. The digest of a record
//! covers everything from the start of the log up to the record's last byte, its newline excluded:
//! so a last line is the same before and after its newline was written.

use std::io::{self, Read};

/// The byte order mark that some programs begin UTF-8 with.
pub(super) const BOM: &[u8] = b"\xef\xbb\xbf";
/// The longest record. What is longer is one bad row.
pub(super) const RECORD_BYTES_MAX: usize = 1 << 20;
const READ_BYTES: usize = 256 << 10;
/// How much of an overlong line is kept for the rejects file.
const SHOWN_BYTES: usize = 1_000;

/// One record.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    /// Its bytes, without the newline. Of an overlong one, the first.
    pub(super) bytes: &'a [u8],
    /// The number of its first line, from 1.
    pub(super) line: u64,
    /// Why it cannot be read at all.
    pub(super) fault: Option<&'static str>,
}

/// BLAKE3 digests of a log from its start to the end of a record, its newline excluded.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Digests {
    /// Of its records, with one newline between each two: it does not depend on line endings, a
    /// byte order mark or empty lines.
    pub(super) text: [u8; 32],
    /// Of its bytes as they are, as builds before 28 November 2026 computed it.
    pub(super) bytes: [u8; 32],
}

impl Digests {
    /// Whether one of them is this digest, up to which a log was taken before.
    pub(super) fn has(&self, digest: &[u8; 32]) -> bool {
        [self.text, self.bytes].contains(digest)
    }
}

/// Hashes records as they are taken.
#[derive(Clone, Default)]
struct Hashers {
    text: blake3::Hasher,
    bytes: blake3::Hasher,
    /// Whether something was hashed.
    begun: bool,
}

impl Hashers {
    /// Hashes a record, or a part of one, and the newlines that were skipped before it.
    fn update(&mut self, skipped: &[u8], record: &[u8]) -> &mut Self {
        self.bytes.update(skipped).update(record);
        if self.begun && !skipped.is_empty() {
            self.text.update(b"\n");
        }
        let begin = if self.begun { b"" } else { BOM };
        self.text.update(record.strip_prefix(begin).unwrap_or(record));
        self.begun = true;
        self
    }

    fn digests(&self) -> Digests {
        Digests { text: *self.text.finalize().as_bytes(), bytes: *self.bytes.finalize().as_bytes() }
    }
}

/// Splits its input into records.
pub(super) struct Records<R> {
    input: R,
    /// The separator between fields, when quotes count.
    delimiter: Option<u8>,
    /// Whether a record at the end without a newline is held back, because it may be half written.
    hold_back: bool,
    window: Vec<u8>,
    /// The window's bytes before this are hashed and done with.
    start: usize,
    at_end: bool,
    /// The line from which on the rest is held back.
    held_back: Option<u64>,
    line: u64,
    hashers: Hashers,
    /// Newlines that were skipped and are not hashed yet.
    pending: Vec<u8>,
    /// Where the last record lies in the window. It is hashed only when the next one is asked for:
    /// until then it can be left out of the digest ([`Records::digests_before`]).
    last: Option<std::ops::Range<usize>>,
}

/// Where a record ends in the window.
enum End {
    /// At this length; with the reason when the record cannot be read.
    At(usize, Option<&'static str>),
    /// The record is too long.
    TooLong,
    /// The record may be half written.
    HeldBack,
}

impl<R: Read> Records<R> {
    /// Reads `input`; quotes count when there is a `delimiter`.
    pub(super) fn new(input: R, delimiter: Option<u8>, hold_back: bool) -> Self {
        let (window, pending, hashers) = (Vec::new(), Vec::new(), Hashers::default());
        let (start, line) = (0, 1);
        let (at_end, held_back) = (false, None);
        Self {
            input,
            delimiter,
            hold_back,
            window,
            start,
            at_end,
            held_back,
            line,
            hashers,
            pending,
            last: None,
        }
    }

    /// The next record, or `None` at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<Record<'_>>> {
        self.hash_last();
        if !self.skip_newlines()? {
            return Ok(None);
        }
        let line = self.line;
        let (shown, fault) = match self.find_end()? {
            End::HeldBack => return Ok(None),
            End::TooLong => (self.skip_long_line()?, Some("a line longer than 1 MiB")),
            End::At(length, fault) => {
                let shown = self.start..self.start + length;
                self.take(length);
                (shown, fault)
            }
        };
        let bytes = &self.window[shown];
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        let mark = if line == 1 { BOM } else { b"" };
        let bytes = bytes.strip_prefix(mark).unwrap_or(bytes);
        Ok(Some(Record { bytes, line, fault }))
    }

    /// The digests up to the end of the last record.
    pub(super) fn digests(&self) -> Digests {
        let Some(last) = self.last.clone() else { return self.digests_before() };
        self.hashers.clone().update(&self.pending, &self.window[last]).digests()
    }

    /// The digests without the last record.
    pub(super) fn digests_before(&self) -> Digests {
        self.hashers.digests()
    }

    /// The line from which on the rest is held back: it has no newline yet, or an open quote.
    pub(super) const fn held_back(&self) -> Option<u64> {
        self.held_back
    }

    /// Reads more; false at the end of the log.
    fn fill(&mut self) -> io::Result<bool> {
        if self.at_end {
            return Ok(false);
        }
        self.hash_last();
        if self.start > 0 {
            self.window.drain(..self.start);
            self.start = 0;
        }
        let before = self.window.len();
        let mut piece = (&mut self.input).take(READ_BYTES as u64);
        // On an error the bytes that were read stay in the window.
        piece.read_to_end(&mut self.window)?;
        self.at_end = self.window.len() == before;
        Ok(!self.at_end)
    }

    /// Takes `length` bytes, and counts their lines.
    fn take(&mut self, length: usize) {
        self.hash_last();
        let taken = &self.window[self.start..self.start + length];
        let trimmed = taken.strip_suffix(b"\r").unwrap_or(taken);
        // The carriage return belongs to the newline, which is hashed with what follows.
        self.last = Some(self.start..self.start + trimmed.len());
        self.line += newlines(taken);
        self.start += trimmed.len();
    }

    fn hash_last(&mut self) {
        if let Some(last) = self.last.take() {
            self.hashers.update(&self.pending, &self.window[last]);
            self.pending.clear();
        }
    }

    /// Skips empty lines; false when nothing else is left.
    fn skip_newlines(&mut self) -> io::Result<bool> {
        loop {
            let rest = &self.window[self.start..];
            let blank = rest.iter().take_while(|b| matches!(b, b'\n' | b'\r')).count();
            let more_may_follow = blank == rest.len();
            if more_may_follow && self.fill()? {
                continue;
            }
            // Newlines stay out of the digest until a record follows them that is taken.
            if !more_may_follow {
                let skipped = &self.window[self.start..self.start + blank];
                self.pending.extend_from_slice(skipped);
                self.line += newlines(skipped);
                self.start += blank;
            }
            return Ok(!more_may_follow);
        }
    }

    fn find_end(&mut self) -> io::Result<End> {
        let mut scan = Scan::new(self.delimiter);
        // Scans each byte once. Ends with a newline outside quotes, with a record that is too long
        // or cannot be right, or with the end of the log.
        let mut scanned = 0;
        loop {
            let rest = &self.window[self.start..];
            match scan.end(&rest[scanned..]) {
                Some(Ok(end)) => return Ok(End::At(scanned + end, None)),
                // No program writes a single quote inside quotes. So this quote opened a field, and
                // the text that seemed to belong to the field before it is rows.
                Some(Err(_)) => return Ok(self.unclosed().unwrap_or(End::TooLong)),
                None => {}
            }
            scanned = rest.len();
            if scanned > RECORD_BYTES_MAX {
                return Ok(self.unclosed().unwrap_or(End::TooLong));
            }
            if !self.fill()? {
                break;
            }
        }
        if self.hold_back {
            self.held_back = Some(self.line);
            return Ok(End::HeldBack);
        }
        let whole = End::At(self.window.len() - self.start, None);
        Ok(if scan.in_quotes() { self.unclosed().unwrap_or(whole) } else { whole })
    }

    /// A quote that is never closed spoils its own line only.
    fn unclosed(&self) -> Option<End> {
        self.delimiter?;
        let first = self.window[self.start..].iter().position(|b| *b == b'\n');
        first.map(|length| End::At(length, Some("a quote that is opened here is never closed")))
    }

    /// Skips a long line up to its newline; returns where in the window the part lies that is shown
    /// of it.
    fn skip_long_line(&mut self) -> io::Result<std::ops::Range<usize>> {
        let shown = self.window[self.start..self.start + SHOWN_BYTES].to_vec();
        loop {
            let rest = &self.window[self.start..];
            let end = rest.iter().position(|b| *b == b'\n');
            let length = end.unwrap_or(rest.len());
            self.take(length);
            if end.is_some() || !self.fill()? {
                break;
            }
        }
        self.hash_last();
        // The line is hashed by now, so its place in the window can hold the part that is shown.
        self.window.splice(..self.start, shown);
        self.start = SHOWN_BYTES;
        Ok(0..SHOWN_BYTES)
    }
}

fn newlines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|b| **b == b'\n').count() as u64
}

/// Finds the newline that ends a record.
struct Scan {
    delimiter: Option<u8>,
    state: State,
    /// Whether a newline stood in quotes.
    spans_lines: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    FieldStart,
    Plain,
    Quoted,
    /// After a quote inside quotes: the end of the field, or the first of two.
    Quote,
}

impl Scan {
    fn new(delimiter: Option<u8>) -> Self {
        Self { delimiter, state: State::FieldStart, spans_lines: false }
    }

    const fn in_quotes(&self) -> bool {
        matches!(self.state, State::Quoted)
    }

    /// Finds the newline in `bytes`, which follow those of the call before: `Ok` is its place.
    /// `Err` is the place of text behind the quote that closed a field of several lines: such text
    /// belongs to no field.
    fn end(&mut self, bytes: &[u8]) -> Option<Result<usize, usize>> {
        let Some(delimiter) = self.delimiter else {
            return bytes.iter().position(|b| *b == b'\n').map(Ok);
        };
        for (at, &byte) in bytes.iter().enumerate() {
            self.spans_lines |= self.state == State::Quoted && byte == b'\n';
            self.state = match (self.state, byte) {
                (State::Quoted, b'"') => State::Quote,
                (State::Quoted, _) | (State::Quote | State::FieldStart, b'"') => State::Quoted,
                (_, b'\n') => return Some(Ok(at)),
                (State::Quote, other)
                    if self.spans_lines && other != delimiter && other != b'\r' =>
                {
                    return Some(Err(at));
                }
                (_, byte) if byte == delimiter => State::FieldStart,
                _ => State::Plain,
            };
        }
        None
    }
}

#[cfg(test)]
mod tests;
