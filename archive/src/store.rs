//! The archive's files, in a local directory or an object store.

use std::path::Path as FsPath;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt as _;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaDataReader;

use super::file::{FileInfo, first_sequence, folder};

/// Bytes that are read from the end of a file at first; most footers fit.
const FOOTER_BYTES: u64 = 64 << 10;
/// The shortest Parquet file: magic, length of the footer, magic.
const FILE_BYTES_MIN: u64 = 12;

/// Why an operation on the archive failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The directory cannot be used.
    #[error("the archive cannot be used: {0}")]
    Unusable(String),
    /// The store cannot be reached, or the acknowledgement was lost: a file may have been written.
    #[error("the archive is not available: {0}")]
    Unavailable(String),
    /// A file is not what was written there.
    #[error("{file}: {what}")]
    Damaged {
        /// The file's name.
        file: String,
        /// What is wrong with it.
        what: String,
    },
    /// Messages are in no file, or in two.
    #[error("{0}")]
    Broken(String),
}

/// A file of the archive, as a listing shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Path within the archive.
    pub path: String,
    /// Length in bytes.
    pub bytes: u64,
    /// Sequence of the first message, as the name says.
    pub first: u64,
}

impl Entry {
    /// None when the object is no file of an archive.
    fn from_object(object: &ObjectMeta) -> Option<Self> {
        let first = first_sequence(object.location.filename()?)?;
        Some(Self { path: object.location.to_string(), bytes: object.size, first })
    }
}

/// The files of all partitions. Clones share one store.
#[derive(Clone, Debug)]
pub struct Archive {
    objects: Arc<dyn ObjectStore>,
    /// Directory or URL, for texts that people read.
    place: String,
}

impl Archive {
    /// An archive in a local directory, which is created when it is missing. Files and directories are
    /// fsynced.
    ///
    /// # Errors
    /// [`ArchiveError::Unusable`].
    pub fn local(dir: &FsPath) -> Result<Self, ArchiveError> {
        std::fs::create_dir_all(dir)
            .map_err(|error| ArchiveError::Unusable(format!("{}: {error}", dir.display())))?;
        Self::existing(dir)
    }

    /// As [`Archive::local`], in a directory that must exist.
    ///
    /// # Errors
    /// [`ArchiveError::Unusable`].
    pub fn existing(dir: &FsPath) -> Result<Self, ArchiveError> {
        let objects = LocalFileSystem::new_with_prefix(dir)
            .map_err(|error| ArchiveError::Unusable(format!("{}: {error}", dir.display())))?;
        Ok(Self::new(Arc::new(objects.with_fsync(true)), dir.display().to_string()))
    }

    /// An archive in an object store, which must be able to write an object only if none of its name exists.
    /// `place` says where that is, for error texts.
    #[must_use]
    pub fn new(objects: Arc<dyn ObjectStore>, place: String) -> Self {
        Self { objects, place }
    }

    /// The directory or URL, for texts that people read.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The files of a partition, sorted by their first sequences. Other objects are ignored.
    ///
    /// # Errors
    /// [`ArchiveError::Unavailable`].
    pub async fn list(&self, partition: u16) -> Result<Vec<Entry>, ArchiveError> {
        let folder = Path::from(folder(partition));
        let objects = self.objects.list(Some(&folder)).try_collect::<Vec<_>>();
        let objects = objects.await.map_err(|error| self.unavailable(&error))?;
        let mut entries: Vec<_> = objects.iter().filter_map(Entry::from_object).collect();
        entries.sort_unstable_by(|a, b| (a.first, &a.path).cmp(&(b.first, &b.path)));
        Ok(entries)
    }

    /// The last file of a partition. Folders are in the order of the files in them, so the last folder of
    /// each level is looked into, and an earlier one only when that has no files.
    ///
    /// # Errors
    /// [`ArchiveError::Unavailable`].
    pub(super) async fn last(&self, partition: u16) -> Result<Option<Entry>, ArchiveError> {
        let mut folders = vec![Path::from(folder(partition))];
        // A depth-first search from the last folder back: the first files found are the last ones.
        while let Some(folder) = folders.pop() {
            let found = self.objects.list_with_delimiter(Some(&folder)).await;
            let mut found = found.map_err(|error| self.unavailable(&error))?;
            let files = found.objects.iter().filter_map(Entry::from_object);
            if let Some(last) = files.max_by_key(|entry| entry.first) {
                return Ok(Some(last));
            }
            found.common_prefixes.sort_unstable();
            folders.append(&mut found.common_prefixes);
        }
        Ok(None)
    }

    /// Reads a file's footer, and compares it with the file's name.
    ///
    /// # Errors
    /// [`ArchiveError::Damaged`], [`ArchiveError::Unavailable`].
    pub async fn info(&self, entry: &Entry, partition: u16) -> Result<FileInfo, ArchiveError> {
        let damaged = |what: String| ArchiveError::Damaged { file: self.name(&entry.path), what };
        if entry.bytes < FILE_BYTES_MIN {
            return Err(damaged(format!("it has {} bytes and is no Parquet file", entry.bytes)));
        }
        let mut wanted = FOOTER_BYTES.min(entry.bytes);
        // A footer that is longer than what was read says how much is needed, so the next round has all.
        let footer = loop {
            let range = entry.bytes - wanted..entry.bytes;
            let path = Path::from(entry.path.as_str());
            let tail = self.objects.get_range(&path, range).await;
            let tail = tail.map_err(|error| self.unavailable(&error))?;
            let mut reader = ParquetMetaDataReader::new();
            match reader.try_parse_sized(&tail, entry.bytes) {
                Ok(()) => break reader.finish().map_err(|error| damaged(error.to_string()))?,
                Err(ParquetError::NeedMoreData(more)) if (more as u64) > wanted => {
                    wanted = (more as u64).min(entry.bytes);
                    if wanted < more as u64 {
                        return Err(damaged("it ends within its footer".to_owned()));
                    }
                }
                Err(error) => return Err(damaged(error.to_string())),
            }
        };
        let info = FileInfo::from_footer(&footer).map_err(damaged)?;
        if (info.partition, info.first) != (partition, entry.first) {
            return Err(damaged(format!(
                "its footer says partition {}, first message {}: it was renamed or copied",
                info.partition, info.first
            )));
        }
        Ok(info)
    }

    /// Reads a whole file.
    ///
    /// # Errors
    /// [`ArchiveError::Unavailable`].
    pub async fn read(&self, entry: &Entry) -> Result<Bytes, ArchiveError> {
        let got = self.objects.get(&Path::from(entry.path.as_str())).await;
        let bytes = match got {
            Ok(got) => got.bytes().await,
            Err(error) => Err(error),
        };
        bytes.map_err(|error| self.unavailable(&error))
    }

    /// Writes a file unless one of this name exists; says whether it did. When it returns, the file of this
    /// name is whole and durable.
    pub(super) async fn put(&self, path: &str, bytes: Vec<u8>) -> Result<bool, ArchiveError> {
        let options = PutOptions::from(PutMode::Create);
        let path = Path::from(path);
        match self.objects.put_opts(&path, PutPayload::from(bytes), options).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(self.unavailable(&error)),
        }
    }

    /// Looks up the file of this path, whose name says the sequence `first`.
    pub(super) async fn find(&self, path: &str, first: u64) -> Result<Entry, ArchiveError> {
        let object = self.objects.head(&Path::from(path)).await;
        let object = object.map_err(|error| self.unavailable(&error))?;
        Ok(Entry { path: path.to_owned(), bytes: object.size, first })
    }

    /// A file's full name, for texts that people read.
    #[must_use]
    pub fn name(&self, path: &str) -> String {
        format!("{}/{path}", self.place.trim_end_matches('/'))
    }

    fn unavailable(&self, error: &object_store::Error) -> ArchiveError {
        ArchiveError::Unavailable(format!("{}: {error}", self.place))
    }
}
