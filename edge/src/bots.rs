//! Programs that say so in their user agent: crawlers, link previews, monitors, libraries. The
//! patterns are those of the npm package `isbot` 5.2.3 (Unlicense), which `build.rs` turns into
//! automata; an update is a new `bots/patterns.json`. Pure.
//!
//! This is the list's part of general invalid traffic (MRC, Invalid Traffic Detection and Filtration
//! Standards, 2.2: known robots and spiders). Who lies is not found here.

use std::sync::LazyLock;

use regex_automata::Anchored;
use regex_automata::dfa::Automaton as _;
use regex_automata::dfa::sparse::DFA;
use regex_automata::util::primitives::StateID;
use regex_automata::util::start;

static FILE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/bots.dfa"));

/// User agents are looked at this far.
const BYTES_MAX: usize = 1_024;

static BOTS: LazyLock<Vec<Bot>> = LazyLock::new(|| {
    let mut bots = Vec::new();
    let mut rest = FILE;
    // The tests read all of what the build has written.
    while let Some((&[place, a, b, c, d], after)) = rest.split_first_chunk() {
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        let Some((bytes, next)) = after.split_at_checked(length) else { break };
        if let Ok((dfa, _)) = DFA::from_bytes(bytes) {
            bots.extend(Bot::new(dfa, place == 1));
        }
        rest = next;
    }
    bots
});

/// What may stand before a place, as far as patterns ask: nothing, a letter or digit, anything else.
const BEFORE: [Option<u8>; 3] = [None, Some(b'a'), Some(b' ')];

/// Some patterns.
struct Bot {
    dfa: DFA<&'static [u8]>,
    /// Tried at every byte, not only at the first.
    everywhere: bool,
    /// Where it begins, by what stands before.
    starts: [StateID; 3],
    /// By what stands before: pairs of bytes that one of them may begin with, a bit each. Most
    /// places end here.
    pairs: Box<[[u64; 1 << 10]; 3]>,
}

impl Bot {
    /// None when the automaton asks for what it must not.
    fn new(dfa: DFA<&'static [u8]>, everywhere: bool) -> Option<Self> {
        let start = |before: Option<u8>| {
            let config = start::Config::new().anchored(Anchored::Yes).look_behind(before);
            dfa.start_state(&config).ok()
        };
        let starts = [start(BEFORE[0])?, start(BEFORE[1])?, start(BEFORE[2])?];
        let mut pairs = Box::new([[0; 1 << 10]; 3]);
        for (start, pairs) in starts.iter().zip(pairs.iter_mut()) {
            for first in 0..=u8::MAX {
                let state = dfa.next_state(*start, first);
                if dfa.is_dead_state(state) {
                    continue;
                }
                for second in 0..=u8::MAX {
                    if dfa.is_match_state(state)
                        || !dfa.is_dead_state(dfa.next_state(state, second))
                    {
                        let bit = pair(first, second);
                        pairs[bit / 64] |= 1 << (bit % 64);
                    }
                }
            }
        }
        Some(Self { dfa, everywhere, starts, pairs })
    }

    fn finds(&self, agent: &[u8]) -> bool {
        let places = if self.everywhere { agent.len() } else { 1 };
        let mut before = 0;
        for at in 0..places.min(agent.len()) {
            let rest = &agent[at..];
            // The last byte is tried without looking.
            let may = rest.get(1).is_none_or(|second| {
                let bit = pair(rest[0], *second);
                self.pairs[before][bit / 64] >> (bit % 64) & 1 == 1
            });
            if may && self.begins(rest, self.starts[before]) {
                return true;
            }
            before = if rest[0].is_ascii_alphanumeric() || rest[0] == b'_' { 1 } else { 2 };
        }
        false
    }

    fn begins(&self, rest: &[u8], mut state: StateID) -> bool {
        for byte in rest {
            state = self.dfa.next_state(state, *byte);
            if self.dfa.is_special_state(state) {
                if self.dfa.is_match_state(state) {
                    return true;
                }
                if self.dfa.is_dead_state(state) || self.dfa.is_quit_state(state) {
                    return false;
                }
            }
        }
        self.dfa.is_match_state(self.dfa.next_eoi_state(state))
    }
}

const fn pair(first: u8, second: u8) -> usize {
    (first as usize) << 8 | second as usize
}

/// Whether a user agent is that of a program. An empty one says nothing.
#[must_use]
pub(crate) fn is_bot(user_agent: &[u8]) -> bool {
    let agent = &user_agent[..user_agent.len().min(BYTES_MAX)];
    BOTS.iter().any(|bot| bot.finds(agent))
}

#[cfg(test)]
mod tests;
