//! Runs the fuzz targets for as long as told. A failure prints its input, shortened.
#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use shared::text::hex;
use tests::fuzz::{TARGETS, Target, corpus, file_name};

const USAGE: &str = "usage: fuzz [--target NAME] [--runs N] [--seed N] [--keep yes] [--input FILE]
    --target  one of them alone      --runs  mutations of each (10000)    --seed  the first (1)
    --keep    write what brings new words into the corpus, shortened
    --input   say what becomes of this file instead";

struct Arguments {
    target: Option<String>,
    runs: u64,
    seed: u64,
    keep: bool,
    input: Option<PathBuf>,
}

fn main() -> ExitCode {
    let Some(arguments) = arguments() else {
        eprintln!("{USAGE}");
        return ExitCode::FAILURE;
    };
    let chosen = |target: &&Target| arguments.target.as_ref().is_none_or(|t| t == target.name);
    let mut good = true;
    for target in TARGETS.iter().filter(chosen) {
        good &= match &arguments.input {
            Some(path) => say(target, path),
            None => explore(target, &arguments),
        };
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn arguments() -> Option<Arguments> {
    let mut found = Arguments { target: None, runs: 10_000, seed: 1, keep: false, input: None };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next()?;
        match word.as_str() {
            "--target" if TARGETS.iter().any(|t| t.name == value) => found.target = Some(value),
            "--runs" => found.runs = value.parse().ok()?,
            "--seed" => found.seed = value.parse().ok()?,
            "--keep" => found.keep = value == "yes",
            "--input" => found.input = Some(value.into()),
            _ => return None,
        }
    }
    Some(found)
}

fn say(target: &Target, path: &Path) -> bool {
    let outcome = std::fs::read(path)
        .map_err(|error| error.to_string())
        .and_then(|input| target.run(&input).map_err(|broken| broken.what));
    let (good, what) = match outcome {
        Ok(what) => (true, what),
        Err(what) => (false, format!("BROKEN: {what}")),
    };
    println!("{}: {what}", target.name);
    good
}

fn explore(target: &Target, arguments: &Arguments) -> bool {
    let folder = corpus(target.name);
    let kept = std::fs::read_dir(&folder).into_iter().flatten().flatten();
    let mut kept: Vec<PathBuf> = kept.map(|entry| entry.path()).collect();
    kept.sort();
    let inputs = kept.iter().filter_map(|path| std::fs::read(path).ok()).collect();
    let mut outcomes = Vec::new();
    let explored = target.explore(arguments.seed, arguments.runs, inputs, |outcome, input| {
        outcomes.push((outcome.to_owned(), input.to_vec()));
    });
    for (outcome, input) in &outcomes {
        let path = folder.join(file_name(outcome));
        if arguments.keep && !path.exists() {
            let written = std::fs::create_dir_all(&folder)
                .and_then(|()| std::fs::write(&path, target.shorten(input)));
            println!("{}: kept {} ({written:?})", target.name, path.display());
        }
    }
    let (name, runs, seed) = (target.name, arguments.runs, arguments.seed);
    match explored {
        Ok(()) => {
            println!("{name}: {runs} mutations from seed {seed}, {} outcomes", outcomes.len());
            true
        }
        Err(broken) => {
            println!("{name}: BROKEN at seed {seed}: {}", broken.what);
            println!("    {}", hex(&target.shorten(&broken.input)));
            false
        }
    }
}
