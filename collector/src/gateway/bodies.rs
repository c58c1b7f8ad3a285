//! Bodies: who may have one read, how many at the same time, and how long it may take.
//!
//! A turn is what is scarce: so many bodies lie in memory at once. The operator has turns of its own;
//! an issuer whose head has proved it has at most [`ISSUER_MAX`] of those for issuers; and all who have
//! proved nothing yet (edges of older builds; or strangers, for the ids of keys are public) share
//! [`UNPROVEN_MAX`] among them. A body has to come [`Pace`] fast, so that a turn always comes back; and an
//! issuer that has none gets one soon though some others have all of them: then the one of the issuer with
//! most that has taken longest is cut off. So nobody's slow bodies make anybody else wait for long.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use parking_lot::Mutex;
use shared::IssuerId;
use shared::ambient::Stopwatch;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::{problem, soon};

/// Bodies of proven issuers that are read at the same time …
const ISSUERS_MAX: usize = 16;
/// … of them one issuer's …
const ISSUER_MAX: usize = 4;
/// … and beside them those with the operator's key …
const OPERATOR_MAX: usize = 4;
/// … and those of all who have not proved who they are.
const UNPROVEN_MAX: usize = 4;
/// How long a request waits for its turn.
const TURN_WAIT: Duration = Duration::from_secs(5);
/// An issuer without a turn waits no longer than this before another's body is cut off …
const CUT_EVERY: Duration = Duration::from_millis(500);
/// … that has been read for so long: long enough for any that is not slow.
const SLOW_AFTER: Duration = Duration::from_secs(2);

const _: () = assert!(ISSUER_MAX < ISSUERS_MAX, "one issuer never has all turns");

/// Who sends, as far as it is known before the body is read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Caller {
    /// Brought the operator's key, which whoever mounts the gateway has looked at.
    Operator,
    /// The head is signed with this issuer's key.
    Issuer(IssuerId),
    /// Claims to be an issuer.
    Unproven,
}

/// How fast a body has to come: after a while it may never fall behind a steady rate, and at some time
/// it has to be whole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// For the first byte, and for pauses.
    pub(crate) grace: Duration,
    /// Bytes a second in the long run.
    pub(crate) per_s: u64,
    /// For the whole.
    pub(crate) whole: Duration,
}

impl Default for Pace {
    /// The largest body comes in time at 1.2 Mbit/s, one of 256 KiB at 150 kbit/s.
    fn default() -> Self {
        Self { grace: Duration::from_secs(10), per_s: 64 << 10, whole: Duration::from_secs(60) }
    }
}

impl Pace {
    /// When the next byte must be here, from the start, of a body of which so many are.
    fn due(&self, received: usize) -> Duration {
        let earned = Duration::from_millis(received as u64 * 1_000 / self.per_s.max(1));
        (self.grace + earned).min(self.whole)
    }
}

/// The turns, and how they are used.
pub(crate) struct Bodies {
    operator: Arc<Semaphore>,
    unproven: Arc<Semaphore>,
    issuers: Arc<Semaphore>,
    /// By issuer that has proved to be one: as many as the deployment has.
    issuer_shares: Mutex<HashMap<IssuerId, Arc<Semaphore>>>,
    reading: Arc<Mutex<Reading>>,
    wait: Duration,
    pace: Pace,
}

/// The bodies of issuers that are being read.
#[derive(Default)]
struct Reading {
    next: u64,
    bodies: HashMap<u64, BodyInProgress>,
}

/// One of them: whose, since when, and how it is told that it is cut off.
struct BodyInProgress {
    issuer: IssuerId,
    since: Stopwatch,
    cut: Arc<Notify>,
}

impl Reading {
    fn count(&self, issuer: IssuerId) -> usize {
        self.bodies.values().filter(|body| body.issuer == issuer).count()
    }

    /// Cuts off the one that has taken longest, of the issuer that has most; none that has just begun.
    fn cut_slowest(&mut self) {
        let slow = self.bodies.iter().filter(|(_, body)| body.since.elapsed() >= SLOW_AFTER);
        let key = |body: &BodyInProgress| (self.count(body.issuer), body.since.elapsed());
        let slowest = slow.max_by_key(|(_, body)| key(body)).map(|(at, _)| *at);
        if let Some(body) = slowest.and_then(|at| self.bodies.remove(&at)) {
            body.cut.notify_one();
        }
    }
}

/// Held while a body is read.
pub(crate) struct Turn {
    _turns: [Option<OwnedSemaphorePermit>; 2],
    reading: Option<(Arc<Mutex<Reading>>, u64)>,
    cut: Arc<Notify>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some((reading, number)) = &self.reading {
            reading.lock().bodies.remove(number);
        }
    }
}

impl Default for Bodies {
    fn default() -> Self {
        Self::new(TURN_WAIT, Pace::default())
    }
}

impl Bodies {
    /// No turn is taken. Whoever has to wait longer than `wait` for one is told so.
    pub(crate) fn new(wait: Duration, pace: Pace) -> Self {
        let turns = |count| Arc::new(Semaphore::new(count));
        Self {
            operator: turns(OPERATOR_MAX),
            unproven: turns(UNPROVEN_MAX),
            issuers: turns(ISSUERS_MAX),
            issuer_shares: Mutex::default(),
            reading: Arc::default(),
            wait,
            pace,
        }
    }

    /// Reads a body of at most `most` bytes when it is the sender's turn.
    ///
    /// # Errors
    /// The answer: 413 when it is too large, 503 when the turn does not come or is taken away, 408 when the
    /// body comes too slowly, 400 when it breaks off.
    pub(crate) async fn read(
        &self,
        sender: Caller,
        body: Body,
        most: usize,
    ) -> Result<Bytes, Response> {
        // What the sender says is believed when it says too much.
        if body.size_hint().lower() > most as u64 {
            return Err(too_large(most));
        }
        let turn = self.turn(sender).await?;
        tokio::select! {
            read = read(body, most, &self.pace) => read,
            () = turn.cut.notified() => Err(busy("the body comes slowly, and others wait")),
        }
    }

    async fn turn(&self, sender: Caller) -> Result<Turn, Response> {
        // The share first: who waits for it is in nobody's way.
        let (share, all) = match sender {
            Caller::Operator => (None, &self.operator),
            Caller::Unproven => (None, &self.unproven),
            Caller::Issuer(issuer) => (Some(self.share(issuer)), &self.issuers),
        };
        // None of these is ever closed.
        let both = async {
            let share = match share {
                Some(share) => share.acquire_owned().await.ok(),
                None => None,
            };
            let turn = match sender {
                Caller::Issuer(issuer) => self.issuer_turn(issuer, all).await,
                _ => Arc::clone(all).acquire_owned().await.ok(),
            };
            [share, turn]
        };
        let turns = timeout(self.wait, both)
            .await
            .map_err(|_| busy("too many bodies of this sender, or of all, are being read"))?;
        let cut = Arc::new(Notify::new());
        let reading = match sender {
            Caller::Issuer(issuer) => {
                let mut reading = self.reading.lock();
                let number = reading.next;
                reading.next += 1;
                let (since, cut) = (Stopwatch::start(), Arc::clone(&cut));
                reading.bodies.insert(number, BodyInProgress { issuer, since, cut });
                Some((Arc::clone(&self.reading), number))
            }
            _ => None,
        };
        Ok(Turn { _turns: turns, reading, cut })
    }

    /// A turn, for which another's slow body is cut off when this issuer has none.
    async fn issuer_turn(
        &self,
        issuer: IssuerId,
        all: &Arc<Semaphore>,
    ) -> Option<OwnedSemaphorePermit> {
        let mut turn = std::pin::pin!(Arc::clone(all).acquire_owned());
        loop {
            match timeout(CUT_EVERY, &mut turn).await {
                Ok(turn) => return turn.ok(),
                Err(_) => {
                    let mut reading = self.reading.lock();
                    if reading.count(issuer) == 0 {
                        reading.cut_slowest();
                    }
                }
            }
        }
    }

    fn share(&self, issuer: IssuerId) -> Arc<Semaphore> {
        let mut shares = self.issuer_shares.lock();
        let share = shares.entry(issuer).or_insert_with(|| Arc::new(Semaphore::new(ISSUER_MAX)));
        Arc::clone(share)
    }
}

/// Reads a body of at most `most` bytes that comes as fast as it must.
///
/// # Errors
/// As [`Bodies::read`].
pub(crate) async fn read(body: Body, most: usize, pace: &Pace) -> Result<Bytes, Response> {
    let watch = Stopwatch::start();
    let mut parts = body.into_data_stream();
    let mut whole = BytesMut::new();
    loop {
        let left = pace.due(whole.len()).saturating_sub(watch.elapsed());
        match timeout(left, parts.next()).await {
            Ok(None) => return Ok(whole.freeze()),
            Ok(Some(Ok(part))) if whole.len() + part.len() > most => return Err(too_large(most)),
            // A part that comes alone is not copied.
            Ok(Some(Ok(part))) if whole.is_empty() => whole = part.into(),
            Ok(Some(Ok(part))) => whole.extend_from_slice(&part),
            Ok(Some(Err(error))) => {
                let detail = format!("the body broke off: {error}");
                return Err(problem(StatusCode::BAD_REQUEST, "body_unreadable", detail));
            }
            Err(_) => {
                let detail = "the body came too slowly, or not at all; send it again";
                let refusal =
                    api::Refusal::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", detail);
                let close = HeaderValue::from_static("close");
                return Err(refusal.with(header::CONNECTION, close).into_response());
            }
        }
    }
}

fn busy(why: &str) -> Response {
    soon("busy", format!("{why}; send the same again later"))
}

fn too_large(most: usize) -> Response {
    let detail = format!("a body has at most {most} bytes");
    problem(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
}
