use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use super::format::{GROUP_FIXED, GROUP_MAGIC, GroupHead, SEGMENT_FIXED, SegmentHeader, Streams};
use super::view::{Catalog, Segment, Shared, StreamEnd, sync_dir};
use super::write::{Opened, create, is_full, segment_path};
use super::{Result, SegmentsError, SegmentsView};
use crate::position::{Identity, digest};

/// A torn last group, which a crash in the middle of a write leaves. It was
/// never acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The segment file.
    pub file: PathBuf,
    /// Offset of the torn group, where the file ends after the cut.
    pub offset: u64,
    /// Length of the torn group in the file, bytes.
    pub bytes: u64,
    /// What was wrong with them.
    pub why: String,
}

/// What opening found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Identity of the log.
    pub identity: Identity,
    /// The log was created by this opening.
    pub created: bool,
    /// Number of segment files.
    pub segments: usize,
    /// Ends of all streams.
    pub ends: BTreeMap<u16, StreamEnd>,
    /// The torn last group that was cut, if there was one.
    pub cut: Option<Cut>,
}

const LOCK_FILE: &str = "lock";

/// Opens a directory for writing. See [`super::Segments::open`].
pub(super) fn open(dir: &Path, identity_if_new: Identity) -> Result<(Opened, Recovered)> {
    fs::create_dir_all(dir).map_err(|e| SegmentsError::io(dir, "create", e))?;
    let lock = lock(dir)?;
    let mut files = list(dir)?;
    remove_leftovers(dir)?;
    let created = files.is_empty();
    if created {
        let header = SegmentHeader {
            identity: identity_if_new,
            first_group: 0,
            previous_first_group: 0,
            previous_bytes: 0,
            starts: Streams::new(),
        };
        create(dir, &header)?;
        // The name of the directory, which may be new, must be durable too.
        if let Some(parent) = dir.parent().filter(|p| !p.as_os_str().is_empty()) {
            sync_dir(parent)?;
        }
        files.push((0, segment_path(dir, 0)));
    }
    let mut segments = VecDeque::new();
    let identity = chain(&files, |_, segment| {
        segments.push_back(Arc::new(segment));
        Ok(())
    })?;
    let Some(last) = segments.back().cloned() else {
        return Err(SegmentsError::damaged(dir, 0, "no segment"));
    };
    let (file, scan, cut) = open_last(&last, &identity)?;
    let recovered =
        Recovered { identity, created, segments: segments.len(), ends: scan.ends.clone(), cut };
    let shared = Shared {
        dir: dir.to_owned(),
        identity,
        catalog: RwLock::new(Catalog { segments, ends: scan.ends }),
        trimming: Mutex::new(()),
        durable: watch::Sender::new(scan.group),
    };
    let view = SegmentsView { shared: Arc::new(shared) };
    let opened = Opened { view, lock, file, segment: last, group: scan.group };
    Ok((opened, recovered))
}

fn lock(dir: &Path) -> Result<File> {
    let path = dir.join(LOCK_FILE);
    let mut options = OpenOptions::new();
    let file =
        options.create(true).truncate(false).write(true).open(&path).map_err(
            |error| match is_full(&error) {
                true => SegmentsError::NoSpace,
                false => SegmentsError::io(&path, "open", error),
            },
        )?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(SegmentsError::Locked { dir: dir.to_owned() }),
        Err(TryLockError::Error(error)) => Err(SegmentsError::io(&path, "lock", error)),
    }
}

/// Lists segment files with the index of their first group, oldest first.
/// Files without the extension `seg` are left alone.
pub(super) fn list(dir: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let io = |error| SegmentsError::io(dir, "list", error);
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let Some(stem) = path.file_stem().and_then(|stem| stem.to_str()) else {
            continue;
        };
        if path.extension().is_none_or(|extension| extension != "seg") {
            continue;
        }
        match stem.parse::<u64>() {
            Ok(first) if segment_path(dir, first) == path => files.push((first, path)),
            _ => return Err(SegmentsError::damaged(&path, 0, "not a segment's name")),
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// Removes a segment that was being created when the process ended. It never
/// got its name, so no group was written to it.
fn remove_leftovers(dir: &Path) -> Result<()> {
    let io = |error| SegmentsError::io(dir, "list", error);
    for entry in fs::read_dir(dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|extension| extension == "new") {
            fs::remove_file(&path).map_err(|e| SegmentsError::io(&path, "remove", e))?;
        }
    }
    Ok(())
}

/// Reads the headers of all segments, checks that each continues the one before
/// it, and calls `each` with them. Returns the log's identity.
pub(super) fn chain(
    files: &[(u64, PathBuf)],
    mut each: impl FnMut(&SegmentHeader, Segment) -> Result<()>,
) -> Result<Identity> {
    let mut before: Option<(SegmentHeader, u64)> = None;
    for (first_group, path) in files {
        let (header, bytes) = read_header(path)?;
        let bad = |what: String| Err(SegmentsError::damaged(path, 0, what));
        if header.first_group != *first_group {
            let found = header.first_group;
            return bad(format!("its header says that it begins at group {found}"));
        }
        if let Some((previous, length)) = &before {
            if header.identity != previous.identity {
                return bad("it is a segment of another log".into());
            }
            if header.previous_first_group != previous.first_group {
                let missing = header.previous_first_group;
                return bad(format!("the segment before it, {missing:020}.seg, is missing"));
            }
            if header.previous_bytes != *length {
                let was = header.previous_bytes;
                return bad(format!("the segment before it has {length} bytes, but had {was}"));
            }
        }
        let length =
            fs::metadata(path).map_err(|e| SegmentsError::io(path, "read the length", e))?.len();
        let segment =
            Segment::new(path.clone(), *first_group, bytes as u64, header.starts.clone(), length);
        each(&header, segment)?;
        before = Some((header, length));
    }
    Ok(before.map_or([0; 16], |(header, _)| header.identity))
}

fn read_header(path: &Path) -> Result<(SegmentHeader, usize)> {
    let io = |error| SegmentsError::io(path, "read the header", error);
    let damaged = |what| SegmentsError::damaged(path, 0, what);
    let file = File::open(path).map_err(io)?;
    let available = file.metadata().map_err(io)?.len();
    let mut fixed = [0; SEGMENT_FIXED];
    if available < SEGMENT_FIXED as u64 {
        return Err(damaged("ends within the segment header".to_owned()));
    }
    file.read_exact_at(&mut fixed, 0).map_err(io)?;
    let length = SegmentHeader::length(&fixed).map_err(damaged)?;
    if available < length as u64 {
        return Err(damaged("ends within the segment header".to_owned()));
    }
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0).map_err(io)?;
    let header = SegmentHeader::decode(&bytes).map_err(damaged)?;
    Ok((header, length))
}

/// Scans the segment that is written to, cuts a torn last group, and makes the
/// rest durable.
fn open_last(segment: &Segment, identity: &Identity) -> Result<(File, Scan, Option<Cut>)> {
    let path = &segment.path;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(|e| SegmentsError::io(path, "open", e))?;
    let scan = Scan::run(&file, segment, identity, false)?;
    let cut = scan.torn(&file, segment, identity)?;
    if let Some(cut) = &cut {
        file.set_len(cut.offset).map_err(|e| SegmentsError::io(path, "cut", e))?;
        segment.set_end(cut.offset);
        tracing::warn!(
            file = %path.display(), offset = cut.offset, bytes = cut.bytes, why = %cut.why,
            "cut a torn last group, as a crash in a write leaves one; that was never acknowledged"
        );
    }
    settle(&file, &scan).map_err(|e| SegmentsError::io(path, "make it durable", e))?;
    Ok((file, scan, cut))
}

/// Makes durable what the scan has read. The last process may have ended
/// between the write and the fsync of the last group, or because this fsync
/// failed. The group may then be in the page cache only, and after a failed
/// fsync even be marked there as written. So its bytes are written again before
/// the fsync.
fn settle(file: &File, scan: &Scan) -> std::io::Result<()> {
    if scan.offset > scan.last_group {
        let mut group = vec![0; (scan.offset - scan.last_group) as usize];
        file.read_exact_at(&mut group, scan.last_group)?;
        file.write_all_at(&group, scan.last_group)?;
    }
    file.sync_all()
}

/// A walk over all groups of one segment with their CRCs.
pub(super) struct Scan {
    /// Offset at which the scan stopped: the end, or the first bad group.
    pub(super) offset: u64,
    /// Offset of the last good group; the same as `offset` when there is none.
    last_group: u64,
    /// Index of the group after the last good one.
    pub(super) group: u64,
    pub(super) ends: Streams,
    pub(super) records: u64,
    /// What is wrong at `offset`.
    bad: Option<String>,
}

impl Scan {
    /// Walks over the groups, and stops at the first one whose header or CRC is
    /// wrong. With `digests` it checks each payload's digest, too.
    ///
    /// # Errors
    /// [`SegmentsError::Damaged`] when a group's CRC is right but the group does
    /// not continue the one before, or a digest is wrong: no crash leaves such a
    /// group. [`SegmentsError::Io`].
    pub(super) fn run(
        file: &File,
        segment: &Segment,
        identity: &Identity,
        digests: bool,
    ) -> Result<Self> {
        let mut scan = Self {
            offset: segment.header_bytes,
            last_group: segment.header_bytes,
            group: segment.first_group,
            ends: segment.starts.clone(),
            records: 0,
            bad: None,
        };
        let end = segment.end();
        let mut buffer = Vec::new();
        while scan.offset < end {
            match read_group(file, segment, identity, scan.offset, &mut buffer)? {
                Ok(head) => scan
                    .take(&head, &buffer, digests)
                    .map_err(|what| SegmentsError::damaged(&segment.path, scan.offset, what))?,
                Err(why) => {
                    scan.bad = Some(why);
                    break;
                }
            }
        }
        Ok(scan)
    }

    fn take(
        &mut self,
        head: &GroupHead,
        group: &[u8],
        digests: bool,
    ) -> std::result::Result<(), String> {
        if head.index != self.group {
            return Err(format!("group {} where {} is due", head.index, self.group));
        }
        for entry in head.entries(group)? {
            let end = self.ends.entry(entry.stream).or_default();
            if entry.sequence != end.sequence + 1 {
                return Err(format!(
                    "stream {}: sequence {} follows {}",
                    entry.stream, entry.sequence, end.sequence
                ));
            }
            end.sequence = entry.sequence;
            end.digest = entry.digest;
            if digests && digest(&group[entry.at..entry.at + entry.bytes]) != entry.digest {
                return Err(format!(
                    "stream {}: digest of sequence {} does not match",
                    entry.stream, entry.sequence
                ));
            }
            self.records += 1;
        }
        self.group += 1;
        self.last_group = self.offset;
        self.offset += head.bytes as u64;
        Ok(())
    }

    /// The bad end of the segment as a torn group to be cut; `None` when the end
    /// is good.
    ///
    /// # Errors
    /// [`SegmentsError::Damaged`] when a valid group is behind it, for then it is
    /// no torn write.
    pub(super) fn torn(
        &self,
        file: &File,
        segment: &Segment,
        identity: &Identity,
    ) -> Result<Option<Cut>> {
        let Some(why) = &self.bad else {
            return Ok(None);
        };
        if let Some(valid) = find_group(file, segment, identity, self.offset + 1)? {
            let what = format!("{why}, and a valid group is behind it at offset {valid}");
            return Err(SegmentsError::damaged(&segment.path, self.offset, what));
        }
        Ok(Some(Cut {
            file: segment.path.clone(),
            offset: self.offset,
            bytes: segment.end() - self.offset,
            why: why.clone(),
        }))
    }

    /// Refuses a bad end, for a segment that others follow.
    pub(super) fn refuse_bad(&self, segment: &Segment) -> Result<()> {
        match &self.bad {
            Some(why) => Err(SegmentsError::damaged(
                &segment.path,
                self.offset,
                format!("{why}, and another segment follows"),
            )),
            None => Ok(()),
        }
    }
}

/// Reads the group at an offset into `buffer` and checks its CRCs. The outer
/// error is of reading; the inner one says what is wrong with the bytes.
fn read_group(
    file: &File,
    segment: &Segment,
    identity: &Identity,
    offset: u64,
    buffer: &mut Vec<u8>,
) -> Result<std::result::Result<GroupHead, String>> {
    let io = |error| SegmentsError::io(&segment.path, "read", error);
    let available = segment.end() - offset;
    let mut fixed = [0; GROUP_FIXED];
    let length = available.min(GROUP_FIXED as u64) as usize;
    file.read_exact_at(&mut fixed[..length], offset).map_err(io)?;
    let head = match GroupHead::decode(&fixed[..length]) {
        Ok(head) => head,
        Err(why) => return Ok(Err(why)),
    };
    if head.offset != offset {
        return Ok(Err(format!("group: says that it is at {}", head.offset)));
    }
    if head.bytes as u64 > available {
        return Ok(Err("group: ends beyond the file".into()));
    }
    buffer.resize(head.bytes, 0);
    file.read_exact_at(buffer, offset).map_err(io)?;
    let checked =
        head.check_head(identity, buffer).and_then(|()| head.check_group(identity, buffer));
    Ok(checked.map(|()| head))
}

/// The offset of the first valid group at or behind `from`.
fn find_group(
    file: &File,
    segment: &Segment,
    identity: &Identity,
    from: u64,
) -> Result<Option<u64>> {
    const STEP: u64 = 1 << 20;
    let overlap = GROUP_MAGIC.len() as u64 - 1;
    let end = segment.end();
    let (mut window, mut group) = (Vec::new(), Vec::new());
    let mut at = from;
    // Windows of `STEP` bytes overlap by a magic less one byte, so that no magic is missed at a border. It
    // ends with the first valid group, or when less than a magic is left.
    while at + overlap < end {
        window.resize((end - at).min(STEP + overlap) as usize, 0);
        file.read_exact_at(&mut window, at)
            .map_err(|error| SegmentsError::io(&segment.path, "read", error))?;
        let starts = window
            .windows(GROUP_MAGIC.len())
            .enumerate()
            .filter(|(_, bytes)| *bytes == GROUP_MAGIC);
        for (index, _) in starts {
            let candidate = at + index as u64;
            if read_group(file, segment, identity, candidate, &mut group)?.is_ok() {
                return Ok(Some(candidate));
            }
        }
        at += STEP;
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
