//! Makes one table of the lines of several runs.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Bound, Mark};
use crate::Failure;

/// One result of one run; the format is told in the parent module.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Line {
    name: String,
    what: String,
    value: f64,
    unit: String,
    hash: Option<String>,
    peer: Option<String>,
    note: Option<String>,
}

/// Reads the output of `bench GROUP`.
pub(super) fn parse(text: &str) -> Result<Vec<Line>, Failure> {
    let mut lines = Vec::new();
    for (nth, json) in text.lines().enumerate() {
        let line: Line = serde_json::from_str(json)
            .map_err(|error| format!("line {}: {error}: {json}", nth + 1))?;
        if !line.value.is_finite() || line.value < 0.0 {
            return Err(format!("{}: the value {} is no figure", line.name, line.value));
        }
        lines.push(line);
    }
    if lines.is_empty() { Err("no result".to_owned()) } else { Ok(lines) }
}

/// One figure over all runs.
#[derive(Debug)]
struct Series {
    name: String,
    group: String,
    what: String,
    unit: String,
    hash: Option<String>,
    peer: Option<String>,
    values: Vec<f64>,
}

impl Series {
    fn median(&self) -> f64 {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        f64::midpoint(low, high)
    }

    fn least_and_greatest(&self) -> (f64, f64) {
        let start = (f64::INFINITY, f64::NEG_INFINITY);
        self.values.iter().fold(start, |(low, high), &value| (low.min(value), high.max(value)))
    }
}

/// The figures of all runs, in the order in which they first came.
#[derive(Debug, Default)]
pub(super) struct Results {
    series: Vec<Series>,
    by_name: BTreeMap<String, usize>,
    notes: Vec<String>,
}

impl Results {
    /// Adds one run of one group.
    ///
    /// # Errors
    /// When a result's unit or hash differs from an earlier run's.
    pub(super) fn add(&mut self, group: &str, lines: Vec<Line>) -> Result<(), Failure> {
        for line in lines {
            if let Some(note) = line.note.filter(|note| !self.notes.contains(note)) {
                self.notes.push(note);
            }
            let Some(&at) = self.by_name.get(&line.name) else {
                self.by_name.insert(line.name.clone(), self.series.len());
                self.series.push(Series {
                    name: line.name,
                    group: group.to_owned(),
                    what: line.what,
                    unit: line.unit,
                    hash: line.hash,
                    peer: line.peer,
                    values: vec![line.value],
                });
                continue;
            };
            let series = &mut self.series[at];
            if series.unit != line.unit {
                return Err(format!(
                    "{}: {} in one run, {} in another",
                    line.name, series.unit, line.unit
                ));
            }
            if series.hash != line.hash {
                return Err(format!(
                    "{}: a result differs between runs (hash {} and {}): a figure of a wrong answer is none",
                    line.name,
                    series.hash.as_deref().unwrap_or("none"),
                    line.hash.as_deref().unwrap_or("none"),
                ));
            }
            series.values.push(line.value);
        }
        Ok(())
    }

    /// Checks that every figure has one value from each run.
    pub(super) fn check_complete(&self, runs: u32) -> Result<(), Failure> {
        for series in &self.series {
            if series.values.len() != runs as usize {
                return Err(format!(
                    "{}: {} values in {runs} runs",
                    series.name,
                    series.values.len()
                ));
            }
        }
        Ok(())
    }

    /// Whether there is a figure of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    fn get(&self, name: &str) -> Option<&Series> {
        self.by_name.get(name).map(|&at| &self.series[at])
    }

    /// The table.
    ///
    /// # Errors
    /// When a mark or a peer has no figure, or one of another unit.
    pub(super) fn table(&self, marks: &[Mark]) -> Result<Table, Failure> {
        for mark in marks {
            let figure =
                self.get(mark.name).ok_or(format!("no result for the mark {}", mark.name))?;
            if figure.unit != mark.unit {
                return Err(format!(
                    "{}: in {}, its mark in {}",
                    mark.name, figure.unit, mark.unit
                ));
            }
        }
        let header =
            ["what", "figure", "least – greatest", "unit", "mark", "peer", "hash", "command"];
        let mut rows = vec![header.map(str::to_owned).to_vec()];
        let mut notes = self.notes.clone();
        for series in &self.series {
            let figure = series.median();
            let (least, greatest) = series.least_and_greatest();
            let mark = marks.iter().find(|mark| mark.name == series.name);
            if let Some(mark) = mark.filter(|mark| !mark.beside.is_empty()) {
                notes.push(format!("{}: {}.", series.name, mark.beside));
            }
            rows.push(vec![
                format!("{} (`{}`)", series.what, series.name),
                figure_text(figure),
                format!("{} – {}", figure_text(least), figure_text(greatest)),
                series.unit.clone(),
                mark.map_or_else(String::new, |mark| self.verdict(mark.bound, figure)),
                self.beside_peer(series, figure)?,
                series.hash.as_ref().map_or_else(String::new, |hash| format!("`{hash}`")),
                format!("`cargo xtask bench {}`", series.group),
            ]);
        }
        Ok(Table { rows, notes })
    }

    fn verdict(&self, bound: Bound, figure: f64) -> String {
        match bound {
            Bound::AtLeast(limit) => {
                held('≥', &figure_text(limit), figure >= limit, figure / limit)
            }
            Bound::AtMost(limit) => held('≤', &figure_text(limit), figure <= limit, figure / limit),
            Bound::PartOf(part, name) => {
                let limit = format!("{part} × `{name}`");
                match self.get(name).map(|peer| figure / peer.median()) {
                    Some(ratio) => held('≥', &limit, ratio >= part, ratio / part),
                    None => format!("≥ {limit}: not told, the peer is absent"),
                }
            }
        }
    }

    fn beside_peer(&self, series: &Series, figure: f64) -> Result<String, Failure> {
        let Some(name) = &series.peer else {
            return Ok(String::new());
        };
        let peer =
            self.get(name).ok_or(format!("{}: its peer {name} has no result", series.name))?;
        if peer.unit != series.unit {
            return Err(format!("{}: in {}, its peer in {}", series.name, series.unit, peer.unit));
        }
        Ok(format!("{:.2} × `{name}`", figure / peer.median()))
    }
}

fn held(sign: char, limit: &str, met: bool, ratio: f64) -> String {
    let word = if met { "met" } else { "**MISSED**" };
    format!("{sign} {limit}: {word}, {ratio:.2} ×")
}

/// Three significant digits, and spaces between thousands.
fn figure_text(value: f64) -> String {
    let decimals = match value {
        v if v >= 100.0 || v == 0.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.decimals$}");
    let (whole, rest) =
        text.split_once('.').map_or((text.as_str(), ""), |(whole, rest)| (whole, rest));
    let mut grouped = String::new();
    for (nth, digit) in whole.chars().enumerate() {
        if nth > 0 && (whole.len() - nth) % 3 == 0 {
            grouped.push(' ');
        }
        grouped.push(digit);
    }
    if rest.is_empty() { grouped } else { format!("{grouped}.{rest}") }
}

/// A table ready to be shown.
#[derive(Debug)]
pub(super) struct Table {
    /// The first one is the header.
    rows: Vec<Vec<String>>,
    notes: Vec<String>,
}

impl Table {
    /// Markdown that is also readable on a terminal.
    pub(super) fn text(&self) -> String {
        let columns = self.rows[0].len();
        let width = |at: usize| self.rows.iter().map(|row| row[at].chars().count()).max();
        let widths: Vec<usize> = (0..columns).map(|at| width(at).unwrap_or(0)).collect();
        let mut text = String::new();
        for (nth, row) in self.rows.iter().enumerate() {
            for (cell, width) in row.iter().zip(&widths) {
                text.push_str(&format!("| {cell:width$} "));
            }
            text.push_str("|\n");
            if nth == 0 {
                for width in &widths {
                    text.push_str(&format!("|{}", "-".repeat(width + 2)));
                }
                text.push_str("|\n");
            }
        }
        text
    }

    /// How many figures there are.
    pub(super) fn figures(&self) -> usize {
        self.rows.len() - 1
    }

    /// Lines for below the table.
    pub(super) fn notes(&self) -> &[String] {
        &self.notes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAST: &str = r#"{"name":"e/fast","what":"fast","value":9000000,"unit":"events/s","hash":"ab","peer":"e/loop"}"#;

    fn run_of(values: &[f64], hash: &str) -> Result<Results, Failure> {
        let mut results = Results::default();
        for (nth, value) in values.iter().enumerate() {
            let hash = if nth == 0 { "ab" } else { hash };
            let lines = format!(
                "{}\n{}",
                FAST.replace("9000000", &value.to_string()).replace("ab", hash),
                r#"{"name":"e/loop","what":"a loop","value":4000000,"unit":"events/s","note":"flat"}"#
            );
            results.add("engine", parse(&lines)?)?;
        }
        Ok(results)
    }

    fn mark(bound: Bound) -> Mark {
        Mark { name: "e/fast", bound, unit: "events/s", beside: "" }
    }

    #[test]
    fn the_median_counts_and_is_held_to_the_mark() {
        let results = run_of(&[9e6, 1e6, 8e6], "ab").expect("good lines");
        results.check_complete(3).expect("complete");
        let table = results.table(&[mark(Bound::AtLeast(7e6))]).expect("a table");
        let row = &table.rows[1];
        assert_eq!(row[1..4], ["8 000 000", "1 000 000 – 9 000 000", "events/s"]);
        assert_eq!(row[4], "≥ 7 000 000: met, 1.14 ×");
        assert_eq!(row[5..], ["2.00 × `e/loop`", "`ab`", "`cargo xtask bench engine`"]);
        assert_eq!(table.notes(), ["flat"]);

        let table = results.table(&[mark(Bound::AtMost(7e6))]).expect("a table");
        assert!(table.rows[1][4].contains("MISSED"), "{:?}", table.rows[1]);
        let even = run_of(&[1e6, 2e6], "ab").expect("good lines");
        assert_eq!(even.table(&[]).expect("a table").rows[1][1], "1 500 000");
    }

    #[test]
    fn a_mark_may_be_a_part_of_a_peer_that_may_be_absent() {
        let results = run_of(&[3e6, 1e6, 2e6], "ab").expect("good lines");
        let shown = |bound| results.table(&[mark(bound)]).expect("a table").rows[1][4].clone();
        assert_eq!(shown(Bound::PartOf(0.4, "e/loop")), "≥ 0.4 × `e/loop`: met, 1.25 ×");
        let missed = shown(Bound::PartOf(0.8, "e/loop"));
        assert_eq!(missed, "≥ 0.8 × `e/loop`: **MISSED**, 0.62 ×");
        let absent = shown(Bound::PartOf(0.8, "e/gone"));
        assert_eq!(absent, "≥ 0.8 × `e/gone`: not told, the peer is absent");
    }

    #[test]
    fn a_result_that_differs_between_runs_is_an_error() {
        let failure = run_of(&[9e6, 9e6], "cd").expect_err("another hash");
        assert!(failure.contains("ab") && failure.contains("cd"), "{failure}");
    }

    #[test]
    fn what_is_missing_is_an_error() {
        let results = run_of(&[9e6], "ab").expect("good lines");
        assert!(results.check_complete(2).is_err(), "a run without a value");
        let missing = Mark { name: "e/none", ..mark(Bound::AtLeast(1.0)) };
        assert!(results.table(&[missing]).is_err(), "a mark without a result");
        let unit = Mark { unit: "MB", ..mark(Bound::AtLeast(1.0)) };
        assert!(results.table(&[unit]).is_err(), "a mark in another unit");
        let mut alone = Results::default();
        alone.add("engine", parse(FAST).expect("good")).expect("added");
        assert!(alone.table(&[]).is_err(), "a peer without a result");
    }

    #[test]
    fn a_line_that_is_not_understood_is_refused() {
        assert!(parse("").is_err(), "no result");
        assert!(parse("not json").is_err());
        assert!(parse(&FAST.replace("\"hash\"", "\"hsah\"")).is_err(), "an unknown field");
        assert!(parse(&FAST.replace("9000000", "-1")).is_err(), "a negative value");
    }

    #[test]
    fn figures_are_readable() {
        let shown = [0.0, 0.1234, 1.05, 12.34, 123.4, 1234.0, 8_123_456.7].map(figure_text);
        assert_eq!(shown, ["0", "0.123", "1.05", "12.3", "123", "1 234", "8 123 457"]);
    }
}
