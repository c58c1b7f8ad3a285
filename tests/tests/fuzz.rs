//! Judges every input of the corpus again, and a bounded number of mutations.

#![allow(clippy::unwrap_used)]

use std::fs;

use shared::text::hex;
use tests::fuzz::{TARGETS, Target, corpus, file_name};

/// Mutations of each target here; `COUNTERSIGN_FUZZ_RUNS` and `COUNTERSIGN_FUZZ_SEED` set others.
const RUNS: u64 = 3_000;

fn kept(target: &Target) -> Vec<(String, Vec<u8>)> {
    let folder = corpus(target.name);
    let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<_> = entries
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

/// A file of the corpus is kept for its outcome, which its name tells; a remark may follow after
/// `--`.
#[test]
fn the_corpus_has_the_outcomes_that_it_is_kept_for() {
    for target in &TARGETS {
        let files = kept(target);
        let starts = |word: &str| files.iter().any(|(name, _)| name.starts_with(word));
        let taken = starts("read") || starts("opened") || starts("answered");
        assert!(taken && starts("refused"), "{}: both kinds are kept", target.name);
        for (name, input) in files {
            let outcome = target
                .run(&input)
                .unwrap_or_else(|broken| panic!("{}/{name}: {}", target.name, broken.what));
            let reason = name.split("--").next().unwrap();
            assert_eq!(file_name(&outcome), reason, "{}: {outcome}", target.name);
        }
    }
}

#[test]
fn mutations_find_nothing_wrong() {
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |text| text.parse().unwrap())
    };
    let (runs, seed) = (number("COUNTERSIGN_FUZZ_RUNS", RUNS), number("COUNTERSIGN_FUZZ_SEED", 1));
    for target in &TARGETS {
        println!("{}: {runs} mutations from seed {seed}", target.name);
        let inputs = kept(target).into_iter().map(|(_, input)| input).collect();
        // This target writes files with fsync, which takes time.
        let runs = if target.name == "segment" { runs / 10 } else { runs };
        let mut outcomes = 0;
        if let Err(broken) = target.explore(seed, runs, inputs, |_, _| outcomes += 1) {
            panic!(
                "{}, seed {seed}: {}\n{}",
                target.name,
                broken.what,
                hex(&target.shorten(&broken.input))
            );
        }
        assert!(outcomes > 3, "{}: only {outcomes} outcomes", target.name);
    }
}
