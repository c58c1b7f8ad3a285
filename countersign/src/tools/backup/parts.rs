//! The parts of a data directory, in the order in which they must be copied.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use eventlog::segments::Segments;

use super::copy::{Copier, names, open};
use crate::data::cannot;
use crate::failure::Failure;

/// The parts that are copied at a fixed place in the order.
const STATE: &str = "state";
/// In the state: the databases of partitions, and the segments of facts that these name.
const PARTITION: &str = "partition-";
const FACTS: &str = "facts";
const LOG: &str = "log";
/// The dead letters: segments in the log's directory.
const LETTERS: &str = "dead";
const OUTBOX: &str = "outbox";
const KEYS: [&str; 2] = ["keys.json", "keys-edge.json"];
/// Locks are never copied.
const LOCKS: [&str; 2] = ["lock", "keys.lock"];
/// How far the outbox was acknowledged. It is not copied: when it is newer than the copy of the
/// log, the outbox would keep back batches that this log lacks. Without it the next start sends
/// everything again that the outbox has, and the engine knows the batches by their numbers.
const ACKED: &str = "acked";
/// How often the outbox is listed while other parts are copied. Each of its segments exists for
/// tens of milliseconds at least.
const LOOK_EVERY: Duration = Duration::from_millis(2);
const TALLIES: &str = "tallies";
/// The outbox's folder of batches that were sealed ahead of the clock and wait for their time:
/// segments too, which are removed when it has come.
const APART: &str = "held";
const APART_GONE: &str = "held.gone";
/// How often the listing of a partition's files, or the reading of a file, is tried again because
/// they changed meanwhile.
const TRIES_MAX: u32 = 100;

/// Copies everything; true when the event log is in the directory.
pub(super) fn copy(copier: &mut Copier) -> Result<bool, Failure> {
    let mut outbox = HeldOutbox::new(copier.from.join(OUTBOX));
    let has_log = outbox.during(|| {
        others(copier, Path::new(""))?;
        for name in names(&copier.from.join(STATE))? {
            let path = Path::new(STATE).join(&name);
            if name == FACTS || !copier.from.join(&path).is_dir() {
                continue;
            }
            partition(copier, &path)?;
            if let Some(number) = name.strip_prefix(PARTITION) {
                facts(copier, &Path::new(STATE).join(FACTS).join(number))?;
            }
        }
        let has_log = log(copier, Path::new(LOG))?;
        log(copier, &Path::new(LOG).join(LETTERS))?;
        Ok(has_log)
    })?;
    outbox.copy(copier)?;
    for name in KEYS {
        copier.file(Path::new(name))?;
    }
    Ok(has_log)
}

/// Fails unless the directory has something to copy.
pub(super) fn require(from: &Path) -> Result<(), Failure> {
    if [STATE, LOG, OUTBOX].iter().any(|part| from.join(part).is_dir()) {
        return Ok(());
    }
    let from = from.display();
    Err(Failure::usage(format!(
        "{from} is no data directory: name the one of `up`, an edge or an aggregator with --data"
    )))
}

/// Checks the copied segments: they follow each other without a gap, and every byte is what was
/// written.
pub(super) fn verify(to: &Path) -> Result<(), Failure> {
    let letters = Path::new(LOG).join(LETTERS);
    let dirs = [PathBuf::from(LOG), letters, PathBuf::from(OUTBOX), Path::new(OUTBOX).join(APART)];
    for dir in dirs.map(|name| to.join(name)).iter().filter(|dir| dir.is_dir()) {
        Segments::verify(dir).map_err(|error| {
            Failure::data(format!(
                "the copy is not whole: {error}; remove {} and run the backup again",
                to.display()
            ))
        })?;
    }
    Ok(())
}

fn is_temporary(name: &str) -> bool {
    // The object store's are `NAME#N`, ours `NAME.new`.
    name.contains('#') || name.ends_with(".new") || LOCKS.contains(&name)
}

/// Copies everything below a directory that has no fixed place in the order. A file that vanishes
/// meanwhile was replaced or is not needed any more.
fn others(copier: &mut Copier, dir: &Path) -> Result<(), Failure> {
    let is_top = dir.as_os_str().is_empty();
    for name in names(&copier.from.join(dir))? {
        let placed = [STATE, LOG, OUTBOX].contains(&name.as_str()) || KEYS.contains(&name.as_str());
        if is_temporary(&name) || (is_top && placed) {
            continue;
        }
        let path = dir.join(name);
        if copier.from.join(&path).is_dir() {
            others(copier, &path)?;
        } else {
            copier.file(&path)?;
        }
    }
    Ok(())
}

/// Copies a partition's database. Its files never change and are named by their content; a manifest
/// names those that are needed. The copy is consistent when, after everything that was listed is
/// copied, the same files are still there: then no new manifest came, and nothing that the newest
/// one names has gone.
fn partition(copier: &mut Copier, dir: &Path) -> Result<(), Failure> {
    for _ in 0..TRIES_MAX {
        let listed = files_of(&copier.from, dir)?;
        let mut all = true;
        for path in &listed {
            all &= copier.has(path) || copier.file(path)?;
        }
        if all && listed == files_of(&copier.from, dir)? {
            return copier.retain(|path| !path.starts_with(dir) || listed.contains(&path.into()));
        }
    }
    Err(Failure::data(format!(
        "{}: its files change faster than they can be copied; run the backup again",
        copier.from.join(dir).display()
    )))
}

/// Copies the segments of facts of a partition, after its database, which names them. All are opened
/// before the first one is copied: one that another takes the place of meanwhile is deleted some
/// minutes later, however long the copying takes.
fn facts(copier: &mut Copier, dir: &Path) -> Result<(), Failure> {
    if !copier.from.join(dir).is_dir() {
        return Ok(());
    }
    let mut opened = Vec::new();
    for path in files_of(&copier.from, dir)? {
        if let Some(file) = open(&copier.from.join(&path))? {
            opened.push((path, file));
        }
    }
    for (path, file) in opened {
        let bytes = length(&copier.from.join(&path), &file)?;
        copier.opened(&path, &file, bytes)?;
    }
    Ok(())
}

fn files_of(from: &Path, dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for name in names(&from.join(dir))? {
        let path = dir.join(&name);
        if from.join(&path).is_dir() {
            files.extend(files_of(from, &path)?);
        } else if !is_temporary(&name) {
            files.push(path);
        }
    }
    Ok(files)
}

/// Copies the segments of a log, oldest first: those that there were at the beginning, the last one
/// up to its length then. When a segment has gone it was trimmed, and with it all before it: their
/// copies are removed.
fn log(copier: &mut Copier, log: &Path) -> Result<bool, Failure> {
    let dir = copier.from.join(log);
    let names = names(&dir)?;
    let segments: Vec<&String> = names.iter().filter(|name| is_segment(name)).collect();
    for name in &segments {
        let path = log.join(name);
        match open(&dir.join(name))? {
            Some(file) => {
                let bytes = length(&dir.join(name), &file)?;
                copier.opened(&path, &file, bytes)?;
            }
            None => copier.retain(|copied| !copied.starts_with(log))?,
        }
    }
    Ok(!segments.is_empty())
}

fn is_segment(name: &str) -> bool {
    name.ends_with(".seg")
}

fn length(path: &Path, file: &File) -> Result<u64, Failure> {
    file.metadata().map(|meta| meta.len()).map_err(|error| cannot("read", path, &error))
}

/// The outbox's segments, held open so that they can still be read after they are deleted: a
/// segment is deleted when it is acknowledged, and the log may have been copied before its batches
/// came there.
struct HeldOutbox {
    dir: PathBuf,
    files: BTreeMap<String, File>,
}

impl HeldOutbox {
    fn new(dir: PathBuf) -> Self {
        Self { dir, files: BTreeMap::new() }
    }

    /// Runs `work`, which copies other parts, and opens new segments meanwhile. A segment that
    /// comes and goes between two looks is missed; the check of the copy finds the gap.
    fn during<T>(&mut self, work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        self.look()?;
        std::thread::scope(|scope| {
            let (done, waits) = mpsc::channel::<()>();
            let looks = scope.spawn(move || {
                while waits.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
                    self.look()?;
                }
                Ok(())
            });
            let result = work();
            drop(done);
            let died = || Failure::fatal("the thread that holds the outbox has died");
            let looked = looks.join().unwrap_or_else(|_| Err(died()));
            let value = result?;
            looked.map(|()| value)
        })
    }

    /// Opens the segments that are new.
    fn look(&mut self) -> Result<(), Failure> {
        let apart = names(&self.dir.join(APART))?.into_iter().map(|name| format!("{APART}/{name}"));
        let all = names(&self.dir)?.into_iter().chain(apart);
        for name in all.filter(|name| is_segment(name)) {
            if !self.files.contains_key(&name)
                && let Some(file) = open(&self.dir.join(&name))?
            {
                self.files.insert(name, file);
            }
        }
        Ok(())
    }

    /// Copies the outbox. The tallies come after the segments: a tally that is marked for a batch
    /// that the copy lacks is reported again, as after a crash; one that is in a batch of the copy
    /// is known by its mark.
    fn copy(mut self, copier: &mut Copier) -> Result<(), Failure> {
        self.look()?;
        let mut held = Vec::new();
        for (name, file) in self.files {
            let bytes = length(&self.dir.join(&name), &file)?;
            held.push((Path::new(OUTBOX).join(name), file, bytes));
        }
        for (path, file, bytes) in held {
            copier.opened(&path, &file, bytes)?;
        }
        let others = names(&self.dir)?.into_iter().filter(|name| {
            let placed = [ACKED, TALLIES, APART, APART_GONE].contains(&name.as_str());
            !is_segment(name) && !is_temporary(name) && !placed
        });
        for name in others {
            copier.file(&Path::new(OUTBOX).join(name))?;
        }
        match open(&self.dir.join(TALLIES))? {
            Some(file) => tallies(copier, file),
            None => Ok(()),
        }
    }
}

/// Copies the file of tallies, whose slots are written in place: it is read until two readings are
/// the same, so that no slot is half old and half new.
fn tallies(copier: &mut Copier, mut file: File) -> Result<(), Failure> {
    let path = Path::new(OUTBOX).join(TALLIES);
    let source = copier.from.join(&path);
    let mut read = || -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        file.rewind()?;
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let fail = |error: std::io::Error| cannot("read", &source, &error);
    let mut before = read().map_err(fail)?;
    for _ in 0..TRIES_MAX {
        let now = read().map_err(fail)?;
        if now == before {
            let mode = file.metadata().map_err(fail)?.permissions().mode() & 0o777;
            return copier.bytes(&path, &now, mode);
        }
        before = now;
    }
    Err(Failure::data(format!("{} changes all the time; run it again", source.display())))
}

#[cfg(test)]
mod tests;
