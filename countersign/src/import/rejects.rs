//! Rows that cannot be read: the first ones to stderr, all of them to a file.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::cli::Format;
use crate::failure::Failure;

/// How many are shown in full.
const SHOWN_MAX: u64 = 10;

/// Takes them.
pub(super) struct Rejects {
    /// None: they are not written.
    path: Option<PathBuf>,
    format: Format,
    /// Whether rows of several logs go into the one file that was named.
    shared: bool,
    out: Option<BufWriter<File>>,
    /// How many there were.
    pub(super) count: u64,
}

impl Rejects {
    /// Nothing is written before there is something to write.
    pub(super) const fn new(path: Option<PathBuf>, format: Format, shared: bool) -> Self {
        Self { path, format, shared, out: None, count: 0 }
    }

    /// Takes a row: where it was, why it cannot be read, and its bytes.
    ///
    /// # Errors
    /// When the file cannot be written: rows would be lost.
    pub(super) fn take(
        &mut self,
        log: &Path,
        line: u64,
        reason: &str,
        bytes: &[u8],
    ) -> Result<(), Failure> {
        self.count += 1;
        if self.count <= SHOWN_MAX {
            eprintln!("{}:{line}: {reason}", log.display());
        } else if self.count == SHOWN_MAX + 1 {
            match &self.path {
                Some(path) => eprintln!("… all others are in {}", path.display()),
                None => eprintln!("… and so on"),
            }
        }
        self.write(log, line, reason, bytes).map_err(|error| self.cannot(&error))
    }

    /// Everything is in the file.
    pub(super) fn finish(&mut self) -> Result<(), Failure> {
        let flushed = self.out.as_mut().map_or(Ok(()), |out| out.flush());
        flushed.map_err(|error| self.cannot(&error))
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

    fn write(&mut self, log: &Path, line: u64, reason: &str, bytes: &[u8]) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let text = String::from_utf8_lossy(bytes);
        let log = log.display().to_string();
        let format = self.format;
        let out = match &mut self.out {
            Some(out) => out,
            none => none.insert(open(path, self.shared, format)?),
        };
        if format == Format::Ndjson {
            let row = json!({ "file": log, "line": line, "reason": reason, "row": text });
            return writeln!(out, "{row}");
        }
        let mut writer = csv::WriterBuilder::new().has_headers(false).from_writer(out);
        writer.write_record([log.as_str(), &line.to_string(), reason, &text])?;
        writer.flush()
    }
}

fn open(path: &Path, shared: bool, format: Format) -> io::Result<BufWriter<File>> {
    let mut options = File::options();
    let file = options.create(true).write(true).append(shared).truncate(!shared).open(path)?;
    let empty = file.metadata()?.len() == 0;
    let mut out = BufWriter::new(file);
    if empty && format != Format::Ndjson {
        writeln!(out, "file,line,reason,row")?;
    }
    Ok(out)
}
