//! Stores and objects that fail as they are told, and die at a moment that is told.

use std::fmt::{Display, Formatter};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt as _, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    UploadPart,
};
use parking_lot::Mutex;

use super::*;
use crate::store::{Change, StoreError};

/// What is asked of a store or its objects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Request {
    Put,
    Get,
    List,
    Delete,
    /// A batch of the checkpoint store.
    Write,
    Flush,
}

/// What becomes of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    Done,
    /// It is not done, which is said.
    Refused,
    /// It is done, and an error is said.
    Lost,
    /// It is done after a while.
    Late(Duration),
    /// The process dies before it is done.
    DeadBefore,
    /// The process dies when it is done.
    DeadAfter,
}

/// Says what becomes of a request: its number among all, what it is, and of which object.
type Rule = Box<dyn Fn(usize, Request, &str) -> Fate + Send>;

/// What is done to requests.
pub(super) struct Faults {
    rule: Mutex<Rule>,
    count: AtomicUsize,
    /// Called when the process dies.
    die: Box<dyn Fn() + Send + Sync>,
    is_dead: Mutex<bool>,
}

impl std::fmt::Debug for Faults {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Faults").field("count", &self.count).finish_non_exhaustive()
    }
}

fn told(what: &str) -> Error {
    Error::Generic { store: "faulty", source: what.into() }
}

impl Faults {
    fn new(die: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            rule: Mutex::new(Box::new(|_, _, _| Fate::Done)),
            count: AtomicUsize::new(0),
            die: Box::new(die),
            is_dead: Mutex::new(false),
        })
    }

    /// From now on requests go by this rule. They are counted from 1 again.
    pub(super) fn set(&self, rule: impl Fn(usize, Request, &str) -> Fate + Send + 'static) {
        *self.rule.lock() = Box::new(rule);
        self.count.store(0, Ordering::SeqCst);
    }

    pub(super) fn is_dead(&self) -> bool {
        *self.is_dead.lock()
    }

    fn dies(&self) -> Error {
        *self.is_dead.lock() = true;
        (self.die)();
        told("dead")
    }

    async fn with<T>(
        &self,
        kind: Request,
        path: &str,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        if self.is_dead() {
            return Err(told("dead"));
        }
        let number = self.count.fetch_add(1, Ordering::SeqCst) + 1;
        let fate = (self.rule.lock())(number, kind, path);
        match fate {
            Fate::Done => work.await,
            Fate::Refused => Err(told("told to refuse")),
            Fate::DeadBefore => Err(self.dies()),
            Fate::Late(pause) => {
                tokio::time::sleep(pause).await;
                work.await
            }
            Fate::Lost => work.await.and(Err(told("the answer was lost"))),
            Fate::DeadAfter => {
                drop(work.await);
                Err(self.dies())
            }
        }
    }
}

/// Stores with faults. Clones share them.
#[derive(Debug)]
pub(super) struct FaultyStores<S> {
    inner: Arc<S>,
    pub(super) faults: Arc<Faults>,
}

impl<S> Clone for FaultyStores<S> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), faults: Arc::clone(&self.faults) }
    }
}

impl<S: Stores> FaultyStores<S> {
    /// `die`: what is done to the stores when the process dies.
    pub(super) fn new(inner: S, die: impl Fn() + Send + Sync + 'static) -> Self {
        Self { inner: Arc::new(inner), faults: Faults::new(die) }
    }
}

impl<S: Stores> Stores for FaultyStores<S> {
    type Store = FaultyStore<S::Store>;

    async fn open(&self, partition: u16) -> Result<Self::Store, StoreError> {
        let inner = self.inner.open(partition).await?;
        Ok(FaultyStore { inner, faults: Arc::clone(&self.faults) })
    }

    fn objects(&self) -> Arc<dyn ObjectStore> {
        Arc::new(FaultyObjects { inner: self.inner.objects(), faults: Arc::clone(&self.faults) })
    }

    fn release(&self) {
        self.inner.release();
    }
}

#[derive(Debug)]
pub(super) struct FaultyStore<T> {
    inner: T,
    faults: Arc<Faults>,
}

impl<T: CheckpointStore> FaultyStore<T> {
    async fn with(
        &self,
        kind: Request,
        work: impl Future<Output = Result<(), StoreError>>,
    ) -> Result<(), StoreError> {
        let work = async { Ok(work.await) };
        let done = self.faults.with(kind, "", work).await;
        done.map_err(|error| StoreError::Unavailable(error.to_string())).flatten()
    }
}

impl<T: CheckpointStore> CheckpointStore for FaultyStore<T> {
    type View = T::View;

    async fn write(&self, batch: Vec<Change>) -> Result<(), StoreError> {
        self.with(Request::Write, self.inner.write(batch)).await
    }

    async fn flush(&self) -> Result<(), StoreError> {
        self.with(Request::Flush, self.inner.flush()).await
    }

    fn view(&self) -> Result<T::View, StoreError> {
        self.inner.view()
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.inner.close().await
    }
}

#[derive(Debug)]
struct FaultyObjects {
    inner: Arc<dyn ObjectStore>,
    faults: Arc<Faults>,
}

impl Display for FaultyObjects {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        self.inner.fmt(f)
    }
}

type Result<T, E = Error> = std::result::Result<T, E>;

#[async_trait::async_trait]
impl ObjectStore for FaultyObjects {
    async fn put_opts(&self, to: &Path, what: PutPayload, how: PutOptions) -> Result<PutResult> {
        self.faults.with(Request::Put, to.as_ref(), self.inner.put_opts(to, what, how)).await
    }

    async fn put_multipart_opts(
        &self,
        to: &Path,
        how: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let begun = self.inner.put_multipart_opts(to, how);
        let inner = self.faults.with(Request::Put, to.as_ref(), begun).await?;
        let (faults, path) = (Arc::clone(&self.faults), to.to_string());
        Ok(Box::new(FaultyUpload { inner, faults, path }))
    }

    async fn get_opts(&self, from: &Path, how: GetOptions) -> Result<GetResult> {
        self.faults.with(Request::Get, from.as_ref(), self.inner.get_opts(from, how)).await
    }

    async fn get_ranges(&self, from: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.faults.with(Request::Get, from.as_ref(), self.inner.get_ranges(from, ranges)).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let (inner, faults) = (Arc::clone(&self.inner), Arc::clone(&self.faults));
        let delete = move |path: Path| {
            let (inner, faults) = (Arc::clone(&inner), Arc::clone(&faults));
            async move {
                faults.with(Request::Delete, path.as_ref(), inner.delete(&path)).await?;
                Ok(path)
            }
        };
        paths.and_then(delete).boxed()
    }

    fn list(&self, folder: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (listed, faults) = (self.inner.list(folder), Arc::clone(&self.faults));
        let folder = folder.cloned().unwrap_or_default();
        let begun = async move {
            faults.with(Request::List, folder.as_ref(), async { Ok(()) }).await.map(|()| listed)
        };
        futures::stream::once(begun).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, folder: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(folder).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, how: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, how).await
    }
}

#[derive(Debug)]
struct FaultyUpload {
    inner: Box<dyn MultipartUpload>,
    faults: Arc<Faults>,
    path: String,
}

#[async_trait::async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (part, faults) = (self.inner.put_part(data), Arc::clone(&self.faults));
        let path = self.path.clone();
        async move { faults.with(Request::Put, &path, part).await }.boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.faults.with(Request::Put, &self.path, self.inner.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        if self.faults.is_dead() {
            return Err(told("dead"));
        }
        self.inner.abort().await
    }
}
