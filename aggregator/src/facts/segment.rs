//! Segments: the facts of an hour, a day or a month as one immutable Parquet file, and beside it a
//! small file that says where in it the rows of each ad are. Pure: bytes in, bytes out.
//!
//! Rows are in the order of ad, campaign, advertiser, minute and second. What the columns of the
//! Parquet file mean is told to its readers in `docs/answers.md`; what the file beside it has is in
//! [`directory`]. All that stands beside the Parquet file can be made anew from it ([`rebuild`]).

mod beside;
pub(crate) mod directory;
pub(crate) mod nodes;
mod read;
mod rebuild;
mod table;
#[cfg(test)]
mod tests;
pub(crate) mod totals;
mod write;

pub(crate) use directory::Directory;
pub(crate) use read::{Footer, Ranges};
pub(crate) use rebuild::Rebuild;
pub(crate) use write::{Made, Tables, Writer, merge};

/// Rows of a row group of the Parquet file: what is read at least. A row of a narrow column is a
/// byte when it is read, so it is some hundred kilobytes.
pub(crate) const GROUP_ROWS: usize = 1 << 18;

/// Why a segment is not made or read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct SegmentError(String);

impl SegmentError {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

impl From<parquet::errors::ParquetError> for SegmentError {
    fn from(error: parquet::errors::ParquetError) -> Self {
        Self(error.to_string())
    }
}

impl From<arrow_schema::ArrowError> for SegmentError {
    fn from(error: arrow_schema::ArrowError) -> Self {
        Self(error.to_string())
    }
}
