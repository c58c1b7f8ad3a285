//! Recognises programs that name themselves in their user agent: crawlers, link previews, monitors,
//! libraries. The patterns are those of the npm package `isbot` (`bots/README.md`), which
//! `build.rs` turns into tables; an update is a new `bots/patterns.json`. Pure.
//!
//! This covers the known robots and spiders of general invalid traffic (MRC, Invalid Traffic
//! Detection and Filtration Standards, 2.2). A program that lies about itself is not found here.

use std::ops::Range;

// Generated: `FIRST`, `ANYWHERE`, `WINDOWS`.
include!(concat!(env!("OUT_DIR"), "/bots.rs"));

/// Only so many bytes of a user agent are looked at.
const BYTES_MAX: usize = 1_024;
/// The state in which there is a match, whatever follows; see `build.rs`.
const MATCH: u16 = 1;

/// Some patterns as an automaton that tells whether one of them matches from a given place on.
struct Table {
    /// The class of each byte, and at the end that of the end of the text.
    classes: &'static [u8; 257],
    /// The number of classes.
    width: usize,
    /// The next state, by state and class; 0: no match can follow.
    next: &'static [u16],
    /// The first state, by what stands before the place: nothing, a letter or digit, anything else.
    starts: [u16; 3],
}

impl Table {
    fn step(&self, state: u16, class: u8) -> u16 {
        self.next[usize::from(state) * self.width + usize::from(class)]
    }

    /// Whether a match begins where `rest` begins; `before` is the index into `starts`.
    fn begins(&self, rest: &[u8], before: usize) -> bool {
        let mut state = self.starts[before];
        for byte in rest {
            state = self.step(state, self.classes[usize::from(*byte)]);
            if state <= MATCH {
                return state == MATCH;
            }
        }
        self.step(state, self.classes[256]) == MATCH
    }
}

/// Whether a user agent is that of a program. An empty one is not taken for one.
#[must_use]
pub fn is_bot(user_agent: &[u8]) -> bool {
    let agent = &user_agent[..user_agent.len().min(BYTES_MAX)];
    if agent.is_empty() {
        return false;
    }
    FIRST.iter().any(|table| table.begins(agent, 0))
        || is_anywhere(agent)
        || GMAIL.iter().any(|end| agent.ends_with(end))
}

/// The endings of the agents with which Google fetches a mail's pictures and links before anybody
/// opens the mail.
const GMAIL: [&[u8]; 2] = [b" Edge/12.246 Mozilla/5.0", b" Gmail-content-sampling"];

/// Whether a pattern that may begin anywhere matches. It is tried only where the next three bytes
/// can begin a match.
fn is_anywhere(agent: &[u8]) -> bool {
    let model = model_range(agent);
    let begins =
        |at: usize| !model.contains(&at) && ANYWHERE.begins(&agent[at..], before(agent, at));
    let mut window = 0;
    for (at, byte) in agent.iter().enumerate() {
        window = window >> 5 | usize::from(byte & 31) << 10;
        if at >= 2 && WINDOWS[window / 64] >> (window % 64) & 1 == 1 && begins(at - 2) {
            return true;
        }
    }
    // No three bytes are left at the last two places, so the patterns are tried there without a
    // window.
    (agent.len().saturating_sub(2)..agent.len()).any(begins)
}

/// Where an Android browser names the model of the phone: after the version, and after a language
/// where there is one, up to the next `;` or the end of the comment. No pattern is looked for
/// there, since phones are called Spider 8, Discovery II and XBOT Junior.
fn model_range(agent: &[u8]) -> Range<usize> {
    const SYSTEM: &[u8] = b"; Android ";
    let until = |from: usize, ends: &[u8]| {
        let at = agent[from..].iter().position(|byte| ends.contains(byte));
        at.map_or(agent.len(), |at| from + at)
    };
    let Some(system) = agent.windows(SYSTEM.len()).position(|at| at == SYSTEM) else { return 0..0 };
    let mut start = until(system + SYSTEM.len(), b";)");
    // Each round is one part between semicolons. The first that is no language is the model; a
    // language moves `start` on, and without another `;` there is no model, so the loop ends.
    loop {
        let end = until((start + 1).min(agent.len()), b";)");
        if agent.get(start) != Some(&b';') {
            return 0..0;
        }
        let segment = agent[start + 1..end].trim_ascii();
        // A monitor that puts its own name in the place of a model.
        if segment.eq_ignore_ascii_case(b"catchpoint") {
            return 0..0;
        }
        // `de`, `de-de`, `zh_CN`.
        let is_language = matches!(segment, [_, _] | [_, _, b'-' | b'_', _, _]);
        if !is_language || !segment[0].is_ascii_lowercase() {
            return start..end;
        }
        start = end;
    }
}

/// What stands before a place, as an index into [`Table::starts`].
fn before(agent: &[u8], at: usize) -> usize {
    match at.checked_sub(1).map(|before| agent[before]) {
        None => 0,
        Some(byte) if byte.is_ascii_alphanumeric() || byte == b'_' => 1,
        Some(_) => 2,
    }
}

#[cfg(test)]
mod tests;
