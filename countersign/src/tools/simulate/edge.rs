//! Sends requests to the edge, again and again until it answers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::{Response, StatusCode, header};
use serde::Deserialize;
use serde_json::json;
use shared::ambient::Stopwatch;
use shared::text::escaped;
use shared::{AdName, Kind, PlacementName};

use super::ledger::Tries;
use crate::client::{base_url, http_client, reason};
use crate::failure::Failure;

/// A redirect that took longer than this may have gone out before its event was on disk.
const SURE_REPLY: Duration = Duration::from_millis(450);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(200);

/// One edge, or several that are asked in turn: an ad that one served may send its events to
/// another.
pub(super) struct Edge {
    bases: Vec<String>,
    turn: AtomicUsize,
    patience: Duration,
    http: reqwest::Client,
}

/// The parts of a serve reply that a page uses.
#[derive(Deserialize, Debug, Clone)]
pub(super) struct Served {
    pub(super) ad: AdName,
    pub(super) token: String,
    pub(super) click_url: String,
    pub(super) beacon_url: String,
}

/// How a request is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Manner {
    /// As by a person's browser.
    Plain,
    /// With the method HEAD.
    Head,
    /// As a prefetch, ahead of a person's act.
    Prefetch,
    /// The connection is given up at once, and then the request is sent again.
    Impatient,
}

/// The answer in the end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The status of an answer without words for elements.
    Status(u16),
    /// The words for each element of a batch.
    Results(Vec<String>),
    /// There was none, however often the request was sent.
    None,
}

impl Edge {
    /// The edges at these addresses, with commas between.
    pub(super) fn new(addresses: &str, patience: Duration) -> Result<Self, Failure> {
        let bases = addresses.split(',').map(|base| base_url("--edge", base.trim()));
        let (bases, turn) = (bases.collect::<Result<_, _>>()?, AtomicUsize::new(0));
        Ok(Self { bases, turn, patience, http: http_client(REQUEST_TIMEOUT)? })
    }

    fn base(&self) -> &str {
        &self.bases[self.turn.fetch_add(1, Ordering::Relaxed) % self.bases.len()]
    }

    /// Asks for a first ad, which shows that the edge is there and what its tokens are like. It is
    /// served before the counts are asked for, and so is part of none of the sums.
    pub(super) async fn sample(&self, placement: &PlacementName) -> Result<String, Failure> {
        let placement = escaped(placement.as_str());
        let url = format!("{}/v1/serve?placement={placement}", self.base());
        let watch = Stopwatch::start();
        let mut told = self.patience.is_zero();
        loop {
            let why = match self.http.get(&url).send().await {
                Ok(reply) if reply.status() == StatusCode::OK => {
                    let served: Served = reply.json().await.map_err(|error| {
                        Failure::server(format!("{url} answered no ad: {}", reason(&error)))
                    })?;
                    return Ok(served.token);
                }
                Ok(reply) if reply.status() == StatusCode::SERVICE_UNAVAILABLE => "503".to_owned(),
                Ok(reply) => {
                    return Err(Failure::server(format!(
                        "{url} answered {}: --edge is where the edge listens (not the API), and --placement \
                         names one of its catalogue that has ads",
                        reply.status()
                    )));
                }
                Err(error) => reason(&error),
            };
            if watch.elapsed() > self.patience {
                return Err(Failure::server(format!("{} does not answer: {why}", self.base())));
            }
            if !std::mem::replace(&mut told, true) {
                let (base, seconds) = (self.base(), self.patience.as_secs());
                eprintln!(
                    "{base} does not answer ({why}): tried again for {seconds} s (--patience)"
                );
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Asks for an ad; `None` when there was no answer, or no ad in it.
    pub(super) async fn serve(
        &self,
        placement: &PlacementName,
        consent: bool,
        agent: &str,
        tries: &mut Tries,
    ) -> Option<Served> {
        let (placement, consent) = (escaped(placement.as_str()), u8::from(consent));
        let url = format!("{}/v1/serve?placement={placement}&consent={consent}", self.base());
        let request = self.http.get(url).header(header::USER_AGENT, agent);
        let (reply, _) = self.until_answered(&request, Manner::Plain, tries).await?;
        if reply.status() != StatusCode::OK {
            tries.answered -= 1;
            return None;
        }
        // When the answer is cut off the ad was served and is counted, but nobody knows which ad it
        // was.
        match reply.json().await {
            Ok(served) => Some(served),
            Err(_) => {
                tries.answered -= 1;
                None
            }
        }
    }

    /// Follows a link: the click link or the pixel.
    pub(super) async fn follow(
        &self,
        url: &str,
        manner: Manner,
        agent: &str,
        tries: &mut Tries,
    ) -> Answer {
        let request = match manner {
            Manner::Head => self.http.head(url),
            Manner::Prefetch => self.http.get(url).header("sec-purpose", "prefetch"),
            _ => self.http.get(url),
        };
        let request = request.header(header::USER_AGENT, agent);
        let reply = self.until_answered(&request, manner, tries).await;
        let Some((reply, took)) = reply else { return Answer::None };
        let is_redirect = reply.status() == StatusCode::FOUND || manner == Manner::Prefetch;
        if is_redirect && took > SURE_REPLY {
            tries.answered -= 1;
        }
        Answer::Status(reply.status().as_u16())
    }

    /// Sends events in one body.
    pub(super) async fn events(
        &self,
        events: &[(String, Kind)],
        manner: Manner,
        agent: &str,
        tries: &mut Tries,
    ) -> Answer {
        #[derive(Deserialize)]
        struct Results {
            results: Vec<String>,
        }
        let elements: Vec<_> =
            events.iter().map(|(token, kind)| json!({ "token": token, "kind": kind })).collect();
        let body = json!({ "events": elements }).to_string();
        let request = self
            .http
            .post(format!("{}/v1/events", self.base()))
            .header(header::CONTENT_TYPE, "text/plain;charset=UTF-8")
            .header(header::USER_AGENT, agent)
            .body(body);
        let reply = self.until_answered(&request, manner, tries).await;
        let Some((reply, _)) = reply else { return Answer::None };
        let status = reply.status();
        if status != StatusCode::ACCEPTED {
            return Answer::Status(status.as_u16());
        }
        match reply.json::<Results>().await {
            Ok(body) => Answer::Results(body.results),
            // The events were taken, but the answer is cut off and does not say which.
            Err(_) => Answer::Results(Vec::new()),
        }
    }

    /// Sends until there is an answer; `None` when the patience ends first. A 503 says that nothing
    /// was taken, so the request is sent again. Only for a prefetch a 503 without Retry-After is
    /// the answer.
    async fn until_answered(
        &self,
        request: &reqwest::RequestBuilder,
        manner: Manner,
        tries: &mut Tries,
    ) -> Option<(Response, Duration)> {
        let impatient = manner == Manner::Impatient;
        let watch = Stopwatch::start();
        let mut give_up = impatient;
        loop {
            let once = Stopwatch::start();
            // A request can always be copied when its body is no stream.
            let sending = request.try_clone()?.send();
            let tried = if std::mem::take(&mut give_up) {
                match tokio::time::timeout(Duration::from_millis(1), sending).await {
                    Ok(result) => result.map_err(|error| error.is_connect()),
                    Err(_) => Err(false),
                }
            } else {
                sending.await.map_err(|error| error.is_connect())
            };
            match tried {
                Ok(reply)
                    if reply.status() == StatusCode::SERVICE_UNAVAILABLE
                        && (manner != Manner::Prefetch
                            || reply.headers().contains_key(header::RETRY_AFTER)) =>
                {
                    tries.refused += 1;
                }
                Ok(reply) => {
                    tries.sent += 1;
                    tries.answered += 1;
                    return Some((reply, once.elapsed()));
                }
                // There was no connection, so nothing was taken.
                Err(true) => {}
                Err(false) => tries.sent += 1,
            }
            if watch.elapsed() > self.patience {
                return None;
            }
            if !impatient {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
