//! Opens a log. Its first bytes tell how it is compressed, its name or first line its form.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;

use super::access;
use crate::cli::Format;
use crate::failure::Failure;

/// How compressed files begin.
const GZIP: &[u8] = b"\x1f\x8b";
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";
/// How a skippable frame of zstd begins, behind a byte of 0x50 to 0x5f.
const ZSTD_SKIPPED: [u8; 3] = *b"\x2a\x4d\x18";
const XZ: &[u8] = b"\xfd7zXZ\0";
const BZIP2: &[u8] = b"BZh";
const ZIP: &[u8] = b"PK\x03\x04";
/// What stands at byte 257 of a tar archive.
const TAR: &[u8] = b"ustar";
/// How the names of compressed files end.
const PACKED: [&str; 4] = [".gz", ".zst", ".xz", ".bz2"];
const BUFFER_BYTES: usize = 256 << 10;
const STDIN: &str = "/dev/stdin";
/// The ending of the file of a log's rejected rows, behind the log's name.
pub(super) const REJECTS: &str = ".rejects";

/// How many bytes of the file, as it lies on the disk, were read; for progress.
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

/// The decompressed bytes of a log.
pub(super) type Input = Box<dyn Read + Send>;

/// The logs that the arguments name: a directory stands for the files in it whose names have a
/// log's ending, sorted; `-` for standard input.
pub(super) fn logs(named: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut logs = Vec::new();
    for path in named {
        if path.as_os_str() == "-" {
            logs.push(PathBuf::from(STDIN));
        } else if path.is_dir() {
            let entries = std::fs::read_dir(path).map_err(|error| cannot_read(path, &error))?;
            let mut found = Vec::new();
            for entry in entries {
                let entry = entry.map_err(|error| cannot_read(path, &error))?;
                let name = entry.file_name().to_string_lossy().to_lowercase();
                match entry.path() {
                    path if by_name(&name).is_none() || path.is_dir() => {}
                    path if path.is_file() => found.push(path),
                    path => {
                        return Err(Failure::usage(format!(
                            "{} is called as a log and is no file: name the logs that are to be read",
                            path.display()
                        )));
                    }
                }
            }
            if found.is_empty() {
                return Err(Failure::usage(format!(
                    "{}: no file in it ends with .csv, .tsv, .ndjson or .jsonl, compressed or not",
                    path.display()
                )));
            }
            found.sort_unstable();
            logs.extend(found);
        } else if named.len() > 1 && is_beside_its_log(path, named) {
            eprintln!(
                "{}: rejected rows of a log, which are imported by themselves",
                path.display()
            );
        } else {
            logs.push(path.clone());
        }
    }
    Ok(logs)
}

/// Whether a file that a pattern found (`logs/*`) holds the rejected rows of another that it found.
fn is_beside_its_log(path: &Path, named: &[PathBuf]) -> bool {
    let log = path.to_str().and_then(|path| path.strip_suffix(REJECTS));
    log.is_some_and(|log| named.iter().any(|other| other == Path::new(log)))
}

/// Whether a log can be read more than once.
pub(super) fn is_plain(path: &Path) -> bool {
    path.is_file() && !["/dev", "/proc"].iter().any(|from| path.starts_with(from))
}

/// Opens a log.
pub(super) fn open(path: &Path, seen: Seen) -> Result<Input, Failure> {
    let file = match path == Path::new(STDIN) {
        // A copy of the descriptor reads from the current position. Opening the path would begin at
        // the start of a file.
        true => io::stdin().as_fd().try_clone_to_owned().map(File::from),
        false => File::open(path),
    };
    let file = file.map_err(|error| cannot_read(path, &error))?;
    let mut input = BufReader::with_capacity(BUFFER_BYTES, Counting { file, seen });
    let start = input.fill_buf().map_err(|error| cannot_read(path, &error))?;
    let begins = |magic: &[u8]| start.starts_with(magic);
    // A file may have several members, one behind the other, as when logs were joined.
    if begins(GZIP) {
        Ok(Box::new(MultiGzDecoder::new(input)))
    } else if begins(ZSTD)
        || (start.len() > 4 && start[0] & 0xf0 == 0x50 && start[1..4] == ZSTD_SKIPPED)
    {
        let frames = zstd::stream::read::Decoder::with_buffer(input);
        Ok(Box::new(frames.map_err(|error| cannot_read(path, &error))?))
    } else if begins(XZ) {
        Ok(Box::new(XzReader::new(input, true)))
    } else if begins(BZIP2) {
        Ok(Box::new(MultiBzDecoder::new(input)))
    } else if begins(ZIP) {
        Err(Failure::usage(format!(
            "{0} is a zip archive, of one file or many: `unzip -p {0} NAME > LOG.csv` first",
            path.display()
        )))
    } else if begins(b"\xff\xfe") || begins(b"\xfe\xff") {
        Err(Failure::usage(format!(
            "{0} is UTF-16: `iconv -f UTF-16 -t UTF-8 {0} > NEW` first",
            path.display()
        )))
    } else {
        Ok(Box::new(input))
    }
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

/// The failure of reading a log; trying again loses nothing.
pub(super) fn cannot_read(path: &Path, error: &io::Error) -> Failure {
    Failure::usage(format!("cannot read {}: {error}", path.display()))
}

/// The form of a log: as asked for, by the name's ending, or by how it starts.
pub(super) fn format_of(
    path: &Path,
    asked: Option<Format>,
    start: &[u8],
) -> Result<Format, Failure> {
    if start.get(257..).is_some_and(|behind| behind.starts_with(TAR)) {
        return Err(Failure::usage(format!(
            "{0} is a tar archive, of one file or many: `tar -xOf {0} NAME > LOG.csv` first",
            path.display()
        )));
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let looks = by_content(start);
    // No header begins with a brace.
    let told = asked.or(looks.filter(|format| *format == Format::Ndjson));
    let told = told.or_else(|| by_name(&name)).or(looks);
    // An empty log passes for CSV.
    let told = told.or(start.trim_ascii().is_empty().then_some(Format::Csv));
    told.ok_or_else(|| {
        Failure::usage(format!(
            "{}: neither its name nor its first line says whether it is CSV, TSV, NDJSON or a web server's \
             access log: give --format",
            path.display()
        ))
    })
}

fn by_name(name: &str) -> Option<Format> {
    let plain = PACKED.iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name);
    match plain.rsplit_once('.')?.1 {
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
    if let Some(is_w3c) = access::detect(line) {
        return Some(if is_w3c { Format::W3c } else { Format::Access });
    }
    let has_any = |of: &[u8]| line.iter().any(|byte| of.contains(byte));
    match (has_any(b"\t"), has_any(b",;|")) {
        (true, false) => Some(Format::Tsv),
        (false, true) => Some(Format::Csv),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// `ad_id,timestamp`, and two rows.
    const LOG: &[u8] = b"ad_id,timestamp\na,1700000001\nb,1700000002\n";
    /// The same as xz (5.4) and bzip2 (1.0.8) write it.
    const XZ_LOG: &str = "fd377a585a000004e6d6b4460200210116000000742fe5a3e0002900225d0030990802c6551cb8261d98\
                          66ee8fdfc02187b76d3bece1c5bfa2127cc0729cd64f60000000e7112875fa424ffd00013e2a8067f8ba\
                          1fb6f37d010000000004595a";
    const BZIP2_LOG: &str = "425a68393141592653590f27ecc100000c5b800810000470800000b6224c00200021a9a310f48d34286\
                             9a6003025df661c588d10990c45249f4b2aafaa3e2ee48a70a1201e4fd982";

    fn hex(text: &str) -> Vec<u8> {
        let text: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        let byte =
            |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        text.chunks(2).map(byte).collect()
    }

    #[test]
    fn what_is_compressed_is_read_whole_and_what_is_cut_off_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let zstd = zstd::encode_all(LOG, 3).unwrap();
        for (name, bytes) in [("xz", hex(XZ_LOG)), ("bz2", hex(BZIP2_LOG)), ("zst", zstd)] {
            let path = dir.path().join(format!("log.csv.{name}"));
            // Two of them, one behind the other.
            std::fs::write(&path, [&bytes[..], &bytes].concat()).unwrap();
            let mut text = Vec::new();
            open(&path, Seen::default()).unwrap().read_to_end(&mut text).unwrap();
            assert_eq!(text, [LOG, LOG].concat(), "{name}");
            assert_eq!(format_of(&path, None, b"x").unwrap(), Format::Csv);
            std::fs::write(&path, &bytes[..bytes.len() - 9]).unwrap();
            let cut = open(&path, Seen::default()).unwrap().read_to_end(&mut text);
            assert!(cut.is_err(), "{name}");
        }
        let path = dir.path().join("log.zip");
        std::fs::write(&path, b"PK\x03\x04 and so on").unwrap();
        let Err(told) = open(&path, Seen::default()) else { panic!() };
        assert!(told.message.contains("unzip -p"), "{told:?}");
    }

    #[test]
    fn of_a_directory_the_logs_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["b.csv", "a.csv.gz", "a.csv.rejects", "notes.txt", "C.NDJSON"] {
            std::fs::write(at(name), b"").unwrap();
        }
        std::fs::create_dir(at("d.csv")).unwrap();
        let named = [dir.path().to_owned(), PathBuf::from("-"), at("notes.txt")];
        let stdin = PathBuf::from("/dev/stdin");
        let wanted = [at("C.NDJSON"), at("a.csv.gz"), at("b.csv"), stdin, at("notes.txt")];
        assert_eq!(logs(&named).unwrap(), wanted);
        let told = logs(&[at("d.csv")]).unwrap_err();
        assert!(told.message.contains("no file in it ends with .csv"), "{told:?}");
    }

    #[test]
    fn the_form_by_name_then_by_content() {
        let by = [
            ("a.csv", Some(Format::Csv)),
            ("a.tsv.gz", Some(Format::Tsv)),
            ("a.csv.zst", Some(Format::Csv)),
            ("a.ndjson.xz", Some(Format::Ndjson)),
            ("a.csv.bz2", Some(Format::Csv)),
            ("a.csv.rejects", None),
            ("a.b.jsonl", Some(Format::Ndjson)),
            ("access.log", None),
            ("csv", None),
        ];
        for (name, format) in by {
            assert_eq!(by_name(name), format, "{name}");
        }
        let by: [(&[u8], _); 9] = [
            (b"#Version: 1.0\n#Fields: date time\n", Some(Format::W3c)),
            (
                b"127.0.0.1 - - [10/Oct/2025:13:55:36 +0000] \"GET / HTTP/1.1\" 200 2\n",
                Some(Format::Access),
            ),
            (b"ad_id;timestamp", Some(Format::Csv)),
            (b"\n {\"ad_id\":1}\n", Some(Format::Ndjson)),
            (b"\xef\xbb\xbfad_id,timestamp\n", Some(Format::Csv)),
            (b"ad_id\ttimestamp", Some(Format::Tsv)),
            (b"ad_id\ttimestamp,x", None),
            (b"ad_id", None),
            (b"", None),
        ];
        let (csv, json) = (Path::new("a.csv"), b"{\"ad_id\":1}\n");
        assert_eq!(format_of(csv, None, json).unwrap(), Format::Ndjson);
        assert_eq!(format_of(csv, Some(Format::Csv), json).unwrap(), Format::Csv);
        let tar = [&[b'a'; 257][..], b"ustar\0"].concat();
        let told = format_of(csv, None, &tar).unwrap_err();
        assert!(told.message.contains("tar -xOf a.csv"), "{told:?}");
        for (text, format) in by {
            assert_eq!(by_content(text), format, "{}", String::from_utf8_lossy(text));
        }
    }
}
