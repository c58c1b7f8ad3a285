//! Asks the engine for what a partition has counted: numbers under names.

use std::ops::Range;

use api::export::{CELL, CutOff, Line, Position};
use api::routes;
use hashbrown::HashMap;
use shared::Minute;

use super::Asked;
use super::names::{Key, Names};
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
#[derive(Clone, Debug, Default)]
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
    /// The texts of the names in the facts.
    pub(super) names: Names,
    /// What is counted; facts of the same names are added up.
    pub(super) facts: HashMap<Key, i64>,
}

/// Asks for the facts of a partition; `None` when there are more than `most`.
///
/// # Errors
/// When the API refuses, is of another version, or cuts its answer off.
pub(super) async fn counted(
    asked: &Asked<'_>,
    partition: u16,
    range: &Range<Minute>,
    most: usize,
) -> Result<Option<Counted>, Failure> {
    let (from, to) = (range.start.start().seconds(), range.end.start().seconds());
    let path = format!("{}?from={from}&to={to}", routes::CELLS.at(&[&partition]));
    let mut answer = Answer::default();
    let take = |piece: &[u8]| {
        answer.take(piece)?;
        Ok(answer.counted.facts.len() <= most)
    };
    if !asked.pieces(&path, take).await? {
        return Ok(None);
    }
    answer.whole().map(Some).map_err(|why| Failure::server(format!("{path}: {why}")))
}

/// An answer, as far as it has come.
#[derive(Default)]
struct Answer {
    counted: Counted,
    /// The beginning of the next line.
    begun: Vec<u8>,
    ended: bool,
}

impl Answer {
    fn take(&mut self, mut piece: &[u8]) -> Result<(), String> {
        while let Some(end) = piece.iter().position(|byte| *byte == b'\n') {
            let mut line = std::mem::take(&mut self.begun);
            line.extend_from_slice(&piece[..end]);
            self.line(&line)?;
            piece = &piece[end + 1..];
        }
        self.begun.extend_from_slice(piece);
        Ok(())
    }

    fn whole(mut self) -> Result<Counted, String> {
        let last = std::mem::take(&mut self.begun);
        self.line(&last)?;
        if self.ended { Ok(self.counted) } else { Err("the answer was cut off".to_owned()) }
    }

    fn line(&mut self, line: &[u8]) -> Result<(), String> {
        if line.is_empty() {
            return Ok(());
        }
        let line = serde_json::from_slice(line)
            .map_err(|error| format!("what this build does not understand ({error})"))?;
        let counted = &mut self.counted;
        match line {
            Line::Position(Position { partition, partitions, sequence, log, digest, cut_off }) => {
                (counted.partition, counted.partitions) = (partition, partitions);
                (counted.sequence, counted.log, counted.digest) = (sequence, log, digest);
                counted.cut_off = cut_off;
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
                    counted.add(&Fact { minute, cell, what, n });
                }
            }
            Line::Cell { minute, cell, count } => {
                let what = if cell.valid { "valid" } else { "invalid" }.to_owned();
                counted.add(&Fact { minute, cell: cell.texts(), what, n: number(count)? });
            }
            Line::Amount { minute, cell, amount, currency, micros } => {
                let what = format!("{amount} {currency}");
                counted.add(&Fact { minute, cell: cell.texts(), what, n: micros });
            }
            Line::End { end } => self.ended = end,
        }
        Ok(())
    }
}

impl Counted {
    /// Adds a fact.
    pub(super) fn add(&mut self, fact: &Fact) {
        let cell = std::array::from_fn(|at| self.names.number(&fact.cell[at]));
        let what = self.names.number(&fact.what);
        let sum = self.facts.entry(Key { minute: fact.minute.0.into(), cell, what }).or_insert(0);
        *sum = sum.saturating_add(fact.n);
    }
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
{"minute":5,"ad":"a","country":"ZZ","device":"tv","kind":"impression","valid":true,"currency":"EUR","micros":2}
"#;

    /// Reads an answer that comes in pieces of so many bytes.
    fn read(answer: &str, size: usize) -> Result<Counted, String> {
        let mut all = Answer::default();
        for piece in answer.as_bytes().chunks(size) {
            all.take(piece)?;
        }
        all.whole()
    }

    #[test]
    fn an_answer_becomes_facts_in_whatever_pieces_it_comes() {
        for size in [1, 7, 100, 10_000] {
            let counted = read(&format!("{ANSWER}{{\"end\":true}}\n"), size).unwrap();
            assert_eq!((counted.partition, counted.partitions, counted.sequence), (3, 16, 9));
            let text = |name| counted.names.text(name);
            let facts = counted.facts.iter();
            let mut facts: Vec<_> =
                facts.map(|(key, n)| (text(key.what), text(key.cell[0]), *n)).collect();
            facts.sort_unstable();
            let expected = [
                ("bad_seal", "", 1),
                ("counted", "", 1),
                ("declared", "", 2),
                ("spend EUR", "a", 9),
                ("valid", "a", 1),
            ];
            assert_eq!(facts, expected);
        }
    }

    #[test]
    fn an_answer_that_is_cut_off_is_none() {
        assert!(read(ANSWER, 50).unwrap_err().contains("cut off"));
        assert!(read("{\"minute\":5}\n", 50).unwrap_err().contains("does not understand"));
    }
}
