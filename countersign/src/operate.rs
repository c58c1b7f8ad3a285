//! `countersign edges` and `countersign deadletter`: what an operator does now and then.

use std::io::Write as _;
use std::process::ExitCode;

use collector::dead;
use collector::gateway::letters::SENDER_FIELD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shared::keys::Sender;
use shared::{Clock as _, Id, Timestamp, ambient};

use crate::cli::{DeadletterArgs, DeadletterCommand, EdgesArgs, EdgesCommand};
use crate::client::Api;
use crate::failure::Failure;
use crate::keys::{Place, block_on};
use crate::terminal;

/// `countersign edges`.
///
/// # Errors
/// When the API does not answer, or the keys cannot be changed.
pub(crate) fn edges(args: &EdgesArgs) -> Result<ExitCode, Failure> {
    match &args.command {
        EdgesCommand::List { api, json } => {
            let api = Api::new(api)?;
            let found: Value = block_on(api.must("/v1/edges"))?;
            if *json {
                terminal::line(found.to_string());
            } else {
                list_edges(serde_json::from_value(found).map_err(Failure::server)?);
            }
        }
        EdgesCommand::Register { data, issuer, edges } => {
            let now = ambient::SystemClock.now();
            let place = Place::of(data)?;
            place.change(|keys, _| {
                edges.iter().try_for_each(|edge| keys.register_edge(*edge, *issuer, now).map(drop))
            })?;
            let keys = place.keys()?;
            for edge in edges {
                let retired = keys.retired_since(*edge).map_or_else(String::new, |since| {
                    format!(", and is out of service since {since}: what comes of it is rejected")
                });
                terminal::line(format!("edge {edge} belongs to the issuer {issuer}{retired}"));
            }
        }
        EdgesCommand::Registered { data, json } => {
            let keys = Place::of(data)?.keys()?;
            let edges = &keys.edges;
            if *json {
                terminal::line(serde_json::to_string(edges).map_err(Failure::fatal)?);
            } else {
                let head = ["edge", "issuer", "since", "out of service since"];
                let head = head.map(str::to_owned).to_vec();
                let rows = edges.iter().map(|(name, edge)| {
                    let retired = keys.retired_since(name);
                    let retired = retired.map_or_else(|| "-".to_owned(), |since| since.to_string());
                    let (issuer, since) = (edge.issuer.to_string(), edge.registered_at.to_string());
                    vec![name.to_string(), issuer, since, retired]
                });
                terminal::table(&std::iter::once(head).chain(rows).collect::<Vec<_>>());
            }
        }
        EdgesCommand::Retire { data, edge } => {
            let now = ambient::SystemClock.now();
            let since: Timestamp =
                Place::of(data)?.change(|keys, _| keys.retire_edge(*edge, now))?;
            terminal::line(format!(
                "edge {edge} is out of service since {since}; within seconds nobody waits for it, \
                 and what still comes from it is rejected"
            ));
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Deserialize)]
struct Edges {
    edges: Vec<Edge>,
}

#[derive(Deserialize)]
struct Edge {
    edge: Id,
    issuer: Option<Id>,
    retired_at: Option<String>,
    #[serde(default)]
    cut_off: bool,
    outboxes: Vec<Outbox>,
}

#[derive(Deserialize)]
struct Outbox {
    epoch: u64,
    batches: u64,
    closed: bool,
    watermark: Option<String>,
    #[serde(default)]
    missing: Vec<Missing>,
}

#[derive(Deserialize)]
struct Missing {
    first: u64,
    last: u64,
}

fn list_edges(found: Edges) {
    let head = ["edge", "issuer", "epoch", "batches", "state"].map(str::to_owned).to_vec();
    let mut rows = vec![head];
    for edge in found.edges {
        let cut_off = edge.cut_off.then(|| "cut off: too many gaps or outboxes".to_owned());
        let retired = edge.retired_at.map(|at| format!("out of service since {at}")).or(cut_off);
        let none = || "-".to_owned();
        let (name, issuer) =
            (edge.edge.to_string(), edge.issuer.map_or_else(none, |id| id.to_string()));
        if edge.outboxes.is_empty() {
            let state = retired.clone().unwrap_or_else(|| "has sent nothing".to_owned());
            rows.push(vec![name.clone(), issuer.clone(), none(), none(), state]);
        }
        for outbox in edge.outboxes {
            let counted = match (&retired, outbox.closed, outbox.watermark) {
                (_, true, _) => "closed".to_owned(),
                (Some(retired), _, _) => retired.clone(),
                (None, _, watermark) => {
                    format!("counted up to {}", watermark.unwrap_or_default())
                }
            };
            let missing = outbox.missing.iter().map(|gap| match (gap.first, gap.last) {
                (first, last) if first == last => format!("; batch {first} is missing"),
                (first, last) => format!("; batches {first} to {last} are missing"),
            });
            rows.push(vec![
                name.clone(),
                issuer.clone(),
                outbox.epoch.to_string(),
                outbox.batches.to_string(),
                counted + &missing.collect::<String>(),
            ]);
        }
    }
    terminal::table(&rows);
}

/// `countersign deadletter`.
///
/// # Errors
/// When the collector does not answer, or there is no such letter.
pub(crate) fn deadletter(args: &DeadletterArgs) -> Result<ExitCode, Failure> {
    match &args.command {
        DeadletterCommand::List { api, json } => {
            let api = Api::new(api)?;
            let found: Value = block_on(api.must("/v1/deadletters"))?;
            if *json {
                terminal::line(found.to_string());
            } else {
                list_letters(serde_json::from_value(found).map_err(Failure::server)?);
            }
        }
        DeadletterCommand::Show { api, sequence } => {
            let api = Api::new(api)?;
            let path = format!("/v1/deadletters/{sequence}");
            let letter = block_on(api.reply(&path))?.ok_or_else(|| no_letter(*sequence))?;
            let sender = letter.headers.get(SENDER_FIELD).and_then(|who| who.to_str().ok());
            // Standard output is the letter's alone.
            eprintln!("sender: {}", sender.unwrap_or(dead::UNKNOWN));
            // A reader that went away is no failure of ours.
            let _ = std::io::stdout().lock().write_all(&letter.body);
        }
        DeadletterCommand::Resolve { api, sequence, batch, no_batch } => {
            let named = batch.as_deref().map(batch_name).transpose()?;
            let body = match named {
                None if !no_batch => String::new(),
                named => json!(named).to_string(),
            };
            let api = Api::new(api)?;
            let path = format!("/v1/deadletters/{sequence}/resolve");
            let answer = block_on(api.post(&path, body.into_bytes())).map_err(|failure| {
                if failure.message.contains("is not there") {
                    no_letter(*sequence)
                } else {
                    failure
                }
            })?;
            terminal::line(format!("dead letter {sequence} is resolved"));
            let resolved: ResolvedLetter =
                serde_json::from_slice(&answer.body).map_err(Failure::server)?;
            terminal::line(match resolved.batch {
                Some(batch) => format!(
                    "batch {batch} is given up if it is missing; `countersign edges list` shows what is"
                ),
                None => "no batch is given up".to_owned(),
            });
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn no_letter(sequence: u64) -> Failure {
    Failure::usage(format!(
        "there is no dead letter {sequence}; `countersign deadletter list` shows those there are"
    ))
}

#[derive(Deserialize)]
struct Letters {
    letters: Vec<Letter>,
    more: bool,
}

#[derive(Deserialize)]
struct Letter {
    sequence: u64,
    at: Timestamp,
    sender: Option<Sender>,
    from: String,
    reason: String,
    bytes: u64,
    batch: Option<BatchName>,
}

#[derive(Deserialize)]
struct ResolvedLetter {
    batch: Option<BatchName>,
}

#[derive(Deserialize, Serialize, Debug, PartialEq, Eq)]
struct BatchName {
    edge: Id,
    epoch: u64,
    number: u64,
}

impl std::fmt::Display for BatchName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.edge, self.epoch, self.number)
    }
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

fn list_letters(found: Letters) {
    let head = ["letter", "at", "bytes", "batch", "sender", "from", "what is wrong"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for letter in found.letters {
        let batch = letter.batch.map_or_else(|| "-".to_owned(), |batch| batch.to_string());
        rows.push(vec![
            letter.sequence.to_string(),
            letter.at.to_string(),
            letter.bytes.to_string(),
            batch,
            letter.sender.map_or_else(|| dead::UNKNOWN.to_owned(), |sender| sender.to_string()),
            letter.from,
            letter.reason,
        ]);
    }
    terminal::table(&rows);
    if found.more {
        terminal::line("there are more: resolve some of these to see them");
    }
}

#[cfg(test)]
mod tests {
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
}
