//! Sends the chunks of a log, a few at a time.
//!
//! The server counts each row once in whatever order chunks come; a few in flight hide the time in
//! which it waits for its disk. Chunks are read only as fast as they are taken.

use std::sync::Arc;

use shared::import::ImportChunk;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::progress::Progress;
use super::read::{self, Log, Read};
use crate::client::Api;
use crate::failure::Failure;

/// Chunks in flight.
const WINDOW: usize = 4;

/// Reads the log and sends it; ends when the server has all chunks durably.
///
/// # Errors
/// When the log cannot be read or the server does not take it.
pub(super) async fn send(log: Log, api: &Arc<Api>, progress: &Progress) -> Result<Read, Failure> {
    let (sink, mut chunks) = mpsc::channel::<ImportChunk>(WINDOW);
    let seen = progress.seen();
    let reader = tokio::task::spawn_blocking(move || {
        read::read(log, seen, &mut |chunk| sink.blocking_send(chunk).is_ok())
    });
    let mut flying = JoinSet::new();
    while let Some(chunk) = chunks.recv().await {
        if flying.len() >= WINDOW {
            landed(flying.join_next().await)?;
        }
        let api = Arc::clone(api);
        flying.spawn(async move {
            let body = serde_json::to_vec(&chunk).map_err(Failure::fatal)?;
            api.post("/v1/import", body).await
        });
    }
    while !flying.is_empty() {
        landed(flying.join_next().await)?;
    }
    reader.await.map_err(Failure::fatal)?
}

fn landed(
    result: Option<Result<Result<(), Failure>, tokio::task::JoinError>>,
) -> Result<(), Failure> {
    result.map_or(Ok(()), |joined| joined.map_err(Failure::fatal)?)
}
