//! `GET /v1/partitions/{partition}/cells`: the lines of [`api::export`].

use api::export::{Cell, CutOff, Line, Position};
use axum::body::Body;
use bytes::Bytes;
use futures::stream;

use super::reasons;
use crate::query::{Export, Names, Row};
use crate::store::{StoreError, View};

fn line(row: &Row, names: &Names) -> Result<Line, StoreError> {
    let cell = |dimensions| Cell::new(dimensions, |id| names.name(id));
    Ok(match *row {
        Row::Account(minute, account) => Line::Account {
            minute,
            declared: account.declared,
            imported: account.imported,
            counted: account.counted,
            duplicate: account.duplicate,
            reasons: reasons(&account.reasons),
        },
        Row::Cell(minute, ref dimensions, count) => {
            Line::Cell { minute, cell: cell(dimensions)?, count }
        }
        Row::Amount(minute, ref dimensions, amount, currency, micros) => {
            Line::Amount { minute, cell: cell(dimensions)?, amount, currency, micros }
        }
    })
}

enum Step {
    Head,
    Rows,
    Done,
}

/// The lines, made as the client reads them. When the store fails in the middle the connection is
/// cut: an answer without its last line is not complete.
pub(super) fn body<V: View>(partition: u16, partitions: u16, export: Export<V>) -> Body {
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
                    Some((rows, names)) => {
                        let lines = rows.iter().map(|row| line(row, &names));
                        (lines.collect::<Result<_, _>>()?, Step::Rows)
                    }
                    None => (vec![Line::End { end: true }], Step::Done),
                }
            }
            Step::Done => return Ok::<_, axum::BoxError>(None),
        };
        Ok(Some((text(&lines)?, (export, next))))
    }))
}

fn position<V>(partition: u16, partitions: u16, export: &Export<V>) -> Position {
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
