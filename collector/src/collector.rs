//! The collector as its callers see it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use eventlog::{DEAD, Log, Message};
use parking_lot::Mutex;
use shared::import::ImportChunk;
use shared::keys::Sender;
use shared::keys::request::{self, RequestError};
use shared::limits::BATCH_NUMBERS_MAX;
use shared::wire::dead::LETTER_BYTES_MAX;
use shared::wire::{DeadLetter, Word};
use shared::{Clock, EdgeId, IssuerId, OutboxId, PartitionMap, Timestamp};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tracing::warn;

use crate::clock::AgreedClock;
use crate::coalesce::Coalescer;
use crate::controls;
use crate::error::SubmitError;
use crate::flush::{Flusher, GivenUp, Item, Ticket, append};
use crate::keys::CollectorKeys;
use crate::metrics::{LetterFate, Metrics};
use crate::queue::{Permit, Queue, Share, Weight};
use crate::quota::{self, Accounts, Letters, Over, Quota};
use crate::sender::{self, Refusal};
use crate::settings::Settings;
use crate::verify::{Inspected, Verifier, inspect};

/// What a collector is made of.
pub struct Parts<L> {
    /// Where the messages go; has as many partitions as `map`.
    pub log: Arc<L>,
    /// Which partition counts what.
    pub map: PartitionMap,
    /// The keys; a change applies to the batches that come after it.
    pub keys: watch::Receiver<Arc<CollectorKeys>>,
    /// The collector's time: it stamps messages, and edges' clocks are compared with it.
    pub clock: Arc<dyn Clock>,
    /// The counters to count into.
    pub metrics: Arc<Metrics>,
    /// Bounds and times.
    pub settings: Settings,
}

/// Why a collector does not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// The log is of another deployment, or the number of partitions was changed, which is fixed.
    #[error("the log has {log} partitions, and the deployment {deployment}")]
    Partitions {
        /// Partitions of the log.
        log: u16,
        /// Partitions of the partition map.
        deployment: u16,
    },
    /// The threads that verify cannot be started.
    #[error("{0}")]
    Threads(String),
}

/// Says that a batch was taken: every partition has it durably.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Receipt {
    /// How many ms the edge's clock was ahead of the collector's when it sealed the batch; 0 when
    /// it was not. Beyond [`shared::limits::CLOCK_AHEAD_MS_MAX`] its events are rejected.
    pub clock_ahead_ms: u64,
    /// The edge is out of service: its events are rejected ([`shared::Reason::EdgeRetired`]), whenever
    /// the edge received them.
    pub is_out_of_service: bool,
}

/// Takes batches and chunks, and acknowledges each when every partition has it durably. All methods
/// may be called from many tasks at once.
pub struct Collector<L> {
    log: Arc<L>,
    keys: watch::Receiver<Arc<CollectorKeys>>,
    clock: Arc<AgreedClock>,
    metrics: Arc<Metrics>,
    settings: Settings,
    verifier: Verifier,
    queue: Queue,
    letters: Letters,
    accounts: Accounts,
    /// Edges that are out of service and still send, and for which this process has logged a warning.
    told_retired: Mutex<BTreeSet<EdgeId>>,
    /// None when closed.
    items: Mutex<Option<mpsc::Sender<Item>>>,
    task: tokio::sync::Mutex<Option<JoinHandle<()>>>,
    /// Tasks that end when the collector is dropped.
    _tasks: JoinSet<()>,
    fatal: watch::Sender<Option<String>>,
}

impl<L: Log> Collector<L> {
    /// Starts the collector's tasks; must be called in a Tokio runtime.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn new(parts: Parts<L>) -> Result<Self, StartError> {
        let Parts { log, map, keys, clock, metrics, settings } = parts;
        let (has, needs) = (log.partitions(), map.partitions().count());
        if has != needs {
            return Err(StartError::Partitions { log: has, deployment: needs });
        }
        let clock = Arc::new(AgreedClock::new(clock, settings.clock_is_right));
        let verifier = Verifier::new(
            settings.verify_threads,
            settings.verified_tokens_max,
            map.clone(),
            metrics.checks.clone(),
        )
        .map_err(StartError::Threads)?;
        let queue =
            Queue::new(settings.queue_items_max, settings.queue_bytes_max, Arc::clone(&metrics));
        // An item is sent only with a permit of the queue, so this channel never makes a caller wait.
        let (sender, items) = mpsc::channel(settings.queue_items_max.max(1));
        let fatal = watch::Sender::new(None);
        let flusher = Flusher {
            log: Arc::clone(&log),
            clock: Arc::<AgreedClock>::clone(&clock),
            metrics: Arc::clone(&metrics),
            settings: settings.clone(),
            fatal: fatal.clone(),
            items,
            map: map.clone(),
            gather: Coalescer::new(map),
        };
        let task = tokio::spawn(watched(flusher.run(), fatal.clone()));
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(&clock).watch(Arc::clone(&log), settings.follow_log));
        let told = controls::tell_retired(
            Arc::clone(&log),
            Arc::<AgreedClock>::clone(&clock),
            keys.clone(),
        );
        tasks.spawn(told);
        // Each issuer has its counter before it has sent anything.
        let issuers =
            keys.borrow().edges.iter().map(|(_, edge)| edge.issuer).collect::<BTreeSet<_>>();
        issuers.into_iter().for_each(|issuer| metrics.count_issuer_bytes(issuer, 0));
        Ok(Self {
            letters: Letters::new(settings.dead_letter_bytes_per_hour),
            accounts: Accounts::new(settings.quotas),
            told_retired: Mutex::default(),
            log,
            keys,
            clock,
            metrics,
            settings,
            verifier,
            queue,
            items: Mutex::new(Some(sender)),
            task: tokio::sync::Mutex::new(Some(task)),
            _tasks: tasks,
            fatal,
        })
    }

    /// Takes one batch of this process's own outbox, in its binary form; returns when every partition
    /// has it durably. Waits while the queue is full. Dropping the future takes nothing back.
    ///
    /// # Errors
    /// [`SubmitError::Refused`] when it cannot be decoded; it is then kept with the dead letters.
    /// [`SubmitError::TooManyLetters`] when it cannot be decoded, and the sender's quota of dead letters is
    /// used up. [`SubmitError::NotAllowed`] when its edge is not registered, its epoch is in the future, or
    /// it is too large. [`SubmitError::Retry`] when the log is away: submit the same bytes again.
    pub async fn submit(&self, batch: Bytes) -> Result<Receipt, SubmitError> {
        self.submit_from(Sender::Operator, "outbox", batch).await
    }

    /// As [`Collector::submit`], for a sender that has been authenticated. `from` says where the batch
    /// came in, for the dead letters and the process's log.
    ///
    /// # Errors
    /// As [`Collector::submit`]; also [`SubmitError::NotAllowed`] when the edge is not the sender's, and
    /// [`SubmitError::OverQuota`] when the sender's issuer has used up a quota.
    pub async fn submit_from(
        &self,
        sender: Sender,
        from: &str,
        batch: Bytes,
    ) -> Result<Receipt, SubmitError> {
        let inspected = match inspect(&batch) {
            Ok(inspected) => inspected,
            Err(reason) => return Err(self.refuse(Some(sender), from, reason, batch).await),
        };
        let keys = Arc::clone(&self.keys.borrow());
        let mut checked = sender::check(sender, &inspected, &keys, self.clock.now());
        if checked == Err(Refusal::EpochAhead) {
            // Before an edge's clock is blamed, this collector's own clock must be known to be right.
            checked = sender::check(sender, &inspected, &keys, self.agreed().await?);
        }
        if let Err(why) = checked {
            self.metrics.count_refused(why);
            return Err(SubmitError::NotAllowed(why, why.detail(&inspected)));
        }
        let charged = sender::charged_issuer(sender, inspected.outbox.edge, &keys);
        if let Some(issuer) = charged {
            let bytes = inspected.log_bytes(self.log.partitions());
            let paid = self.accounts.batch(issuer, inspected.outbox, bytes);
            paid.map_err(|over| self.over_quota(issuer, over))?;
            let taken = self.admit(sender, charged, inspected, batch).await;
            match &taken {
                // A batch may come again and again while another quota holds it back: it must not use up the
                // bytes each time.
                Err(SubmitError::OverQuota { .. }) => self.accounts.give_back(issuer, bytes),
                Ok(_) => self.metrics.count_issuer_bytes(issuer, bytes),
                Err(_) => {}
            }
            return taken;
        }
        self.admit(sender, charged, inspected, batch).await
    }

    /// As [`Collector::submit_from`], for a batch from the work queue on NATS, which has authenticated the
    /// sender as `edge`. There no sender waits for an answer, so a batch that is not let in is kept with the
    /// dead letters, too.
    ///
    /// When the sender's quota of dead letters is used up, the batch is to be given back to the work queue
    /// and taken again later. It keeps a place there that all edges share; so only some batches of each
    /// sender may wait like this, and the others are dropped and counted ([`LetterFate::LetGo`]).
    ///
    /// # Errors
    /// As [`Collector::submit_from`]; [`SubmitError::Refused`] also for a batch that was dropped.
    pub async fn submit_from_edge(&self, edge: &str, batch: Bytes) -> Result<Receipt, SubmitError> {
        let from = format!("edge {edge}");
        let sender = edge.parse().ok().map(Sender::Edge);
        let refused = match sender {
            None => {
                let why = "no edge is called so".to_owned();
                self.refuse(None, &from, why, batch.clone()).await
            }
            Some(known) => match self.submit_from(known, &from, batch.clone()).await {
                Err(SubmitError::NotAllowed(_, why)) => {
                    self.refuse(sender, &from, why, batch.clone()).await
                }
                Err(error) => error,
                Ok(receipt) => return Ok(receipt),
            },
        };
        let SubmitError::TooManyLetters(_, why) = refused else { return Err(refused) };
        if self.letters.hold(self.accountable(sender), self.clock.now()) {
            return Err(SubmitError::TooManyLetters(quota::HELD_FOR, why));
        }
        if self.letters.tells(self.accountable(sender), self.clock.now()) {
            warn!(
                from,
                bytes = batch.len(),
                "no batch, and too many before it: let go of, and what follows in this minute"
            );
        }
        self.metrics.letters_over_quota_with(LetterFate::LetGo).inc();
        Err(SubmitError::Refused(why))
    }

    /// Whether any edge is registered. While none is, every batch is refused.
    #[must_use]
    pub fn knows_edges(&self) -> bool {
        !self.keys.borrow().edges.is_empty()
    }

    /// The issuer that owns the edge of this name; none when the edge is not registered.
    #[must_use]
    pub fn issuer_of(&self, edge: &str) -> Option<IssuerId> {
        self.keys.borrow().edges.owner(edge.parse().ok()?)
    }

    /// Checks the head of a signed request before its body is read. Gives the issuer when the head proves
    /// it; none when the head only names a key of this deployment, and the body has to show the rest.
    ///
    /// # Errors
    /// [`RequestError`]: the head alone shows that the request cannot be good.
    pub(crate) fn check_head(
        &self,
        field: &[u8],
        body_hash: Option<&[u8]>,
        path: &str,
    ) -> Result<Option<IssuerId>, RequestError> {
        let field = std::str::from_utf8(field).map_err(|_| RequestError::Malformed)?;
        let hash =
            body_hash.map(std::str::from_utf8).transpose().map_err(|_| RequestError::Body)?;
        let keys = Arc::clone(&self.keys.borrow());
        let claim = request::verify_head(field, hash, &keys.keyring, path, self.clock.now())?;
        Ok(claim.is_proven.then_some(claim.key.issuer))
    }

    /// The sender of a whole request: the issuer whose key has signed it, and signs at present.
    ///
    /// # Errors
    /// [`RequestError`].
    pub(crate) fn check_request(
        &self,
        field: &[u8],
        path: &str,
        body: &[u8],
    ) -> Result<Sender, RequestError> {
        let field = std::str::from_utf8(field).map_err(|_| RequestError::Malformed)?;
        let keys = Arc::clone(&self.keys.borrow());
        let key = request::verify(field, &keys.keyring, path, body, self.clock.now())?;
        Ok(Sender::Issuer(key.issuer))
    }

    /// Waits for room in the queue, judges the batch, and waits until every partition has it.
    async fn admit(
        &self,
        sender: Sender,
        charged: Option<IssuerId>,
        inspected: Inspected,
        batch: Bytes,
    ) -> Result<Receipt, SubmitError> {
        let Inspected { events, sealed, .. } = inspected;
        let edge = inspected.outbox.edge;
        let items = self.item_sender()?;
        let weight = Weight::new(batch.len(), events);
        let share = match charged {
            None => None,
            Some(issuer) => Some(self.queue_share(sender, issuer, weight).await?),
        };
        let permit = self.queue.acquire(weight, share).await.ok_or_else(closing)?;
        let keys = Arc::clone(&self.keys.borrow());
        let now = self.agreed().await?;
        let clock_ahead_ms = sealed.map_or(0, |sealed| sealed.0.saturating_sub(now.0));
        let is_out_of_service = keys.is_retired(edge, now);
        if is_out_of_service && self.told_retired.lock().insert(edge) {
            tracing::warn!(
                %edge,
                "it is out of service and still sends: all of it is rejected as edge_retired; end it, or give \
                 it another name (edge.name), registered for its issuer"
            );
        }
        let judged = self.verifier.batch(batch, events, keys, now).await;
        // The batch could be decoded before, so an error here says that the thread has died.
        let judged = judged.map_err(SubmitError::Retry)?;
        if let Some(issuer) = charged {
            let paid = self.accounts.blocks(issuer, &judged.blocks());
            paid.map_err(|over| self.over_quota(issuer, over))?;
        }
        self.hand_over(items, permit, |ticket| Item::Batch(Arc::new(judged), ticket)).await?;
        Ok(Receipt { clock_ahead_ms, is_out_of_service })
    }

    /// A part of the issuer's share of the queue. A batch from NATS waits for it: given back, it would only
    /// be delivered again. A batch from a request is refused instead of waiting, for its body would lie in
    /// memory meanwhile.
    async fn queue_share(
        &self,
        sender: Sender,
        issuer: IssuerId,
        weight: Weight,
    ) -> Result<Share, SubmitError> {
        match self.queue.share(issuer, weight) {
            Ok(share) => Ok(share),
            Err(wait) if matches!(sender, Sender::Edge(_)) => wait.await.ok_or_else(closing),
            Err(_) => Err(self.over_quota(issuer, Over(Quota::Queue, Duration::ZERO))),
        }
    }

    fn over_quota(&self, issuer: IssuerId, Over(quota, after): Over) -> SubmitError {
        self.metrics.over_quota_of(quota).inc();
        let why = format!(
            "the issuer {issuer} has sent as many {} as it may for now; send the same again later",
            quota.noun()
        );
        SubmitError::OverQuota { why, after }
    }

    /// Takes one chunk of an imported log; returns when every partition has it durably. Waits while
    /// the queue is full.
    ///
    /// # Errors
    /// [`SubmitError::Refused`] when [`ImportChunk::check`] finds something,
    /// [`SubmitError::NotAllowed`] when it is more than the log takes at once, and
    /// [`SubmitError::Retry`] when the log is away.
    pub async fn import(&self, chunk: ImportChunk) -> Result<(), SubmitError> {
        let items = self.item_sender()?;
        chunk.check().map_err(SubmitError::Refused)?;
        let permit = self
            .queue
            .acquire(Weight::new(0, chunk.events.len()), None)
            .await
            .ok_or_else(closing)?;
        let keys = Arc::clone(&self.keys.borrow());
        let judged = self.verifier.chunk(&chunk, &keys, self.agreed().await?);
        self.hand_over(items, permit, |ticket| Item::Chunk(Arc::new(judged), ticket)).await
    }

    /// Why nothing is taken at the moment: this clock and the log disagree. None when all is well.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.clock.trouble()
    }

    /// The time, when clock and log agree.
    async fn agreed(&self) -> Result<Timestamp, SubmitError> {
        let patience = Duration::from_millis(self.settings.retry_for_ms);
        self.clock.agreed(patience).await.map_err(SubmitError::Retry)
    }

    /// The log, for reading dead letters and noting that they are resolved.
    pub(crate) fn log(&self) -> &L {
        &self.log
    }

    /// The clock's time, whether it agrees with the log or not.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Keeps bytes that are no batch with the dead letters, and gives the error to answer with:
    /// [`SubmitError::Refused`] when they are kept; [`SubmitError::Retry`] when the log is away, and
    /// [`SubmitError::TooManyLetters`] when the sender's quota is used up, so that they are sent again.
    pub(crate) async fn refuse(
        &self,
        sender: Option<Sender>,
        from: &str,
        reason: String,
        bytes: Bytes,
    ) -> SubmitError {
        // The bytes may be many, and the turn for reading a body has been given back: before anything is
        // waited for, they are cut to what a letter keeps.
        let now = self.clock.now();
        let kept = DeadLetter { at: now, sender, from, reason: &reason, bytes: &bytes }.to_bytes();
        let came = bytes.len();
        drop(bytes);
        let at = match self.agreed().await {
            Ok(at) => at,
            Err(why) => return why,
        };
        let letter = DeadLetter::read(&kept).expect("it was written so");
        let letter = DeadLetter { at, ..letter };
        let (whose, length) = (self.accountable(sender), kept.len() as u64);
        if let Err(wait) = self.letters.take(whose, length, at) {
            self.metrics.letters_over_quota_with(LetterFate::Later).inc();
            return SubmitError::TooManyLetters(wait, reason);
        }
        // The reason is not logged: it may quote what came, which a reader of logs need not see.
        if self.letters.tells_kept(whose, at) {
            warn!(
                from,
                bytes = came,
                "no batch: kept with the dead letters, which say why, as what follows of this sender in this \
                 minute"
            );
        }
        let why = match self.append_letter(&letter).await {
            Ok(()) => {
                self.metrics.dead_letters.inc();
                return SubmitError::Refused(reason);
            }
            Err(GivenUp::Retry(why) | GivenUp::TooLarge(why)) => why,
            Err(GivenUp::Fatal(why)) => {
                self.fatal.send_replace(Some(why.clone()));
                why
            }
        };
        self.letters.give_back(whose, length);
        SubmitError::Retry(why)
    }

    /// The sender that is charged for dead letters: an edge's issuer, where the edge is registered.
    fn accountable(&self, sender: Option<Sender>) -> Option<Sender> {
        sender.map(|sender| sender.accountable(&self.keys.borrow().edges))
    }

    /// Whether a dead letter of this sender is believed when it says that it is a batch of this edge.
    pub(crate) fn speaks_for(&self, sender: Option<Sender>, edge: EdgeId) -> bool {
        sender.is_some_and(|sender| sender.owns(edge, &self.keys.borrow().edges))
    }

    /// Appends a letter, with as many of the bytes that came as the log takes.
    async fn append_letter(&self, letter: &DeadLetter<'_>) -> Result<(), GivenUp> {
        let retry_for = Duration::from_millis(self.settings.retry_for_ms);
        let mut most = LETTER_BYTES_MAX;
        // Halves the bytes until the letter fits. It ends at 0, where the letter has its reason alone.
        loop {
            let payload = Bytes::from(letter.to_bytes_of(most));
            let message = Message { partition: DEAD, payload };
            match append(&*self.log, vec![message], &self.metrics, retry_for).await {
                Err(GivenUp::TooLarge(_)) if most > 0 => most /= 2,
                done => return done,
            }
        }
    }

    /// Tells every partition that this batch will never come, so that counting does not wait for it. Told
    /// again, it changes nothing.
    ///
    /// # Errors
    /// [`SubmitError::Refused`] when no outbox can have such a number, [`SubmitError::Retry`] when the log
    /// is away.
    pub async fn resolve(&self, outbox: OutboxId, number: u64) -> Result<(), SubmitError> {
        if number >= BATCH_NUMBERS_MAX {
            return Err(SubmitError::Refused(format!("no outbox reaches the number {number}")));
        }
        let word = Word::Resolve { outbox, number };
        self.agreed().await?;
        let told = controls::append(&*self.log, &*self.clock, word).await;
        told.map_err(|error| SubmitError::Retry(error.to_string()))
    }

    /// Takes nothing more, and returns when what was taken is in the log or has been given up.
    pub async fn close(&self) {
        drop(self.items.lock().take());
        self.queue.close();
        if let Some(task) = self.task.lock().await.take() {
            // When the task has panicked, `fatal` has said so.
            let _ = task.await;
        }
    }

    /// Waits until the log has failed for good, or the task that coalesces has, and says how. The process
    /// must end then. Never returns otherwise.
    pub async fn fatal(&self) -> String {
        let mut fatal = self.fatal.subscribe();
        loop {
            if let Some(why) = fatal.borrow_and_update().clone() {
                return why;
            }
            // The sender lives in `self`, so this cannot fail.
            let _ = fatal.changed().await;
        }
    }

    /// The counters of what has happened so far.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    fn item_sender(&self) -> Result<mpsc::Sender<Item>, SubmitError> {
        self.items.lock().clone().ok_or_else(closing)
    }

    async fn hand_over(
        &self,
        items: mpsc::Sender<Item>,
        permit: Permit,
        item: impl FnOnce(Ticket) -> Item,
    ) -> Result<(), SubmitError> {
        let (ack, wait) = oneshot::channel();
        let gone = || SubmitError::Retry("the collector has ended".to_owned());
        items.send(item(Ticket { ack, permit })).await.map_err(|_| gone())?;
        // The task flushes at once when the last sender is gone: this one must not keep it waiting.
        drop(items);
        wait.await.unwrap_or_else(|_| Err(gone()))
    }
}

fn closing() -> SubmitError {
    SubmitError::Retry("the collector is closing".to_owned())
}

/// Runs the task. When it panics, that is fatal too, for nothing would ever be acknowledged again.
async fn watched(task: impl Future<Output = ()>, fatal: watch::Sender<Option<String>>) {
    struct Guard(watch::Sender<Option<String>>, bool);
    impl Drop for Guard {
        fn drop(&mut self) {
            if !self.1 {
                self.0.send_replace(Some("the task that coalesces has ended".to_owned()));
            }
        }
    }
    let mut guard = Guard(fatal, false);
    task.await;
    guard.1 = true;
}
