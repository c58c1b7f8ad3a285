//! The tests of the store on a real S3 server over HTTP.

use super::tests::{fast, names_of_segments_are_read};
use super::*;
use crate::store::contract::{self, Harness};
use crate::store::s3_server;

/// A server with the bucket `counts`.
fn serve(root: &Path) -> String {
    std::fs::create_dir(root.join("counts")).unwrap();
    s3_server::serve(root)
}

fn stores(endpoint: &str) -> SlateStores {
    let objects = s3_server::open(endpoint, "counts", "production");
    SlateStores::remote(objects, "s3://counts/production".to_owned(), fast())
}

struct Remote(String);

impl Harness for Remote {
    type Stores = SlateStores;

    async fn stores(&mut self) -> SlateStores {
        stores(&self.0)
    }

    /// Nothing is closed: the next process to open the stores fences these off.
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
async fn segments_are_read_beside_the_process_that_has_them() {
    let root = tempfile::tempdir().unwrap();
    let endpoint = serve(root.path());
    let objects = s3_server::open(&endpoint, "counts", "production");
    names_of_segments_are_read(&stores(&endpoint), objects).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_opens_last_has_the_partition() {
    let root = tempfile::tempdir().unwrap();
    let endpoint = serve(root.path());
    let open = async || stores(&endpoint).open(0).await.unwrap();
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
