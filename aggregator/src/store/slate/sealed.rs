//! Checksums for the objects that SlateDB writes without one.
//!
//! SlateDB checks the blocks of its tables, but not the manifests, which say what tables there are:
//! on one flipped bit in a manifest it panics, waits for ever, or reads another state. So a seal
//! with a digest is appended to these objects, and checked before SlateDB reads them. Objects of
//! earlier builds have no seal, and are read as they are. SlateDB itself ignores the bytes of a
//! seal.

use std::fmt::{Display, Formatter};
use std::ops::Range;
use std::sync::Arc;

use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions,
    Result,
};
use slatedb::bytes::Bytes;
use slatedb_common::retry::NonRetryable;

/// The extensions of the files that are sealed: they are written and read whole, and have no
/// checksum of their own.
const SEALED: [&str; 2] = ["manifest", "compactions"];
/// The last bytes of a sealed object. Before them stands the BLAKE3 digest of the content.
const MARK: &[u8; 8] = b"sealed 1";
const SEAL_BYTES: usize = 32 + MARK.len();

/// The content of an object does not fit its seal: the path.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is damaged: its digest is another")]
pub(super) struct Broken(String);

impl Broken {
    /// Whether an error has this cause.
    pub(super) fn is_cause_of(error: &(dyn std::error::Error + 'static)) -> bool {
        NonRetryable::find(error).is_some_and(|found| found.0.is::<Self>())
    }
}

/// An object store that seals manifests and compactions.
#[derive(Debug)]
pub(super) struct Sealed(pub(super) Arc<dyn ObjectStore>);

impl Display for Sealed {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

fn is_sealed(path: &Path) -> bool {
    path.extension().is_some_and(|extension| SEALED.contains(&extension))
}

fn seal(payload: &PutPayload) -> PutPayload {
    let mut digest = blake3::Hasher::new();
    for bytes in payload {
        digest.update(bytes);
    }
    let seal = [&digest.finalize().as_bytes()[..], MARK].concat();
    payload.iter().cloned().chain([Bytes::from(seal)]).collect()
}

/// The content of an object, checked and without its seal; an object without a seal as it is.
fn open(path: &Path, object: Bytes) -> Result<Bytes> {
    let Some(rest) = object.strip_suffix(MARK) else { return Ok(object) };
    let Some((content, digest)) = rest.split_last_chunk::<32>() else { return Ok(object) };
    if blake3::hash(content) == *digest {
        return Ok(object.slice(..object.len() - SEAL_BYTES));
    }
    let source = NonRetryable(Box::new(Broken(path.to_string())));
    Err(Error::Generic { store: "sealed", source: Box::new(source) })
}

#[async_trait::async_trait]
impl ObjectStore for Sealed {
    async fn put_opts(&self, to: &Path, what: PutPayload, how: PutOptions) -> Result<PutResult> {
        let what = if is_sealed(to) { seal(&what) } else { what };
        self.0.put_opts(to, what, how).await
    }

    async fn put_multipart_opts(
        &self,
        to: &Path,
        how: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(to, how).await
    }

    async fn get_opts(&self, from: &Path, how: GetOptions) -> Result<GetResult> {
        let whole = how.range.is_none() && !how.head;
        let found = self.0.get_opts(from, how).await?;
        if !whole || !is_sealed(from) {
            return Ok(found);
        }
        let (mut meta, attributes, extensions) =
            (found.meta.clone(), found.attributes.clone(), found.extensions.clone());
        let content = open(from, found.bytes().await?)?;
        meta.size = content.len() as u64;
        let range = 0..meta.size;
        let payload = GetResultPayload::Stream(Box::pin(futures::stream::iter([Ok(content)])));
        Ok(GetResult { payload, meta, range, attributes, extensions })
    }

    async fn get_ranges(&self, from: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.0.get_ranges(from, ranges).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.0.delete_stream(paths)
    }

    fn list(&self, folder: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.list(folder)
    }

    fn list_with_offset(
        &self,
        folder: Option<&Path>,
        after: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.list_with_offset(folder, after)
    }

    async fn list_with_delimiter(&self, folder: Option<&Path>) -> Result<ListResult> {
        self.0.list_with_delimiter(folder).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, how: CopyOptions) -> Result<()> {
        self.0.copy_opts(from, to, how).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, how: RenameOptions) -> Result<()> {
        self.0.rename_opts(from, to, how).await
    }
}
