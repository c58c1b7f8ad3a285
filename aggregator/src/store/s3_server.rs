//! An S3 server for tests, on the loopback address: real HTTP, real signatures, files in a
//! directory.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use object_store::ObjectStore;
use object_store::aws::AmazonS3Builder;
use object_store::prefix::PrefixStore;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{HttpError, HttpResponse};

/// What becomes of a request to the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It is done.
    None,
    /// It is not done: 503.
    Refused,
    /// It is done, and the answer is 500.
    Lost,
    /// It is done after a while.
    Late(Duration),
}

/// Decides on a request: its number from 1 on, its method and its path.
pub type Faults = dyn Fn(usize, &str, &str) -> Fault + Send + Sync;

/// Serves the folders of a directory as buckets, as long as the runtime lives. Returns the address.
///
/// # Panics
/// When the server cannot be started: no test that needs it can pass.
#[must_use]
pub fn serve(root: &Path) -> String {
    serve_with(root, |_, _, _| Fault::None)
}

/// The same with faults.
///
/// # Panics
/// See [`serve`].
#[must_use]
pub fn serve_with(
    root: &Path,
    faults: impl Fn(usize, &str, &str) -> Fault + Send + Sync + 'static,
) -> String {
    let files = s3s_fs::FileSystem::new(root).expect("the buckets' directory");
    let mut service = S3ServiceBuilder::new(files);
    service.set_auth(SimpleAuth::from_single("key", "secret"));
    let service = Faulty {
        service: service.build(),
        faults: Arc::new(faults),
        requests: Arc::new(AtomicUsize::new(0)),
    };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("a socket for the runtime");
    let address = listener.local_addr().expect("its address");
    let listener = tokio::net::TcpListener::from_std(listener).expect("a runtime");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let stream = hyper_util::rt::TokioIo::new(stream);
            let service = service.clone();
            tokio::spawn(async move {
                let server = hyper_util::server::conn::auto::Builder::new(
                    hyper_util::rt::TokioExecutor::new(),
                );
                let answer = service_fn(move |request| service.clone().answer(request));
                // A client that goes away is none of our business.
                let _ = server.serve_connection(stream, answer).await;
            });
        }
    });
    format!("http://{address}")
}

#[derive(Clone)]
struct Faulty {
    service: S3Service,
    faults: Arc<Faults>,
    requests: Arc<AtomicUsize>,
}

impl Faulty {
    async fn answer(self, request: Request<Incoming>) -> Result<HttpResponse, HttpError> {
        let number = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let fault = (self.faults)(number, request.method().as_str(), request.uri().path());
        let request = request.map(s3s::Body::from);
        let failed = |status| {
            let mut answer = HttpResponse::new(s3s::Body::from(String::new()));
            *answer.status_mut() = status;
            answer
        };
        match fault {
            Fault::None => self.service.call(request).await,
            Fault::Refused => Ok(failed(StatusCode::SERVICE_UNAVAILABLE)),
            Fault::Lost => {
                let done = self.service.call(request).await;
                done.map(|_| failed(StatusCode::INTERNAL_SERVER_ERROR))
            }
            Fault::Late(pause) => {
                tokio::time::sleep(pause).await;
                self.service.call(request).await
            }
        }
    }
}

/// The environment variables that a client needs. The server takes `secret` for the secret.
#[must_use]
pub fn environment(endpoint: &str, secret: &str) -> Vec<(String, String)> {
    let variables = [
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", secret),
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ALLOW_HTTP", "true"),
    ];
    variables.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
}

/// A client for a folder of a bucket of the server.
///
/// # Panics
/// When the endpoint is no address.
#[must_use]
pub fn open(endpoint: &str, bucket: &str, folder: &str) -> Arc<dyn ObjectStore> {
    // Fails when another test of this process has installed it already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let environment = environment(endpoint, "secret").into_iter();
    let known = environment
        .filter_map(|(name, value)| Some((name.to_ascii_lowercase().parse().ok()?, value)));
    let builder =
        known.fold(AmazonS3Builder::new(), |builder, (key, value)| builder.with_config(key, value));
    let objects = builder.with_bucket_name(bucket).build().expect("a client");
    Arc::new(PrefixStore::new(objects, folder))
}
