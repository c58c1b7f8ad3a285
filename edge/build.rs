//! Turns the patterns of `bots/` into automata, so that nothing is compiled from text at run time:
//! what runs in a Worker has the tables and a few lines that walk them.
//!
//! An automaton that finds patterns wherever they begin has a state for every mixture of patterns
//! that are under way, and these are a mebibyte of it. So each is tried at one place: at the first
//! byte for patterns that begin with `^`, at every byte for the others, where most end at once.
//! Patterns with loops multiply what they are joined with, and stay alone.
//!
//! The file: for each automaton its place (0 the first byte, 1 every byte), its length (4 bytes,
//! little endian) and its bytes, a sparse DFA of `regex-automata`.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

use regex_automata::MatchKind;
use regex_automata::dfa::{StartKind, dense};
use regex_automata::nfa::thompson;
use regex_automata::util::syntax;

const PATTERNS: &str = "bots/patterns.json";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={PATTERNS}");
    println!("cargo::rerun-if-changed=build.rs");
    let patterns: Vec<String> = serde_json::from_slice(&std::fs::read(PATTERNS)?)?;
    let mut joined: [Vec<String>; 2] = Default::default();
    let mut file = Vec::new();
    for pattern in &patterns {
        let place = u8::from(!pattern.starts_with('^'));
        let regular = without_looking_around(&in_our_words(pattern))?;
        if ["+", "*", "{"].iter().any(|sign| regular.contains(sign)) {
            automaton(&mut file, place, &regular)?;
        } else {
            joined[usize::from(place)].push(format!("(?:{regular})"));
        }
    }
    for (place, patterns) in (0_u8..).zip(joined) {
        automaton(&mut file, place, &patterns.join("|"))?;
    }
    std::fs::write(Path::new(&std::env::var("OUT_DIR")?).join("bots.dfa"), file)?;
    Ok(())
}

fn automaton(file: &mut Vec<u8>, place: u8, pattern: &str) -> Result<(), Box<dyn Error>> {
    let config = dense::Config::new().start_kind(StartKind::Anchored).match_kind(MatchKind::All);
    let ascii = syntax::Config::new().case_insensitive(true).unicode(false).utf8(false);
    let built = dense::Builder::new()
        .configure(config.minimize(true))
        .syntax(ascii)
        .thompson(thompson::Config::new().utf8(false))
        .build(pattern);
    let built = built.map_err(|error| format!("{PATTERNS}: {pattern}: {error}"))?;
    let bytes = built.to_sparse()?.to_bytes_little_endian();
    file.push(place);
    file.extend(u32::try_from(bytes.len())?.to_le_bytes());
    file.extend(bytes);
    Ok(())
}

/// JavaScript takes the dash of `[\d-.]` for itself. And where only the end of a word matters, its
/// beginning need not be looked for.
fn in_our_words(pattern: &str) -> String {
    let pattern = pattern.replace(r"\d-.", r"\d\-.");
    pattern.strip_prefix(r"\b\w+").map_or_else(|| pattern.clone(), |rest| format!(r"\w{rest}"))
}

/// An automaton cannot look around. `(?<!a|b)` and `(?!a|b)`, where these are words, become what may
/// stand there instead.
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

/// What is none of the words: it ends, goes on with a byte of none, or with that of one and then with
/// nothing of its rest. Backwards, the same from right to left.
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
