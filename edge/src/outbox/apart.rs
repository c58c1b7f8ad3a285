//! What was sealed ahead of the clock, apart from what goes out: segments of their own in `held/`. It waits
//! there for its time, which may be days, while the outbox is trimmed, and tells how far it is, as if
//! nothing waited. Removed when nothing is left in it.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use eventlog::Identity;
use eventlog::segments::{Record, SegmentReader, Segments, SegmentsConfig, SegmentsError};
use parking_lot::Mutex;

use super::seal::Last;
use super::writer::STREAM;

/// The folder in the outbox's.
const NAME: &str = "held";
/// What it is called while it is removed: a start after a crash finds all of it, or none.
const GONE: &str = "held.gone";

/// The batches that are kept apart.
#[derive(Debug)]
pub(super) struct Apart {
    dir: PathBuf,
    identity: Identity,
    config: SegmentsConfig,
    segments: Mutex<Option<Segments>>,
    bytes: AtomicU64,
}

impl Apart {
    /// Opens those of an outbox; there may be none.
    pub(super) fn open(
        outbox: &Path,
        config: SegmentsConfig,
        identity: Identity,
    ) -> Result<Self, SegmentsError> {
        let (segments, bytes) = (Mutex::new(None), AtomicU64::new(0));
        let apart = Self { dir: outbox.join(NAME), identity, config, segments, bytes };
        remove(&outbox.join(GONE))?;
        if apart.dir.is_dir() {
            apart.begin(&mut apart.segments.lock())?;
        }
        Ok(apart)
    }

    /// All that are there, in order, each with its sequence.
    pub(super) fn read_all(&self) -> Result<Vec<(u64, Last)>, SegmentsError> {
        let Some(mut reader) = self.reader(0)? else { return Ok(Vec::new()) };
        let mut all = Vec::new();
        while let Some(record) = reader.try_next()? {
            let last = Last::read(&record.payload).map_err(|what| SegmentsError::Damaged {
                file: self.dir.clone(),
                offset: 0,
                what: format!("record {} is no batch: {what}", record.sequence),
            })?;
            all.push((record.sequence, last));
        }
        Ok(all)
    }

    /// Puts one in, durably, and says its sequence.
    pub(super) fn put(&self, batch: &Bytes) -> Result<u64, SegmentsError> {
        let mut place = self.segments.lock();
        let segments = self.begin(&mut place)?;
        let appended = segments.append(&[Record { stream: STREAM, payload: batch }])?;
        self.bytes.store(segments.view().bytes(), Ordering::Release);
        Ok(appended[0].sequence)
    }

    /// What reads those after a sequence.
    pub(super) fn reader(&self, after: u64) -> Result<Option<SegmentReader>, SegmentsError> {
        let view = self.segments.lock().as_ref().map(|segments| segments.view().clone());
        view.map(|view| view.reader(STREAM, after)).transpose()
    }

    /// All of them have been taken.
    pub(super) fn clear(&self) -> Result<(), SegmentsError> {
        let mut segments = self.segments.lock();
        *segments = None;
        self.bytes.store(0, Ordering::Release);
        let gone = self.dir.with_file_name(GONE);
        match fs::rename(&self.dir, &gone) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(&self.dir, error)),
            _ => remove(&gone),
        }
    }

    /// Bytes on disk.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }

    fn begin<'a>(
        &self,
        segments: &'a mut Option<Segments>,
    ) -> Result<&'a mut Segments, SegmentsError> {
        match segments {
            Some(segments) => Ok(segments),
            none => {
                let (opened, _) = Segments::open(&self.dir, self.config, self.identity)?;
                self.bytes.store(opened.view().bytes(), Ordering::Release);
                Ok(none.insert(opened))
            }
        }
    }
}

fn remove(dir: &Path) -> Result<(), SegmentsError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(dir, error)),
        _ => Ok(()),
    }
}

fn failed(dir: &Path, error: std::io::Error) -> SegmentsError {
    SegmentsError::Io { path: dir.to_owned(), action: "remove", source: error.into() }
}
