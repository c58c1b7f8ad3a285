//! Asks the engine for what a partition has counted, as facts: numbers under names.

use std::ops::Range;

use api::export::{CELL, CutOff, Line, Position};
use api::routes;
use shared::Minute;

use crate::client::Api;
use crate::failure::Failure;

/// The names of a fact, those of [`CELL`]; all empty for an account.
pub(super) type Cell = [String; CELL.len()];

/// A number and its names: the minute, the cell, and what is counted of it: `valid` or `invalid`
/// events, `spend EUR`, or of an account `declared`, `imported`, `counted`, `duplicate`, a reason.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Fact {
    pub(super) minute: Minute,
    pub(super) cell: Cell,
    pub(super) what: String,
    pub(super) n: i64,
}

/// All facts of a partition in a range.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Counted {
    pub(super) partition: u16,
    pub(super) partitions: u16,
    /// The last message that is counted; 0 before the first.
    pub(super) sequence: u64,
    /// The log's identity, in hexadecimal.
    pub(super) log: String,
    pub(super) digest: String,
    /// Edges of which nothing counts any more.
    pub(super) cut_off: Vec<CutOff>,
    pub(super) facts: Vec<Fact>,
}

/// Asks for the facts of a partition.
///
/// # Errors
/// When the API refuses, is of another version, or cuts its answer off.
pub(super) async fn counted(
    api: &Api,
    partition: u16,
    range: &Range<Minute>,
) -> Result<Counted, Failure> {
    let (from, to) = (range.start.start().seconds(), range.end.start().seconds());
    let path = format!("{}?from={from}&to={to}", routes::CELLS.at(&[&partition]));
    let answer = api.bytes(&path).await?.ok_or_else(|| api.absent(&path))?;
    read(&answer).map_err(|why| Failure::server(format!("{path}: {why}")))
}

fn read(answer: &[u8]) -> Result<Counted, String> {
    let mut counted = Counted::default();
    let mut ended = false;
    for line in answer.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let line = serde_json::from_slice(line)
            .map_err(|error| format!("what this build does not understand ({error})"))?;
        match line {
            Line::Position(Position { partition, partitions, sequence, log, digest, cut_off }) => {
                let facts = counted.facts;
                counted = Counted { partition, partitions, sequence, log, digest, cut_off, facts };
            }
            Line::Account { minute, declared, imported, counted: valid, duplicate, reasons } => {
                let fixed = [
                    ("declared", declared),
                    ("imported", imported),
                    ("counted", valid),
                    ("duplicate", duplicate),
                ];
                let fixed = fixed.map(|(name, n)| (name.to_owned(), n));
                let cell = Cell::default();
                for (what, n) in fixed.into_iter().chain(reasons).filter(|(_, n)| *n != 0) {
                    let (n, cell) = (number(n)?, cell.clone());
                    counted.facts.push(Fact { minute, cell, what, n });
                }
            }
            Line::Cell { minute, cell, count } => {
                let what = if cell.valid { "valid" } else { "invalid" }.to_owned();
                counted.facts.push(Fact { minute, cell: cell.texts(), what, n: number(count)? });
            }
            Line::Amount { minute, cell, amount, currency, micros } => {
                let what = format!("{amount} {currency}");
                counted.facts.push(Fact { minute, cell: cell.texts(), what, n: micros });
            }
            Line::End { end } => ended = end,
        }
    }
    if ended { Ok(counted) } else { Err("the answer was cut off".to_owned()) }
}

fn number(n: u64) -> Result<i64, String> {
    i64::try_from(n).map_err(|_| format!("{n} of something in a minute"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const ANSWER: &str = r#"{"partition":3,"partitions":16,"sequence":9,"log":"ab","digest":"cd"}
{"minute":5,"declared":2,"imported":0,"counted":1,"duplicate":0,"reasons":{"bad_seal":1}}
{"minute":5,"ad":"a","publisher":"p","country":"DE","device":"phone","kind":"click","valid":true,"count":1}
{"minute":5,"ad":"a","country":"ZZ","device":"tv","kind":"impression","valid":true,"currency":"EUR","micros":7}
"#;

    #[test]
    fn an_answer_becomes_facts() {
        let counted = read(format!("{ANSWER}{{\"end\":true}}\n").as_bytes()).unwrap();
        assert_eq!((counted.partition, counted.partitions, counted.sequence), (3, 16, 9));
        let facts: Vec<_> =
            counted.facts.iter().map(|fact| (&*fact.what, &*fact.cell[0], fact.n)).collect();
        let expected = [
            ("declared", "", 2),
            ("counted", "", 1),
            ("bad_seal", "", 1),
            ("valid", "a", 1),
            ("spend EUR", "a", 7),
        ];
        assert_eq!(facts, expected);
        assert_eq!(counted.facts[4].cell[1], "");
    }

    #[test]
    fn an_answer_that_is_cut_off_is_none() {
        assert!(read(ANSWER.as_bytes()).unwrap_err().contains("cut off"));
        assert!(read(b"{\"minute\":5}\n").unwrap_err().contains("does not understand"));
    }
}
