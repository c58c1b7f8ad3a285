//! Verifies the signature of every token, on all cores.
//!
//! An impression, its view and its click bring the same token, so a token that was found good is
//! remembered by its digest, without its tag. What is remembered is only that the *signature* is good;
//! whether the key may be believed is checked each time. Bad tokens are never remembered, so that garbage
//! cannot push good ones out.

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

/// A batch with at most so many events is verified on the caller's thread: handing it to another thread
/// and back takes about as long as verifying one signature.
const INLINE_EVENTS_MAX: usize = 4;
/// The fewest events that one core takes together.
const EVENTS_PER_CORE_MIN: usize = 8;

/// A batch whose events have their outcomes.
#[derive(Clone, Debug)]
pub struct JudgedBatch {
    /// What every partition is told of the batch.
    pub entry: BatchEntry,
    /// Events that the edge has only counted.
    pub tallies: Vec<Tally>,
    /// The events.
    pub rows: Vec<JudgedRow>,
}

impl JudgedBatch {
    /// The blocks that the batch makes the engine remember: those of accepted events.
    pub(crate) fn blocks(&self) -> BTreeSet<BlockId> {
        let rows = self.rows.iter().map(|row| &row.judged);
        rows.filter(|row| row.outcome.is_ok()).map(|row| row.id.block).collect()
    }
}

/// A chunk whose rows have their outcomes.
#[derive(Clone, Debug)]
pub struct JudgedChunk {
    /// What every partition is told of the chunk.
    pub entry: ChunkEntry,
    /// The events.
    pub rows: Vec<JudgedRow>,
}

/// An event with its outcome and its partition.
#[derive(Clone, Debug)]
pub struct JudgedRow {
    /// The event. Its `proof` and `names` are empty; they are in the fields below.
    pub judged: Judged<'static>,
    /// Those of its names that are too long to be their own ids.
    pub names: Vec<NameBuf<Any>>,
    /// What the archive shall keep of the token.
    pub proof: Bytes,
    /// The partition that counts it.
    pub partition: u16,
}

/// Counters of verified tokens. Clones count into the same.
#[derive(Clone, Debug, Default)]
pub struct Checks {
    /// Tokens whose signature was checked.
    pub verified: Counter,
    /// Tokens whose signature was known to be good.
    pub cached: Counter,
}

/// Verifies and judges batches, on threads of its own.
#[derive(Debug)]
pub struct Verifier {
    pool: rayon::ThreadPool,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Digests of good tokens, each with the first page view that has reported the token; 0: none yet.
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

    /// Verifies and judges a batch's events. `events` is their number: few are judged on the caller's
    /// thread, many on the pool.
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
            // This fails when the caller has hung up; its sender sends again.
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
        // An edge without an owner gets no issuer's id, so that all its tokens are foreign.
        let owner = keys.edges.owner(edge).unwrap_or(Id::NONE);
        let retired = keys.is_retired(edge, now);
        let context = Context { keys, retired, owner, now };
        let judge_one = |event: &Event<'_>| {
            // An edge's clock that is far ahead must not make a key look older than it is.
            let at = event.at.min(now.plus_ms(shared::limits::CLOCK_AHEAD_MS_MAX));
            let page = event.page.map(|said| said.page);
            let (token, has_page) = match self.believe(event.token, at, page, keys) {
                Ok((believed, has_page)) => (Ok(believed), has_page),
                // A rejected event does not count for its page view, so its page number may stay.
                Err(doubted) => (Err(doubted), true),
            };
            let page = event.page.filter(|_| has_page);
            self.row(judge(&Event { page, ..*event }, token, &context), Some(bytes))
        };
        let (rows, digest) = if batch.events.len() <= EVENTS_PER_CORE_MIN {
            (batch.events.iter().map(judge_one).collect(), BatchDigest::compute(bytes))
        } else {
            let events = batch.events.par_iter().with_min_len(EVENTS_PER_CORE_MIN);
            rayon::join(|| events.map(judge_one).collect(), || BatchDigest::compute(bytes))
        };
        // The batch declares its events for the minutes in which they are then counted.
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

    /// The token, and whether an event with it may count for this page view.
    ///
    /// # Errors
    /// Why the token is not believed.
    fn believe<'a, 'k>(
        &self,
        bytes: &'a [u8],
        at: Timestamp,
        page: Option<PageView>,
        keys: &'k CollectorKeys,
    ) -> Result<(Believed<'a, 'k>, bool), Doubted> {
        let ring = &keys.keyring;
        let token = Unverified::read(bytes, ring.deployment()).map_err(Doubted::unreadable)?;
        // Without the tag, which only edges check: else a sender could pass one token off as many by
        // changing its tag.
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
        let has_page = self.may_tell_of_page(digest, told_by, page);
        Ok((Believed { token: said, key, proof: token.proof() }, has_page))
    }

    /// Remembers a good token, and says whether an event with it may count for this page view. An ad is
    /// shown on one page, so a token counts only for the first page view that reports it. So one token can
    /// claim no more events than one page view may report ([`shared::limits::PAGE_SEQ_MAX`]), as long as
    /// it is remembered.
    fn may_tell_of_page(
        &self,
        digest: [u8; 32],
        told_by: Option<u64>,
        page: Option<PageView>,
    ) -> bool {
        // 0 stands for no page view; a real page view 0 is taken for 1.
        let page = page.map_or(0, |page| page.0.max(1));
        match told_by {
            Some(first) if first != 0 || page == 0 => first == page,
            // Another thread may see the token with another page view at the same time: the cache decides
            // which was first, and both get the same answer.
            _ => {
                let first = self.good.entry(digest).and_upsert_with(|told_by| {
                    told_by.map(Entry::into_value).filter(|first| *first != 0).unwrap_or(page)
                });
                first.into_value() == page
            }
        }
    }
}

/// The tally, moved into a minute that a sender may report at `now`. When it has to be moved, its reason
/// says so instead of its own.
fn tally_within(tally: Tally, now: Timestamp) -> Tally {
    match clamp_time(tally.minute.start(), now) {
        (_, None) => tally,
        (at, Some(reason)) => Tally { minute: at.minute(), reason, ..tally },
    }
}

/// The issuer and block that a token claims; none where its key is not known.
fn claim(token: &Unverified<'_>, keys: &CollectorKeys) -> (IssuerId, BlockId) {
    let (key, id) = token.claim();
    let key = keys.keyring.get(key);
    key.map_or((Id::NONE, BlockId::default()), |(key, _)| (key.issuer, id.block))
}

/// A watermark promises that nothing older comes. No edge can promise that for a time that is further
/// ahead than clocks may differ, so a later watermark is cut to that time; the smaller promise holds all
/// the same. The watermark that closes an epoch promises that no further number comes, and is kept.
fn believed_watermark(watermark: Timestamp, now: Timestamp) -> Timestamp {
    match watermark {
        Timestamp::MAX => watermark,
        _ => watermark.min(now.plus_ms(shared::limits::CLOCK_AHEAD_MS_MAX)),
    }
}

/// What is known of a batch before its events are verified.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Inspected {
    /// The outbox that the batch names.
    pub outbox: OutboxId,
    /// Number of events, tallies not counted.
    pub events: usize,
    /// Length of the binary form, bytes.
    pub bytes: usize,
    /// Number of minutes for which it declares events.
    pub minutes: usize,
    /// The watermark, which is the edge's time when it sealed the batch; none in a closing batch.
    pub sealed: Option<Timestamp>,
}

impl Inspected {
    /// Bytes that the log gets, about: the batch's own once, and in each partition its entry.
    pub(crate) fn log_bytes(&self, partitions: u16) -> usize {
        let news = shared::wire::message::news_bytes(self.minutes);
        self.bytes + usize::from(partitions) * news
    }
}

/// Reads a batch without verifying its events.
///
/// # Errors
/// What is wrong with it, and where: it cannot be decoded, or it declares more events than fit into the
/// count of a minute (`u32`).
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

/// The names that are too long to be their own ids, each once.
fn long_names(names: [&str; 5]) -> Vec<NameBuf<Any>> {
    let mut long = Vec::new();
    // All of them are good: they were checked when the token or the chunk was read.
    for name in names.iter().filter_map(|text| Name::new(text).ok()).filter(|name| name.is_long()) {
        if long.iter().all(|known: &NameBuf<Any>| known.name() != name) {
            long.push(name.to_buf());
        }
    }
    long
}
