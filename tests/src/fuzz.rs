//! Fuzz targets: whatever bytes come in, what is read is right, what is refused is refused with its
//! place, and nothing panics. A target is an ordinary function of bytes, so that it runs on the
//! pinned toolchain, in `cargo test` and under any fuzzer.
//!
//! A target describes in words what became of its input. Inputs that bring new words are kept, and
//! mutated further. `tests/corpus/TARGET/` holds the shortest known input for each outcome, in a
//! file named after its words, and a test replays it: when a check is taken out of a decoder, the
//! input that was kept for it has another outcome.

mod batch;
mod beacon;
mod json;
mod message;
mod mutate;
mod segment;
mod segment_plain;
mod token;
mod vectors;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use shared::random::{Random, Seeded, below};

/// What became of an input, in a few words, or which property did not hold.
pub type Outcome = Result<String, String>;

/// Longer inputs find nothing more.
const INPUT_BYTES_MAX: usize = 8 << 10;

/// Something that takes bytes from outside.
pub struct Target {
    /// Its name, and its folder's.
    pub name: &'static str,
    /// Judges an input. The caller catches panics.
    judge: fn(&[u8]) -> Outcome,
    /// Good inputs to start from: the golden vectors.
    golden: fn() -> Vec<Vec<u8>>,
    /// Mends what a mutation has broken (checksums, seals), so that what lies behind is reached.
    repair: fn(Vec<u8>, &mut dyn Random) -> Vec<u8>,
    /// Words that a mutation may put in.
    words: &'static [&'static str],
}

/// All of them.
pub const TARGETS: [Target; 7] = [
    Target {
        name: "token",
        judge: token::judge,
        golden: vectors::tokens,
        repair: token::seal,
        words: &["https://", "http://a", "\u{e9}"],
    },
    Target {
        name: "batch",
        judge: batch::judge,
        golden: vectors::batches,
        repair: nothing,
        words: &["CSB1", "CSB2", "CSM1", "ZZ"],
    },
    Target {
        name: "message",
        judge: message::judge,
        golden: vectors::messages,
        repair: nothing,
        words: &["CSM1", "CSM3", "CSB1", "EUR", "import"],
    },
    Target {
        name: "json",
        judge: json::batch,
        golden: vectors::json_batches,
        repair: nothing,
        words: json::BATCH_WORDS,
    },
    Target {
        name: "chunk",
        judge: json::chunk,
        golden: json::chunks,
        repair: nothing,
        words: json::CHUNK_WORDS,
    },
    Target {
        name: "beacon",
        judge: beacon::judge,
        golden: beacon::golden,
        repair: nothing,
        words: json::BEACON_WORDS,
    },
    Target {
        name: "segment",
        judge: segment::judge,
        golden: segment::golden,
        repair: segment::checksums,
        words: &["CSsegmt\n"],
    },
];

fn nothing(bytes: Vec<u8>, _: &mut dyn Random) -> Vec<u8> {
    bytes
}

/// An input for which a property did not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Broken {
    /// The input.
    pub input: Vec<u8>,
    /// Which property, or the panic.
    pub what: String,
}

impl Target {
    /// What becomes of an input.
    ///
    /// # Errors
    /// The property that did not hold.
    pub fn run(&self, input: &[u8]) -> Result<String, Broken> {
        let outcome = catch_unwind(AssertUnwindSafe(|| (self.judge)(input)));
        let outcome = outcome.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(format!("panicked: {}", text.unwrap_or("without a word")))
        });
        outcome.map_err(|what| Broken { input: input.to_vec(), what })
    }

    /// Mutates the golden inputs and the `corpus`, as often as told, and calls `found` with each
    /// outcome when it is first seen, and with its input.
    ///
    /// # Errors
    /// The first input for which a property did not hold.
    pub fn explore(
        &self,
        seed: u64,
        runs: u64,
        corpus: Vec<Vec<u8>>,
        mut found: impl FnMut(&str, &[u8]),
    ) -> Result<(), Broken> {
        let mut random = Seeded::new(seed);
        let (mut pool, mut seen) = (Vec::new(), BTreeSet::new());
        for input in (self.golden)().into_iter().chain(corpus) {
            let outcome = self.run(&input)?;
            if seen.insert(outcome.clone()) {
                found(&outcome, &input);
            }
            pool.push(input);
        }
        for _ in 0..runs {
            let pick = |random: &mut Seeded| below(random, pool.len() as u64) as usize;
            let (at, other) = (pick(&mut random), pick(&mut random));
            let mut input = pool[at].clone();
            mutate::mutate(&mut input, &pool[other], self.words, &mut random);
            input.truncate(INPUT_BYTES_MAX);
            if below(&mut random, 2) == 0 {
                input = (self.repair)(input, &mut random);
            }
            let outcome = self.run(&input)?;
            if seen.insert(outcome.clone()) {
                found(&outcome, &input);
                pool.push(input);
            }
        }
        Ok(())
    }

    /// Leaves out bytes as long as the outcome stays the same.
    #[must_use]
    pub fn shorten(&self, input: &[u8]) -> Vec<u8> {
        let word = |input: &[u8]| self.run(input).map_err(|broken| broken.what);
        let (goal, mut best) = (word(input), input.to_vec());
        // Each step drops a stretch or moves on by one, and stretches get shorter down to one byte,
        // so it ends. What it keeps always had the same outcome.
        let mut stretch = best.len().next_power_of_two() / 2;
        while stretch > 0 {
            let mut at = 0;
            while at < best.len() {
                let mut without = best.clone();
                without.drain(at..(at + stretch).min(best.len()));
                if word(&without) == goal {
                    best = without;
                } else {
                    at += stretch;
                }
            }
            stretch /= 2;
        }
        best
    }
}

/// The folder of a target's corpus.
#[must_use]
pub fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target)
}

/// The name of the file that keeps an input with this outcome.
#[must_use]
pub fn file_name(outcome: &str) -> String {
    let mut name = String::new();
    for c in outcome.chars() {
        match c {
            c if c.is_ascii_alphanumeric() || c == '_' => name.push(c.to_ascii_lowercase()),
            _ if name.ends_with('-') => {}
            _ => name.push('-'),
        }
    }
    name.trim_matches('-').to_owned()
}

/// An error's words without what differs from input to input: numbers, places, what is quoted.
fn words_of(error: &str) -> String {
    let error = error.split(" at line ").next().unwrap_or(error);
    let plain: Vec<&str> = error
        .split([' ', '\n'])
        .take_while(|word| !word.contains(['`', '"', '\'', '{', '[', '(']))
        .filter(|word| !word.contains(|c: char| c.is_ascii_digit()))
        .collect();
    plain.join(" ")
}

/// Fails with `what` unless the property holds.
fn hold(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}
