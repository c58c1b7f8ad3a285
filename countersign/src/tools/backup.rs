//! `countersign backup` and `countersign restore`: a copy of a data directory, taken while `up` runs.
//!
//! The order of copying decides whether the parts of the copy belong together ([`parts`]): whatever
//! a part refers to must be in a part that is copied after it.
//!
//! | order | part | because |
//! |---|---|---|
//! | 1 | whatever else lies there | it was made from the log, and must not be ahead of it |
//! | 2 | `state/` | its positions lie in the log, which only grows; of each partition first the database, then the segments of facts that it names |
//! | 3 | `log/` | batches that it has are in the outbox, or were acknowledged before |
//! | 4 | `outbox/` | it is held open from the beginning, so that no batch is missing that was acknowledged, and deleted, while the log was copied; so it has every number that the log has, and the next start goes on after it |
//! | 5 | keys | every token in the copy is signed with a key in the copy |
//!
//! So the copy is what a crash would have left at one moment: what was accepted before the backup
//! began is in it.

mod copy;
mod manifest;
mod parts;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use indicatif::HumanBytes;
use shared::Clock as _;
use shared::ambient::SystemClock;

use crate::cli::{BackupArgs, RestoreArgs};
use crate::data::{cannot, sync_parent};
use crate::failure::Failure;
use crate::terminal::line;
use copy::Copier;
use manifest::Manifest;

/// Copies a data directory.
///
/// # Errors
/// When it is no data directory, the target is not empty, or a file cannot be read or written.
pub(crate) fn backup(args: &BackupArgs) -> Result<ExitCode, Failure> {
    parts::require(&args.data)?;
    let mut copier = Copier::new("copying", &args.data, &args.to, copy::bytes_in(&args.data))?;
    let has_log = parts::copy(&mut copier)?;
    let (files, bytes) = copier.finish()?;
    parts::verify(&args.to)?;
    let count = files.len();
    Manifest::new(SystemClock.now(), files).write(&args.to)?;
    line(format!(
        "backed up {count} files, {}, into {}; it holds secrets: keep it as safe as the data",
        HumanBytes(bytes),
        args.to.display()
    ));
    if !has_log {
        line("the event log is not in it: it lies elsewhere, and needs a backup of its own");
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes a data directory of a copy.
///
/// # Errors
/// When the copy is not whole, the target is not empty, or a file cannot be read or written.
pub(crate) fn restore(args: &RestoreArgs) -> Result<ExitCode, Failure> {
    let manifest = Manifest::read(&args.from)?;
    let bytes = manifest.files.iter().map(|file| file.bytes).sum();
    copy::require_new(&args.data)?;
    // The directory gets its name only when it is whole.
    let mut beside = args.data.as_os_str().to_owned();
    beside.push(".restoring");
    let beside = PathBuf::from(beside);
    let mut copier = Copier::new("restoring", &args.from, &beside, bytes)?;
    for file in &manifest.files {
        copier.expected(file).map_err(|failure| unfinished(&beside, &failure))?;
    }
    let (files, bytes) = copier.finish()?;
    let renamed = fs::rename(&beside, &args.data).and_then(|()| sync_parent(&args.data));
    renamed.map_err(|error| cannot("make", &args.data, &error))?;
    line(format!(
        "restored {} files, {}, of {} into {}; next: countersign up --data {3}",
        files.len(),
        HumanBytes(bytes),
        manifest.created_at,
        args.data.display()
    ));
    Ok(ExitCode::SUCCESS)
}

fn unfinished(dir: &Path, failure: &Failure) -> Failure {
    Failure::data(format!(
        "{}; remove {}, and restore from another copy",
        failure.message,
        dir.display()
    ))
}
