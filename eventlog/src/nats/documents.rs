//! Small documents that the parts of a deployment share: fixed settings, keys, leases. They lie in one
//! key-value bucket, and each has a revision that grows with every change.

use std::error::Error as _;

use async_nats::jetstream::context::CreateStreamError;
use async_nats::jetstream::kv::{self, UpdateErrorKind};
use async_nats::jetstream::stream::StorageType;
use bytes::Bytes;

use super::connect::{self, JetStreamConfig, OpenError};
use super::unavailable;
use crate::log::LogError;

/// The longest document, in bytes.
pub const DOCUMENT_BYTES_MAX: usize = 512 << 10;

/// The documents of a deployment. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Documents {
    store: kv::Store,
}

/// A document and its revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// The content.
    pub bytes: Bytes,
    /// The number of the bucket's change that put it, from 1.
    pub revision: u64,
}

impl Documents {
    /// Connects and opens the bucket; with `make`, creates it when it is missing.
    ///
    /// # Errors
    /// [`OpenError`]; [`OpenError::Foreign`] when the bucket is missing and not to be created.
    pub async fn open(config: &JetStreamConfig, make: bool) -> Result<Self, OpenError> {
        let (context, _) = connect::context(config).await?;
        let bucket = bucket(&config.prefix);
        let away = |why: String| OpenError::Away { url: config.url.clone(), why };
        let found = connect::find_stream(&context, &format!("KV_{bucket}")).await.map_err(away)?;
        if found.is_some() {
            let store = context.get_key_value(&bucket).await;
            return store.map(|store| Self { store }).map_err(|error| away(error.to_string()));
        }
        if !make {
            return Err(OpenError::Foreign(format!(
                "{}: there is no deployment (no bucket {bucket}): `countersign init` makes one",
                config.url
            )));
        }
        let wanted = kv::Config {
            bucket: bucket.clone(),
            description: "Countersign: what is fixed, keys, leases".to_owned(),
            max_value_size: DOCUMENT_BYTES_MAX as i32,
            // An overwritten document can be got back (`nats kv history`).
            history: 16,
            storage: StorageType::File,
            num_replicas: config.replicas,
            ..kv::Config::default()
        };
        let store = context.create_key_value(wanted).await;
        store.map(|store| Self { store }).map_err(|error| {
            let what = format!("the bucket {bucket}");
            let of_stream = error.source().and_then(|why| why.downcast_ref::<CreateStreamError>());
            match of_stream {
                Some(why) => connect::cannot_make(config, &what, why),
                None => OpenError::Unfit(format!("{what} cannot be made: {error}")),
            }
        })
    }

    /// Reads a document from one of the servers, which may be a moment behind the others.
    ///
    /// # Errors
    /// [`LogError::Unavailable`].
    pub async fn get(&self, name: &str) -> Result<Option<Document>, LogError> {
        let entry = self.store.entry(name).await.map_err(unavailable)?;
        let there = entry.filter(|entry| entry.operation == kv::Operation::Put);
        Ok(there.map(|entry| Document { bytes: entry.value, revision: entry.revision }))
    }

    /// Replaces the document that has the revision `expected`; with 0, creates one where none is and none
    /// was. Returns the new revision, or `None` when the document has another revision: somebody else was
    /// faster.
    ///
    /// # Errors
    /// [`LogError::Unavailable`]: the document may have been written all the same.
    pub async fn put(
        &self,
        name: &str,
        bytes: Bytes,
        expected: u64,
    ) -> Result<Option<u64>, LogError> {
        match self.store.update(name, bytes, expected).await {
            Ok(revision) => Ok(Some(revision)),
            Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => Ok(None),
            Err(error) => Err(unavailable(error)),
        }
    }
}

fn bucket(prefix: &str) -> String {
    format!("{prefix}countersign")
}
