//! `countersign keys`: works on the keys of a data directory, whether `up` runs or not, or on those
//! of a deployment on NATS.

use std::process::ExitCode;

use shared::keys::{IssuerLimits, KeyError, KeyId, KeyStore, PublicKey};
use shared::{Clock as _, IssuerId, Money, Random, Timestamp, ambient};

use crate::cli::{DataArgs, KeysArgs, KeysCommand};
use crate::data::DataDir;
use crate::failure::Failure;
use crate::settings::Settings;
use crate::{deployment, process, terminal};

/// Runs the command.
///
/// # Errors
/// When there is no deployment, the change makes no sense, or the file cannot be written.
pub(crate) fn run(args: &KeysArgs) -> Result<ExitCode, Failure> {
    let now = ambient::SystemClock.now();
    match &args.command {
        KeysCommand::New { data, issuer, publishers, advertisers, price_max_micros, currency } => {
            let price_max = price_max_micros.zip(*currency);
            let limits = IssuerLimits {
                publishers: publishers.clone(),
                advertisers: advertisers.clone(),
                price_max: price_max.map(|(micros, currency)| Money { micros, currency }),
            };
            let location = KeyLocation::from_args(data)?;
            let from = location.signs_from(now);
            let make = |keys: &mut KeyStore, random: &mut dyn Random| {
                keys.create_limited(*issuer, limits.clone(), from, random)
            };
            let id = location.change(make)?;
            terminal::line(format!("made key {id} of issuer {issuer}; it signs from {from} on"));
        }
        KeysCommand::List { data, json } => {
            list(&KeyLocation::from_args(data)?.keys()?, *json, now)?
        }
        KeysCommand::Edge { data, issuer } => {
            let keys =
                KeyLocation::from_args(data)?.keys()?.for_edge(*issuer).map_err(Failure::usage)?;
            let text = serde_json::to_string(&keys).map_err(Failure::fatal)?;
            terminal::line(text);
        }
        KeysCommand::Rotate { data, issuer, overlap } => {
            let ms = u64::try_from(overlap.as_millis()).unwrap_or(u64::MAX);
            let location = KeyLocation::from_args(data)?;
            let from = location.signs_from(now);
            let id = location.change(|keys, random| keys.rotate(*issuer, from, ms, random))?;
            terminal::line(format!(
                "made key {id} of issuer {issuer}; it signs from {from} on, the one before until {} \
                 and verifies for 7 days after",
                from.plus_ms(ms)
            ));
        }
        KeysCommand::Retire { data, key } => {
            let silent = KeyLocation::from_args(data)?.change(|keys, _| {
                keys.retire(*key, now)?;
                Ok(silent(keys, *key, now))
            })?;
            terminal::line(format!("key {key} signs no more; what it signed verifies for 7 days"));
            warn_of(silent);
        }
        KeysCommand::Revoke { data, key } => {
            let silent = KeyLocation::from_args(data)?.change(|keys, _| {
                keys.revoke(*key)?;
                Ok(silent(keys, *key, now))
            })?;
            terminal::line(format!("key {key} is revoked: nothing that it signed is believed"));
            warn_of(silent);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The issuer of a key, when none of its keys signs now.
fn silent(keys: &KeyStore, key: KeyId, now: Timestamp) -> Option<IssuerId> {
    let found = keys.issuers.iter().find(|found| found.public.id == key)?;
    keys.signing(found.public.issuer, now).err().map(|_| found.public.issuer)
}

fn warn_of(silent: Option<IssuerId>) {
    if let Some(issuer) = silent {
        eprintln!(
            "no key of issuer {issuer} signs now, so its edges serve no ads; \
             `countersign keys new --issuer {issuer}` makes one"
        );
    }
}

/// How long after it is made a new key of a deployment on NATS begins to sign: by then every
/// collector knows it, or takes nothing (see [`crate::roles`]).
const LEAD_MS: u64 = 10_000;

/// Where the keys are kept.
pub(crate) enum KeyLocation {
    Dir(DataDir),
    Nats(Box<Settings>),
}

impl KeyLocation {
    /// The place that the arguments name: NATS when they give `--config` or `--log`, else a data
    /// directory.
    ///
    /// # Errors
    /// When a setting is wrong.
    pub(crate) fn from_args(args: &DataArgs) -> Result<Self, Failure> {
        let deployment = &args.deployment;
        if deployment.config.is_none() && deployment.log.is_none() {
            return Ok(Self::Dir(DataDir::new(args.dir())));
        }
        let settings = Settings::load(&deployment.given("keys"), process::environment())?;
        Ok(Self::Nats(Box::new(settings)))
    }

    fn signs_from(&self, now: Timestamp) -> Timestamp {
        match self {
            Self::Dir(_) => now,
            Self::Nats(_) => now.plus_ms(LEAD_MS),
        }
    }

    /// Reads the keys.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(crate) fn keys(&self) -> Result<KeyStore, Failure> {
        match self {
            Self::Dir(dir) => dir.require_keys(),
            Self::Nats(settings) => block_on(deployment::keys(settings)),
        }
    }

    /// Reads, changes and writes the keys.
    ///
    /// # Errors
    /// When `change` refuses, or they cannot be read or written.
    pub(crate) fn change<T>(
        &self,
        change: impl Fn(&mut KeyStore, &mut dyn Random) -> Result<T, KeyError>,
    ) -> Result<T, Failure> {
        let change = |keys: &mut KeyStore| change(keys, &mut ambient::SystemRandom);
        match self {
            Self::Dir(dir) => dir.change_keys(change),
            Self::Nats(settings) => block_on(deployment::change_keys(settings, change)),
        }
    }
}

/// Runs a future to its end, on a runtime of its own.
///
/// # Errors
/// That of `work`, or when there can be no runtime.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::fatal(format!("cannot start: {error}")))?.block_on(work)
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
    fn named(what: &str, names: &[impl ToString]) -> String {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        if names.is_empty() { String::new() } else { format!("{what} {}", names.join(", ")) }
    }
    let most = |most: Money| format!(", up to {} micros {}", most.micros, most.currency);
    let for_whom = named(", for", &key.publishers)
        + &named(", of", &key.advertisers)
        + &key.price_max.map(most).unwrap_or_default();
    let state = match key.retired_at {
        _ if key.revoked => "revoked".to_owned(),
        Some(end) if end <= now => format!("retired at {end}"),
        // The key is not in force yet: it is new, or was made while the clock was ahead.
        _ if key.not_before > now => format!("does not sign before {}", key.not_before),
        Some(end) => format!("signs until {end}"),
        None => "signs".to_owned(),
    };
    state + &for_whom
}
