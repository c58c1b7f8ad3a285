//! Every token's signature, over all cores.
//!
//! An impression, its view and its click bring one token: what was found good once is remembered
//! by the digest of the token without its tag. Only that a *signature* is good is remembered; whether
//! its key may be believed is asked each time. What is bad is never remembered, so that garbage
//! cannot drive the good out.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use moka::Entry;
use moka::sync::Cache;
use prometheus_client::metrics::counter::Counter;
use rayon::prelude::*;
use shared::import::ImportChunk;
use shared::name::Any;
use shared::token::Unverified;
use shared::wire::{Batch, BatchEntry, ChunkEntry, Event, Judged, Tally};
use shared::{
    BatchDigest, BlockId, Id, IssuerId, Name, NameBuf, OutboxId, PageView, PartitionMap, Timestamp,
};

use crate::judge::{Believed, Context, Doubted, Ruling, clamp_time, judge, judge_row};
use crate::keys::CollectorKeys;

/// A batch with so few events is verified where it is: handing it to another thread and back takes
/// about as long as a signature.
const INLINE_EVENTS_MAX: usize = 4;
/// So many events at least go to one core together.
const EVENTS_PER_CORE_MIN: usize = 8;

/// A batch whose events have their outcomes.
#[derive(Clone, Debug)]
pub struct JudgedBatch {
    /// What every partition hears of it.
    pub entry: BatchEntry,
    /// What was only counted.
    pub tallies: Vec<Tally>,
    /// The events.
    pub rows: Vec<JudgedRow>,
}

impl JudgedBatch {
    /// The blocks that it makes the engine remember: of events that can count.
    pub(crate) fn blocks(&self) -> BTreeSet<BlockId> {
        let rows = self.rows.iter().map(|row| &row.judged);
        rows.filter(|row| row.outcome.is_ok()).map(|row| row.id.block).collect()
    }
}

/// A chunk whose rows have their outcomes.
#[derive(Clone, Debug)]
pub struct JudgedChunk {
    /// What every partition hears of it.
    pub entry: ChunkEntry,
    /// The events.
    pub rows: Vec<JudgedRow>,
}

/// An event with its outcome and its partition.
#[derive(Clone, Debug)]
pub struct JudgedRow {
    /// The event; its `proof` and `names` are apart.
    pub judged: Judged<'static>,
    /// Those of its names that are no ids of their own.
    pub names: Vec<NameBuf<Any>>,
    /// What the archive shall keep of the token.
    pub proof: Bytes,
    /// The partition that counts it.
    pub partition: u16,
}

/// How often tokens were looked at. Clones count into the same.
#[derive(Clone, Debug, Default)]
pub struct Checks {
    /// Tokens whose signature was checked.
    pub verified: Counter,
    /// Tokens whose signature was known to be good.
    pub cached: Counter,
}

/// Verifies, on threads of its own.
#[derive(Debug)]
pub struct Verifier {
    pool: rayon::ThreadPool,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Each with the page view that it was first told by; 0: none yet.
    good: Cache<[u8; 32], u64>,
    map: PartitionMap,
    checks: Checks,
}

impl Verifier {
    /// With `threads` threads (0: one per core), remembering at most `tokens_max` tokens (about 150
    /// bytes each; 0: none).
    ///
    /// # Errors
    /// When the threads cannot be started.
    pub fn new(
        threads: usize,
        tokens_max: u64,
        map: PartitionMap,
        checks: Checks,
    ) -> Result<Self, String> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|n| format!("verify-{n}"))
            .build()
            .map_err(|error| format!("start the threads that verify: {error}"))?;
        let good = Cache::new(tokens_max);
        Ok(Self { pool, shared: Arc::new(Shared { good, map, checks }) })
    }

    /// Verifies and judges a batch's events. `events` is their number, which decides where.
    ///
    /// # Errors
    /// When `bytes` are no batch, or the thread died.
    pub async fn batch(
        &self,
        bytes: Bytes,
        events: usize,
        keys: Arc<CollectorKeys>,
        now: Timestamp,
    ) -> Result<JudgedBatch, String> {
        if events <= INLINE_EVENTS_MAX {
            return self.shared.batch(&bytes, &keys, now);
        }
        let (done, wait) = tokio::sync::oneshot::channel();
        let shared = Arc::clone(&self.shared);
        self.pool.spawn(move || {
            // Nobody waits any more: the sender has hung up, and will send again.
            let _ = done.send(shared.batch(&bytes, &keys, now));
        });
        wait.await.unwrap_or_else(|_| Err("a thread that verifies has died".to_owned()))
    }

    /// Judges a chunk's rows: there is nothing to verify, and hashing a user takes a microsecond.
    #[must_use]
    pub fn chunk(&self, chunk: &ImportChunk, keys: &CollectorKeys, now: Timestamp) -> JudgedChunk {
        let row = |event| self.shared.row(judge_row(chunk.source, event, &keys.visitor, now), None);
        let entry = ChunkEntry {
            source: chunk.source,
            first_row: chunk.first_row,
            end_row: chunk.end_row,
            digest: chunk.digest,
            declared: chunk.declared(),
        };
        JudgedChunk { entry, rows: chunk.events.iter().map(row).collect() }
    }
}

impl Shared {
    /// Runs on the pool's threads, or on the caller's when there are few events.
    fn batch(
        &self,
        bytes: &Bytes,
        keys: &CollectorKeys,
        now: Timestamp,
    ) -> Result<JudgedBatch, String> {
        let mut batch = Batch::read(bytes).map_err(|error| error.to_string())?;
        let edge = batch.outbox.edge;
        // Nobody's edge reports nobody's tokens.
        let owner = keys.edges.owner(edge).unwrap_or(Id::NONE);
        let retired = keys.is_retired(edge, now);
        let context = Context { keys, retired, owner, now };
        let judge_one = |event: &Event<'_>| {
            // A clock that is ahead makes no key look older than it is.
            let at = event.at.min(now.plus_ms(shared::limits::CLOCK_AHEAD_MS_MAX));
            let page = event.page.map(|said| said.page);
            let (token, speaks) = match self.believe(event.token, at, page, keys) {
                Ok((believed, speaks)) => (Ok(believed), speaks),
                // What is not believed says nothing of a page; that its page numbers what it tells stays.
                Err(doubted) => (Err(doubted), true),
            };
            let page = event.page.filter(|_| speaks);
            self.row(judge(&Event { page, ..*event }, token, &context), Some(bytes))
        };
        let (rows, digest) = if batch.events.len() <= EVENTS_PER_CORE_MIN {
            (batch.events.iter().map(judge_one).collect(), BatchDigest::compute(bytes))
        } else {
            let events = batch.events.par_iter().with_min_len(EVENTS_PER_CORE_MIN);
            rayon::join(|| events.map(judge_one).collect(), || BatchDigest::compute(bytes))
        };
        // What it declares is declared of the minutes that its events are then counted in.
        batch.events.iter_mut().for_each(|event| event.at = clamp_time(event.at, now).0);
        batch.tallies.iter_mut().for_each(|tally| *tally = tally_within(*tally, now));
        let entry = BatchEntry {
            outbox: batch.outbox,
            number: batch.number,
            watermark: believed_watermark(batch.watermark, now),
            digest,
            declared: batch.declared(),
        };
        Ok(JudgedBatch { entry, tallies: batch.tallies, rows })
    }

    fn row(&self, ruling: Ruling<'_>, bytes: Option<&Bytes>) -> JudgedRow {
        let (issuer, block) = ruling.partition_key;
        JudgedRow {
            judged: ruling.judged,
            names: long_names(ruling.names),
            proof: bytes.map_or_else(Bytes::new, |bytes| bytes.slice_ref(ruling.proof)),
            partition: self.map.of_block(issuer, block),
        }
    }

    /// The token, and whether it may tell of this page view.
    fn believe<'a, 'k>(
        &self,
        bytes: &'a [u8],
        at: Timestamp,
        page: Option<PageView>,
        keys: &'k CollectorKeys,
    ) -> Result<(Believed<'a, 'k>, bool), Doubted> {
        let ring = &keys.keyring;
        let token = Unverified::read(bytes, ring.deployment()).map_err(Doubted::unreadable)?;
        // Without the tag, which only edges check: else one token were as many as it has tags.
        let digest = *blake3::hash(token.proof()).as_bytes();
        let told_by = self.good.get(&digest);
        let verified = if told_by.is_some() {
            self.checks.cached.inc();
            token.verify_again(ring, at)
        } else {
            self.checks.verified.inc();
            token.verify(ring, at)
        };
        let (said, key) =
            verified.map_err(|reason| Doubted { reason, claim: claim(&token, keys) })?;
        let speaks = self.may_tell_of_page(digest, told_by, page);
        Ok((Believed { token: said, key, proof: token.proof() }, speaks))
    }

    /// Remembers a good token, and says whether it may tell of this page view: an ad is on one page, so a
    /// token speaks for the first that it names. One token can then claim no more than one page view may
    /// ([`shared::limits::PAGE_SEQ_MAX`]), as long as its signature is remembered.
    fn may_tell_of_page(
        &self,
        digest: [u8; 32],
        told_by: Option<u64>,
        page: Option<PageView>,
    ) -> bool {
        // 0 stands for none; a page view of that number is any other.
        let page = page.map_or(0, |page| page.0.max(1));
        match told_by {
            Some(first) if first != 0 || page == 0 => first == page,
            // Another thread may be told of another page view meanwhile: both hear which was the first.
            _ => {
                let first = self.good.entry(digest).and_upsert_with(|told_by| {
                    told_by.map(Entry::into_value).filter(|first| *first != 0).unwrap_or(page)
                });
                first.into_value() == page
            }
        }
    }
}

/// A tally in a minute that a sender may speak of at `now`: one of another has that for its reason.
fn tally_within(tally: Tally, now: Timestamp) -> Tally {
    match clamp_time(tally.minute.start(), now) {
        (_, None) => tally,
        (at, Some(reason)) => Tally { minute: at.minute(), reason, ..tally },
    }
}

fn claim(token: &Unverified<'_>, keys: &CollectorKeys) -> (IssuerId, BlockId) {
    let (key, id) = token.claim();
    let key = keys.keyring.get(key);
    key.map_or((Id::NONE, BlockId::default()), |(key, _)| (key.issuer, id.block))
}

/// A watermark is a promise, and nobody can keep one about a time that is further ahead than clocks
/// may differ: then that much of it is believed. A smaller promise is kept too. One that closes the
/// epoch is of numbers, not of time.
fn believed_watermark(watermark: Timestamp, now: Timestamp) -> Timestamp {
    match watermark {
        Timestamp::MAX => watermark,
        _ => watermark.min(now.plus_ms(shared::limits::CLOCK_AHEAD_MS_MAX)),
    }
}

/// What is known of a batch before its events are verified.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Inspected {
    /// Whose it says that it is.
    pub outbox: OutboxId,
    /// How many events it has; tallies are none.
    pub events: usize,
    /// How many bytes its binary form has.
    pub bytes: usize,
    /// Of how many minutes it has events.
    pub minutes: usize,
    /// Its watermark, which is the edge's time when it was sealed; none in a closing batch.
    pub sealed: Option<Timestamp>,
}

impl Inspected {
    /// About how many bytes the log gets: its events once, and in each partition the news of it.
    pub(crate) fn log_bytes(&self, partitions: u16) -> usize {
        let news = shared::wire::message::news_bytes(self.minutes);
        self.bytes + usize::from(partitions) * news
    }
}

/// Looks at a batch, which is taken if it is good.
///
/// # Errors
/// What is wrong with it, and where: it cannot be read, or it declares more events than a minute's
/// count can say.
pub fn inspect(bytes: &[u8]) -> Result<Inspected, String> {
    let batch = Batch::read(bytes).map_err(|error| error.to_string())?;
    let events = u64::try_from(batch.events.len()).unwrap_or(u64::MAX);
    let tallied: u64 = batch.tallies.iter().map(|tally| u64::from(tally.count)).sum();
    if events.saturating_add(tallied) > u64::from(u32::MAX) {
        return Err(format!("the tallies: {tallied} events are more than a batch may declare"));
    }
    let sealed = Some(batch.watermark).filter(|watermark| *watermark != Timestamp::MAX);
    Ok(Inspected {
        outbox: batch.outbox,
        events: batch.events.len(),
        bytes: bytes.len(),
        minutes: batch.declared().len(),
        sealed,
    })
}

/// Those that are no ids of their own, each once.
fn long_names(names: [&str; 5]) -> Vec<NameBuf<Any>> {
    let mut long = Vec::new();
    // They were checked when the token or the chunk was read.
    for name in names.iter().filter_map(|text| Name::new(text).ok()).filter(|name| name.is_long()) {
        if long.iter().all(|known: &NameBuf<Any>| known.name() != name) {
            long.push(name.to_buf());
        }
    }
    long
}
