//! NATS: connecting to it, and what the parts of a deployment share there besides the log: small documents
//! ([`Documents`]) and the work queue between edges and collectors ([`EdgeQueue`]). The log on NATS is
//! [`crate::jetstream`].

pub(crate) mod connect;
mod documents;
mod headerless;
mod queue;
#[cfg(any(test, feature = "testing"))]
pub mod server;

use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::{self, ErrorCode};

pub use connect::{JetStreamConfig, OpenError};
pub use documents::{DOCUMENT_BYTES_MAX, Document, Documents};
pub use queue::{EDGE_BATCH_BYTES_MAX, EdgeQueue, Taken, Taker};

use crate::log::LogError;

pub(crate) fn unavailable(error: impl std::fmt::Display) -> LogError {
    LogError::Unavailable(error.to_string())
}

/// What an error of a publish means for the log. Unless the result says otherwise, the message may have
/// been written.
pub(crate) fn failed(error: &PublishError) -> LogError {
    const FULL: [ErrorCode; 4] = [
        ErrorCode::STREAM_STORE_FAILED,
        ErrorCode::STORAGE_RESOURCES_EXCEEDED,
        ErrorCode::INSUFFICIENT_RESOURCES,
        ErrorCode::TEMP_STORAGE_FAILED,
    ];
    let code = std::error::Error::source(error)
        .and_then(|source| source.downcast_ref::<jetstream::Error>())
        .map(jetstream::Error::error_code);
    match (error.kind(), code) {
        (_, Some(code)) if FULL.contains(&code) => LogError::NoSpace,
        (PublishErrorKind::StreamNotFound, _) => {
            LogError::Unavailable("no stream answers: it is gone, or has no leader now".to_owned())
        }
        _ => LogError::Unavailable(error.to_string()),
    }
}

#[cfg(test)]
pub(crate) mod tests;
