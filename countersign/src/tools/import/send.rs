//! Sends the chunks of a log, one after the other, while the next ones are read.
//!
//! One at a time, for the server takes a log on by chunks that join: a chunk that overtook the one
//! before it would be counted, but how far the log was taken would stay behind. Chunks are read
//! only as fast as they are taken.

use api::answers::Imported;
use api::routes;
use shared::ambient::SystemRandom;
use shared::import::ImportChunk;
use shared::{Random as _, SourceId};
use tokio::sync::mpsc;

use crate::client::Api;
use crate::failure::Failure;

/// Chunks that are read ahead.
const AHEAD: usize = 2;

/// One import of a log. There is no other of it at the same time.
pub(super) struct Run {
    path: String,
    source: SourceId,
}

impl Run {
    /// Begins, when no other is under way; the row behind all that was sent of the log before.
    ///
    /// # Errors
    /// When the server does not take it.
    pub(super) async fn begin(api: &Api, source: SourceId) -> Result<(Self, u64), Failure> {
        let mut name = [0; 8];
        SystemRandom.fill(&mut name);
        let path = format!("{}?run={}", routes::IMPORT.path, shared::text::hex(&name));
        let reply = api.post(&path, body(&no_rows(source))).await?;
        let answer = serde_json::from_slice::<Imported>(&reply.body);
        Ok((Self { path, source }, answer.map_or(0, |answer| answer.end_row)))
    }

    /// Ends, so that the next import of the log need not wait until this one was silent for long enough.
    /// It is a courtesy: all rows are there, whatever comes of it.
    async fn end(&self, api: &Api) {
        let path = format!("{}&end=true", self.path);
        let _ = api.post(&path, body(&no_rows(self.source))).await;
    }
}

/// Reads, and sends what comes; ends when the server has all chunks durably. Rows that stand for themselves
/// need no run.
///
/// # Errors
/// When the log cannot be read or the server does not take it.
pub(super) async fn send<T: Send + 'static>(
    api: &Api,
    run: Option<&Run>,
    read: impl FnOnce(&mut dyn FnMut(ImportChunk) -> bool) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let (sink, mut bodies) = mpsc::channel::<Vec<u8>>(AHEAD);
    let reader = tokio::task::spawn_blocking(move || {
        read(&mut |chunk| sink.blocking_send(body(&chunk)).is_ok())
    });
    let path = run.map_or(routes::IMPORT.path, |run| &run.path);
    while let Some(body) = bodies.recv().await {
        api.post(path, body).await?;
    }
    let read = reader.await.map_err(Failure::fatal)?;
    if let Some(run) = run {
        run.end(api).await;
    }
    read
}

fn no_rows(source: SourceId) -> ImportChunk {
    ImportChunk { source, first_row: 0, end_row: 0, digest: [0; 32], events: Vec::new() }
}

fn body(chunk: &ImportChunk) -> Vec<u8> {
    serde_json::to_vec(chunk).expect("numbers, texts and lists always serialize")
}
