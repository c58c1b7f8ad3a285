//! Where catalogues come from. In this build a file; campaigns come behind the same trait.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{Catalogue, CatalogueError};

/// So many notes on one catalogue go to the log; `countersign catalogue check` shows all of them.
const NOTES_SHOWN_MAX: usize = 20;

/// A place that has a catalogue.
///
/// Duties: [`CatalogueSource::poll`] gives a catalogue only when it may differ from the one given
/// last, and an error only once for each change that caused it; it may block for a disk. Whoever
/// asks keeps the last good one.
pub trait CatalogueSource: Send + 'static {
    /// The catalogue, when it has changed since it was last asked for.
    ///
    /// # Errors
    /// [`CatalogueError`]: the new one cannot be used.
    fn poll(&mut self) -> Result<Option<Catalogue>, CatalogueError>;

    /// What it is, for the log.
    fn name(&self) -> String;
}

/// A file, TOML or (named `….json`) JSON. A change is seen by its modification time and length.
#[derive(Debug)]
pub struct CatalogueFile {
    path: PathBuf,
    seen: Option<Seen>,
}

/// What tells one state of the file from another; `None`: it cannot be looked at.
type Seen = Option<(SystemTime, u64)>;

impl CatalogueFile {
    /// Reads the file, and gives what reads its changes.
    ///
    /// # Errors
    /// [`CatalogueError`]: it cannot be read, or names every place that is wrong.
    pub fn open(path: impl Into<PathBuf>) -> Result<(Self, Catalogue), CatalogueError> {
        let path = path.into();
        // Looked at before it is read: a change in between is then read again.
        let seen = Some(look(&path));
        let catalogue = read(&path)?;
        Ok((Self { path, seen }, catalogue))
    }
}

impl CatalogueSource for CatalogueFile {
    fn poll(&mut self) -> Result<Option<Catalogue>, CatalogueError> {
        let now = look(&self.path);
        if self.seen.replace(now) == Some(now) {
            return Ok(None);
        }
        read(&self.path).map(Some)
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }
}

fn look(path: &Path) -> Seen {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len()))
}

fn read(path: &Path) -> Result<Catalogue, CatalogueError> {
    let place = |error: CatalogueError| {
        let lines = error.0.into_iter().map(|line| format!("{}: {line}", path.display()));
        CatalogueError(lines.collect())
    };
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|error| place(CatalogueError(vec![error.to_string()])))?;
    let is_json = path.extension().is_some_and(|extension| extension == "json");
    let catalogue = if is_json { Catalogue::from_json(&text) } else { Catalogue::from_toml(&text) };
    let catalogue = catalogue.map_err(place)?;
    for note in catalogue.notes().iter().take(NOTES_SHOWN_MAX) {
        tracing::info!("{}: {note}", path.display());
    }
    Ok(catalogue)
}
