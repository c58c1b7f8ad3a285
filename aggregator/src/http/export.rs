//! `GET /v1/partitions/{partition}/cells`: everything that a partition has counted in a range, as
//! lines of JSON (NDJSON). The first says at which position, the last that nothing is missing; those
//! between add up where they name the same.

use axum::body::Body;
use bytes::Bytes;
use futures::stream;
use serde::Serialize;
use shared::{Country, Currency, Device, Id, Kind, Minute};

use super::answers::Reasons;
use super::reasons;
use crate::count::Dimensions;
use crate::query::{Export, Row};
use crate::store::View;

#[derive(Serialize)]
#[serde(untagged)]
enum Line {
    Position(Position),
    Account {
        minute: Minute,
        declared: u64,
        imported: u64,
        counted: u64,
        duplicate: u64,
        reasons: Reasons,
    },
    Cell {
        minute: Minute,
        #[serde(flatten)]
        cell: Cell,
        count: u64,
    },
    Spend {
        minute: Minute,
        #[serde(flatten)]
        cell: Cell,
        currency: Currency,
        micros: i64,
    },
    End {
        end: bool,
    },
}

/// The last message that is counted: all empty before the first.
#[derive(Serialize)]
struct Position {
    partition: u16,
    partitions: usize,
    sequence: u64,
    log: String,
    digest: String,
    /// Edges of which nothing counts any more.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cut_off: Vec<CutOff>,
}

/// An edge, with its shards, that has used up what is kept of one: what comes from this batch of this
/// message on is `over_quota`.
#[derive(Serialize)]
struct CutOff {
    edge: Id,
    sequence: u64,
    entry: u16,
}

#[derive(Serialize)]
struct Cell {
    ad: Id,
    #[serde(skip_serializing_if = "Id::is_none")]
    publisher: Id,
    country: Country,
    device: Device,
    kind: Kind,
    valid: bool,
}

impl From<Dimensions> for Cell {
    fn from(of: Dimensions) -> Self {
        let Dimensions { ad, publisher, country, device, kind, valid } = of;
        Self { ad, publisher, country, device, kind, valid }
    }
}

impl From<Row> for Line {
    fn from(row: Row) -> Self {
        match row {
            Row::Account(minute, account) => Self::Account {
                minute,
                declared: account.declared,
                imported: account.imported,
                counted: account.counted,
                duplicate: account.duplicate,
                reasons: reasons(&account.reasons),
            },
            Row::Cell(minute, of, count) => Self::Cell { minute, cell: of.into(), count },
            Row::Spend(minute, of, currency, micros) => {
                Self::Spend { minute, cell: of.into(), currency, micros }
            }
        }
    }
}

enum Step {
    Head,
    Rows,
    Done,
}

/// The lines, as they are asked for. A store that fails in the middle cuts the connection: without
/// the last line an answer is none.
pub(super) fn body<V: View>(partition: u16, partitions: usize, export: Export<V>) -> Body {
    let start = (export, Step::Head);
    Body::from_stream(stream::try_unfold(start, move |(mut export, step)| async move {
        let (lines, next) = match step {
            Step::Head => {
                (vec![Line::Position(position(partition, partitions, &export))], Step::Rows)
            }
            Step::Rows => {
                let piece = export.piece().await.inspect_err(|error| {
                    tracing::warn!(%error, "the cells of a partition are cut off");
                })?;
                match piece {
                    Some(rows) => (rows.into_iter().map(Line::from).collect(), Step::Rows),
                    None => (vec![Line::End { end: true }], Step::Done),
                }
            }
            Step::Done => return Ok::<_, axum::BoxError>(None),
        };
        Ok(Some((text(&lines)?, (export, next))))
    }))
}

fn position<V>(partition: u16, partitions: usize, export: &Export<V>) -> Position {
    let hex = shared::text::hex;
    let (sequence, log, digest) = export.position.map_or_else(Default::default, |position| {
        (position.sequence, hex(&position.identity), hex(&position.digest))
    });
    let cut_off = export.cut_off.iter().map(|(edge, at)| CutOff {
        edge: *edge,
        sequence: at.sequence,
        entry: at.entry,
    });
    Position { partition, partitions, sequence, log, digest, cut_off: cut_off.collect() }
}

fn text(lines: &[Line]) -> Result<Bytes, serde_json::Error> {
    let mut text = Vec::with_capacity(lines.len() * 128);
    for line in lines {
        serde_json::to_writer(&mut text, line)?;
        text.push(b'\n');
    }
    Ok(text.into())
}
