//! Follows `keys.json`, so that what `countersign keys` changes is in force within seconds, without
//! a restart.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use collector::CollectorKeys;
use edge::Keys;
use edge::native::Policies;
use shared::IssuerId;
use shared::keys::{DeploymentId, KeyStore};
use tokio::sync::watch;

use crate::data::DataDir;

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The parts that use the keys.
pub(super) struct Followers {
    /// The deployment that the keys must belong to.
    pub(super) deployment: DeploymentId,
    /// The issuer whose key the edge signs with.
    pub(super) issuer: IssuerId,
    /// The edge's policies.
    pub(super) policies: Arc<Policies>,
    /// The collector's keys.
    pub(super) collector: watch::Sender<Arc<CollectorKeys>>,
}

/// Looks at the file until the task is ended. A file that cannot be used changes nothing, and the
/// log says so once.
pub(super) async fn keys(dir: DataDir, followers: Followers) {
    let path = dir.path("keys.json");
    let mut seen = look(&path);
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = look(&path);
        if now == seen {
            continue;
        }
        seen = now;
        let read = dir.read_keys().map_err(|failure| failure.message);
        let taken = read.and_then(|keys| followers.take(&keys.ok_or("keys.json is gone")?));
        match taken {
            Ok(keys) => tracing::info!(keys, "the keys have changed and are in force"),
            Err(why) => tracing::error!("the keys have changed and cannot be used: {why}"),
        }
    }
}

impl Followers {
    fn take(&self, store: &KeyStore) -> Result<usize, String> {
        if store.deployment != self.deployment {
            return Err(format!("they are of deployment {}", store.deployment));
        }
        let edge = Keys::of_store(store, self.issuer).map_err(|error| error.to_string())?;
        let collector = CollectorKeys::of_store(store).map_err(|error| error.to_string())?;
        // The collector first: it must know a key before a token comes that is signed with it.
        self.collector.send_replace(Arc::new(collector));
        self.policies.set_keys(edge);
        Ok(store.issuers.len())
    }
}

/// A fingerprint that differs between two states of the file: time, length and inode. The file is
/// replaced as a whole, so its inode differs even when the others do not.
fn look(path: &Path) -> Option<(SystemTime, u64, u64)> {
    let meta = std::fs::metadata(path).ok()?;
    #[cfg(unix)]
    let number = std::os::unix::fs::MetadataExt::ino(&meta);
    #[cfg(not(unix))]
    let number = 0;
    Some((meta.modified().ok()?, meta.len(), number))
}
