//! The side log: batches that were sealed while the clock was ahead, in segments of their own under
//! `held/`. They may have to wait for days until their time comes; kept here, they do not stop the
//! outbox from being trimmed and from reporting how far it is. The folder is removed when all of
//! them are taken.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use eventlog::Identity;
use eventlog::segments::{Record, SegmentReader, Segments, SegmentsConfig, SegmentsError};
use parking_lot::Mutex;

use super::seal::BatchHead;
use super::writer::STREAM;

/// Its folder, within the outbox's.
const NAME: &str = "held";
/// The folder's name while it is removed, so that a start after a crash finds all of it or nothing.
const GONE: &str = "held.gone";

/// The log of the batches that are held back apart from the others.
#[derive(Debug)]
pub(super) struct SideLog {
    dir: PathBuf,
    identity: Identity,
    config: SegmentsConfig,
    segments: Mutex<Option<Segments>>,
    bytes: AtomicU64,
}

impl SideLog {
    /// Opens the side log of an outbox; it may be empty.
    pub(super) fn open(
        outbox: &Path,
        config: SegmentsConfig,
        identity: Identity,
    ) -> Result<Self, SegmentsError> {
        let (segments, bytes) = (Mutex::new(None), AtomicU64::new(0));
        let side_log = Self { dir: outbox.join(NAME), identity, config, segments, bytes };
        remove(&outbox.join(GONE))?;
        if side_log.dir.is_dir() {
            side_log.begin(&mut side_log.segments.lock())?;
        }
        Ok(side_log)
    }

    /// All batches in it, in order, each with its sequence.
    pub(super) fn read_all(&self) -> Result<Vec<(u64, BatchHead)>, SegmentsError> {
        let Some(mut reader) = self.reader(0)? else { return Ok(Vec::new()) };
        let mut all = Vec::new();
        while let Some(record) = reader.try_next()? {
            let last = BatchHead::read(&record.payload).map_err(|what| SegmentsError::Damaged {
                file: self.dir.clone(),
                offset: 0,
                what: format!("record {} is no batch: {what}", record.sequence),
            })?;
            all.push((record.sequence, last));
        }
        Ok(all)
    }

    /// Appends a batch durably and returns its sequence.
    pub(super) fn put(&self, batch: &Bytes) -> Result<u64, SegmentsError> {
        let mut guard = self.segments.lock();
        let segments = self.begin(&mut guard)?;
        let appended = segments.append(&[Record { stream: STREAM, payload: batch }])?;
        self.bytes.store(segments.view().bytes(), Ordering::Release);
        Ok(appended[0].sequence)
    }

    /// A reader of the batches after this sequence; `None` when the log is empty.
    pub(super) fn reader(&self, after: u64) -> Result<Option<SegmentReader>, SegmentsError> {
        let view = self.segments.lock().as_ref().map(|segments| segments.view().clone());
        view.map(|view| view.reader(STREAM, after)).transpose()
    }

    /// Removes the log, all of whose batches have been taken.
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

    /// Its bytes on disk.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }

    /// The open segments; makes them when there are none.
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
