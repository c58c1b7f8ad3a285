//! Sources of catalogues. There is one, a file; campaigns will be another behind the same trait.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{Catalogue, CatalogueError};

/// The most notes on one catalogue that are logged; `countersign catalogue check` shows all of them.
const NOTES_SHOWN_MAX: usize = 20;

/// A source of catalogues.
///
/// Duties: [`CatalogueSource::poll`] gives a catalogue only when it may differ from the last one that it
/// gave, and an error only once for each change that caused it. It may block for a disk. The caller keeps
/// the last good catalogue.
pub trait CatalogueSource: Send + 'static {
    /// The catalogue, when it has changed since the last call; `None` when it has not.
    ///
    /// # Errors
    /// [`CatalogueError`]: the new catalogue cannot be used.
    fn poll(&mut self) -> Result<Option<Catalogue>, CatalogueError>;

    /// The source's name, for the process's log.
    fn name(&self) -> String;
}

/// A file: JSON when its name ends in `.json`, else TOML. A change is noticed by its modification time and
/// length.
#[derive(Debug)]
pub struct CatalogueFile {
    path: PathBuf,
    seen: Option<Seen>,
}

/// Modification time and length, which tell one state of the file from another; `None` when they cannot be
/// read.
type Seen = Option<(SystemTime, u64)>;

impl CatalogueFile {
    /// Reads the file. Gives the source for later changes with the first catalogue.
    ///
    /// # Errors
    /// [`CatalogueError`]: the file cannot be read, or every place that is wrong in it.
    pub fn open(path: impl Into<PathBuf>) -> Result<(Self, Catalogue), CatalogueError> {
        let path = path.into();
        // The state is taken before the file is read, so that a change in between is noticed at the next poll.
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
