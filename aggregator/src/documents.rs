//! Small documents beside the checkpoints. Each is written once and never changed, so what was said
//! in it can be read as long as the deployment lives. What they come to is read at the first use,
//! and kept.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, PutMode, PutOptions};
use parking_lot::RwLock;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Mutex, MutexGuard};

use crate::store::StoreError;

/// What the documents of a folder come to.
pub(crate) trait Folder: Sized {
    /// The folder.
    const NAME: &'static str;
    /// A document of it.
    type Document: DeserializeOwned;

    /// Reads them all, by their names.
    ///
    /// # Errors
    /// The name of one that is wrong or missing, and what is wrong with it.
    fn read(all: BTreeMap<String, Self::Document>) -> Result<Self, (String, String)>;
}

/// The documents of a folder, and what they come to.
#[derive(Debug)]
pub(crate) struct Documents<T> {
    objects: Arc<dyn ObjectStore>,
    known: RwLock<Option<Arc<T>>>,
    /// Held while the store is read or written. Whoever asks does not wait for it once all are known.
    storing: Mutex<()>,
}

impl<T: Folder> Documents<T> {
    pub(crate) fn new(objects: Arc<dyn ObjectStore>) -> Self {
        Self { objects, known: RwLock::new(None), storing: Mutex::default() }
    }

    /// What they come to.
    pub(crate) async fn all(&self) -> Result<Arc<T>, StoreError> {
        let known = self.known.read().clone();
        match known {
            Some(known) => Ok(known),
            None => self.known(&self.storing.lock().await).await,
        }
    }

    /// Writes one more. `next`: its name, the document, and what all come to with it.
    pub(crate) async fn add<D: Serialize, E: From<StoreError>>(
        &self,
        next: impl FnOnce(&T) -> Result<(String, D, T), E>,
    ) -> Result<Arc<T>, E> {
        let storing = self.storing.lock().await;
        let (name, document, after) = next(&*self.known(&storing).await?)?;
        self.write(&name, &document).await?;
        let after = Arc::new(after);
        *self.known.write() = Some(Arc::clone(&after));
        Ok(after)
    }

    async fn known(&self, _storing: &MutexGuard<'_, ()>) -> Result<Arc<T>, StoreError> {
        let known = self.known.read().clone();
        if let Some(known) = known {
            return Ok(known);
        }
        let all = T::read(self.read_all().await?)
            .map_err(|(name, what)| StoreError::Damaged(format!("{}: {what}", path::<T>(&name))))?;
        let all = Arc::new(all);
        *self.known.write() = Some(Arc::clone(&all));
        Ok(all)
    }

    async fn write(&self, name: &str, document: &impl Serialize) -> Result<(), StoreError> {
        let bytes = bytes_of(document);
        let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let path = path::<T>(name);
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

    async fn read_all(&self) -> Result<BTreeMap<String, T::Document>, StoreError> {
        let mut found = BTreeMap::new();
        let folder = Path::from(T::NAME);
        let mut objects = self.objects.list(Some(&folder));
        while let Some(object) = objects.try_next().await.map_err(away)? {
            let path = object.location;
            let damaged = |what: &str| StoreError::Damaged(format!("{path}: {what}"));
            let name = path.as_ref().strip_prefix(T::NAME).and_then(|name| {
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

fn path<T: Folder>(name: &str) -> Path {
    Path::from(format!("{}/{name}.json", T::NAME))
}

/// A document as bytes: JSON, then a line with the BLAKE3 digest of it.
fn bytes_of(document: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(document).unwrap_or_default();
    let digest = blake3::hash(&bytes).to_hex();
    bytes.push(b'\n');
    bytes.extend(digest.as_bytes());
    bytes
}

fn read<D: DeserializeOwned>(bytes: &[u8]) -> Option<D> {
    let (json, digest) = bytes.split_at_checked(bytes.len().checked_sub(65)?)?;
    let is_whole = digest.strip_prefix(b"\n")? == blake3::hash(json).to_hex().as_bytes();
    if is_whole { serde_json::from_slice(json).ok() } else { None }
}

fn away(error: object_store::Error) -> StoreError {
    StoreError::Unavailable(error.to_string())
}
