//! The same on a real S3 server over HTTP.

use super::tests::fast;
use super::*;
use crate::store::contract::{self, Harness};
use crate::store::s3_server::{self, environment};

const FOLDER: &str = "s3://counts/production";

/// A server with the bucket `counts`.
fn serve(root: &Path) -> String {
    std::fs::create_dir(root.join("counts")).unwrap();
    s3_server::serve(root)
}

struct Remote(String);

impl Harness for Remote {
    type Stores = SlateStores;

    async fn stores(&mut self) -> SlateStores {
        SlateStores::at(FOLDER, environment(&self.0, "secret"), fast()).await.unwrap()
    }

    /// Nobody closes anything; the next to open fences these off.
    async fn crash(&mut self, stores: SlateStores, open: Vec<SlateStore>) {
        drop((open, stores));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_the_contract() {
    let root = tempfile::tempdir().unwrap();
    contract::run(&mut Remote(serve(root.path()))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_opens_last_has_the_partition() {
    let root = tempfile::tempdir().unwrap();
    let endpoint = serve(root.path());
    let open = async || {
        let environment = environment(&endpoint, "secret");
        SlateStores::at(FOLDER, environment, fast()).await.unwrap().open(0).await.unwrap()
    };
    let put = |n: u8| vec![Change::Put(vec![b'p', n], vec![n])];
    let first = open().await;
    first.write(put(1)).await.unwrap();
    first.flush().await.unwrap();
    let second = open().await;
    second.write(put(2)).await.unwrap();
    second.flush().await.unwrap();
    let late = async {
        first.write(put(3)).await?;
        first.flush().await
    };
    assert!(matches!(late.await, Err(StoreError::Closed(_))), "it is fenced off");
    let mut rows = Vec::new();
    let take = &mut |key: &[u8], _: &[u8]| {
        rows.push(key[1]);
        Ok(())
    };
    second.view().unwrap().scan(b"p", b"q", take).await.unwrap();
    assert_eq!(rows, [1, 2]);
}

#[tokio::test]
async fn what_cannot_be_used_says_why() {
    for (url, why) in [
        ("counts", "relative URL without a base"),
        ("file:///tmp/counts", "begins with s3://"),
        ("s3://", "s3://"),
    ] {
        let error = SlateStores::at(url, Vec::new(), fast()).await.unwrap_err().to_string();
        assert!(error.contains(why) && error.contains(url), "{error}");
    }
    let root = tempfile::tempdir().unwrap();
    let endpoint = serve(root.path());
    for (folder, secret) in [(FOLDER, "wrong"), ("s3://nowhere/production", "secret")] {
        let stores = SlateStores::at(folder, environment(&endpoint, secret), fast()).await;
        assert!(matches!(stores, Err(StoreError::Unusable(why)) if why.contains(folder)));
    }
}
