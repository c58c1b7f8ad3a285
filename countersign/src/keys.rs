//! `countersign keys`: works on the data directory, while `up` runs or not.

use std::process::ExitCode;

use shared::keys::{KeyStore, PublicKey};
use shared::{Clock as _, Timestamp, ambient};

use crate::cli::{KeysArgs, KeysCommand};
use crate::data::DataDir;
use crate::failure::Failure;
use crate::terminal;

/// Runs the command.
///
/// # Errors
/// When there is no deployment, the change makes no sense, or the file cannot be written.
pub(crate) fn run(args: &KeysArgs) -> Result<ExitCode, Failure> {
    let now = ambient::SystemClock.now();
    let random = &mut ambient::SystemRandom;
    match &args.command {
        KeysCommand::New { data, issuer, publishers } => {
            let dir = DataDir::new(&data.data);
            let publishers = publishers.clone();
            let id = dir.change_keys(|keys| keys.create(*issuer, publishers, now, random))?;
            terminal::line(format!("made key {id} of issuer {issuer}; it signs from now on"));
        }
        KeysCommand::List { data, json } => {
            list(&DataDir::new(&data.data).require_keys()?, *json, now)?;
        }
        KeysCommand::Rotate { data, issuer, overlap } => {
            let ms = u64::try_from(overlap.as_millis()).unwrap_or(u64::MAX);
            let dir = DataDir::new(&data.data);
            let id = dir.change_keys(|keys| keys.rotate(*issuer, now, ms, random))?;
            terminal::line(format!(
                "made key {id} of issuer {issuer}; the one before stops signing at {} and verifies \
                 for 7 days after",
                now.plus_ms(ms)
            ));
        }
        KeysCommand::Retire { data, key } => {
            DataDir::new(&data.data).change_keys(|keys| keys.retire(*key, now))?;
            terminal::line(format!("key {key} signs no more; what it signed verifies for 7 days"));
        }
        KeysCommand::Revoke { data, key } => {
            DataDir::new(&data.data).change_keys(|keys| keys.revoke(*key))?;
            terminal::line(format!("key {key} is revoked: nothing that it signed is believed"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list(keys: &KeyStore, json: bool, now: Timestamp) -> Result<(), Failure> {
    let public: Vec<&PublicKey> = keys.issuers.iter().map(|key| &key.public).collect();
    if json {
        let text = serde_json::to_string_pretty(&public).map_err(Failure::data)?;
        terminal::line(text);
        return Ok(());
    }
    let head = ["key", "issuer", "signs from", "state"].map(str::to_owned).to_vec();
    let rows = public.into_iter().map(|key| {
        vec![
            key.id.to_string(),
            key.issuer.to_string(),
            key.not_before.to_string(),
            state(key, now),
        ]
    });
    terminal::line(format!("deployment {}", keys.deployment));
    terminal::table(&std::iter::once(head).chain(rows).collect::<Vec<_>>());
    Ok(())
}

fn state(key: &PublicKey, now: Timestamp) -> String {
    let for_whom = match key.publishers.as_slice() {
        [] => String::new(),
        some => {
            let names: Vec<String> = some.iter().map(ToString::to_string).collect();
            format!(", for {}", names.join(" "))
        }
    };
    let state = match key.retired_at {
        _ if key.revoked => "revoked".to_owned(),
        Some(end) if end <= now => format!("retired at {end}"),
        Some(end) => format!("signs until {end}"),
        None => "signs".to_owned(),
    };
    state + &for_whom
}
