//! What the edge takes for no person's act, and what it keeps of persons.

use std::path::{Path, PathBuf};

use edge::networks::DataCentres;
use serde::{Deserialize, Serialize};

use super::told;
use crate::failure::Failure;

/// What is taken for no person's act: it is answered and kept as any other, and not counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct EdgeVerdicts {
    /// A click sooner after its ad was given out; 0: none.
    pub(crate) click_too_soon_ms: u64,
    /// Clicks of one visitor in a window; 0: any number.
    pub(crate) clicks_max: u64,
    /// The window.
    pub(crate) clicks_window_s: u64,
    /// A table of networks; empty: nothing is known of them.
    pub(crate) networks: PathBuf,
    /// A list of data centres; empty: the program's own.
    pub(crate) data_centres: PathBuf,
}

/// What is kept of visitors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct EdgePrivacy {
    /// Of addresses: `dropped`, `truncated` or `hashed`.
    pub(crate) address: String,
    /// TCF purposes that must be consented to.
    pub(crate) purposes: Vec<u64>,
    /// The operator's number in the Global Vendor List; 0: none.
    pub(crate) vendor: u64,
}

impl Default for EdgeVerdicts {
    fn default() -> Self {
        Self {
            click_too_soon_ms: told::default("CLICK_TOO_SOON_MS"),
            clicks_max: told::default("CLICKS_MAX"),
            clicks_window_s: told::default("CLICKS_WINDOW_S"),
            networks: PathBuf::new(),
            data_centres: PathBuf::new(),
        }
    }
}

impl Default for EdgePrivacy {
    fn default() -> Self {
        let vendor = told::default("VENDOR");
        Self { address: "truncated".to_owned(), purposes: vec![1, 7, 8, 9], vendor }
    }
}

impl EdgeVerdicts {
    /// The list of data centres.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn data_centres(&self) -> Result<DataCentres, Failure> {
        if self.data_centres.as_os_str().is_empty() {
            return Ok(DataCentres::default());
        }
        let named = format!("edge.verdicts.data_centres: {}", self.data_centres.display());
        let text = std::fs::read_to_string(&self.data_centres);
        let text = text.map_err(|error| Failure::usage(format!("{named}: {error}")))?;
        text.parse().map_err(|why| Failure::usage(format!("{named}: {why}")))
    }
}

/// Whether a table can be opened, if there is one: the edge reads it.
///
/// # Errors
/// When it cannot.
pub(super) fn check_table(name: &str, path: &Path) -> Result<(), Failure> {
    let Some(path) = table(path) else { return Ok(()) };
    let wrong = |error| Failure::usage(format!("{name}: {}: {error}", path.display()));
    std::fs::File::open(&path).map(drop).map_err(wrong)
}

/// A table's file, if there is one.
pub(crate) fn table(path: &Path) -> Option<PathBuf> {
    Some(path.to_owned()).filter(|path| !path.as_os_str().is_empty())
}
