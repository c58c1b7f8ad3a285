//! Rows that cannot be read. The first ones are shown on stderr, all are written to a file, from
//! which they are imported when somebody has mended them ([`super::mended`]).

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use serde_json::json;
use shared::SourceId;

use super::records::Record;
use crate::cli::Format;
use crate::failure::Failure;

/// How many are shown.
const SHOWN_MAX: u64 = 10;
/// The file's columns. A mended row is identified by its log (`source`) and its line.
pub(super) const COLUMNS: [&str; 5] = ["source", "file", "line", "reason", "row"];
/// The `reason` of the line that holds a log's header.
pub(super) const HEADER: &str = "header";

/// A row that cannot be read.
#[derive(Clone, Copy)]
pub(super) struct RejectedRow<'a> {
    /// The log's identity.
    pub(super) source: SourceId,
    /// The log's file name.
    pub(super) file: &'a str,
    /// The number of its first line in the log.
    pub(super) line: u64,
    /// What is wrong with it.
    pub(super) reason: &'a str,
    /// The row as it is in the log.
    pub(super) bytes: &'a [u8],
    /// The log's header, if it has one.
    pub(super) header: Option<&'a str>,
}

impl<'a> RejectedRow<'a> {
    /// A row of a log without a header.
    pub(super) const fn from_record(
        source: SourceId,
        file: &'a str,
        record: &Record<'a>,
        reason: &'a str,
    ) -> Self {
        let Record { bytes, line, .. } = *record;
        Self { source, file, line, reason, bytes, header: None }
    }
}

/// Collects rejected rows.
pub(super) struct Rejects {
    /// The file; `None`: they are only counted and shown.
    path: Option<PathBuf>,
    format: Format,
    /// Whether the file was there before: it has rows of earlier imports, some of which may have
    /// been mended in it.
    is_there: bool,
    out: Option<BufWriter<File>>,
    /// How long the file was before.
    before: u64,
    /// The log whose header was written last.
    headed: Option<SourceId>,
    /// How many there were.
    pub(super) count: u64,
}

impl Rejects {
    /// The file is made when there is a row to write; rows are added to one that is there.
    pub(super) fn new(path: Option<PathBuf>, format: Format) -> Self {
        let is_there = path.as_ref().is_some_and(|path| path.exists());
        Self { path, format, is_there, out: None, before: 0, headed: None, count: 0 }
    }

    /// Takes a row. A row that is not new was rejected by an earlier import too, and is in the file
    /// already if that is still there.
    ///
    /// # Errors
    /// When the file cannot be written: rows would be lost.
    pub(super) fn take(&mut self, row: &RejectedRow<'_>, is_new: bool) -> Result<(), Failure> {
        self.count += 1;
        if self.count <= SHOWN_MAX {
            eprintln!("{}:{}: {}", row.file, row.line, row.reason);
        } else if self.count == SHOWN_MAX + 1 {
            match &self.path {
                Some(path) => eprintln!("… and so on: {}", path.display()),
                None => eprintln!("… and so on"),
            }
        }
        if self.is_there && !is_new {
            return Ok(());
        }
        self.write(row).map_err(|error| self.cannot(&error))
    }

    /// Writes everything to the file.
    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        let flushed = self.out.as_mut().map_or(Ok(()), |out| out.flush());
        flushed.map_err(|error| self.cannot(&error))
    }

    /// Makes the file as it was before.
    pub(super) fn undo(&mut self) -> Result<(), Failure> {
        let Some(out) = self.out.take() else { return Ok(()) };
        let undone = out.into_inner().map_err(io::IntoInnerError::into_error).and_then(|file| {
            match self.before {
                0 => std::fs::remove_file(self.path()),
                before => file.set_len(before),
            }
        });
        undone.map_err(|error| self.cannot(&error))
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new(""))
    }

    fn cannot(&self, error: &io::Error) -> Failure {
        Failure::usage(format!(
            "cannot write {}: {error}; name another file with --rejects",
            self.path().display()
        ))
    }

    fn write(&mut self, row: &RejectedRow<'_>) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        if self.out.is_none() && self.is_there {
            // The file keeps its form, although this log may have another.
            let there = super::mended::detect(path).ok().flatten();
            self.format = there.unwrap_or(self.format);
        }
        let format = self.format;
        let out = match &mut self.out {
            Some(out) => out,
            none => {
                let (out, length) = open(path, format)?;
                self.before = length;
                none.insert(out)
            }
        };
        if self.headed.replace(row.source) != Some(row.source)
            && let Some(header) = row.header
        {
            let header = RejectedRow { line: 1, reason: HEADER, bytes: header.as_bytes(), ..*row };
            write_row(out, format, &header)?;
        }
        write_row(out, format, row)
    }
}

fn write_row(out: &mut BufWriter<File>, format: Format, row: &RejectedRow<'_>) -> io::Result<()> {
    let RejectedRow { source, file, line, reason, bytes, .. } = *row;
    let text = String::from_utf8_lossy(bytes);
    if format == Format::Ndjson {
        let row =
            json!({ "source": source, "file": file, "line": line, "reason": reason, "row": text });
        writeln!(out, "{row}")?;
        // Flushed row by row, as for CSV, so that no half line is left if the process ends.
        return out.flush();
    }
    let values = [&source.to_string(), file, &line.to_string(), reason, &text];
    let mut writer = csv::WriterBuilder::new().has_headers(false).from_writer(out);
    writer.write_record(values)?;
    writer.flush()
}

/// Opens the file; also returns its length so far.
fn open(path: &Path, format: Format) -> io::Result<(BufWriter<File>, u64)> {
    let file = File::options().create(true).append(true).open(path)?;
    let before = file.metadata()?.len();
    let mut out = BufWriter::new(file);
    if before == 0 && format != Format::Ndjson {
        writeln!(out, "{}", COLUMNS.join(","))?;
    }
    Ok((out, before))
}

/// Checks that rejected rows may be written to a file: it does not exist, is empty, or has such
/// rows already.
///
/// # Errors
/// When it has something else in it.
pub(super) fn check(path: &Path) -> Result<(), Failure> {
    let is_empty = std::fs::metadata(path).map_or(true, |data| data.is_file() && data.len() == 0);
    // A pipe or device has nothing that could be spoiled.
    if is_empty || !super::open::is_plain(path) || super::mended::detect(path)?.is_some() {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "--rejects {}: that file has something else in it; name another",
        path.display()
    )))
}
