//! Reads the records of a log, by its form and its header.

use std::collections::BTreeSet;
use std::io::Read;

use super::access::{self, Access};
use super::columns::{ColumnNames, Columns, Found, JsonRow, Texts};
use super::open::cannot_read;
use super::read::Log;
use super::records::{BOM, Record, Records};
use super::row::{Events, Fields};
use super::times::Times;
use crate::cli::Format;
use crate::failure::Failure;

/// How many names of unused fields are reported.
const TOLD_MAX: usize = 64;

/// The reason for rejecting an NDJSON row that does not say what happened.
const NO_WORD: &str = "no event and no click, though the log's first row says what happened";

/// The content of a record.
#[derive(Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "there is one, for a moment")]
pub(super) enum Said {
    /// What happened, as events.
    Events(Events),
    /// No event: another request of an access log, or the header again.
    Nothing,
    /// An event of a program that says that it is one.
    Bot,
}

/// The most texts that are shown of a column that is not understood.
const SHOWN_MAX: usize = 5;

/// A column whose text is not understood in some rows.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Unread {
    pub(super) rows: u64,
    /// The first of these texts, each once.
    first: Vec<String>,
    /// Whether there were others.
    has_more: bool,
}

impl Unread {
    fn take(&mut self, text: &str) {
        self.rows += 1;
        self.show(text.chars().take(64).collect());
    }

    fn show(&mut self, text: String) {
        if self.first.contains(&text) {
            return;
        }
        match self.first.len() < SHOWN_MAX {
            true => self.first.push(text),
            false => self.has_more = true,
        }
    }

    /// Adds what was not understood in other rows.
    pub(super) fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.has_more |= other.has_more;
        other.first.into_iter().for_each(|text| self.show(text));
    }

    /// Some of the texts.
    pub(super) fn examples(&self) -> String {
        let shown: Vec<_> = self.first.iter().map(|text| format!("{text:?}")).collect();
        shown.join(", ") + if self.has_more { " and others" } else { "" }
    }
}

/// How the rows of a log are read.
enum Form {
    /// The log has no header yet.
    None,
    Columns(Box<Columns>),
    Json,
    Access(Access),
}

/// Turns records into events.
pub(super) struct Rows {
    names: ColumnNames,
    form: Form,
    /// Of NDJSON: whether the first row says what happened, so that every row must.
    says_what: bool,
    /// The names of unused fields that were reported.
    told: BTreeSet<String>,
    /// The log's header, without which a single row means nothing.
    pub(super) header: Option<String>,
    fields: csv::StringRecord,
    /// Texts that were not understood in rows that count, for network, country and device.
    pub(super) unread: [Unread; 3],
    /// Columns, or the fields of the first row, that are used: ours, the log's.
    pub(super) used: Vec<(&'static str, String)>,
}

impl Rows {
    /// For rows under a header whose fields the `delimiter` separates, if it has fields.
    ///
    /// # Errors
    /// When a column is missing that must be there, or `--map` or `--request` does not fit the
    /// form.
    pub(super) fn under(
        header: Option<&[u8]>,
        format: Format,
        delimiter: Option<u8>,
        log: &Log,
    ) -> Result<Self, String> {
        let mut rows = Self {
            names: log.names.clone(),
            form: Form::None,
            says_what: false,
            told: BTreeSet::new(),
            header: header.map(|header| String::from_utf8_lossy(header).into_owned()),
            fields: csv::StringRecord::new(),
            unread: Default::default(),
            used: Vec::new(),
        };
        let patterns = || match (log.requests.is_empty(), log.names.mapped()) {
            (_, Some(theirs)) => Err(format!(
                "--map: a line of an access log has no column {theirs}; --request says where a request has its \
                 values, as in '/click?{theirs}={{ad_id}}'"
            )),
            (true, None) => {
                Err("an access log does not say which requests are events: name them, as in \
                         --request '/click/{ad_id}' or --request 'impression=/pixel?ad={ad_id}'"
                    .to_owned())
            }
            (false, None) => Ok(log.requests.clone()),
        };
        rows.form = match (format, header) {
            (Format::Ndjson, _) => Form::Json,
            (Format::Access, _) => {
                rows.names =
                    rows.names.with_usual_times(Times::new(Some(access::TIME_FORMAT), None)?);
                Form::Access(Access::new(patterns()?, None))
            }
            (_, None) => Form::None,
            (Format::W3c, Some(line)) => {
                let fields = access::fields(&String::from_utf8_lossy(line))?;
                Form::Access(Access::new(patterns()?, fields))
            }
            (Format::Csv | Format::Tsv, Some(header)) => {
                let columns = Columns::read(header, delimiter.unwrap_or(b','), &log.names)?;
                rows.note(log, columns.found.clone());
                Form::Columns(Box::new(columns))
            }
        };
        if matches!(format, Format::Csv | Format::Tsv | Format::Ndjson) && !log.requests.is_empty()
        {
            return Err(format!(
                "--request is for access logs (--format access or w3c), and this is {format:?}"
            ));
        }
        Ok(rows)
    }

    /// Reads the header of a log, where it has one.
    ///
    /// # Errors
    /// When it cannot be read, or as [`Rows::under`].
    pub(super) fn read_header<R: Read>(
        records: &mut Records<R>,
        format: Format,
        delimiter: Option<u8>,
        log: &Log,
    ) -> Result<Self, Failure> {
        let wrong = |what: String| Failure::usage(format!("{}: {what}", log.path.display()));
        let unread = |error: std::io::Error| cannot_read(&log.path, &error);
        let header = match format {
            Format::Ndjson | Format::Access => None,
            // A log may have no header yet: its file may be made before anything is written to it.
            Format::Csv | Format::Tsv => loop {
                match records.next().map_err(unread)? {
                    Some(record) if is_before_header(record.bytes) => {}
                    Some(Record { fault: Some(fault), .. }) => {
                        return Err(wrong(format!("its header is {fault}")));
                    }
                    record => break record.map(|record| record.bytes.to_vec()),
                }
            },
            Format::W3c => loop {
                match records.next().map_err(unread)? {
                    None => break None,
                    Some(line) if line.bytes.starts_with(b"#Fields:") => {
                        break Some(line.bytes.to_vec());
                    }
                    Some(line) if line.bytes.starts_with(b"#") => {}
                    Some(_) => {
                        return Err(wrong(
                            "it has a line before #Fields: says what stands in it".to_owned(),
                        ));
                    }
                }
            },
        };
        Self::under(header.as_deref(), format, delimiter, log).map_err(wrong)
    }

    /// Reports the columns that are not used, and keeps the others.
    fn note(&mut self, log: &Log, found: Found) {
        self.says_what = found.says_what;
        self.told = found.unknown.iter().cloned().collect();
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

    /// Checks the first row of a log whose rows name their own fields.
    ///
    /// # Errors
    /// When a field is missing that must be there.
    pub(super) fn look(&mut self, first: &[u8], log: &Log) -> Result<(), Failure> {
        if matches!(self.form, Form::Json) {
            let found = JsonRow::check_names(first, &log.names);
            let found =
                found.map_err(|what| Failure::usage(format!("{}: {what}", log.path.display())))?;
            self.note(log, found);
        }
        Ok(())
    }

    /// Reads a mended row, or says why it cannot be read; `reason` is why it was rejected before.
    pub(super) fn read_mended(
        &mut self,
        record: &Record<'_>,
        reason: &str,
    ) -> Result<Said, String> {
        // Whether every row of its log must say what happened depends on the log's first row, which
        // is not at hand. Only the reason of the rejection tells.
        self.says_what = reason == NO_WORD;
        self.read(record, record.line)
    }

    /// Reads a record, or says why it cannot be read.
    pub(super) fn read(&mut self, record: &Record<'_>, row: u64) -> Result<Said, String> {
        if let Some(fault) = record.fault {
            return Err(fault.to_owned());
        }
        let texts: Texts;
        let json: JsonRow;
        let fields = match &mut self.form {
            Form::None => return Err("a row without a header".to_owned()),
            // Logs that were joined have the header again.
            Form::Columns(_)
                if self.header.as_deref().is_some_and(|header| is_again(header, record.bytes)) =>
            {
                return Ok(Said::Nothing);
            }
            Form::Columns(columns) => columns.fields(record.bytes, &mut self.fields)?,
            Form::Json => {
                json = JsonRow::read(record.bytes, &self.names)?;
                for name in json.unknown(&self.names) {
                    if self.told.len() < TOLD_MAX && !self.told.contains(name) {
                        eprintln!("line {}: a field that is not used: {name}", record.line);
                        self.told.insert(name.to_owned());
                    }
                }
                if self.says_what && !json.says_what(&self.names) {
                    return Err(NO_WORD.to_owned());
                }
                json.fields(&self.names)
            }
            Form::Access(access) => match access.read(record.bytes)? {
                None => return Ok(Said::Nothing),
                Some(said) => {
                    texts = said;
                    self.names.fields(|at| texts[at].as_deref())
                }
            },
        };
        decide(&fields, row, &mut self.unread)
    }
}

fn is_again(header: &str, line: &[u8]) -> bool {
    let plain = |line| -> &[u8] { <[u8]>::strip_prefix(line, BOM).unwrap_or(line) };
    plain(header.as_bytes()) == plain(line)
}

/// Whether a line of CSV comes before the header: a blank line, a comment, or the line by which
/// spreadsheets name the separator (`sep=;`).
pub(super) fn is_before_header(line: &[u8]) -> bool {
    let line = line.strip_prefix(BOM).unwrap_or(line).trim_ascii();
    line.is_empty() || line.starts_with(b"#") || (line.starts_with(b"sep=") && line.len() <= 5)
}

fn decide(fields: &Fields<'_>, row: u64, unread: &mut [Unread; 3]) -> Result<Said, String> {
    let events = fields.events(row)?;
    if fields.is_of_bot(events.0.kind) {
        return Ok(Said::Bot);
    }
    let texts = [fields.unread_ip(), fields.unread_country(), fields.unread_device()];
    for (unread, text) in unread.iter_mut().zip(texts) {
        if let Some(text) = text {
            unread.take(text);
        }
    }
    Ok(Said::Events(events))
}
