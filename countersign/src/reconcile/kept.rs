//! The comparisons that are kept: an object for each, beside the checkpoints. So they are there
//! after a restart, and for whoever counts next.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, PutMode, PutOptions};

use super::run::Run;

/// The folder of the objects.
const FOLDER: &str = "reconciliations";
/// How many are kept.
pub(super) const KEPT_MAX: usize = 100;

/// Where they are kept.
#[derive(Debug)]
pub(super) struct Kept(pub(super) Arc<dyn ObjectStore>);

impl Kept {
    /// All that are kept, by their numbers. One that is damaged is left out, and the log says so;
    /// its number stays used ([`Kept::create`]).
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(super) async fn all(&self) -> Result<BTreeMap<u64, Run>, String> {
        let mut runs = BTreeMap::new();
        let mut objects = self.0.list(Some(&Path::from(FOLDER)));
        while let Some(object) = objects.try_next().await.map_err(said)? {
            let Some(id) = id(&object.location) else { continue };
            let bytes = self.0.get(&object.location).await.map_err(said)?;
            let bytes = bytes.bytes().await.map_err(said)?;
            match read(&bytes).filter(|run| run.told.id == id) {
                Some(run) => drop(runs.insert(id, run)),
                None => tracing::error!("{}: it is not what was written", object.location),
            }
        }
        Ok(runs)
    }

    /// Keeps a new one.
    ///
    /// # Errors
    /// When the store cannot be written, or there is another of this number.
    pub(super) async fn create(&self, run: &Run) -> Result<(), String> {
        let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let (path, bytes) = (path(run.told.id), bytes_of(run));
        match self.0.put_opts(&path, bytes.clone().into(), create).await {
            Ok(_) => Ok(()),
            // Written before, and the acknowledgement was lost; or another process has the store.
            Err(object_store::Error::AlreadyExists { .. }) => {
                let there = self.0.get(&path).await.map_err(said)?;
                match there.bytes().await.map_err(said)? == bytes {
                    true => Ok(()),
                    false => Err(format!("{path}: another process wrote it, or it is damaged")),
                }
            }
            Err(error) => Err(said(error)),
        }
    }

    /// Keeps what has become of one.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub(super) async fn replace(&self, run: &Run) -> Result<(), String> {
        let put = self.0.put(&path(run.told.id), bytes_of(run).into()).await;
        put.map(drop).map_err(said)
    }

    /// Forgets one.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub(super) async fn delete(&self, id: u64) -> Result<(), String> {
        match self.0.delete(&path(id)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(said(error)),
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "as an argument of `map_err`")]
fn said(error: object_store::Error) -> String {
    error.to_string()
}

fn path(id: u64) -> Path {
    Path::from(format!("{FOLDER}/{id:010}.json"))
}

fn id(path: &Path) -> Option<u64> {
    path.as_ref().strip_prefix(FOLDER)?.strip_prefix('/')?.strip_suffix(".json")?.parse().ok()
}

/// JSON, then a line with the BLAKE3 digest of it.
fn bytes_of(run: &Run) -> Vec<u8> {
    // Texts and numbers always serialize.
    let mut bytes = serde_json::to_vec(run).unwrap_or_default();
    let digest = blake3::hash(&bytes).to_hex();
    bytes.push(b'\n');
    bytes.extend(digest.as_bytes());
    bytes
}

fn read(bytes: &[u8]) -> Option<Run> {
    let (json, digest) = bytes.split_at_checked(bytes.len().checked_sub(65)?)?;
    let is_whole = digest.strip_prefix(b"\n")? == blake3::hash(json).to_hex().as_bytes();
    if is_whole { serde_json::from_slice(json).ok() } else { None }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use object_store::memory::InMemory;
    use shared::{Minute, Timestamp};

    use super::*;

    fn run(id: u64) -> Run {
        let mut run = Run::new(id, &(Minute(1)..Minute(2)), None, 4, Timestamp(5));
        // What this process alone knows is not kept.
        run.is_ours = false;
        run
    }

    #[tokio::test]
    async fn what_is_kept_is_there_and_what_is_damaged_is_left_out() {
        let objects = Arc::new(InMemory::new());
        let kept = Kept(Arc::clone(&objects) as _);
        assert!(kept.all().await.unwrap().is_empty());
        let (first, mut second) = (run(1), run(2));
        kept.create(&first).await.unwrap();
        kept.create(&second).await.unwrap();
        // The acknowledgement of the first try was lost.
        kept.create(&second).await.unwrap();
        let mut again = run(2);
        again.tries = 3;
        assert!(kept.create(&again).await.unwrap_err().contains("0000000002.json"));
        second.tries = 2;
        kept.replace(&second).await.unwrap();
        assert_eq!(kept.all().await.unwrap(), BTreeMap::from([(1, first), (2, second)]));

        let path = path(1);
        let mut bytes = objects.get(&path).await.unwrap().bytes().await.unwrap().to_vec();
        bytes[20] ^= 1;
        objects.put(&path, bytes.into()).await.unwrap();
        assert_eq!(kept.all().await.unwrap().into_keys().collect::<Vec<_>>(), [2]);
        assert!(kept.create(&run(1)).await.is_err());
        for id in [1, 1, 2] {
            kept.delete(id).await.unwrap();
        }
        assert!(kept.all().await.unwrap().is_empty());
    }
}
