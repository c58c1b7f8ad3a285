//! Small documents beside the checkpoints. Each is written once and never changed, so what was said
//! in it can be read as long as the deployment lives.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, PutMode, PutOptions};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::store::StoreError;

/// The documents of one folder.
#[derive(Debug)]
pub(crate) struct Documents {
    objects: Arc<dyn ObjectStore>,
    folder: &'static str,
}

impl Documents {
    pub(crate) fn new(objects: Arc<dyn ObjectStore>, folder: &'static str) -> Self {
        Self { objects, folder }
    }

    /// What a document is called in messages.
    pub(crate) fn path(&self, name: &str) -> Path {
        Path::from(format!("{}/{name}.json", self.folder))
    }

    /// Writes a document that is not there yet.
    pub(crate) async fn write(
        &self,
        name: &str,
        document: &impl Serialize,
    ) -> Result<(), StoreError> {
        let bytes = bytes_of(document);
        let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let path = self.path(name);
        match self.objects.put_opts(&path, bytes.clone().into(), create).await {
            Ok(_) => Ok(()),
            // Written before, and the acknowledgement was lost; or another process has the store.
            Err(object_store::Error::AlreadyExists { .. }) => {
                let there = self.objects.get(&path).await.map_err(away)?;
                match there.bytes().await.map_err(away)? == bytes {
                    true => Ok(()),
                    false => Err(StoreError::Closed(format!("{path}: another process wrote it"))),
                }
            }
            Err(error) => Err(away(error)),
        }
    }

    /// All documents by their names.
    pub(crate) async fn all<T: DeserializeOwned>(&self) -> Result<BTreeMap<String, T>, StoreError> {
        let mut found = BTreeMap::new();
        let folder = Path::from(self.folder);
        let mut objects = self.objects.list(Some(&folder));
        while let Some(object) = objects.try_next().await.map_err(away)? {
            let path = object.location;
            let damaged = |what: &str| StoreError::Damaged(format!("{path}: {what}"));
            let name = path.as_ref().strip_prefix(self.folder).and_then(|name| {
                name.strip_prefix('/')?.strip_suffix(".json").map(ToOwned::to_owned)
            });
            let name = name.ok_or_else(|| damaged("not the name of a document"))?;
            let bytes = self.objects.get(&path).await.map_err(away)?;
            let bytes = bytes.bytes().await.map_err(away)?;
            let document = read(&bytes).ok_or_else(|| damaged("it is not what was written"))?;
            found.insert(name, document);
        }
        Ok(found)
    }
}

/// A document as bytes: JSON, then a line with the BLAKE3 digest of it.
fn bytes_of(document: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(document).unwrap_or_default();
    let digest = blake3::hash(&bytes).to_hex();
    bytes.push(b'\n');
    bytes.extend(digest.as_bytes());
    bytes
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let (json, digest) = bytes.split_at_checked(bytes.len().checked_sub(65)?)?;
    let is_whole = digest.strip_prefix(b"\n")? == blake3::hash(json).to_hex().as_bytes();
    if is_whole { serde_json::from_slice(json).ok() } else { None }
}

fn away(error: object_store::Error) -> StoreError {
    StoreError::Unavailable(error.to_string())
}
