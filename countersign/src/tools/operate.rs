//! `countersign edges`: lists edges, registers them and takes them out of service.

use std::process::ExitCode;

use api::answers::Edges;
use serde_json::Value;
use shared::{Clock as _, Timestamp, ambient};

use crate::cli::{EdgesArgs, EdgesCommand};
use crate::client::Api;
use crate::failure::Failure;
use crate::terminal;
use crate::tools::keys::{KeyLocation, block_on};

/// `countersign edges`.
///
/// # Errors
/// When the API does not answer, or the keys cannot be changed.
pub(crate) fn edges(args: &EdgesArgs) -> Result<ExitCode, Failure> {
    match &args.command {
        EdgesCommand::List { api, json } => {
            let api = Api::new(api)?;
            let found: Value = block_on(api.require(api::routes::EDGES.path))?;
            if *json {
                terminal::line(found.to_string());
            } else {
                list_edges(serde_json::from_value(found).map_err(Failure::server)?);
            }
        }
        EdgesCommand::Register { data, issuer, edges } => {
            let now = ambient::SystemClock.now();
            let location = KeyLocation::from_args(data)?;
            location.change(|keys, _| {
                edges.iter().try_for_each(|edge| keys.register_edge(*edge, *issuer, now).map(drop))
            })?;
            let keys = location.keys()?;
            for edge in edges {
                let retired = keys.retired_since(*edge).map_or_else(String::new, |since| {
                    format!(", and is out of service since {since}: what comes of it is rejected")
                });
                terminal::line(format!("edge {edge} belongs to the issuer {issuer}{retired}"));
            }
        }
        EdgesCommand::Registered { data, json } => {
            let keys = KeyLocation::from_args(data)?.keys()?;
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
                KeyLocation::from_args(data)?.change(|keys, _| keys.retire_edge(*edge, now))?;
            terminal::line(format!(
                "edge {edge} is out of service since {since}; within seconds nobody waits for it, \
                 and what still comes from it is rejected. Whatever runs under this name goes on serving \
                 and is not counted: end it, or give it another name (edge.name)"
            ));
        }
    }
    Ok(ExitCode::SUCCESS)
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
