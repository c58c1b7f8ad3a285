//! A server under test, for `bench redirect`: in a process of its own.

use std::process::ExitCode;

use tests::bench::redirect::served;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let words: Vec<_> = arguments.iter().map(String::as_str).collect();
    let ended = match words[..] {
        ["edge", outbox] => served::edge(outbox.as_ref()),
        ["axum"] => served::axum(),
        _ => Err("usage: served edge OUTBOX | served axum".to_owned()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("served: {why}");
            ExitCode::FAILURE
        }
    }
}
