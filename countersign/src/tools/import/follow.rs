//! `import --follow`: a log that is being written, and rotated.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use shared::ambient::Stopwatch;

use super::open::{Input, cannot_read};
use crate::failure::Failure;

/// How often to look for more.
const POLL: Duration = Duration::from_millis(300);
/// How long a server may go on writing to a log that was moved away.
const AFTER_ROTATION: Duration = Duration::from_secs(3);

/// Whether a log is still followed. Its waits block: it is for the thread that reads.
#[derive(Clone, Default)]
pub(super) struct Watch {
    is_on: Arc<AtomicBool>,
    is_over: Arc<AtomicBool>,
}

impl Watch {
    /// A watch for the next file of the same log. Until [`Watch::begin`] the file is read to its
    /// end and no further.
    pub(super) fn for_next_file(&self) -> Self {
        Self { is_on: Arc::default(), is_over: Arc::clone(&self.is_over) }
    }

    /// From now on the end of the file is not the end of the log.
    pub(super) fn begin(&self) {
        self.is_on.store(true, Ordering::Relaxed);
    }

    /// Stops following this file: it ends where it ends now. The log may be followed anew.
    pub(super) fn leave(&self) {
        self.is_on.store(false, Ordering::Relaxed);
    }

    /// Stops following the log: it ends where it ends now.
    pub(super) fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Waits while `is_so`; true when following stopped and it is still so.
    pub(super) fn wait_while(&self, is_so: impl Fn() -> bool) -> bool {
        while is_so() {
            if self.is_over() || !self.is_on.load(Ordering::Relaxed) {
                return true;
            }
            std::thread::sleep(POLL);
        }
        false
    }
}

/// Opens a log that may still be written to; see [`Watch::begin`] for when it has an end.
///
/// # Errors
/// When it cannot be read, or is no plain file.
pub(super) fn open(path: &Path, watch: Watch) -> Result<Input, Failure> {
    let cannot = |error| cannot_read(path, &error);
    let file = File::open(path).map_err(cannot)?;
    if !file.metadata().map_err(cannot)?.is_file() {
        return Err(Failure::usage(format!(
            "{} is no file that could be followed",
            path.display()
        )));
    }
    let path = path.to_owned();
    Ok(Box::new(Tail { path, file, read: 0, watch, replaced: None }))
}

/// A file that has no end until it was replaced by another.
struct Tail {
    path: PathBuf,
    file: File,
    /// Bytes read so far.
    read: u64,
    watch: Watch,
    /// Since when another file has its name.
    replaced: Option<Stopwatch>,
}

impl Tail {
    /// Whether nothing more will be written to it.
    fn is_done(&mut self) -> io::Result<bool> {
        let own = self.file.metadata()?;
        if own.len() < self.read {
            tracing::debug!("{} was truncated", self.path.display());
            return Ok(true);
        }
        let identity = |data: &Metadata| (data.dev(), data.ino());
        match std::fs::metadata(&self.path) {
            Ok(there) if identity(&there) != identity(&own) => {
                let since = self.replaced.get_or_insert_with(Stopwatch::start);
                Ok(since.elapsed() >= AFTER_ROTATION)
            }
            Ok(_) => Ok(false),
            // The log was moved away, and the next file is not there yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Read for Tail {
    /// Fails with [`io::ErrorKind::WouldBlock`] after a pause in which nothing came.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.read += read as u64;
        if read > 0 || buffer.is_empty() {
            return Ok(read);
        }
        if !self.watch.is_on.load(Ordering::Relaxed) || self.watch.is_over() || self.is_done()? {
            return Ok(0);
        }
        std::thread::sleep(POLL);
        Err(io::ErrorKind::WouldBlock.into())
    }
}
