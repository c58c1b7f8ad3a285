//! docs/benchmarks.md: a part for the plain `bench`, one for the group `answers`, and what a person
//! wrote. Whoever writes one of them keeps the others.

use std::fmt;

use super::table::Table;

/// What is below this line is of the group `answers`, up to [`KEPT_BELOW`].
const ANSWERS_BELOW: &str =
    "<!-- `cargo xtask bench` keeps this part; `cargo xtask bench answers` writes it. -->";
/// What is below this line is kept by both.
const KEPT_BELOW: &str = "<!-- Written by hand below this line; `cargo xtask bench` keeps it. -->";

/// The page's parts, without the lines between them; each may be empty.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) measured: String,
    pub(super) answers: String,
    kept: String,
}

impl Page {
    pub(super) fn read(text: &str) -> Self {
        let (written, kept) = text.split_once(KEPT_BELOW).unwrap_or((text, ""));
        let (measured, answers) = written.split_once(ANSWERS_BELOW).unwrap_or((written, ""));
        let [measured, answers, kept] =
            [measured, answers, kept].map(|part| part.trim().to_owned());
        Self { measured, answers, kept }
    }
}

impl fmt::Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.measured)?;
        if !self.answers.is_empty() {
            write!(f, "\n{ANSWERS_BELOW}\n\n{}\n", self.answers)?;
        }
        write!(f, "\n{KEPT_BELOW}\n")?;
        if !self.kept.is_empty() {
            write!(f, "\n{}\n", self.kept)?;
        }
        Ok(())
    }
}

/// The text of a part: what it is, the machine, the table and its notes.
pub(super) fn part(introduction: &str, machine: &str, table: &Table) -> String {
    let mut text = format!("{introduction}\n\n{machine}\n\n{}", table.text());
    // A part ends without a newline; the page sets them between parts.
    text.truncate(text.trim_end().len());
    if !table.notes().is_empty() {
        text.push('\n');
    }
    for note in table.notes() {
        text.push_str("\n- ");
        text.push_str(note);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::table::Results;

    #[test]
    fn each_part_survives_a_new_one_of_another() {
        let table = Results::default().table(&[]).expect("empty");
        let first = Page {
            measured: part("# Benchmarks", "machine", &table),
            kept: "## Where the time goes\nIn memory.".to_owned(),
            ..Page::default()
        };
        assert_eq!(Page::read(&first.to_string()), first);
        assert!(!first.to_string().contains(ANSWERS_BELOW), "{first}");

        let second = Page { answers: part("## Answers", "machine", &table), ..first };
        let text = second.to_string();
        assert_eq!(Page::read(&text), second);
        assert!(text.ends_with("\n## Where the time goes\nIn memory.\n"), "{text}");
        for line in [ANSWERS_BELOW, KEPT_BELOW] {
            assert_eq!(text.matches(line).count(), 1, "{text}");
        }
        assert_eq!(Page::read("no line").measured, "no line");
    }

    #[test]
    fn the_page_that_is_there_is_understood() {
        let path = crate::bench::page_path();
        let text = std::fs::read_to_string(path).expect("the page is in the repository");
        assert_eq!(Page::read(&text).to_string(), text);
    }
}
