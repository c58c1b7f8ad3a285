//! Opening the log, and creating the streams of a new deployment once.
//!
//! The stream of the dead letters is created first. It is the anchor: its identity is the log's. When
//! all streams are there, the anchor is marked complete. From then on a missing stream means lost data,
//! and is reported instead of being created again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, StorageType};
use shared::text::hex;

use super::{Inner, JetStreamLog, stream_name, subject};
use crate::log::DEAD;
use crate::nats::connect::{cannot_make, context, find_stream, warn_of_few_copies};
use crate::nats::{JetStreamConfig, OpenError};
use crate::position::Identity;

const IDENTITY: &str = "countersign.identity";
const PARTITIONS: &str = "countersign.partitions";
const COMPLETE: &str = "countersign.complete";

impl JetStreamLog {
    /// Whether there is a log under this prefix, with any identity and any number of partitions.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn is_there(config: &JetStreamConfig) -> Result<bool, OpenError> {
        let (context, _) = context(config).await?;
        let found = find_stream(&context, &stream_name(&config.prefix, DEAD)).await;
        let away = |why: String| OpenError::Away { url: config.url.clone(), why };
        Ok(found.map_err(away)?.is_some_and(|anchor| identity_of(anchor.cached_info()).is_some()))
    }

    /// Connects and opens the streams. With `identity_if_new`, 16 random bytes, streams that are missing
    /// because the log is new are created; with `None` nothing is created. Returns the log and whether it
    /// is new. The connection is renewed by itself from then on.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(
        config: &JetStreamConfig,
        identity_if_new: Option<Identity>,
    ) -> Result<(Self, bool), OpenError> {
        let (context, connected) = context(config).await?;
        let away = |why: String| OpenError::Away { url: config.url.clone(), why };
        let name = stream_name(&config.prefix, DEAD);
        let anchor = find_stream(&context, &name).await.map_err(away)?;
        let new = anchor.is_none();
        let identity = match (&anchor, identity_if_new) {
            (Some(anchor), _) => check_anchor(config, anchor.cached_info())?,
            (None, Some(identity)) => identity,
            (None, None) => {
                return Err(OpenError::Foreign(format!(
                    "the stream {name} is not there: it was lost, or this is another server"
                )));
            }
        };
        if let Some(anchor) = &anchor {
            warn_of_few_copies(config, anchor.cached_info());
        }
        let complete = anchor
            .is_some_and(|anchor| anchor.cached_info().config.metadata.contains_key(COMPLETE));
        match (complete, identity_if_new) {
            (true, _) => {}
            (false, Some(_)) => create_streams(config, &context, identity, new).await?,
            (false, None) => {
                return Err(OpenError::Foreign(
                    "the log's streams were not all made: `countersign init` makes the rest"
                        .to_owned(),
                ));
            }
        }
        let inner = Inner {
            context,
            prefix: config.prefix.clone(),
            identity,
            partitions: config.partitions,
            connected,
            turn: Arc::default(),
        };
        Ok((Self { inner: Arc::new(inner) }, new))
    }
}

/// The identity that a stream carries, if it carries one.
pub(super) fn identity_of(info: &Info) -> Option<Identity> {
    let text = info.config.metadata.get(IDENTITY)?;
    let bytes: Option<Vec<u8>> = (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok())
        .collect();
    bytes?.try_into().ok()
}

/// Checks that the anchor is one of ours and has the number of partitions of the config; gives its identity.
fn check_anchor(config: &JetStreamConfig, anchor: &Info) -> Result<Identity, OpenError> {
    let name = &anchor.config.name;
    let identity = identity_of(anchor).ok_or_else(|| {
        OpenError::Foreign(format!("the stream {name} is there, and Countersign did not make it"))
    })?;
    let partitions = anchor.config.metadata.get(PARTITIONS).map_or("?", String::as_str);
    if partitions != config.partitions.to_string() {
        return Err(OpenError::Foreign(format!(
            "the log has {partitions} partitions, not {}: their number is fixed when it is made",
            config.partitions
        )));
    }
    Ok(identity)
}

/// Creates the streams that are missing, the anchor first, and then marks the anchor complete.
async fn create_streams(
    config: &JetStreamConfig,
    context: &Context,
    identity: Identity,
    new: bool,
) -> Result<(), OpenError> {
    for partition in std::iter::once(DEAD).chain(0..config.partitions) {
        let name = stream_name(&config.prefix, partition);
        let away = |why: String| OpenError::Away { url: config.url.clone(), why };
        match find_stream(context, &name).await.map_err(away)? {
            Some(stream) if identity_of(stream.cached_info()) == Some(identity) => {}
            Some(_) => {
                return Err(OpenError::Foreign(format!(
                    "the stream {name} is there and is of no log, or of another: restore what \
                     belongs to it, or remove it"
                )));
            }
            None if partition == DEAD && !new => {
                return Err(OpenError::Foreign(format!("the stream {name} has just vanished")));
            }
            None => {
                let wanted = stream_config(config, partition, identity);
                let made = context.create_stream(wanted).await;
                made.map_err(|error| cannot_make(config, &format!("the stream {name}"), &error))?;
            }
        }
    }
    let mut anchor = stream_config(config, DEAD, identity);
    anchor.metadata.insert(COMPLETE.to_owned(), "1".to_owned());
    context.update_stream(anchor).await.map(drop).map_err(|error| {
        OpenError::Unfit(format!("the stream of dead letters cannot be marked: {error}"))
    })
}

fn stream_config(config: &JetStreamConfig, partition: u16, identity: Identity) -> Config {
    let metadata = HashMap::from([
        (IDENTITY.to_owned(), hex(&identity)),
        (PARTITIONS.to_owned(), config.partitions.to_string()),
    ]);
    Config {
        name: stream_name(&config.prefix, partition),
        subjects: vec![subject(&config.prefix, partition)],
        storage: StorageType::File,
        num_replicas: config.replicas,
        max_bytes: config.stream_bytes_max.unwrap_or(-1),
        // A full stream refuses new messages; old ones are never dropped for them.
        discard: DiscardPolicy::New,
        deny_delete: true,
        // The server recognises repeated letters by their ids. Repeated events are recognised by their
        // batch numbers, for ever, so their streams need no such window; the shortest is set.
        duplicate_window: match partition {
            DEAD => Duration::from_secs(120),
            _ => Duration::from_millis(100),
        },
        metadata,
        ..Config::default()
    }
}
