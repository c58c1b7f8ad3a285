//! Turns the patterns of `bots/` into tables, so that nothing is compiled from text, read or
//! checked at run time: the Worker has only the tables and a few lines that walk them.
//!
//! An automaton that finds patterns wherever they begin needs a state for every set of patterns
//! that are partly matched; for these patterns that takes a mebibyte. So matching is tried from
//! given places instead: from the first byte for patterns that begin with `^`, from every byte for
//! the others. And most bytes are skipped: a bit for each group of three bytes says whether a match
//! may begin with them (of each byte its last five bits, which are the same for both cases of a
//! letter).
//!
//! The output is Rust source: `static FIRST: [Table; _]`, `static ANYWHERE: Table`, `static
//! WINDOWS`.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::fmt::Write as _;
use std::path::PathBuf;

use regex_automata::dfa::{Automaton as _, StartKind, dense};
use regex_automata::nfa::thompson;
use regex_automata::util::primitives::StateID;
use regex_automata::util::{start, syntax};
use regex_automata::{Anchored, MatchKind};

const PATTERNS: &str = "bots/patterns.json";
const DATA_CENTRES: &str = "networks/data-centres.txt";
/// What a verdict follows from, besides the operator's settings. When any of these files changes,
/// events name another rule set.
const RULES: [&str; 6] = [
    PATTERNS,
    "src/bots.rs",
    "src/browser.rs",
    "src/clicks.rs",
    "src/networks.rs",
    "src/verdict.rs",
];

/// What may stand before a place, as far as patterns ask (`\b`): nothing, a letter or digit,
/// anything else. The bytes are examples.
const BEFORE: [Option<u8>; 3] = [None, Some(b'a'), Some(b' ')];

/// The states that every table has: no match can follow; there is a match.
const DEAD: u16 = 0;
const MATCH: u16 = 1;

/// A table of the next state by state and class of byte; the end of the text is a class of its own.
struct Table {
    /// The class of each byte, and at the end that of the end of the text.
    classes: Vec<u8>,
    /// The number of classes.
    width: usize,
    next: Vec<u16>,
    /// The first state, by what stands before.
    starts: [u16; 3],
}

/// The list without names and comments, which only people need.
fn numbers(list: &str) -> String {
    let lines = list.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| Some(format!("{}\n", line.split_whitespace().next()?))).collect()
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut rules = blake3::Hasher::new();
    for path in RULES {
        println!("cargo::rerun-if-changed={path}");
        rules.update(&std::fs::read(path)?);
    }
    println!("cargo::rerun-if-changed={DATA_CENTRES}");
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("data-centres.txt"), numbers(&std::fs::read_to_string(DATA_CENTRES)?))?;
    std::fs::write(out.join("rules"), rules.finalize().as_bytes())?;
    let patterns: Vec<String> = serde_json::from_slice(&std::fs::read(PATTERNS)?)?;
    let (mut first, mut counting, mut anywhere) = (Vec::new(), Vec::new(), Vec::new());
    for pattern in &patterns {
        let regular = without_looking_around(&in_our_words(pattern))?;
        let list = match (pattern.starts_with('^'), regular.contains('{')) {
            (false, _) => &mut anywhere,
            (true, false) => &mut first,
            // A pattern that counts bytes multiplies the states of those it is joined with, so
            // these are joined only with each other.
            (true, true) => &mut counting,
        };
        list.push(format!("(?:{regular})"));
    }
    let first = [table(&first.join("|"))?, table(&counting.join("|"))?];
    let anywhere = table(&anywhere.join("|"))?;
    let mut file = format!("static FIRST: [Table; {}] = [", first.len());
    for table in &first {
        write!(file, "{},", table.source())?;
    }
    writeln!(file, "];")?;
    writeln!(file, "static ANYWHERE: Table = {};", anywhere.source())?;
    writeln!(file, "static WINDOWS: [u64; 512] = {:?};", anywhere.windows())?;
    std::fs::write(out.join("bots.rs"), file)?;
    Ok(())
}

fn table(pattern: &str) -> Result<Table, Box<dyn Error>> {
    let config = dense::Config::new().start_kind(StartKind::Anchored).match_kind(MatchKind::All);
    let ascii = syntax::Config::new().case_insensitive(true).unicode(false).utf8(false);
    let built = dense::Builder::new()
        .configure(config.minimize(true))
        .syntax(ascii)
        .thompson(thompson::Config::new().utf8(false))
        .build(pattern);
    let built = built.map_err(|error| format!("{PATTERNS}: {pattern}: {error}"))?;
    Table::from_dfa(&built)
}

impl Table {
    /// Makes the table of an automaton. In a match state nothing more is asked, so all of them
    /// become one.
    fn from_dfa(dfa: &dense::DFA<Vec<u32>>) -> Result<Self, Box<dyn Error>> {
        let mut numbers: HashMap<StateID, u16> = HashMap::new();
        let mut states: Vec<StateID> = Vec::new();
        let mut number = |state: StateID, states: &mut Vec<StateID>| {
            if dfa.is_match_state(state) {
                return Ok(MATCH);
            }
            if dfa.is_dead_state(state) {
                return Ok(DEAD);
            }
            let next = u16::try_from(states.len() + 2)?;
            Ok::<u16, Box<dyn Error>>(*numbers.entry(state).or_insert_with(|| {
                states.push(state);
                next
            }))
        };
        let mut starts = [DEAD; 3];
        for (start, before) in starts.iter_mut().zip(BEFORE) {
            let config = start::Config::new().anchored(Anchored::Yes).look_behind(before);
            *start = number(dfa.start_state(&config)?, &mut states)?;
        }
        // From the first two states no step leads on.
        let mut rows = vec![vec![DEAD; 257], vec![MATCH; 257]];
        // `number` appends each state that it meets for the first time; the automaton has finitely
        // many, so this ends when all that can be reached have their row.
        let mut at = 0;
        while let Some(state) = states.get(at).copied() {
            let bytes = (0..=u8::MAX).map(|byte| dfa.next_state(state, byte));
            let mut row = Vec::new();
            for next in bytes.chain([dfa.next_eoi_state(state)]) {
                row.push(number(next, &mut states)?);
            }
            rows.push(row);
            at += 1;
        }
        let mut columns: Vec<Vec<u16>> = Vec::new();
        let mut classes = Vec::new();
        for byte in 0..257 {
            let column: Vec<u16> = rows.iter().map(|row| row[byte]).collect();
            let same = columns.iter().position(|known| *known == column);
            classes.push(u8::try_from(same.unwrap_or(columns.len()))?);
            if same.is_none() {
                columns.push(column);
            }
        }
        let next =
            (0..rows.len()).flat_map(|state| columns.iter().map(move |c| c[state])).collect();
        Ok(Self { classes, width: columns.len(), next, starts })
    }

    fn step(&self, state: u16, byte: u8) -> u16 {
        self.next[usize::from(state) * self.width + usize::from(self.classes[usize::from(byte)])]
    }

    /// A bit for every three bytes that a match may begin with, whatever stands before them.
    fn windows(&self) -> Vec<u64> {
        // For each class one byte to step with, and the last five bits of all its bytes.
        let mut classes: BTreeMap<u8, (u8, u32)> = BTreeMap::new();
        for byte in 0..=u8::MAX {
            let class = classes.entry(self.classes[usize::from(byte)]).or_insert((byte, 0));
            class.1 |= 1 << (byte & 31);
        }
        let classes: Vec<(u8, u32)> = classes.into_values().collect();
        let steps = |state: u16| {
            let ways = classes.iter().map(move |(byte, bits)| (self.step(state, *byte), *bits));
            ways.filter(|(next, _)| *next != DEAD)
        };
        let places = |bits: u32| (0..32_usize).filter(move |at| bits >> at & 1 == 1);
        let mut windows = vec![0_u64; 512];
        for start in self.starts {
            for (second, a) in steps(start) {
                for (third, b) in steps(second) {
                    let c = steps(third).fold(0, |bits, (_, c)| bits | c);
                    for (a, b) in places(a).flat_map(|a| places(b).map(move |b| (a, b))) {
                        for bit in places(c).map(|c| a | b << 5 | c << 10) {
                            windows[bit / 64] |= 1 << (bit % 64);
                        }
                    }
                }
            }
        }
        windows
    }

    fn source(&self) -> String {
        let Self { classes, width, next, starts } = self;
        format!(
            "Table {{ classes: &{classes:?}, width: {width}, next: &{next:?}, starts: {starts:?} }}"
        )
    }
}

/// JavaScript takes the dash of `[\d-.]` for itself, this regex syntax does not. And `\b\w+` before
/// the end of a word only looks for the beginning of that word, which does not matter to a match:
/// one letter is enough.
fn in_our_words(pattern: &str) -> String {
    let pattern = pattern.replace(r"\d-.", r"\d\-.");
    pattern.strip_prefix(r"\b\w+").map_or_else(|| pattern.clone(), |rest| format!(r"\w{rest}"))
}

/// Rewrites `(?<!a|b)` and `(?!a|b)`, where the alternatives are words, into what may stand there
/// instead, for an automaton cannot look around.
fn without_looking_around(pattern: &str) -> Result<String, String> {
    let mut rest = pattern;
    let mut regular = String::new();
    while let Some(at) = rest.find("(?<!").or_else(|| rest.find("(?!")) {
        let behind = rest[at..].starts_with("(?<!");
        let open = at + if behind { 4 } else { 3 };
        let (words, after) = rest[open..].split_once(')').ok_or("a group without an end")?;
        let (words, after) = match words.strip_prefix("(?:") {
            Some(words) => (words, after.strip_prefix(')').ok_or("a group without an end")?),
            None => (words, after),
        };
        let words: Vec<Vec<char>> = words
            .split('|')
            .map(|word| if behind { word.chars().rev().collect() } else { word.chars().collect() })
            .collect();
        if words.iter().flatten().any(|c| !(c.is_ascii_alphanumeric() || " /;".contains(*c))) {
            return Err(format!("{PATTERNS}: {pattern}: only words can be looked for around"));
        }
        regular.push_str(&rest[..at]);
        regular.push_str(&none_of(&words, behind));
        rest = after;
    }
    regular.push_str(rest);
    Ok(regular)
}

/// A pattern for what is none of the words: the text ends; or its next byte begins none of them; or
/// the byte begins some, and what follows is none of their rests. `behind`: the same from right to
/// left.
fn none_of(words: &[Vec<char>], behind: bool) -> String {
    let mut by_first: BTreeMap<char, Vec<Vec<char>>> = BTreeMap::new();
    for word in words {
        by_first.entry(word[0]).or_default().push(word[1..].to_vec());
    }
    let first: String = by_first.keys().collect();
    let mut ways = vec![if behind { r"\A" } else { r"\z" }.to_owned(), format!("[^{first}]")];
    for (first, rests) in by_first {
        if rests.iter().all(|rest| !rest.is_empty()) {
            let rest = none_of(&rests, behind);
            ways.push(if behind { format!("{rest}{first}") } else { format!("{first}{rest}") });
        }
    }
    format!("(?:{})", ways.join("|"))
}
