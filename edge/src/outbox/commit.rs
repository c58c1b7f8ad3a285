//! What the writer thread does with each group: stamp, seal, mark tallies, append, fsync.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use eventlog::segments::{Record, Segments, SegmentsError};
use shared::{Clock, EdgeId, OutboxId, Timestamp};

use super::seal::{BatchHead, Sealed, Sealer, next_epoch, weight};
use super::writer::{AppendError, Common, OutboxError, OutboxSettings, STREAM};
use crate::decision::Draft;

/// An entry of the queue.
#[derive(Debug)]
pub(super) enum Item {
    Events(Vec<Draft>),
    /// The last entry: closes the outbox.
    Close,
}

/// How an append went that did not fail for good.
enum Written {
    Durable,
    NoSpace,
}

pub(super) struct Committer {
    edge: EdgeId,
    segments: Segments,
    common: Arc<Common>,
    clock: Arc<dyn Clock>,
    /// The sealer of the previous epoch, while that one is not closed.
    before: Option<Sealer>,
    sealer: Sealer,
    begun: bool,
    closed: bool,
    hand_over_ms: u64,
    /// When tallies were last put into a batch.
    handed_over: Timestamp,
}

impl Committer {
    pub(super) fn new(
        segments: Segments,
        common: Arc<Common>,
        clock: Arc<dyn Clock>,
        settings: &OutboxSettings,
        last: Option<&BatchHead>,
    ) -> Self {
        let outbox = next_epoch(settings.edge, clock.now(), last);
        Self {
            edge: settings.edge,
            segments,
            common,
            clock,
            before: last.and_then(BatchHead::unclosed),
            sealer: Sealer::new(outbox),
            begun: false,
            closed: false,
            hand_over_ms: settings.hand_over_ms,
            handed_over: Timestamp(0),
        }
    }

    pub(super) const fn outbox(&self) -> OutboxId {
        self.sealer.outbox()
    }

    /// Closes the previous epoch and begins this one with an empty batch, in one append, so that
    /// one of them is open at any time. A full disk is no error: the next group tries again.
    pub(super) fn begin(&mut self) -> Result<(), OutboxError> {
        let now = self.clock.now();
        let watermark = self.sealer.stamp(now);
        let closing = self.before.as_ref().unwrap_or(&self.sealer);
        let batch = (closing.outbox().epoch, closing.next());
        let tallies = self.common.tallies.begin(watermark, batch, true)?;
        let (closing, opening) = match &self.before {
            Some(before) => (Some(before.close(&tallies)), self.sealer.seal(now, &[], &[])),
            None => (None, self.sealer.seal(now, &[], &tallies)),
        };
        let mut batches: Vec<&[u8]> = Vec::new();
        for sealed in closing.iter().chain([&opening]) {
            batches.extend(sealed.batches.iter().map(Vec::as_slice));
        }
        if let Written::Durable = append(&mut self.segments, &batches, &self.common)? {
            self.before = None;
            self.begun = true;
            self.advance(&opening);
        }
        Ok(())
    }

    /// Commits a group; no items means an idle tick. One result for each item.
    pub(super) fn commit(&mut self, items: Vec<Item>) -> Vec<Result<(), AppendError>> {
        let count = items.len();
        let outcome = self.group(items);
        let outcome = outcome.unwrap_or_else(|error| {
            self.common.fail(&error);
            vec![Err(AppendError::Failed); count]
        });
        let full = outcome.contains(&Err(AppendError::Full));
        // Cleared by a group that went through, and by an idle tick, so that the next group is
        // tried.
        self.common.disk_full.store(full && !self.over_the_limit(0), Ordering::Release);
        outcome
    }

    fn group(&mut self, items: Vec<Item>) -> Result<Vec<Result<(), AppendError>>, OutboxError> {
        if self.common.failed.borrow().is_some() {
            return Ok(vec![Err(AppendError::Failed); items.len()]);
        }
        if self.closed {
            return Ok(vec![Err(AppendError::Closed); items.len()]);
        }
        self.note_step();
        if !self.begun {
            self.begin()?;
            if !self.begun {
                return Ok(vec![Err(AppendError::Full); items.len()]);
            }
        }
        let count = items.len();
        let closing = items.iter().position(|item| matches!(item, Item::Close));
        let mut events = Vec::with_capacity(count);
        for item in items.into_iter().take(closing.unwrap_or(count)) {
            if let Item::Events(drafts) = item {
                events.extend(drafts);
            }
        }
        let taken = if count == 0 {
            self.heartbeat()?;
            Ok(())
        } else if count > 0 && closing != Some(0) {
            self.events(&events)?
        } else {
            Ok(())
        };
        let mut outcome = vec![taken; closing.unwrap_or(count)];
        if closing.is_some() {
            outcome.push(self.close()?);
            outcome.resize(count, Err(AppendError::Closed));
        }
        Ok(outcome)
    }

    /// When the clock was set back, this epoch is over and a new one begins at the right time.
    fn note_step(&mut self) {
        let now = self.clock.now();
        if self.begun && self.sealer.is_ahead_of(now) {
            let outbox = self.sealer.outbox();
            let last = BatchHead { outbox, number: 0, watermark: self.sealer.watermark() };
            let sealer = Sealer::new(next_epoch(self.edge, now, Some(&last)));
            tracing::warn!(
                ahead_until = %last.watermark, epoch = sealer.outbox().epoch,
                "the clock was set back: a new epoch begins"
            );
            self.before = Some(std::mem::replace(&mut self.sealer, sealer));
            self.common.tallies.lower_floor(now);
            (self.begun, self.handed_over) = (false, Timestamp(0));
        }
    }

    /// An empty batch advances the watermark and takes tallies along. That helps only once all
    /// batches before it have arrived. Until then none is added, so that a collector which stays
    /// away does not fill the disk.
    fn heartbeat(&mut self) -> Result<(), OutboxError> {
        if self.common.acked.load(Ordering::Acquire) < self.common.end() {
            return Ok(());
        }
        self.write(&[], true).map(drop)
    }

    fn events(&mut self, events: &[Draft]) -> Result<Result<(), AppendError>, OutboxError> {
        let bytes = events.iter().map(|draft| weight(draft) as u64).sum();
        if self.over_the_limit(bytes) {
            return Ok(Err(AppendError::Full));
        }
        let written = self.write(events, false)?;
        if matches!(written, Written::NoSpace) {
            return Ok(Err(AppendError::Full));
        }
        events.iter().for_each(|event| self.common.repeats.remember(event));
        self.common.metrics.appended(events);
        Ok(Ok(()))
    }

    fn write(&mut self, events: &[Draft], hand_over: bool) -> Result<Written, OutboxError> {
        let now = self.clock.now();
        let watermark = self.sealer.stamp(now);
        let hand_over = hand_over || watermark.minus_ms(self.hand_over_ms) >= self.handed_over;
        let batch = (self.sealer.outbox().epoch, self.sealer.next());
        let tallies = self.common.tallies.begin(watermark, batch, hand_over)?;
        let sealed = self.sealer.seal(now, events, &tallies);
        if !tallies.is_empty() {
            self.handed_over = watermark;
        }
        let batches: Vec<&[u8]> = sealed.batches.iter().map(Vec::as_slice).collect();
        let written = append(&mut self.segments, &batches, &self.common)?;
        if let Written::Durable = written {
            self.advance(&sealed);
        }
        Ok(written)
    }

    fn close(&mut self) -> Result<Result<(), AppendError>, OutboxError> {
        let batch = (self.sealer.outbox().epoch, self.sealer.next());
        let tallies = self.common.tallies.begin(self.sealer.watermark(), batch, true)?;
        let sealed = self.sealer.close(&tallies);
        let batches: Vec<&[u8]> = sealed.batches.iter().map(Vec::as_slice).collect();
        Ok(match append(&mut self.segments, &batches, &self.common)? {
            Written::Durable => {
                self.closed = true;
                Ok(())
            }
            Written::NoSpace => Err(AppendError::Full),
        })
    }

    /// Takes note that what was sealed is durable.
    fn advance(&mut self, sealed: &Sealed) {
        self.sealer.commit(sealed);
        self.common.watermark.store(sealed.watermark.0, Ordering::Release);
    }

    fn over_the_limit(&self, bytes: u64) -> bool {
        self.common.bytes().saturating_add(bytes) >= self.common.events_bytes_max
    }
}

/// Appends batches as one group, and settles the tallies that were marked for them.
fn append(
    segments: &mut Segments,
    batches: &[&[u8]],
    common: &Common,
) -> Result<Written, OutboxError> {
    let records: Vec<Record<'_>> =
        batches.iter().map(|payload| Record { stream: STREAM, payload }).collect();
    let written = match segments.append(&records) {
        Ok(_) => Written::Durable,
        Err(SegmentsError::NoSpace) => Written::NoSpace,
        Err(error) => return Err(error.into()),
    };
    common.tallies.end(matches!(written, Written::Durable))?;
    Ok(written)
}
