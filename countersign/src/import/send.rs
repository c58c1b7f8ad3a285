//! Sends the chunks of a log, one after the other, while the next ones are read.
//!
//! One at a time, for the server takes a log on by chunks that join: a chunk that overtook the one
//! before it would be counted, but how far the log was taken would stay behind. Chunks are read
//! only as fast as they are taken.

use shared::import::ImportChunk;
use tokio::sync::mpsc;

use crate::client::Api;
use crate::failure::Failure;

/// Chunks that are read ahead.
const AHEAD: usize = 2;

/// Reads, and sends what comes; ends when the server has all chunks durably. `begin`: of the log up to the
/// end of its first row, so that two logs under one name at once are told apart.
///
/// # Errors
/// When the log cannot be read or the server does not take it.
pub(super) async fn send<T: Send + 'static>(
    api: &Api,
    begin: Option<[u8; 32]>,
    read: impl FnOnce(&mut dyn FnMut(ImportChunk) -> bool) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let (sink, mut bodies) = mpsc::channel::<Vec<u8>>(AHEAD);
    let reader = tokio::task::spawn_blocking(move || {
        read(&mut |chunk| sink.blocking_send(body(&chunk)).is_ok())
    });
    let path = match begin {
        Some(begin) => format!("/v1/import?begin={}", shared::text::hex(&begin)),
        None => "/v1/import".to_owned(),
    };
    while let Some(body) = bodies.recv().await {
        api.post(&path, body).await?;
    }
    reader.await.map_err(Failure::fatal)?
}

fn body(chunk: &ImportChunk) -> Vec<u8> {
    serde_json::to_vec(chunk).expect("numbers, texts and lists always serialize")
}
