//! Reading request bodies: how many at the same time, for whom, and how long one may take.
//!
//! A body is read only with a [`Turn`], and the number of turns bounds the bodies in memory. The operator
//! has turns of its own. An issuer that the head has proved has at most [`ISSUER_MAX`] of the turns for
//! issuers. All callers that have proved nothing yet share [`UNPROVEN_MAX`] turns: they may be edges of
//! older builds, or strangers, for the ids of keys are public.
//!
//! Slow bodies cannot make others wait for long. A body has to come at a certain [`Pace`], so each turn
//! comes back in the end. And when other issuers have all the turns, an issuer without one gets one soon:
//! among the slow bodies of the issuer that has most turns, the one that has taken longest is cut off.

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

/// Turns of all proven issuers together …
const ISSUERS_MAX: usize = 16;
/// … and of one of them.
const ISSUER_MAX: usize = 4;
/// Turns for requests with the operator's key.
const OPERATOR_MAX: usize = 4;
/// Turns of all callers that have not proved who they are.
const UNPROVEN_MAX: usize = 4;
/// How long a request waits for its turn.
const TURN_WAIT: Duration = Duration::from_secs(5);
/// After each such wait, an issuer without any turn has another issuer's slow body cut off …
const CUT_EVERY: Duration = Duration::from_millis(500);
/// … which is slow when it has been read for this long.
const SLOW_AFTER: Duration = Duration::from_secs(2);

const _: () = assert!(ISSUER_MAX < ISSUERS_MAX, "one issuer never has all turns");

/// The sender of a request, as far as it is known before the body is read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Caller {
    /// Has the operator's key; the program that mounts the gateway has checked it.
    Operator,
    /// The head is signed with this issuer's key.
    Issuer(IssuerId),
    /// Names an issuer's key; the head does not prove that it has the key.
    Unproven,
}

/// How fast a body has to come: when the grace is over it may not fall behind a steady rate, and it has
/// to be whole after some time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// How far the body may be behind the steady rate; so also the time for the first byte.
    pub(crate) grace: Duration,
    /// The steady rate, bytes a second.
    pub(crate) per_s: u64,
    /// The time for the whole body.
    pub(crate) whole: Duration,
}

impl Default for Pace {
    /// At 1.2 Mbit/s the largest body comes in time, and at 150 kbit/s one of 256 KiB.
    fn default() -> Self {
        Self { grace: Duration::from_secs(10), per_s: 64 << 10, whole: Duration::from_secs(60) }
    }
}

impl Pace {
    /// When the next byte must be here, counted from the start, of a body of which `received` bytes are.
    fn due(&self, received: usize) -> Duration {
        let earned = Duration::from_millis(received as u64 * 1_000 / self.per_s.max(1));
        (self.grace + earned).min(self.whole)
    }
}

/// Hands out turns, and reads bodies with them.
pub(crate) struct Bodies {
    operator: Arc<Semaphore>,
    unproven: Arc<Semaphore>,
    issuers: Arc<Semaphore>,
    /// The turns of each issuer that has been proved; at most as many as the deployment has issuers.
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

/// A body of an issuer that is being read.
struct BodyInProgress {
    issuer: IssuerId,
    since: Stopwatch,
    /// Tells the task that reads it that it is cut off.
    cut: Arc<Notify>,
}

impl Reading {
    fn count(&self, issuer: IssuerId) -> usize {
        self.bodies.values().filter(|body| body.issuer == issuer).count()
    }

    /// Of the slow bodies, cuts off one of the issuer that has most bodies: the one that has taken longest.
    /// Bodies that are not slow yet are spared.
    fn cut_slowest(&mut self) {
        let slow = self.bodies.iter().filter(|(_, body)| body.since.elapsed() >= SLOW_AFTER);
        let key = |body: &BodyInProgress| (self.count(body.issuer), body.since.elapsed());
        let slowest = slow.max_by_key(|(_, body)| key(body)).map(|(number, _)| *number);
        if let Some(body) = slowest.and_then(|number| self.bodies.remove(&number)) {
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
    /// With all turns free. A request that waits longer than `wait` for its turn is refused.
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
        // A length that the sender itself gives as too large is refused without reading.
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
        // The issuer's own share is taken first: while a request waits for it, it holds no turn that
        // others could have.
        let (share, all) = match sender {
            Caller::Operator => (None, &self.operator),
            Caller::Unproven => (None, &self.unproven),
            Caller::Issuer(issuer) => (Some(self.share(issuer)), &self.issuers),
        };
        // None of these semaphores is ever closed.
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

    /// One of the turns for issuers; another issuer's slow body is cut off for it when this issuer has no
    /// turn.
    async fn issuer_turn(
        &self,
        issuer: IssuerId,
        all: &Arc<Semaphore>,
    ) -> Option<OwnedSemaphorePermit> {
        let mut turn = std::pin::pin!(Arc::clone(all).acquire_owned());
        // Ends when a turn is free; the caller gives up after its own time.
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

/// Reads a body of at most `most` bytes at the pace that it must come.
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
            // A body that comes in one part is not copied.
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
