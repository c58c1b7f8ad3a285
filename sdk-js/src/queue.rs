//! The queue of events, which holds each until the edge has said what became of it.
//!
//! An event leaves the queue when a reply has its result. Whatever else happens (no network, a busy
//! edge, a beacon that nobody answers, a page that is gone), it is sent again, if need be by a
//! later page from storage. That never counts twice: an event is identified by impression id and
//! kind, and the engine counts each identity once.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

/// A body has fewer bytes than this: browsers allow 64 KiB to be under way with `keepalive`.
pub const BODY_BYTES_MAX: usize = 16 << 10;
/// The most events that wait; a further one is refused.
pub const WAITING_MAX: usize = 256;
/// The most identities that are remembered to refuse repeats here; beyond them the engine
/// recognises repeats.
pub const SEEN_MAX: usize = 1_024;
/// The longest token that is taken; the wire's own limit is lower.
const TOKEN_CHARS_MAX: usize = 4_096;
/// The wait after the first failure, in milliseconds; it doubles with each further one.
const BACKOFF_MS_MIN: u64 = 1_000;
/// The longest wait that we choose ourselves, in milliseconds.
const BACKOFF_MS_MAX: u64 = 60_000;
/// The longest `Retry-After` that is followed, in seconds.
const RETRY_AFTER_S_MAX: u64 = 3_600;
/// The first line of what is stored; what another version has stored is not read.
const STORED_VERSION: &str = "countersign-queue 1";

const OPEN: &str = r#"{"events":["#;
const CLOSE: &str = "]}";
/// Even the longest token fits into a body, so a full queue can always be sent.
const _: () = assert!(TOKEN_CHARS_MAX + 256 < BODY_BYTES_MAX);

/// The kinds of events that the SDK sends. Clicks go through the link, and conversions do not
/// happen on this page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The creative was drawn.
    Impression,
    /// It was viewable.
    Viewable,
}

impl Kind {
    /// The name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Impression => "impression",
            Self::Viewable => "viewable",
        }
    }

    /// Reads a name on the wire.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Impression, Self::Viewable].into_iter().find(|kind| kind.name() == name)
    }
}

/// Why an event was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// It has been taken before.
    Repeated,
    /// [`WAITING_MAX`] events are waiting.
    Full,
    /// The impression id or the token is empty, too long, or has a character that neither may have.
    Malformed,
}

/// The answer to a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer<'a> {
    /// 202: one result per event, in order, with commas between.
    Results(&'a str),
    /// The request itself is wrong, so sending it again would not help.
    Refused,
    /// No answer, or one that says to come again; with its `Retry-After` in seconds (0: none).
    Later(u64),
    /// It was handed to `sendBeacon`, which does not tell what becomes of it.
    Unknown,
}

impl Answer<'_> {
    /// Reads an HTTP status; 0 stands for no answer.
    #[must_use]
    pub fn from_status(status: u16, retry_after_s: u64, results: &str) -> Answer<'_> {
        match status {
            202 => Answer::Results(results),
            408 | 429 => Answer::Later(retry_after_s),
            400..=499 => Answer::Refused,
            _ => Answer::Later(retry_after_s),
        }
    }
}

/// How many events had which fate. Events from storage count in all fields but `made`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Taken into the queue. This is also the sequence number of the page's last event.
    pub made: u32,
    /// Taken by the edge (`accepted`, or `queued` where it is set so).
    pub accepted: u32,
    /// Refused by the edge, with a reason.
    pub refused: u32,
    /// Not taken, because the queue was full.
    pub dropped: u32,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Waiting {
    kind: Kind,
    id: Box<str>,
    token: Box<str>,
    /// The batch that it is under way with; `None` while it waits.
    batch: Option<u32>,
}

/// A body to send.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Batch {
    /// Its number, for [`Queue::settle`].
    pub number: u32,
    /// JSON for `POST /v1/events`.
    pub body: String,
}

/// The queue of one page.
#[derive(Debug, Default)]
pub struct Queue {
    waiting: Vec<Waiting>,
    seen: VecDeque<(Kind, Box<str>)>,
    tally: Tally,
    batches: u32,
    failures: u32,
    due_ms: u64,
}

impl Queue {
    /// Takes an event of this page.
    ///
    /// # Errors
    /// Why it is not taken.
    pub fn push(&mut self, kind: Kind, id: &str, token: &str) -> Result<(), Refused> {
        let taken = self.take_in(kind, id, token);
        match taken {
            Ok(()) => self.tally.made += 1,
            Err(Refused::Full) => self.tally.dropped += 1,
            Err(_) => {}
        }
        taken
    }

    /// Takes an event of this page or from storage.
    fn take_in(&mut self, kind: Kind, id: &str, token: &str) -> Result<(), Refused> {
        if !is_plain(id, 64) || !is_plain(token, TOKEN_CHARS_MAX) {
            return Err(Refused::Malformed);
        }
        if self.seen.iter().any(|(k, i)| *k == kind && **i == *id) {
            return Err(Refused::Repeated);
        }
        if self.waiting.len() >= WAITING_MAX {
            return Err(Refused::Full);
        }
        if self.seen.len() == SEEN_MAX {
            self.seen.pop_front();
        }
        self.seen.push_back((kind, id.into()));
        self.waiting.push(Waiting { kind, id: id.into(), token: token.into(), batch: None });
        Ok(())
    }

    /// The next body, of events that are not under way; `None` when there are none, or they are not
    /// due yet. With `at_once` (the page may end soon) all are due.
    pub fn take(&mut self, now_ms: u64, at_once: bool) -> Option<Batch> {
        if !at_once && now_ms < self.due_ms {
            return None;
        }
        let number = self.batches + 1;
        let mut body = String::from(OPEN);
        // Oldest first, and cut before the first that does not fit, so that the order is kept. At least one
        // fits (see the assertion above).
        for event in self.waiting.iter_mut().filter(|event| event.batch.is_none()) {
            let before = body.len();
            if before > OPEN.len() {
                body.push(',');
            }
            for part in [r#"{"token":""#, &event.token, r#"","kind":""#, event.kind.name(), r#""}"#]
            {
                body.push_str(part);
            }
            if body.len() + CLOSE.len() >= BODY_BYTES_MAX {
                body.truncate(before);
                break;
            }
            event.batch = Some(number);
        }
        if body.len() == OPEN.len() {
            return None;
        }
        body.push_str(CLOSE);
        self.batches = number;
        Some(Batch { number, body })
    }

    /// Takes the answer to a batch. A late answer, to a batch that is settled, changes no event.
    pub fn settle(&mut self, number: u32, now_ms: u64, answer: Answer<'_>) {
        match answer {
            Answer::Results(results) => {
                let mut results = results.split(',');
                for _ in self.waiting.iter().filter(|event| event.batch == Some(number)) {
                    match results.next() {
                        Some("accepted" | "queued") => self.tally.accepted += 1,
                        _ => self.tally.refused += 1,
                    }
                }
                self.waiting.retain(|event| event.batch != Some(number));
                (self.failures, self.due_ms) = (0, 0);
            }
            Answer::Refused => {
                let before = self.waiting.len();
                self.waiting.retain(|event| event.batch != Some(number));
                let gone = u32::try_from(before - self.waiting.len()).unwrap_or(u32::MAX);
                self.tally.refused = self.tally.refused.saturating_add(gone);
            }
            Answer::Later(retry_after_s) => {
                let backoff = BACKOFF_MS_MIN << self.failures.min(6);
                self.failures += 1;
                let asked_ms = retry_after_s.min(RETRY_AFTER_S_MAX) * 1_000;
                self.put_back(number, now_ms + backoff.min(BACKOFF_MS_MAX).max(asked_ms));
            }
            Answer::Unknown => self.put_back(number, now_ms + BACKOFF_MS_MAX),
        }
    }

    /// The events of a batch wait again, and nothing is due before `due_ms`.
    fn put_back(&mut self, number: u32, due_ms: u64) {
        for event in self.waiting.iter_mut().filter(|event| event.batch == Some(number)) {
            event.batch = None;
        }
        self.due_ms = self.due_ms.max(due_ms);
    }

    /// Makes everything that waits due: the network is back, or the page is looked at again.
    pub const fn wake(&mut self) {
        (self.failures, self.due_ms) = (0, 0);
    }

    /// In how many milliseconds there will be something to take; `None` when nothing waits.
    #[must_use]
    pub fn wait_ms(&self, now_ms: u64) -> Option<u64> {
        let waits = self.waiting.iter().any(|event| event.batch.is_none());
        waits.then(|| self.due_ms.saturating_sub(now_ms))
    }

    /// The page's tally so far.
    #[must_use]
    pub const fn tally(&self) -> Tally {
        self.tally
    }

    /// How many events have no result yet, those under way included.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether every event has its result.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// All events without a result, including those under way, as text for storage; empty when
    /// there are none.
    #[must_use]
    pub fn dump(&self) -> String {
        let mut text = String::new();
        for event in &self.waiting {
            if text.is_empty() {
                text.push_str(STORED_VERSION);
            }
            for part in ["\n", event.kind.name(), " ", &event.id, " ", &event.token] {
                text.push_str(part);
            }
        }
        text
    }

    /// Takes the events that another page has stored, and returns how many were taken. Lines that
    /// cannot be read are left out: others may write into a page's storage too.
    pub fn load(&mut self, text: &str) -> usize {
        let mut lines = text.lines();
        if lines.next() != Some(STORED_VERSION) {
            return 0;
        }
        let taken = lines.filter_map(|line| {
            let (kind, rest) = line.split_once(' ')?;
            let (id, token) = rest.split_once(' ')?;
            self.take_in(Kind::from_name(kind)?, id, token).ok()
        });
        taken.count()
    }
}

/// The alphabet of ids and tokens: nothing in it has to be escaped in JSON.
fn is_plain(text: &str, chars_max: usize) -> bool {
    (1..=chars_max).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
