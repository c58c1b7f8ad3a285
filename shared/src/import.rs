//! Imported logs of other servers: how a row becomes an event that is counted once, and what an
//! importer sends to a collector.

use serde::{Deserialize, Serialize};

use crate::counted::Codes;
use crate::event::{Country, Device, Kind};
use crate::id::{BlockId, ImpressionId, SourceId};
use crate::limits::{CHUNK_EVENTS_MAX, CHUNK_NAMES_BYTES_MAX};
use crate::name::{AdName, NameBuf, PlacementName, PublisherName, is_own_id};
use crate::text::{hex, unhex};
use crate::time::Timestamp;
use crate::wire::{Declared, declared};

/// The issuer of every imported row.
pub use crate::keys::IMPORT_ISSUER as ISSUER;

/// The most rows between the first and the end of one chunk: it touches two blocks at most.
pub const CHUNK_ROWS_MAX: u64 = 65_536;

/// The source of a log that has a name.
#[must_use]
pub fn named_source(name: &str) -> SourceId {
    source("countersign named source v1", name.as_bytes())
}

/// The source of a log without a name. `digest`: that of its bytes up to the end of the first row,
/// so that the log has the same source when it has grown.
#[must_use]
pub fn begun_source(digest: &[u8; 32]) -> SourceId {
    source("countersign begun source v1", digest)
}

/// The source that builds before 28 November 2026 gave a log without a name, by the digest of all
/// of its decompressed bytes.
#[must_use]
pub fn unnamed_source(content_digest: &[u8; 32]) -> SourceId {
    source("countersign unnamed source v1", content_digest)
}

/// The source of a log's rows that were rejected, and mended since. They are numbered by their
/// lines, which begin with 1. So row 0 never comes, the rows are never taken as a whole, and each
/// is known by a bit of its own.
#[must_use]
pub fn mended_source(log: SourceId) -> SourceId {
    source("countersign mended source v1", &log.0)
}

fn source(context: &'static str, bytes: &[u8]) -> SourceId {
    let mut id = [0; 16];
    blake3::Hasher::new_derive_key(context).update(bytes).finalize_xof().fill(&mut id);
    SourceId(id)
}

/// The block of the 65 536 rows of a log that begin with row `index × 65 536`.
#[must_use]
pub fn block(source: SourceId, index: u64) -> BlockId {
    let mut id = [0; 10];
    let mut hasher = blake3::Hasher::new_derive_key("countersign import block v1");
    hasher.update(&source.0).update(&index.to_le_bytes()).finalize_xof().fill(&mut id);
    BlockId(id)
}

/// The impression that a row stands for.
#[must_use]
pub fn impression(source: SourceId, row: u64) -> ImpressionId {
    let seq = u16::try_from(row & 0xffff).expect("masked to 16 bits");
    ImpressionId { block: block(source, row >> 16), seq }
}

/// A piece of a log: the body of `POST /v1/import`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportChunk {
    /// Of which log.
    pub source: SourceId,
    /// Its first row, from 0; rows that could not be read count too.
    pub first_row: u64,
    /// The row after its last.
    pub end_row: u64,
    /// BLAKE3 of the log's decompressed bytes up to the end of row `end_row - 1`.
    #[serde(with = "hex_digest")]
    pub digest: [u8; 32],
    /// What happened in these rows, at most [`CHUNK_EVENTS_MAX`].
    pub events: Vec<ImportEvent>,
}

/// One event of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportEvent {
    /// In which row.
    pub row: u64,
    /// What happened.
    pub kind: Kind,
    /// When, ms since 1970.
    pub at: Timestamp,
    /// To which ad.
    pub ad: AdName,
    /// At which publisher, if the log says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publisher: Option<PublisherName>,
    /// On which placement, if the log says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<PlacementName>,
    /// From which country.
    #[serde(default)]
    pub country: Country,
    /// On what class of device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<Device>,
    /// From which address, if the log says; only its network is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<std::net::IpAddr>,
    /// By whom, if the log says; only a keyed hash is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

impl ImportEvent {
    /// What the log says of the visitor, in codes.
    #[must_use]
    pub fn codes(&self) -> Codes {
        Codes::new(self.country, self.device.unwrap_or_default())
    }

    /// How many bytes those of its names have that are not their own ids.
    #[must_use]
    pub fn names_bytes(&self) -> usize {
        let names = [
            Some(self.ad.as_str()),
            self.publisher.as_ref().map(NameBuf::as_str),
            self.placement.as_ref().map(NameBuf::as_str),
        ];
        // A short name with a dot or a blank has a digest too.
        let is_long = |name: &&str| !is_own_id(name);
        names.into_iter().flatten().filter(is_long).map(str::len).sum()
    }
}

impl ImportChunk {
    /// Checks the bounds that the types do not have.
    ///
    /// # Errors
    /// Says which bound is broken: more events or rows than a chunk may have, rows out of order or
    /// outside the chunk, one row with one kind twice.
    pub fn check(&self) -> Result<(), String> {
        if self.events.len() > CHUNK_EVENTS_MAX {
            return Err(format!("a chunk has at most {CHUNK_EVENTS_MAX} events"));
        }
        if self.events.iter().map(ImportEvent::names_bytes).sum::<usize>() > CHUNK_NAMES_BYTES_MAX {
            return Err(format!(
                "the names of a chunk that are no ids of their own have at most \
                 {CHUNK_NAMES_BYTES_MAX} bytes together"
            ));
        }
        let rows = self.end_row.checked_sub(self.first_row);
        if rows.is_none_or(|rows| rows > CHUNK_ROWS_MAX) {
            return Err(format!("a chunk covers at most {CHUNK_ROWS_MAX} rows, in order"));
        }
        let inside = |e: &ImportEvent| (self.first_row..self.end_row).contains(&e.row);
        if let Some(event) = self.events.iter().find(|event| !inside(event)) {
            return Err(format!("row {} lies outside the chunk", event.row));
        }
        let key = |e: &ImportEvent| (e.row, e.kind);
        match self.events.windows(2).find(|pair| key(&pair[0]) >= key(&pair[1])) {
            Some(pair) => Err(format!("row {} is out of order or there twice", pair[1].row)),
            None => Ok(()),
        }
    }

    /// How many events it brings, by their minutes.
    #[must_use]
    pub fn declared(&self) -> Declared {
        declared(self.events.iter().map(|event| (event.at.minute(), 1)))
    }
}

mod hex_digest {
    use super::{hex, unhex};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8; 32], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&hex(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<[u8; 32], D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        unhex(&text).ok_or_else(|| D::Error::custom("a digest has 64 lower-case hex digits"))
    }
}
