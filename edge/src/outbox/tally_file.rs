//! The tallies on disk: a file of fixed slots that is allocated when it is made and written in
//! place. So a count is kept even when the disk is full, and after kill -9, for the page cache
//! outlives the process. Counts since the last hand-over may be lost when the machine loses power;
//! what a batch has reported is never reported again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use shared::wire::Tally;
use shared::{Kind, Reason, Timestamp};

use super::tallies::{SLOT_BYTES, SLOTS, Slot, TallyTable};
use super::writer::OutboxError;

const MAGIC: &[u8; 8] = b"CStally1";
/// A slot with its CRC32C, padded so that none lies across two disk sectors.
const PLACE_BYTES: usize = 64;
const FILE_BYTES: usize = PLACE_BYTES * (SLOTS + 1);

/// The tallies of an outbox.
#[derive(Debug)]
pub(super) struct TallyFile {
    file: File,
    path: PathBuf,
    table: Mutex<TallyTable>,
}

impl TallyFile {
    /// Opens the file, or makes it. `last` is the last batch in the log, which decides the marked
    /// slots ([`TallyTable::recover`]).
    pub(super) fn open(dir: &Path, last: Option<(u64, u64)>) -> Result<Self, OutboxError> {
        let path = dir.join("tallies");
        let open = || OpenOptions::new().read(true).write(true).open(&path);
        let file = match open() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                make(dir, &path).map_err(|error| OutboxError::io(&path, "make", error))?;
                open()
            }
            other => other,
        };
        let file = file.map_err(|error| OutboxError::io(&path, "open", error))?;
        let slots = read(&file, &path)?;
        let (table, changed) = TallyTable::recover(slots, last);
        let tallies = Self { file, path, table: Mutex::new(table) };
        let table = tallies.table.lock();
        tallies.write(&table, &changed)?;
        drop(table);
        Ok(tallies)
    }

    /// Counts. The count is in the page cache when this returns.
    pub(super) fn add(
        &self,
        now: Timestamp,
        kind: Kind,
        reason: Reason,
        count: u32,
    ) -> Result<(), OutboxError> {
        let mut table = self.table.lock();
        let changed = table.add(now, kind, reason, count);
        self.write(&table, &[changed])
    }

    /// [`TallyTable::lower_floor`].
    pub(super) fn lower_floor(&self, now: Timestamp) {
        self.table.lock().lower_floor(now);
    }

    /// Begins a batch with this watermark: from now on nothing is counted into a minute before it.
    /// When the tallies are due, or with `hand_over`, they are marked durably and returned.
    pub(super) fn begin(
        &self,
        watermark: Timestamp,
        (epoch, number): (u64, u64),
        hand_over: bool,
    ) -> Result<Vec<Tally>, OutboxError> {
        let mut table = self.table.lock();
        table.raise_floor(watermark);
        if table.is_empty() || !(hand_over || table.is_due(watermark)) {
            return Ok(Vec::new());
        }
        let (tallies, changed) = table.mark(epoch, number);
        self.write(&table, &changed)?;
        drop(table);
        // The marks must be durable before the batch is: tallies of a batch without marks would be
        // reported twice.
        let synced = self.file.sync_data();
        synced.map_err(|error| OutboxError::io(&self.path, "fdatasync", error))?;
        Ok(tallies)
    }

    /// Ends that batch, which is durable (`reported`) or was not written.
    pub(super) fn end(&self, reported: bool) -> Result<(), OutboxError> {
        let mut table = self.table.lock();
        let changed = if reported { table.reported() } else { table.kept() };
        self.write(&table, &changed)
    }

    /// The sum of all counts that are not reported yet.
    pub(super) fn total(&self) -> u64 {
        self.table.lock().total()
    }

    fn write(&self, table: &TallyTable, changed: &[usize]) -> Result<(), OutboxError> {
        for at in changed {
            let place = to_place(table.slot(*at));
            let written = self.file.write_all_at(&place, offset(*at));
            written.map_err(|error| OutboxError::io(&self.path, "write", error))?;
        }
        Ok(())
    }
}

fn offset(slot: usize) -> u64 {
    (PLACE_BYTES * (slot + 1)) as u64
}

fn to_place(slot: Option<&Slot>) -> [u8; PLACE_BYTES] {
    let mut place = [0; PLACE_BYTES];
    if slot.is_some() {
        place[..SLOT_BYTES].copy_from_slice(&Slot::to_bytes(slot));
        let crc = crc32c::crc32c(&place[..SLOT_BYTES]);
        place[SLOT_BYTES..SLOT_BYTES + 4].copy_from_slice(&crc.to_le_bytes());
    }
    place
}

fn from_place(place: &[u8]) -> Result<Option<Slot>, &'static str> {
    if place.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let (slot, rest) = place.split_first_chunk::<SLOT_BYTES>().ok_or("too short")?;
    if rest[..4] != crc32c::crc32c(slot).to_le_bytes() {
        return Err("the CRC does not match");
    }
    Slot::from_bytes(slot)
}

fn head() -> [u8; PLACE_BYTES] {
    let mut head = [0; PLACE_BYTES];
    head[..8].copy_from_slice(MAGIC);
    head[8..12].copy_from_slice(&(SLOTS as u32).to_le_bytes());
    head
}

/// Makes the file with all its blocks. It gets its name only when they are durable.
fn make(dir: &Path, path: &Path) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut bytes = vec![0; FILE_BYTES];
    bytes[..PLACE_BYTES].copy_from_slice(&head());
    let file = File::create(&new)?;
    file.write_all_at(&bytes, 0)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(dir)?.sync_all()
}

fn read(file: &File, path: &Path) -> Result<Vec<Option<Slot>>, OutboxError> {
    let damaged = |offset: u64, what: &str| OutboxError::Damaged {
        file: path.to_owned(),
        offset,
        what: what.to_owned(),
    };
    let length = file.metadata().map_err(|error| OutboxError::io(path, "read", error))?.len();
    if length != FILE_BYTES as u64 {
        return Err(damaged(length, &format!("the file has {length} bytes, not {FILE_BYTES}")));
    }
    let mut bytes = vec![0; FILE_BYTES];
    file.read_exact_at(&mut bytes, 0).map_err(|error| OutboxError::io(path, "read", error))?;
    let (first, places) = bytes.split_at(PLACE_BYTES);
    if first != head() {
        return Err(damaged(0, "not a tally file of version 1"));
    }
    let places = places.chunks_exact(PLACE_BYTES).enumerate();
    places.map(|(at, place)| from_place(place).map_err(|what| damaged(offset(at), what))).collect()
}

const _: () = assert!(SLOT_BYTES + 4 <= PLACE_BYTES && 512 % PLACE_BYTES == 0);
