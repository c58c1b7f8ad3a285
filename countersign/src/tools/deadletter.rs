//! `countersign deadletter`: lists, shows and resolves what could not be decoded.

use std::io::Write as _;
use std::process::ExitCode;

use api::letters::{BatchName, Letters, Resolved, ResolvedAll, Sent};
use api::routes;
use collector::dead;
use collector::gateway::letters::SENDER_FIELD;
use serde_json::{Value, json};
use shared::keys::Sender;

use crate::cli::{DeadletterArgs, DeadletterCommand};
use crate::client::Api;
use crate::failure::Failure;
use crate::terminal;
use crate::tools::keys::block_on;

/// `countersign deadletter`.
///
/// # Errors
/// When the collector does not answer, or there is no such letter.
pub(crate) fn deadletter(args: &DeadletterArgs) -> Result<ExitCode, Failure> {
    match &args.command {
        DeadletterCommand::List { api, after, limit, sender, json } => {
            let mut path = format!("{}?after={after}", routes::DEAD_LETTERS.path);
            if let Some(limit) = limit {
                path += &format!("&limit={limit}");
            }
            if let Some(sender) = sender {
                path += &format!("&sender={}", sender_text(sender)?);
            }
            let api = Api::new(api)?;
            let found: Value = block_on(api.require(&path))?;
            if *json {
                terminal::line(found.to_string());
            } else {
                list(serde_json::from_value(found).map_err(Failure::server)?);
            }
        }
        DeadletterCommand::Show { api, sequence } => {
            let api = Api::new(api)?;
            let path = routes::DEAD_LETTER.at(&[sequence]);
            let letter = block_on(api.reply(&path))?.ok_or_else(|| no_letter(*sequence))?;
            let sender = letter.headers.get(SENDER_FIELD).and_then(|who| who.to_str().ok());
            // The sender goes to standard error: standard output gets the letter alone.
            eprintln!("sender: {}", sender.unwrap_or(dead::UNKNOWN));
            // When the reader has gone that is no failure.
            let _ = std::io::stdout().lock().write_all(&letter.body);
        }
        DeadletterCommand::Resolve { api, sender: Some(sender), no_batch, .. } => {
            resolve_all(&Api::new(api)?, sender, *no_batch)?;
        }
        DeadletterCommand::Resolve { api, sequence, batch, no_batch, .. } => {
            let sequence = sequence.unwrap_or_default();
            resolve(&Api::new(api)?, sequence, batch.as_deref(), *no_batch)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn resolve(api: &Api, sequence: u64, batch: Option<&str>, no_batch: bool) -> Result<(), Failure> {
    let named = batch.map(batch_name).transpose()?;
    let body = match named {
        None if !no_batch => String::new(),
        named => json!(named).to_string(),
    };
    let path = routes::RESOLVE.at(&[&sequence]);
    let answer = block_on(api.post(&path, body.into_bytes())).map_err(|failure| {
        if failure.message.contains("is not there") { no_letter(sequence) } else { failure }
    })?;
    terminal::line(format!("dead letter {sequence} is resolved"));
    let resolved: Resolved = serde_json::from_slice(&answer.body).map_err(Failure::server)?;
    terminal::line(match resolved.batch {
        Some(batch) => format!(
            "batch {batch} is given up if it is missing; `countersign edges list` shows what is"
        ),
        None => "no batch is given up".to_owned(),
    });
    Ok(())
}

/// Resolves the letters that are there now, in as many requests as it takes. The first answer fixes
/// the end: letters that come later were seen by nobody.
fn resolve_all(api: &Api, sender: &str, no_batch: bool) -> Result<(), Failure> {
    let sender = sender_text(sender)?;
    let body = if no_batch { "null" } else { "" };
    // Each answer's `next` is behind the letters that it resolved, and `until` never grows: so it
    // ends.
    let (mut after, mut until, mut sum) = (0, u64::MAX, ResolvedAll::default());
    loop {
        let path =
            format!("{}?sender={sender}&after={after}&until={until}", routes::RESOLVE_ALL.path);
        let answer = block_on(api.post_long(&path, body.into()))?;
        let done: ResolvedAll = serde_json::from_slice(&answer.body).map_err(Failure::server)?;
        sum.resolved += done.resolved;
        sum.batches += done.batches;
        sum.kept += done.kept;
        sum.why = sum.why.or(done.why);
        until = until.min(done.end);
        match done.next {
            Some(next) => after = next,
            None => break,
        }
    }
    terminal::line(format!("{} dead letters are resolved", sum.resolved));
    terminal::line(format!(
        "{} batches are given up where they are missing; `countersign edges list` shows what is",
        sum.batches
    ));
    if let Some(why) = sum.why {
        terminal::line(format!("{} stay as they are: {why}", sum.kept));
    }
    Ok(())
}

/// A sender in the form that the query takes.
fn sender_text(text: &str) -> Result<String, Failure> {
    let sender = dead::parse_sender(text).map_err(|why| {
        Failure::usage(format!(
            "--sender: {why}; `countersign deadletter list` shows who sent some"
        ))
    })?;
    Ok(sender.map_or_else(|| "unknown".to_owned(), |who| who.to_string().replace(' ', ":")))
}

fn no_letter(sequence: u64) -> Failure {
    Failure::usage(format!(
        "there is no dead letter {sequence}; `countersign deadletter list` shows those there are"
    ))
}

fn batch_name(text: &str) -> Result<BatchName, Failure> {
    let name = match text.split('/').collect::<Vec<_>>()[..] {
        [edge, epoch, number] => edge.parse().ok().zip(epoch.parse().ok()).zip(number.parse().ok()),
        _ => None,
    };
    let name = name.map(|((edge, epoch), number)| BatchName { edge, epoch, number });
    name.ok_or_else(|| {
        Failure::usage(format!("--batch: {text:?} is no EDGE/EPOCH/NUMBER, such as edge-1/7/42"))
    })
}

fn list(found: Letters) {
    let who = |sender: Option<Sender>| {
        sender.map_or_else(|| dead::UNKNOWN.to_owned(), |sender| sender.to_string())
    };
    let last = found.letters.last().map(|letter| letter.sequence);
    let head = ["letter", "at", "bytes", "batch", "sender", "from", "what is wrong"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for letter in found.letters {
        let batch = letter.batch.map_or_else(|| "-".to_owned(), |batch| batch.to_string());
        rows.push(vec![
            letter.sequence.to_string(),
            letter.at.to_string(),
            letter.bytes.to_string(),
            batch,
            who(letter.sender),
            letter.from,
            letter.reason,
        ]);
    }
    terminal::table(&rows);
    // The sums come last, so that a flood of letters does not push them out of sight.
    terminal::line(format!("letters that nobody has resolved: {}", found.all));
    for sent in found.senders {
        let Sent { sender, letters, bytes } = sent;
        terminal::line(format!("  {}: {letters} letters, {bytes} bytes", who(sender)));
    }
    if found.others > 0 {
        terminal::line(format!("  other senders: {} letters", found.others));
    }
    if let Some(last) = last.filter(|_| found.more) {
        terminal::line(format!("there are more: `--after {last}` shows those that follow"));
    }
}

#[cfg(test)]
mod tests {
    use shared::Id;

    use super::*;

    #[test]
    fn a_batch_is_named_by_three_parts() {
        let name = batch_name("edge-1/7/42").unwrap();
        assert_eq!(name, BatchName { edge: Id::literal("edge-1"), epoch: 7, number: 42 });
        for wrong in ["", "edge-1", "edge-1/7", "edge-1/7/42/1", "a b/7/42", "edge-1/x/42"] {
            assert!(
                batch_name(wrong).unwrap_err().message.contains("EDGE/EPOCH/NUMBER"),
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_sender_is_named_as_it_is_shown() {
        for (text, query) in [
            ("operator", "operator"),
            ("issuer house", "issuer:house"),
            ("issuer:house", "issuer:house"),
            ("edge:e--1", "edge:e--1"),
            ("not known", "unknown"),
            ("unknown", "unknown"),
        ] {
            assert_eq!(sender_text(text).unwrap(), query);
        }
        for wrong in ["", "house", "issuer:", "issuer:a&b", "key:house", "operator:x"] {
            assert!(sender_text(wrong).unwrap_err().message.contains("--sender"), "{wrong}");
        }
    }
}
