//! Copies files, durably, and notes what they are.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};

use super::manifest::Entry;
use crate::data::{cannot, make_private_dir};
use crate::failure::Failure;

const BUFFER_BYTES: usize = 1 << 20;

/// Copies files from one directory into another, which is new.
pub(super) struct Copier {
    pub(super) from: PathBuf,
    to: PathBuf,
    files: Vec<Entry>,
    /// Directories that were made, the target itself too.
    dirs: BTreeSet<PathBuf>,
    bar: ProgressBar,
    buffer: Vec<u8>,
}

impl Copier {
    /// Makes the target. `bytes` is about how much will be copied, for the progress bar.
    ///
    /// # Errors
    /// When the target is not empty, lies in what is copied, or cannot be made.
    pub(super) fn new(verb: &str, from: &Path, to: &Path, bytes: u64) -> Result<Self, Failure> {
        require_new(to)?;
        make_private_dir(to).map_err(|error| cannot("make", to, &error))?;
        let whole = |path: &Path| path.canonicalize().map_err(|e| cannot("find", path, &e));
        if whole(to)?.starts_with(whole(from)?) {
            let (to, from) = (to.display(), from.display());
            return Err(Failure::usage(format!("{to} lies in {from}: name one outside")));
        }
        let style = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {eta}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        // Hidden where standard error is no terminal.
        let bar = ProgressBar::new(bytes).with_style(style).with_message(verb.to_owned());
        Ok(Self {
            from: from.to_owned(),
            to: to.to_owned(),
            files: Vec::new(),
            dirs: BTreeSet::from([to.to_owned()]),
            bar,
            buffer: vec![0; BUFFER_BYTES],
        })
    }

    /// Copies a whole file by its path below the directory; false when it is gone.
    pub(super) fn file(&mut self, path: &Path) -> Result<bool, Failure> {
        match open(&self.from.join(path))? {
            Some(file) => self.opened(path, &file, u64::MAX).map(|()| true),
            None => Ok(false),
        }
    }

    /// Copies the first `bytes` of an open file, or as many as it has.
    pub(super) fn opened(&mut self, path: &Path, file: &File, bytes: u64) -> Result<(), Failure> {
        let source = self.from.join(path);
        let read = |error: io::Error| cannot("read", &source, &error);
        let mode = file.metadata().map_err(read)?.permissions().mode() & 0o777;
        let target = self.to.join(path);
        let mut written = self.create(&target, mode)?;
        let mut digest = blake3::Hasher::new();
        let (mut file, mut length) = (file.take(bytes), 0_u64);
        loop {
            let count = match file.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(read(error)),
            };
            digest.update(&self.buffer[..count]);
            let done = written.write_all(&self.buffer[..count]);
            done.map_err(|error| cannot("write", &target, &error))?;
            length += count as u64;
            self.bar.inc(count as u64);
        }
        written.sync_all().map_err(|error| cannot("write", &target, &error))?;
        let digest = digest.finalize().to_hex().to_string();
        self.files.push(Entry { path: path.to_owned(), bytes: length, digest, mode });
        Ok(())
    }

    /// Writes a file whose bytes were read already.
    pub(super) fn bytes(&mut self, path: &Path, bytes: &[u8], mode: u32) -> Result<(), Failure> {
        let target = self.to.join(path);
        let mut file = self.create(&target, mode)?;
        let written = file.write_all(bytes).and_then(|()| file.sync_all());
        written.map_err(|error| cannot("write", &target, &error))?;
        let (bytes, digest) = (bytes.len() as u64, blake3::hash(bytes).to_hex().to_string());
        self.files.push(Entry { path: path.to_owned(), bytes, digest, mode });
        Ok(())
    }

    /// Copies a file and checks it against its entry in a manifest.
    pub(super) fn expected(&mut self, entry: &Entry) -> Result<(), Failure> {
        let source = self.from.join(&entry.path);
        let fail = |what: &str| Err(Failure::data(format!("{}: {what}", source.display())));
        if !self.file(&entry.path)? {
            return fail("it is missing");
        }
        match self.files.last_mut() {
            Some(copied) if copied.digest == entry.digest && copied.bytes == entry.bytes => {
                // The backup may have been moved by something that does not keep permissions.
                let target = self.to.join(&entry.path);
                fs::set_permissions(&target, fs::Permissions::from_mode(entry.mode))
                    .map_err(|error| cannot("set the mode of", &target, &error))
            }
            _ => fail("it is not what was backed up"),
        }
    }

    /// Whether this file was copied.
    pub(super) fn has(&self, path: &Path) -> bool {
        self.files.iter().any(|file| file.path == path)
    }

    /// Removes the copied files that `keep` does not want.
    pub(super) fn retain(&mut self, keep: impl Fn(&Path) -> bool) -> Result<(), Failure> {
        let (kept, dropped) =
            std::mem::take(&mut self.files).into_iter().partition(|file: &Entry| keep(&file.path));
        self.files = kept;
        for file in dropped {
            let path = self.to.join(&file.path);
            fs::remove_file(&path).map_err(|error| cannot("remove", &path, &error))?;
        }
        Ok(())
    }

    /// Makes the names durable; returns the files and the sum of their bytes.
    pub(super) fn finish(self) -> Result<(Vec<Entry>, u64), Failure> {
        self.bar.finish_and_clear();
        for dir in self.dirs {
            let synced = File::open(&dir).and_then(|dir| dir.sync_all());
            synced.map_err(|error| cannot("write", &dir, &error))?;
        }
        let bytes = self.files.iter().map(|file| file.bytes).sum();
        Ok((self.files, bytes))
    }

    fn create(&mut self, path: &Path, mode: u32) -> Result<File, Failure> {
        let mut above = path.parent();
        while let Some(dir) = above.filter(|dir| self.dirs.insert((*dir).to_owned())) {
            above = dir.parent();
        }
        if let Some(dir) = path.parent() {
            make_private_dir(dir).map_err(|error| cannot("make", dir, &error))?;
        }
        let mut options = File::options();
        options.create_new(true).write(true).mode(mode);
        options.open(path).map_err(|error| cannot("make", path, &error))
    }
}

/// Fails unless the directory is missing or empty.
pub(super) fn require_new(dir: &Path) -> Result<(), Failure> {
    let is_empty = match fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == ErrorKind::NotFound,
    };
    let what = || format!("{} is no empty directory: name a new one, or remove it", dir.display());
    if is_empty { Ok(()) } else { Err(Failure::usage(what())) }
}

/// Opens a file; `None` when it is gone.
pub(super) fn open(path: &Path) -> Result<Option<File>, Failure> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(cannot("read", path, &error)),
    }
}

/// The names in a directory, sorted; none when there is no such directory.
pub(super) fn names(dir: &Path) -> Result<Vec<String>, Failure> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(cannot("list", dir, &error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| cannot("list", dir, &error))?;
        let name = entry.file_name().into_string().map_err(|name| {
            Failure::data(format!("{}: {} is no name of ours", dir.display(), name.display()))
        })?;
        names.push(name);
    }
    names.sort();
    Ok(names)
}

/// Bytes of all files below a directory, as far as they can be seen: for a progress bar.
pub(super) fn bytes_in(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => bytes_in(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}
