//! Object stores that settings and flags name by URL: opened here, for the checkpoints and for the
//! archive.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt as _;
use object_store::ObjectStore;
use object_store::prefix::PrefixStore;
use url::Url;

/// How long an object store may take for its first answer.
const FIRST_ANSWER_MAX: Duration = Duration::from_secs(30);

/// Opens `s3://bucket/folder`: S3 or one of its like, which must be able to write on condition.
/// `environment` has its credentials, region and endpoint in the variables that other programs read
/// too (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, …).
///
/// # Errors
/// Says which URL and why: it is none, or the store cannot be read with what is in the environment.
/// (Asked here, once: `SlateDB` asks for ever.)
pub(crate) async fn open(
    url: &str,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Arc<dyn ObjectStore>, String> {
    let unusable = |why: &dyn Display| format!("{url:?}: {why}");
    let parsed = Url::parse(url).map_err(|error| unusable(&error))?;
    if parsed.scheme() != "s3" {
        return Err(unusable(&"a URL of an object store begins with s3://"));
    }
    let options = environment.into_iter().filter(|(name, _)| name.starts_with("AWS_"));
    let (objects, path) =
        object_store::parse_url_opts(&parsed, options).map_err(|error| unusable(&error))?;
    let objects = Arc::new(PrefixStore::new(objects, path));
    let first = async { objects.list(None).try_next().await };
    match tokio::time::timeout(FIRST_ANSWER_MAX, first).await {
        Ok(Ok(_)) => Ok(objects),
        Ok(Err(error)) => Err(unusable(&error)),
        Err(_) => Err(unusable(&format_args!("no answer in {FIRST_ANSWER_MAX:?}"))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use aggregator::store::s3_server::{environment, serve};

    use super::*;

    #[tokio::test]
    async fn what_cannot_be_used_says_why() {
        for (url, why) in [
            ("counts", "relative URL without a base"),
            ("file:///tmp/counts", "begins with s3://"),
            ("s3://", "s3://"),
        ] {
            let error = open(url, Vec::new()).await.unwrap_err();
            assert!(error.contains(why) && error.contains(url), "{error}");
        }
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("counts")).unwrap();
        let endpoint = serve(root.path());
        let folder = "s3://counts/production";
        assert!(open(folder, environment(&endpoint, "secret")).await.is_ok());
        for (url, secret) in [(folder, "wrong"), ("s3://nowhere/production", "secret")] {
            let error = open(url, environment(&endpoint, secret)).await.unwrap_err();
            assert!(error.contains(url), "{error}");
        }
    }
}
