//! The data directory: everything that one process keeps.
//!
//! | name | what |
//! |---|---|
//! | `deployment.json` | what is fixed when the deployment is made: partitions, the log's identity, where the log is |
//! | `keys.json` | signing keys and secrets, mode 0600 |
//! | `admin.key` | the hash of the operator's key |
//! | `catalogue.toml` | ads and placements, unless a setting names another file |
//! | `outbox/` `log/` `state/` | the edge's outbox, the event log, the engine's state |
//! | `lock` `keys.lock` | held while `up` runs; while a command changes the keys |

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shared::keys::{DeploymentId, KeyStore, registered_name};
use shared::{EdgeId, IssuerId, Partitions, Random, Timestamp};

use crate::failure::Failure;

/// A data directory, by its path.
#[derive(Debug, Clone)]
pub(crate) struct DataDir {
    root: PathBuf,
}

/// What is fixed when a deployment is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Deployment {
    /// The version of the file's form.
    version: u32,
    /// The deployment that the keys belong to.
    pub(crate) deployment: DeploymentId,
    /// How many partitions count.
    pub(crate) partitions: u16,
    /// The log's identity: 16 bytes in hexadecimal.
    pub(crate) log: String,
    /// When it was made, ms since 1970.
    created_at: Timestamp,
    /// Where the log of a data directory is: noted when the log is first opened. Files of earlier
    /// builds do not have it, nor does a deployment on NATS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    log_place: Option<LogPlace>,
}

/// The kind of place of a data directory's log. Not its address, which may change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub(crate) enum LogPlace {
    /// `log/` in the directory.
    Local,
    /// Streams on NATS.
    Nats {
        /// The prefix of their names: `eventlog.prefix`.
        prefix: String,
    },
}

const VERSION: u32 = 1;
/// The list of files in a backup; only a backup has it.
pub(crate) const BACKUP_LIST: &str = "backup.json";
/// A segment of a local log to which nothing was written is smaller than this.
const EMPTY_SEGMENT_BYTES_MAX: u64 = 4_096;

impl DataDir {
    /// A directory that need not exist yet.
    pub(crate) fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The path of a part.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Makes the directory, readable by its owner only, and takes it for this process until the
    /// guard is dropped.
    ///
    /// # Errors
    /// When another process has taken it, it cannot be made, or it is a backup.
    pub(crate) fn take(&self) -> Result<File, Failure> {
        self.refuse_copy()?;
        make_private_dir(&self.root).map_err(|error| cannot("make", &self.root, &error))?;
        let (file, path) = self.lock_file("lock")?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(Failure::locked(format!(
                "another `countersign` uses {}: end it, or give this one another --data",
                self.root.display()
            ))),
            Err(TryLockError::Error(error)) => Err(cannot("lock", &path, &error)),
        }
    }

    /// Refuses a backup: if a process ran on it, its files would no longer be those in its list.
    ///
    /// # Errors
    /// Says what to do with it.
    pub(crate) fn refuse_copy(&self) -> Result<(), Failure> {
        let list = self.path(BACKUP_LIST);
        if !list.exists() {
            return Ok(());
        }
        let root = self.root.display();
        Err(Failure::usage(format!(
            "{root} is a copy that `countersign backup` took, and stays as it is: `countersign restore \
             --from {root} --data DIR` makes a data directory of it. (Where an earlier build has run on \
             it, it is no copy any more: remove {})",
            list.display()
        )))
    }

    fn lock_file(&self, name: &str) -> Result<(File, PathBuf), Failure> {
        let path = self.path(name);
        let mut options = File::options();
        let file = options.create(true).truncate(false).write(true).open(&path);
        file.map(|file| (file, path.clone())).map_err(|error| cannot("open", &path, &error))
    }

    /// What was fixed when the deployment was made; makes it when there is none. Only for a caller
    /// that has taken the directory ([`DataDir::take`]).
    ///
    /// # Errors
    /// When `partitions` is set and another number was fixed, the keys are of another deployment,
    /// or the file cannot be read.
    pub(crate) fn deployment(
        &self,
        partitions: Option<Partitions>,
        keys: &KeyStore,
        now: Timestamp,
        random: &mut dyn Random,
    ) -> Result<Deployment, Failure> {
        let path = self.path("deployment.json");
        let Some(text) = read_if_there(&path)? else {
            self.refuse_leftovers()?;
            let made = Deployment::make(partitions, keys, now, random);
            write_json(&path, &made, Mode::Plain)?;
            return Ok(made);
        };
        let there: Deployment = parse_json(&path, &text)?;
        let place = path.display().to_string();
        there.check(&place, partitions)?;
        if there.deployment != keys.deployment {
            return Err(Failure::data(format!(
                "{place}: deployment {}, but keys.json is of deployment {}: one of the two files is \
                 of another data directory",
                there.deployment, keys.deployment
            )));
        }
        Ok(there)
    }

    /// Refuses a log at another place than this directory's: on another log the counts would begin
    /// anew or be refused later, and what was accepted would lie in two logs. Changes nothing.
    ///
    /// # Errors
    /// Says where the log is, and what to set.
    pub(crate) fn check_log_place(&self, wanted: &LogPlace) -> Result<(), Failure> {
        let path = self.path("deployment.json");
        let Some(text) = read_if_there(&path)? else { return Ok(()) };
        let there: Deployment = parse_json(&path, &text)?;
        let is_noted = there.log_place.is_some();
        let Some(place) = there.log_place.or_else(|| self.evident_log_place()) else {
            return Ok(());
        };
        let what = match (&place, wanted) {
            (LogPlace::Local, LogPlace::Nats { .. }) => {
                "is in it (log/): start without --log, and take eventlog.url out of the settings"
                    .to_owned()
            }
            (LogPlace::Nats { .. }, LogPlace::Local) => {
                "is on NATS: start with --log nats://HOST:4222, or set eventlog.url".to_owned()
            }
            // A place that was guessed from files has no prefix to compare.
            (LogPlace::Nats { prefix }, LogPlace::Nats { prefix: other })
                if is_noted && prefix != other =>
            {
                format!(
                    "is on NATS under the prefix {prefix:?}, and eventlog.prefix says {other:?}: set it \
                     as it was"
                )
            }
            _ => return Ok(()),
        };
        Err(Failure::usage(format!(
            "{}: the log of this data directory {what}; for another log take another --data",
            self.root.display()
        )))
    }

    /// Guesses from the files where the log is, for a directory whose `deployment.json` does not
    /// say it yet; `None` when the files fit both places.
    fn evident_log_place(&self) -> Option<LogPlace> {
        let files = |name: &str| fs::read_dir(self.path(name)).into_iter().flatten().flatten();
        let segments =
            files("log").filter_map(|file| file.metadata().ok()).filter(fs::Metadata::is_file);
        let bytes = segments.map(|meta| meta.len());
        match bytes.max() {
            Some(most) => (most > EMPTY_SEGMENT_BYTES_MAX).then_some(LogPlace::Local),
            None => files("state").next().map(|_| LogPlace::Nats { prefix: String::new() }),
        }
    }

    /// Notes the place of the log that has just been opened. Only for a caller that has taken the
    /// directory.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn note_log_place(
        &self,
        deployment: &Deployment,
        place: LogPlace,
    ) -> Result<(), Failure> {
        if deployment.log_place.as_ref() == Some(&place) {
            return Ok(());
        }
        let noted = Deployment { log_place: Some(place), ..deployment.clone() };
        write_json(&self.path("deployment.json"), &noted, Mode::Plain)
    }

    /// Refuses data without `deployment.json`, which says how it is laid out: something was lost or
    /// mixed up.
    fn refuse_leftovers(&self) -> Result<(), Failure> {
        let leftover = ["log", "state", "outbox"].into_iter().find(|name| self.path(name).exists());
        leftover.map_or(Ok(()), |name| {
            Err(Failure::data(format!(
                "{} has {name}/ but no deployment.json: restore that file, or move the directory \
                 away to begin anew",
                self.root.display()
            )))
        })
    }

    /// The keys, if there are any yet.
    ///
    /// # Errors
    /// When the file cannot be read, or a key in it is wrong.
    pub(crate) fn read_keys(&self) -> Result<Option<KeyStore>, Failure> {
        let path = self.path("keys.json");
        let Some(text) = read_if_there(&path)? else { return Ok(None) };
        let keys: KeyStore = parse_json(&path, &text)?;
        keys.check().map_err(|error| Failure::data(format!("{}: {error}", path.display())))?;
        Ok(Some(keys))
    }

    /// The keys; the first start makes them, with a signing key for `issuer`. Registers the edge of
    /// this process if it is not registered, as in keys that an earlier build has made.
    ///
    /// # Errors
    /// As [`DataDir::read_keys`]; when the keys are missing beside a deployment, or cannot be
    /// written; when the edge is another issuer's; when the clock is far off.
    pub(crate) fn keys_or_new(
        &self,
        edge: EdgeId,
        issuer: IssuerId,
        now: Timestamp,
        random: &mut dyn Random,
    ) -> Result<KeyStore, Failure> {
        let name = registered_name(edge);
        let Some(keys) = self.read_keys()? else {
            if self.path("deployment.json").exists() {
                return Err(Failure::data(format!(
                    "{} has deployment.json but no keys.json: restore that file, or move the \
                     directory away to begin anew",
                    self.root.display()
                )));
            }
            if !shared::BlockId::opens_at(now) {
                return Err(Failure::fatal(format!(
                    "this machine's clock says {now}: set it right first, for a key that was made now would \
                     sign from then on"
                )));
            }
            let mut keys = KeyStore::generate(random);
            keys.create(issuer, Vec::new(), now, random).map_err(Failure::usage)?;
            keys.register_edge(name, issuer, now).map_err(Failure::usage)?;
            write_json(&self.path("keys.json"), &keys, Mode::Secret)?;
            return Ok(keys);
        };
        match keys.edges.owner(edge) {
            Some(owner) if owner == issuer => Ok(keys),
            Some(owner) => Err(Failure::usage(format!(
                "edge.name: the edge {edge} belongs to the issuer {owner}, for ever, and edge.issuer \
                 says {issuer}: take another name for it"
            ))),
            None => self.change_keys(|keys| {
                keys.register_edge(name, issuer, now)?;
                Ok(keys.clone())
            }),
        }
    }

    /// Reads, changes and writes the keys, under a lock, so that commands do so one after the
    /// other.
    ///
    /// # Errors
    /// When there are none yet, `change` refuses, or the file cannot be read or written.
    pub(crate) fn change_keys<T>(
        &self,
        change: impl FnOnce(&mut KeyStore) -> Result<T, shared::keys::KeyError>,
    ) -> Result<T, Failure> {
        self.require_keys()?;
        let (guard, path) = self.lock_file("keys.lock")?;
        guard.lock().map_err(|error| cannot("lock", &path, &error))?;
        let mut keys = self.require_keys()?;
        let done = change(&mut keys).map_err(Failure::usage)?;
        write_json(&self.path("keys.json"), &keys, Mode::Secret)?;
        Ok(done)
    }

    /// The keys of a deployment that was started before.
    ///
    /// # Errors
    /// When there are none.
    pub(crate) fn require_keys(&self) -> Result<KeyStore, Failure> {
        self.read_keys()?.ok_or_else(|| {
            Failure::usage(format!(
                "{} has no keys.json: `countersign up --data {0}` makes a deployment there, or \
                 name the right directory with --data",
                self.root.display()
            ))
        })
    }
}

impl Deployment {
    /// Makes a new one, with a random identity of the log.
    pub(crate) fn make(
        partitions: Option<Partitions>,
        keys: &KeyStore,
        now: Timestamp,
        random: &mut dyn Random,
    ) -> Self {
        let mut log = [0; 16];
        random.fill(&mut log);
        Self {
            version: VERSION,
            deployment: keys.deployment,
            partitions: partitions.map_or(shared::limits::PARTITIONS_DEFAULT, Partitions::count),
            log: shared::text::hex(&log),
            created_at: now,
            log_place: None,
        }
    }

    /// Checks a deployment that was read at `place`.
    ///
    /// # Errors
    /// When it is of another version or damaged, or `partitions` is set and another number was
    /// fixed.
    pub(crate) fn check(&self, place: &str, partitions: Option<Partitions>) -> Result<(), Failure> {
        let fail = |what: String| Err(Failure::data(format!("{place}: {what}")));
        if self.version != VERSION {
            return fail(format!("version {}; this build reads version {VERSION}", self.version));
        }
        if Partitions::new(self.partitions).is_none() || self.log_identity().is_none() {
            return fail("damaged: restore the file from a copy".to_owned());
        }
        match partitions {
            Some(set) if set.count() != self.partitions => Err(Failure::usage(format!(
                "{place}: this deployment was made with {} partitions, and the settings say {}: the \
                 number is fixed; take the setting out",
                self.partitions,
                set.count()
            ))),
            _ => Ok(()),
        }
    }

    /// The log's identity.
    pub(crate) fn log_identity(&self) -> Option<[u8; 16]> {
        shared::text::unhex(&self.log)
    }
}

/// Who may read a file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// As the umask says.
    Plain,
    /// The owner alone.
    Secret,
}

/// Writes a file whole or not at all, and durably: a new file beside it, fsync, rename, fsync of
/// the directory.
pub(crate) fn write_file(path: &Path, bytes: &[u8], mode: Mode) -> Result<(), Failure> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let write = || -> io::Result<()> {
        let mut options = File::options();
        options.create(true).truncate(true).write(true);
        #[cfg(unix)]
        if mode == Mode::Secret {
            use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
            options.mode(0o600);
            // The mode above does not change a file that a crash left behind.
            if beside.exists() {
                fs::set_permissions(&beside, fs::Permissions::from_mode(0o600))?;
            }
        }
        let mut file = options.open(&beside)?;
        #[cfg(unix)]
        keep_owner(path, &file);
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        sync_parent(path)
    };
    write().map_err(|error| cannot("write", path, &error))
}

/// Gives the new file the owner of the one that it replaces: otherwise `keys rotate`, run by root,
/// would take the file from its service. Failures are ignored, since only root may give a file
/// away.
#[cfg(unix)]
fn keep_owner(path: &Path, new: &File) {
    use std::os::unix::fs::{MetadataExt as _, fchown};
    let owner = |meta: fs::Metadata| (meta.uid(), meta.gid());
    let (Ok(before), Ok(now)) = (fs::metadata(path).map(owner), new.metadata().map(owner)) else {
        return;
    };
    if before != now {
        let _ = fchown(new, Some(before.0), Some(before.1));
    }
}

/// Makes the name of a file or directory durable.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

pub(crate) fn write_json(path: &Path, value: &impl Serialize, mode: Mode) -> Result<(), Failure> {
    let mut text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::data(format!("{}: {error}", path.display())))?;
    text.push('\n');
    write_file(path, text.as_bytes(), mode)
}

pub(crate) fn parse_json<T: for<'de> Deserialize<'de>>(
    path: &Path,
    text: &str,
) -> Result<T, Failure> {
    serde_json::from_str(text).map_err(|error| {
        Failure::data(format!("{}: {error}; restore the file from a copy", path.display()))
    })
}

/// The text of a file, or `None` when there is no such file.
pub(crate) fn read_if_there(path: &Path) -> Result<Option<String>, Failure> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(cannot("read", path, &error)),
    }
}

pub(crate) fn make_private_dir(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// A failure of the file system, with what was tried where.
pub(crate) fn cannot(verb: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::files(format!("cannot {verb} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests;
