//! Rows that cannot be read: the first ones to stderr, all of them to a file, from which they are imported
//! when somebody has mended them ([`super::mended`]).

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use serde_json::json;
use shared::SourceId;

use super::records::Record;
use crate::cli::Format;
use crate::failure::Failure;

/// How many are shown in full.
const SHOWN_MAX: u64 = 10;
/// The file's columns. Of which log, and where in it, is what a mended row is known by.
pub(super) const COLUMNS: [&str; 5] = ["source", "file", "line", "reason", "row"];
/// The reason of the row that has the log's header.
pub(super) const HEADER: &str = "header";

/// A row that cannot be read.
#[derive(Clone, Copy)]
pub(super) struct RejectedRow<'a> {
    /// Of which log, by its identity.
    pub(super) source: SourceId,
    /// And by its name.
    pub(super) file: &'a str,
    /// Its first line there.
    pub(super) line: u64,
    /// What is wrong with it.
    pub(super) reason: &'a str,
    /// It.
    pub(super) bytes: &'a [u8],
    /// The log's header, if it has one.
    pub(super) header: Option<&'a str>,
}

impl<'a> RejectedRow<'a> {
    /// Of a log without a header.
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

/// Takes them.
pub(super) struct Rejects {
    /// None: they are not written.
    path: Option<PathBuf>,
    format: Format,
    /// Whether it is there already: somebody may have mended rows in it, and those of earlier imports stand
    /// in it.
    is_there: bool,
    out: Option<BufWriter<File>>,
    /// How long the file was before.
    before: u64,
    /// Of which log the header was written last.
    headed: Option<SourceId>,
    /// How many there were.
    pub(super) count: u64,
}

impl Rejects {
    /// Nothing is written before there is something to write, and then behind what is there.
    pub(super) fn new(path: Option<PathBuf>, format: Format) -> Self {
        let is_there = path.as_ref().is_some_and(|path| path.exists());
        Self { path, format, is_there, out: None, before: 0, headed: None, count: 0 }
    }

    /// Takes a row. One that is not new was taken by an earlier import, and stands in the file that it left.
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

    /// Everything is in the file.
    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        let flushed = self.out.as_mut().map_or(Ok(()), |out| out.flush());
        flushed.map_err(|error| self.cannot(&error))
    }

    /// The file is as it was before.
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
            // Rows of logs of another form may stand in it.
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
        // As the rows of CSV are: whatever ends this process leaves no half of a line.
        return out.flush();
    }
    let values = [&source.to_string(), file, &line.to_string(), reason, &text];
    let mut writer = csv::WriterBuilder::new().has_headers(false).from_writer(out);
    writer.write_record(values)?;
    writer.flush()
}

/// The file, and how long it was.
fn open(path: &Path, format: Format) -> io::Result<(BufWriter<File>, u64)> {
    let file = File::options().create(true).append(true).open(path)?;
    let before = file.metadata()?.len();
    let mut out = BufWriter::new(file);
    if before == 0 && format != Format::Ndjson {
        writeln!(out, "{}", COLUMNS.join(","))?;
    }
    Ok((out, before))
}

/// Whether rejected rows may be written to a file: there is none, or it has such rows already.
///
/// # Errors
/// When it has anything else.
pub(super) fn check(path: &Path) -> Result<(), Failure> {
    let is_empty = std::fs::metadata(path).map_or(true, |data| data.is_file() && data.len() == 0);
    // What is no plain file has nothing that could be spoiled.
    if is_empty || !super::open::is_plain(path) || super::mended::detect(path)?.is_some() {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "--rejects {}: that file has something else in it; name another",
        path.display()
    )))
}
