//! Sends the chunks of a log, one after the other, while the next ones are read.
//!
//! One at a time, because the server notes how far a log was taken by chunks that follow each
//! other. A chunk that overtook the one before it would be counted, but the note would stay behind.
//! Chunks are read only as fast as they are sent.

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

/// One import of a log. The server allows no other of the same log at the same time.
pub(super) struct Run {
    path: String,
    source: SourceId,
}

impl Run {
    /// Begins, when no other import of the log is under way. Also returns the row after the last
    /// that was ever sent of it.
    ///
    /// # Errors
    /// When the server refuses.
    pub(super) async fn begin(api: &Api, source: SourceId) -> Result<(Self, u64), Failure> {
        let mut name = [0; 8];
        SystemRandom.fill(&mut name);
        let path = format!("{}?run={}", routes::IMPORT.path, shared::text::hex(&name));
        let reply = api.post(&path, body(&no_rows(source))).await?;
        let answer = serde_json::from_slice::<Imported>(&reply.body);
        Ok((Self { path, source }, answer.map_or(0, |answer| answer.end_row)))
    }

    /// Ends the run, so that the next import of the log need not wait until this one has been
    /// silent for a while. Its failure does not matter: all rows are there.
    async fn end(&self, api: &Api) {
        let path = format!("{}&end=true", self.path);
        let _ = api.post(&path, body(&no_rows(self.source))).await;
    }
}

/// Reads chunks and sends them; returns when the server has all of them durably. Mended rows need
/// no `run`, since each is identified by itself.
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
