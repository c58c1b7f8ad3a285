//! Sends the chunks of a log, one after the other, while the next ones are read.
//!
//! One at a time, for the server takes a log on by chunks that join: a chunk that overtook the one
//! before it would be counted, but how far the log was taken would stay behind. Chunks are read
//! only as fast as they are taken.

use shared::import::ImportChunk;
use tokio::sync::mpsc;

use super::progress::Progress;
use super::read::{self, Log, Read};
use crate::client::Api;
use crate::failure::Failure;

/// Chunks that are read ahead.
const AHEAD: usize = 2;

/// Reads the log and sends it; ends when the server has all chunks durably.
///
/// # Errors
/// When the log cannot be read or the server does not take it.
pub(super) async fn send(log: Log, api: &Api, progress: &Progress) -> Result<Read, Failure> {
    let (sink, mut bodies) = mpsc::channel::<(String, Vec<u8>)>(AHEAD);
    let seen = progress.seen();
    let reader = tokio::task::spawn_blocking(move || {
        read::read(log, seen, &mut |chunk, begin| {
            // So that two logs under one name at once are told apart.
            let path = format!("/v1/import?begin={}", shared::text::hex(begin));
            sink.blocking_send((path, body(&chunk))).is_ok()
        })
    });
    while let Some((path, body)) = bodies.recv().await {
        api.post(&path, body).await?;
    }
    reader.await.map_err(Failure::fatal)?
}

fn body(chunk: &ImportChunk) -> Vec<u8> {
    serde_json::to_vec(chunk).expect("numbers, texts and lists always serialize")
}
