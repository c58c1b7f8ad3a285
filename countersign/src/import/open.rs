//! Opens a log: gzip by its first bytes, the form by its name or its first line.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;

use crate::cli::{Format, ImportArgs};
use crate::failure::Failure;

const GZIP: [u8; 2] = [0x1f, 0x8b];
/// How other compressed files begin, and what reads them.
const PACKED: [(&[u8], &str, &str); 4] = [
    (b"\x28\xb5\x2f\xfd", "zstd", "zstd -dc"),
    (b"\xfd7zXZ\0", "xz", "xz -dc"),
    (b"BZh", "bzip2", "bzip2 -dc"),
    (b"PK\x03\x04", "zip", "unzip -p"),
];
const BUFFER_BYTES: usize = 256 << 10;

/// Counts the bytes that were read of the file as it lies on the disk, for progress.
pub(super) type Seen = Arc<AtomicU64>;

struct Counting {
    file: File,
    seen: Seen,
}

impl Read for Counting {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.seen.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// That a log can be read as it must be: its form and its identity may be looked for in it beforehand, and
/// a pipe is read once.
pub(super) fn check_kind(path: &Path, args: &ImportArgs) -> Result<(), Failure> {
    let shown = path.display();
    let kind = std::fs::metadata(path).map_err(|error| cannot_read(path, &error))?.file_type();
    if kind.is_dir() {
        return Err(Failure::usage(format!("{shown} is a directory: name the files in it")));
    }
    if kind.is_file() || (args.source.is_some() && args.format.is_some()) {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "{shown} is a pipe, which can be read but once: give its form (--format) and the log's name \
         (--source)"
    )))
}

/// The decompressed bytes of a log.
pub(super) fn open(path: &Path, seen: Seen) -> Result<Box<dyn Read + Send>, Failure> {
    let file = File::open(path).map_err(|error| cannot_read(path, &error))?;
    let mut input = BufReader::with_capacity(BUFFER_BYTES, Counting { file, seen });
    let start = input.fill_buf().map_err(|error| cannot_read(path, &error))?;
    if start.starts_with(&GZIP) {
        // A log that was rotated into one file has several members.
        return Ok(Box::new(MultiGzDecoder::new(input)));
    }
    let packed = PACKED.iter().find(|(magic, ..)| start.starts_with(magic));
    packed.map_or(Ok(Box::new(input)), |(_, name, tool)| {
        Err(Failure::usage(format!(
            "{0} is compressed with {name}, and only gzip is read: `{tool} {0} > LOG.csv` first, or \
             `{tool} {0} | countersign import /dev/stdin --format csv --source NAME …`",
            path.display()
        )))
    })
}

/// BLAKE3 of the decompressed bytes.
pub(super) fn digest(path: &Path, seen: Seen) -> Result<[u8; 32], Failure> {
    let mut input = open(path, seen)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match input.read(&mut buffer) {
            Ok(0) => return Ok(*hasher.finalize().as_bytes()),
            Ok(read) => drop(hasher.update(&buffer[..read])),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(cannot_read(path, &error)),
        }
    }
}

/// A failure to read a log: nothing of it is lost by trying again.
pub(super) fn cannot_read(path: &Path, error: &io::Error) -> Failure {
    Failure::usage(format!("cannot read {}: {error}", path.display()))
}

/// The form of a log: as asked for, by the name's ending, or by the first line.
pub(super) fn format_of(path: &Path, asked: Option<Format>) -> Result<Format, Failure> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    if let Some(format) = asked.or_else(|| by_name(&name)) {
        return Ok(format);
    }
    let mut input = open(path, Seen::default())?.take(64 << 10);
    let mut start = Vec::new();
    input.read_to_end(&mut start).map_err(|error| cannot_read(path, &error))?;
    by_content(&start).ok_or_else(|| {
        Failure::usage(format!(
            "{}: neither its name nor its first line says whether it is CSV, TSV or NDJSON: give \
             --format",
            path.display()
        ))
    })
}

fn by_name(name: &str) -> Option<Format> {
    match name.strip_suffix(".gz").unwrap_or(name).rsplit_once('.')?.1 {
        "csv" => Some(Format::Csv),
        "tsv" => Some(Format::Tsv),
        "ndjson" | "jsonl" => Some(Format::Ndjson),
        _ => None,
    }
}

fn by_content(start: &[u8]) -> Option<Format> {
    let start = start.strip_prefix(super::records::BOM).unwrap_or(start);
    let mut lines = start.split(|b| *b == b'\n').map(<[u8]>::trim_ascii);
    let line = lines.find(|line| !line.is_empty())?;
    if line.starts_with(b"{") {
        return Some(Format::Ndjson);
    }
    let has_any = |of: &[u8]| line.iter().any(|byte| of.contains(byte));
    match (has_any(b"\t"), has_any(b",;|")) {
        (true, false) => Some(Format::Tsv),
        (false, true) => Some(Format::Csv),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_by_name_then_by_content() {
        let by = [
            ("a.csv", Some(Format::Csv)),
            ("a.tsv.gz", Some(Format::Tsv)),
            ("a.b.jsonl", Some(Format::Ndjson)),
            ("access.log", None),
            ("csv", None),
        ];
        for (name, format) in by {
            assert_eq!(by_name(name), format, "{name}");
        }
        let by: [(&[u8], _); 7] = [
            (b"ad_id;timestamp", Some(Format::Csv)),
            (b"\n {\"ad_id\":1}\n", Some(Format::Ndjson)),
            (b"\xef\xbb\xbfad_id,timestamp\n", Some(Format::Csv)),
            (b"ad_id\ttimestamp", Some(Format::Tsv)),
            (b"ad_id\ttimestamp,x", None),
            (b"ad_id", None),
            (b"", None),
        ];
        for (text, format) in by {
            assert_eq!(by_content(text), format, "{}", String::from_utf8_lossy(text));
        }
    }
}
