//! Opens the object stores that settings and flags name by URL, for checkpoints and for the
//! archive.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt as _;
use object_store::ObjectStore;
use object_store::prefix::PrefixStore;
use url::Url;

use crate::client::provide_tls;

/// How long an object store may take for its first answer.
const FIRST_ANSWER_MAX: Duration = Duration::from_secs(30);

/// Environment variables that give credentials, or say where they are.
const CREDENTIALS: [&str; 5] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_SKIP_SIGNATURE",
];

/// Opens `s3://bucket/folder`, on S3 or a compatible store, which must support conditional writes.
/// `environment` gives its credentials, region and endpoint, in the variables that other programs
/// use too (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, …).
///
/// # Errors
/// Names the URL and the reason: it is not such a URL, or the store cannot be read with what the
/// environment gives. (The store is asked once here, because `SlateDB` would ask for ever.)
pub(crate) async fn open(
    url: &str,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Arc<dyn ObjectStore>, String> {
    let unusable = |why: &dyn Display| format!("{url:?}: {why}");
    if !url.starts_with("s3://") {
        return Err(unusable(
            &"a URL of an object store begins with s3://; left empty it is a folder of the data directory",
        ));
    }
    let parsed = Url::parse(url).map_err(|error| unusable(&error))?;
    let options: Vec<(String, String)> =
        environment.into_iter().filter(|(name, _)| name.starts_with("AWS_")).collect();
    let has_credentials = options.iter().any(|(name, _)| CREDENTIALS.contains(&name.as_str()));
    provide_tls();
    let (objects, path) =
        object_store::parse_url_opts(&parsed, options).map_err(|error| unusable(&error))?;
    let objects = Arc::new(PrefixStore::new(objects, path));
    let first = async { objects.list(None).try_next().await };
    match tokio::time::timeout(FIRST_ANSWER_MAX, first).await {
        Ok(Ok(_)) => Ok(objects),
        Ok(Err(error)) if has_credentials => Err(unusable(&error)),
        Err(_) if has_credentials => {
            Err(unusable(&format_args!("no answer in {FIRST_ANSWER_MAX:?}")))
        }
        // Without credentials in the environment the client asks the machine for those of its own
        // role. The error is about that attempt, so the advice comes first.
        failed => {
            let why = match failed {
                Ok(Err(error)) => error.to_string(),
                _ => format!("no answer in {FIRST_ANSWER_MAX:?}"),
            };
            Err(unusable(&format_args!(
                "there are no credentials in the environment: set AWS_ACCESS_KEY_ID, \
                 AWS_SECRET_ACCESS_KEY and AWS_REGION (and AWS_ENDPOINT_URL, if it is not AWS); where \
                 the machine has a role of its own: {why}"
            )))
        }
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
            ("counts", "begins with s3://"),
            ("/srv/counts", "begins with s3://"),
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
