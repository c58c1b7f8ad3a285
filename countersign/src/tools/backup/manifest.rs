//! The list of a backup's files. It is written last, so a directory without it is no finished
//! backup.

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use shared::Timestamp;

use crate::data::{BACKUP_LIST as NAME, Mode, parse_json, read_if_there, write_json};
use crate::failure::Failure;

const VERSION: u32 = 1;

/// The list of a copy's files.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    version: u32,
    /// When it was taken, ms since 1970.
    pub(super) created_at: Timestamp,
    /// In the order in which they were copied.
    pub(super) files: Vec<Entry>,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    /// The path below the directory.
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    /// BLAKE3, in hexadecimal.
    pub(super) digest: String,
    /// Who may read it: the permission bits.
    pub(super) mode: u32,
}

impl Manifest {
    pub(super) fn new(created_at: Timestamp, files: Vec<Entry>) -> Self {
        Self { version: VERSION, created_at, files }
    }

    /// Durable when it returns.
    pub(super) fn write(&self, dir: &Path) -> Result<(), Failure> {
        write_json(&dir.join(NAME), self, Mode::Plain)
    }

    /// # Errors
    /// When there is none, or it cannot be used.
    pub(super) fn read(dir: &Path) -> Result<Self, Failure> {
        let path = dir.join(NAME);
        let text = read_if_there(&path)?.ok_or_else(|| {
            Failure::data(format!(
                "{} has no {NAME}: it is no copy that `countersign backup` has finished",
                dir.display()
            ))
        })?;
        let manifest: Self = parse_json(&path, &text)?;
        let fail = |what: String| Err(Failure::data(format!("{}: {what}", path.display())));
        if manifest.version != VERSION {
            let version = manifest.version;
            return fail(format!("version {version}; this build reads version {VERSION}"));
        }
        let is_below = |entry: &Entry| {
            let mut parts = entry.path.components();
            parts.clone().count() > 0 && parts.all(|part| matches!(part, Component::Normal(_)))
        };
        if let Some(entry) = manifest.files.iter().find(|entry| !is_below(entry)) {
            return fail(format!("{} does not lie below it", entry.path.display()));
        }
        Ok(manifest)
    }
}
