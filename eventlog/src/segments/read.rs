use std::collections::VecDeque;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;

use super::format::{ENTRY, Entry, GROUP_FIXED, GroupHead};
use super::view::Segment;
use super::{Result, SegmentsError, SegmentsView};
use crate::position::{Digest, digest};

/// One record as it was stored, its digest checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Sequence in its stream.
    pub sequence: u64,
    /// Digest of the payload.
    pub digest: Digest,
    /// What was appended.
    pub payload: Bytes,
}

/// A payload that is still to be read.
#[derive(Clone, Copy, Debug)]
struct Due {
    entry: Entry,
    /// Offset in the file.
    offset: u64,
}

/// Reads one stream in order. It keeps one file open. In memory it has, besides
/// the payload that it returns, at most one directory and a window of
/// [`WINDOW_MAX`] bytes.
///
/// After an error the reader stays where it was: the next call tries the same
/// record again.
#[derive(Debug)]
pub struct SegmentReader {
    view: SegmentsView,
    stream: u16,
    segment: Arc<Segment>,
    window: Window,
    /// Offset of the next group.
    offset: u64,
    /// Index of the next group.
    group: u64,
    /// Last sequence of the stream in the directories that were read.
    seen: u64,
    /// Records of the stream in the last directory that are not returned yet.
    due: VecDeque<Due>,
    /// Digest of the record that the reader was opened after.
    after_digest: Digest,
}

impl SegmentReader {
    pub(super) fn open(view: SegmentsView, stream: u16, after: u64) -> Result<Self> {
        // Ends with an open file or an error: each time the segment was trimmed before it could be opened,
        // the next look finds a later one, or that what follows `after` is gone.
        let (segment, file) = loop {
            let segment = view.locate(stream, after)?;
            match open_segment(&view, &segment)? {
                Some(file) => break (segment, file),
                None => continue,
            }
        };
        let start = segment.start(stream);
        let mut reader = Self {
            window: Window::new(file),
            offset: segment.header_bytes,
            group: segment.first_group,
            seen: start.sequence,
            due: VecDeque::new(),
            after_digest: start.digest,
            view,
            stream,
            segment,
        };
        reader.seek(after)?;
        Ok(reader)
    }

    /// The next record, or `None` at the durable end. Blocks for the disk
    /// only.
    ///
    /// # Errors
    /// [`SegmentsError::Damaged`], [`SegmentsError::Trimmed`] when trimming has
    /// overtaken the reader, and [`SegmentsError::Io`].
    pub fn try_next(&mut self) -> Result<Option<Stored>> {
        loop {
            if let Some(due) = self.due.front().copied() {
                let stored = self.payload(&due)?;
                self.due.pop_front();
                return Ok(Some(stored));
            }
            if !self.next_directory()? {
                return Ok(None);
            }
        }
    }

    /// Sequence of the record that was returned last; at first the one that the reader was opened after.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.due.front().map_or(self.seen, |due| due.entry.sequence - 1)
    }

    /// Digest of the record that the reader was opened after; zero when that is sequence 0.
    #[must_use]
    pub fn after_digest(&self) -> Digest {
        self.after_digest
    }

    /// The segments that are read.
    #[must_use]
    pub fn view(&self) -> &SegmentsView {
        &self.view
    }

    /// Reads directories up to the record `after`, so that the next record is the one behind it.
    fn seek(&mut self, after: u64) -> Result<()> {
        // Each directory advances the reader, and the segment ends: `after` is reached, or it is missing.
        while self.seen < after {
            if self.offset >= self.segment.end() || !self.next_directory()? {
                let what = format!("stream {}: sequence {after} is missing", self.stream);
                return Err(self.damaged(what));
            }
            while let Some(due) = self.due.front()
                && due.entry.sequence <= after
            {
                self.after_digest = due.entry.digest;
                self.due.pop_front();
            }
        }
        Ok(())
    }

    /// Makes the stream's records of the next group due, or goes to the next
    /// segment. `false` at the durable end.
    fn next_directory(&mut self) -> Result<bool> {
        if self.offset >= self.segment.end() {
            // The following segment is looked up before this one's end is read
            // again: once it exists, this one's end no longer moves.
            let following = self.view.following(&self.segment);
            if self.offset >= self.segment.end() {
                return match following {
                    Some(segment) => self.enter(segment).map(|()| true),
                    None => Ok(false),
                };
            }
        }
        let identity = self.view.identity();
        let left = self.segment.end() - self.offset;
        if left < GROUP_FIXED as u64 {
            return Err(self.damaged("ends within a group".into()));
        }
        let fixed = self.bytes(self.offset, GROUP_FIXED)?;
        let head = GroupHead::decode(fixed).map_err(|what| self.damaged(what))?;
        if head.bytes as u64 > left || head.offset != self.offset || head.index != self.group {
            return Err(self.damaged("group: not the one that is due here".into()));
        }
        let bytes = self.bytes(self.offset, head.head_bytes())?;
        let entries = head
            .check_head(&identity, bytes)
            .and_then(|()| head.entries(bytes))
            .map_err(|what| self.damaged(what))?;
        let own = entries.into_iter().filter(|e| e.stream == self.stream);
        let mut seen = self.seen;
        let mut due = VecDeque::new();
        for entry in own {
            if entry.sequence != seen + 1 {
                let (stream, sequence) = (self.stream, entry.sequence);
                return Err(
                    self.damaged(format!("stream {stream}: sequence {sequence} follows {seen}"))
                );
            }
            seen = entry.sequence;
            let offset = self.offset + entry.at as u64;
            due.push_back(Due { entry, offset });
        }
        self.seen = seen;
        self.due = due;
        self.offset += head.bytes as u64;
        self.group += 1;
        Ok(true)
    }

    /// Goes to the segment that follows, when nothing of this one is due.
    fn enter(&mut self, segment: Arc<Segment>) -> Result<()> {
        let start = segment.start(self.stream);
        let continues = segment.first_group == self.group;
        if !continues && !self.view.is_trimmed(&self.segment) {
            let (group, next) = (self.group, segment.first_group);
            return Err(self.damaged(format!(
                "ends before group {group}, but the next segment begins at group {next}"
            )));
        }
        if start.sequence != self.seen {
            if continues {
                return Err(self.damaged(format!(
                    "stream {}: ends at {}, but the next segment goes on after {}",
                    self.stream, self.seen, start.sequence
                )));
            }
            return Err(SegmentsError::Trimmed {
                stream: self.stream,
                sequence: self.seen + 1,
                first: start.sequence + 1,
            });
        }
        // When the segment was trimmed meanwhile, the next call finds a later one.
        if let Some(file) = open_segment(&self.view, &segment)? {
            self.window = Window::new(file);
            self.offset = segment.header_bytes;
            self.group = segment.first_group;
            self.segment = segment;
        }
        Ok(())
    }

    fn payload(&mut self, due: &Due) -> Result<Stored> {
        let bytes = due.entry.bytes;
        let payload = if bytes < WINDOW_MAX / 4 {
            Bytes::copy_from_slice(self.bytes(due.offset, bytes)?)
        } else {
            let mut payload = vec![0; bytes];
            let segment = Arc::clone(&self.segment);
            self.window
                .read(&mut payload, due.offset)
                .map_err(|error| SegmentsError::io(&segment.path, "read", error))?;
            Bytes::from(payload)
        };
        if digest(&payload) != due.entry.digest {
            let (stream, sequence) = (self.stream, due.entry.sequence);
            return Err(SegmentsError::damaged(
                &self.segment.path,
                due.offset,
                format!("stream {stream}: digest of sequence {sequence} does not match"),
            ));
        }
        Ok(Stored { sequence: due.entry.sequence, digest: due.entry.digest, payload })
    }

    fn bytes(&mut self, offset: u64, length: usize) -> Result<&[u8]> {
        let end = self.segment.end();
        self.window
            .get(offset, length, end)
            .map_err(|error| SegmentsError::io(&self.segment.path, "read", error))
    }

    fn damaged(&self, what: String) -> SegmentsError {
        SegmentsError::damaged(&self.segment.path, self.offset, what)
    }
}

/// Opens a segment's file; `None` when it has been trimmed.
fn open_segment(view: &SegmentsView, segment: &Segment) -> Result<Option<File>> {
    match File::open(&segment.path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::NotFound && view.is_trimmed(segment) => Ok(None),
        Err(error) => Err(SegmentsError::io(&segment.path, "open", error)),
    }
}

/// The most bytes that are read ahead.
pub(super) const WINDOW_MAX: usize = 256 * 1024;
const WINDOW_MIN: usize = 4 * 1024;

/// A part of a file. Reads that follow each other read ahead more and more, up
/// to [`WINDOW_MAX`]; a jump (over other streams' payloads) begins small again.
#[derive(Debug)]
struct Window {
    file: File,
    offset: u64,
    bytes: Vec<u8>,
    ahead: usize,
}

impl Window {
    fn new(file: File) -> Self {
        Self { file, offset: 0, bytes: Vec::new(), ahead: WINDOW_MIN }
    }

    /// Bytes at an offset. It reads ahead, but not beyond `end`: bytes there
    /// may be being written.
    fn get(&mut self, offset: u64, length: usize, end: u64) -> std::io::Result<&[u8]> {
        let have = self.offset + self.bytes.len() as u64;
        if offset < self.offset || offset + length as u64 > have {
            self.ahead = match offset >= self.offset && offset <= have {
                true => (self.ahead * 2).min(WINDOW_MAX),
                false => WINDOW_MIN,
            };
            let room = end.saturating_sub(offset).min(self.ahead as u64) as usize;
            self.bytes.resize(room.max(length), 0);
            self.offset = offset;
            if let Err(error) = self.file.read_exact_at(&mut self.bytes, offset) {
                self.bytes.clear();
                return Err(error);
            }
        }
        let at = (offset - self.offset) as usize;
        Ok(&self.bytes[at..at + length])
    }

    fn read(&self, out: &mut [u8], offset: u64) -> std::io::Result<()> {
        self.file.read_exact_at(out, offset)
    }
}

const _: () = assert!(GROUP_FIXED + ENTRY <= WINDOW_MIN);
