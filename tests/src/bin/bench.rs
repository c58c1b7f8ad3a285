//! Measures one group; `cargo xtask bench` runs it.
#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use std::process::ExitCode;

use tests::bench::{GROUPS, Size};

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let words: Vec<_> = arguments.iter().map(String::as_str).collect();
    let (group, size) = match words[..] {
        ["--list"] => {
            GROUPS.iter().for_each(|(name, _)| println!("{name}"));
            return ExitCode::SUCCESS;
        }
        [group] => (group, Size::Full),
        [group, "--smoke"] => (group, Size::Smoke),
        _ => return fail("usage: bench --list | bench GROUP [--smoke]"),
    };
    let Some((_, measure)) = GROUPS.iter().find(|(name, _)| *name == group) else {
        return fail("no such group; bench --list names them");
    };
    match measure(size) {
        Ok(results) => {
            for result in results {
                println!("{}", serde_json::to_string(&result).expect("strings and finite numbers"));
            }
            ExitCode::SUCCESS
        }
        Err(why) => fail(&why),
    }
}

fn fail(why: &str) -> ExitCode {
    eprintln!("bench: {why}");
    ExitCode::FAILURE
}
