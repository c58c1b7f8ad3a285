//! What the edge takes for no person's act, and what it keeps of persons.

use std::path::{Path, PathBuf};

use edge::clicks::{Pace, WINDOW_S_MAX};
use edge::networks::DataCentres;
use edge::privacy::PrivacyPolicy;
use edge::verdict::{CLICK_TOO_SOON_MS, Rules};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// What is taken for no person's act: it is answered and kept as any other, and not counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct EdgeVerdicts {
    /// A click sooner after its ad was given out; 0: none.
    pub(crate) click_too_soon_ms: u64,
    /// Clicks of one visitor in a window; 0: any number.
    pub(crate) clicks_max: u32,
    /// The window.
    pub(crate) clicks_window_s: u32,
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
    pub(crate) purposes: Vec<u8>,
    /// The operator's number in the Global Vendor List; 0: none.
    pub(crate) vendor: u16,
}

impl Default for EdgeVerdicts {
    fn default() -> Self {
        let Pace { clicks, window_s } = Pace::default();
        Self {
            click_too_soon_ms: CLICK_TOO_SOON_MS,
            clicks_max: clicks,
            clicks_window_s: window_s,
            networks: PathBuf::new(),
            data_centres: PathBuf::new(),
        }
    }
}

impl Default for EdgePrivacy {
    fn default() -> Self {
        Self { address: "truncated".to_owned(), purposes: vec![1, 7, 8, 9], vendor: 0 }
    }
}

impl EdgeVerdicts {
    /// As the edge's core takes them.
    ///
    /// # Errors
    /// When the list of data centres cannot be read.
    pub(crate) fn rules(&self) -> Result<Rules, Failure> {
        let data_centres = if self.data_centres.as_os_str().is_empty() {
            DataCentres::default()
        } else {
            let named = format!("edge.verdicts.data_centres: {}", self.data_centres.display());
            let text = std::fs::read_to_string(&self.data_centres);
            let text = text.map_err(|error| Failure::usage(format!("{named}: {error}")))?;
            text.parse().map_err(|why| Failure::usage(format!("{named}: {why}")))?
        };
        Ok(Rules { click_too_soon_ms: self.click_too_soon_ms, data_centres })
    }

    /// How often one visitor may click.
    ///
    /// # Errors
    /// When the window is out of range.
    pub(crate) fn pace(&self) -> Result<Pace, Failure> {
        if !(1..=WINDOW_S_MAX).contains(&self.clicks_window_s) {
            let is = self.clicks_window_s;
            let what =
                format!("edge.verdicts.clicks_window_s: from 1 to {WINDOW_S_MAX}, and not {is}");
            return Err(Failure::usage(what));
        }
        Ok(Pace { clicks: self.clicks_max, window_s: self.clicks_window_s })
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

impl EdgePrivacy {
    /// As the edge's core takes it.
    ///
    /// # Errors
    /// When a purpose is none, or a word.
    pub(crate) fn policy(&self) -> Result<PrivacyPolicy, Failure> {
        let address = self.address.parse();
        let address =
            address.map_err(|why| Failure::usage(format!("edge.privacy.address: {why}")))?;
        if self.purposes.is_empty() || self.purposes.iter().any(|p| !(1..=24).contains(p)) {
            return Err(Failure::usage("edge.privacy.purposes: one or more, from 1 to 24"));
        }
        let purposes = self.purposes.iter().fold(0, |bits, purpose| bits | 1 << (purpose - 1));
        let vendor = Some(self.vendor).filter(|vendor| *vendor != 0);
        Ok(PrivacyPolicy { purposes, vendor, address })
    }
}
