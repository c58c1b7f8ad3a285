//! A patient client of the API. A failure that may pass is tried again until the patience ends;
//! where several addresses are given, at the next one.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use api::routes::{Role, Route};
use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;
use shared::ambient::Stopwatch;
use shared::problem::Problem;

use crate::cli::ApiArgs;
use crate::failure::Failure;

const BACKOFF_MS_MIN: u64 = 100;
const BACKOFF_MS_MAX: u64 = 3_000;
/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a request may take whose answer or work is long.
const LONG_ANSWER_TIMEOUT: Duration = Duration::from_secs(600);

/// The API, and the key to it.
pub(crate) struct Api {
    bases: Vec<String>,
    /// Counts the addresses that failed; modulo their number it is the one to ask, which is the one
    /// that answered last.
    current: AtomicUsize,
    key: String,
    patience: Duration,
    /// Whether the user was told that requests are tried again.
    told: AtomicBool,
    http: reqwest::Client,
}

/// An answer.
pub(crate) struct Reply {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

/// The outcome of one try.
enum Tried {
    Done(Reply),
    NotFound,
    /// May succeed when it is tried again.
    Later(String),
    /// Will not.
    Never(String),
    /// Another log has this name.
    OtherLog(String),
    /// Another import of the same log has followed this one.
    TakenOver(String),
}

impl Api {
    /// Checks the address; connects with the first request.
    ///
    /// # Errors
    /// When the address is no `http://` or `https://` URL.
    pub(crate) fn new(args: &ApiArgs) -> Result<Self, Failure> {
        Self::with_addresses("--api", &args.api, args)
    }

    /// The same for the addresses that another flag gives.
    ///
    /// # Errors
    /// As [`Api::new`].
    pub(crate) fn with_addresses(
        flag: &str,
        addresses: &str,
        args: &ApiArgs,
    ) -> Result<Self, Failure> {
        let bases = addresses.split(',').map(|base| base_url(flag, base.trim()));
        let (bases, current) = (bases.collect::<Result<_, _>>()?, AtomicUsize::new(0));
        let http = http_client(REQUEST_TIMEOUT)?;
        let (key, told) = (args.key.clone(), AtomicBool::new(false));
        Ok(Self { bases, current, key, patience: args.patience, told, http })
    }

    fn base(&self) -> &str {
        &self.bases[self.current.load(Ordering::Relaxed) % self.bases.len()]
    }

    /// Asks for JSON; `None` when there is no such thing.
    ///
    /// # Errors
    /// When it does not answer in time, refuses, or answers something else.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, Failure> {
        match self.request(Method::GET, path, None, REQUEST_TIMEOUT).await? {
            None => Ok(None),
            Some(reply) => serde_json::from_slice(&reply.body).map(Some).map_err(|error| {
                Failure::server(format!(
                    "{}{path} answered what this build does not understand ({error}): is it of \
                     another version?",
                    self.base()
                ))
            }),
        }
    }

    /// Asks for JSON that must be there.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub(crate) async fn require<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.get(path).await?.ok_or_else(|| self.absent(path))
    }

    /// Asks for bytes, of which there may be many; `None` when there is no such thing.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub(crate) async fn bytes(&self, path: &str) -> Result<Option<Vec<u8>>, Failure> {
        Ok(self.reply(path).await?.map(|reply| reply.body))
    }

    /// As [`Api::bytes`], with the answer's headers.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub(crate) async fn reply(&self, path: &str) -> Result<Option<Reply>, Failure> {
        self.request(Method::GET, path, None, LONG_ANSWER_TIMEOUT).await
    }

    /// The failure when something is not there that must be.
    pub(crate) fn absent(&self, path: &str) -> Failure {
        let hint = match Route::role_of(path.split('?').next().unwrap_or_default()) {
            Some(Role::Collector) => {
                "a collector answers that: is this one's address (--collector, where it is a process of its own)?"
            }
            _ => "is --api the API's address, not the edge's or another role's?",
        };
        Failure::server(format!("{}{path} is not there: {hint}", self.base()))
    }

    /// Asks for something to be done, with an empty POST; false when there is no such thing.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub(crate) async fn ask(&self, path: &str) -> Result<bool, Failure> {
        let done = self.request(Method::POST, path, None, LONG_ANSWER_TIMEOUT).await?;
        Ok(done.is_some())
    }

    /// Sends JSON.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub(crate) async fn post(&self, path: &str, body: Vec<u8>) -> Result<Reply, Failure> {
        let reply = self.request(Method::POST, path, Some(body.into()), REQUEST_TIMEOUT).await?;
        reply.ok_or_else(|| self.absent(path))
    }

    /// The same for work that takes long.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub(crate) async fn post_long(&self, path: &str, body: Vec<u8>) -> Result<Reply, Failure> {
        let body = Some(body.into());
        let reply = self.request(Method::POST, path, body, LONG_ANSWER_TIMEOUT).await?;
        reply.ok_or_else(|| self.absent(path))
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<bytes::Bytes>,
        timeout: Duration,
    ) -> Result<Option<Reply>, Failure> {
        let watch = Stopwatch::start();
        let (mut backoff_ms, mut tries) = (BACKOFF_MS_MIN, 0);
        // Ends with an answer that another try would not change, or with the patience; the pause
        // doubles up to its bound.
        loop {
            let why = match self.try_once(method.clone(), path, body.clone(), timeout).await {
                Tried::Done(reply) => return Ok(Some(reply)),
                Tried::NotFound => return Ok(None),
                Tried::Never(why) => return Err(Failure::server(why)),
                Tried::OtherLog(why) => return Err(Failure::other_log(why)),
                Tried::TakenOver(why) => return Err(Failure::taken_over(why)),
                Tried::Later(why) => why,
            };
            tries += 1;
            // The user is told only when each address has failed once: of two aggregators one
            // always stands by, and refuses.
            if tries == self.bases.len() {
                self.tell(&why);
            }
            self.current.fetch_add(1, Ordering::Relaxed);
            if watch.elapsed() >= self.patience {
                return Err(Failure::server(format!(
                    "{}: {why}, for {} s: see that it runs there, then run the same command again; what was taken is not counted twice",
                    self.base(),
                    self.patience.as_secs()
                )));
            }
            tokio::time::sleep(Duration::from_millis(backoff_ms)).await;
            backoff_ms = (backoff_ms * 2).min(BACKOFF_MS_MAX);
        }
    }

    /// Tells the user, once, why nothing seems to happen.
    fn tell(&self, why: &str) {
        if !self.patience.is_zero() && !self.told.swap(true, Ordering::Relaxed) {
            eprintln!(
                "{}: {why}; tried again for up to {} s (--patience)",
                self.bases.join(", "),
                self.patience.as_secs()
            );
        }
    }

    async fn try_once(
        &self,
        method: Method,
        path: &str,
        body: Option<bytes::Bytes>,
        timeout: Duration,
    ) -> Tried {
        let request = self.http.request(method, format!("{}{path}", self.base()));
        let mut request = request.bearer_auth(&self.key).timeout(timeout);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => return Tried::Later(reason(&error)),
        };
        let status = response.status();
        let headers = response.headers().clone();
        let body = match response.bytes().await {
            Ok(body) => body.to_vec(),
            Err(error) => return Tried::Later(reason(&error)),
        };
        if status.is_success() {
            return Tried::Done(Reply { headers, body });
        }
        let problem = serde_json::from_slice::<Problem>(&body).ok();
        let is = |name: &str| problem.as_ref().is_some_and(|said| said.r#type.ends_with(name));
        let (is_other_log, is_taken_over) = (is(":other_log"), is(":import_taken_over"));
        let text = || String::from_utf8_lossy(&body).chars().take(200).collect();
        let said = problem.map_or_else(text, |problem| problem.detail);
        match status {
            StatusCode::NOT_FOUND => Tried::NotFound,
            StatusCode::UNAUTHORIZED => {
                Tried::Never(format!("{} refuses the key: {said}", self.base()))
            }
            StatusCode::CONFLICT if is_other_log => Tried::OtherLog(said),
            StatusCode::CONFLICT if is_taken_over => Tried::TakenOver(said),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => Tried::Later(said),
            status if status.is_server_error() => Tried::Later(format!("{status}: {said}")),
            status => Tried::Never(format!("{}{path} refuses with {status}: {said}", self.base())),
        }
    }
}

/// The innermost cause of an error, which helps most.
pub(crate) fn reason(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

/// An address without a slash at its end.
pub(crate) fn base_url(flag: &str, text: &str) -> Result<String, Failure> {
    let base = text.trim_end_matches('/');
    let host = ["http://", "https://"].iter().find_map(|scheme| base.strip_prefix(scheme));
    if host.is_some_and(|host| !host.is_empty()) {
        return Ok(base.to_owned());
    }
    Err(Failure::usage(format!("{flag}: {text:?} is no address: http://HOST:PORT or https://… is")))
}

/// Chooses the cryptography for TLS in this process; `reqwest` and object stores need that before
/// they make a client.
pub(crate) fn provide_tls() {
    // An error says that it was chosen before.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A client that follows no redirect and takes no proxy from the environment: the answers that
/// `simulate` and `import` count must be those of the address that was asked.
pub(crate) fn http_client(timeout: Duration) -> Result<reqwest::Client, Failure> {
    provide_tls();
    let builder = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .tcp_nodelay(true)
        .connect_timeout(Duration::from_secs(5))
        .timeout(timeout)
        .user_agent(concat!("countersign/", env!("CARGO_PKG_VERSION")));
    builder.build().map_err(|error| Failure::fatal(format!("cannot start: {}", reason(&error))))
}
