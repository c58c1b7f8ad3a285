//! The model: sets and maps, one event after the other, nothing ever thrown away.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use shared::counted::Amount;
use shared::event::REASON_CODES;
use shared::limits::{CLOCK_JUMP_MS_MAX, HORIZON_MS};
use shared::wire::{BatchEntry, MessageView, Row};
use shared::{
    BatchDigest, BlockId, Dimensions, IssuerId, Kind, Minute, OutboxId, PageView, Reason, SourceId,
    Timestamp, import,
};

use super::Answers;
use crate::count::{Applied, Finality, MinuteAccount, SourceState};

fn dimensions(message: &MessageView<'_>, row: &Row) -> Dimensions {
    let names = row.names().map(|name| message.ids[usize::from(name)]);
    Dimensions::new(names, row.codes(), row.kind(), row.outcome == Ok(None))
}

#[derive(Default)]
struct ModelOutbox {
    numbers: BTreeMap<u64, (Timestamp, BatchDigest)>,
    /// The other contents that came under a number.
    conflicts: BTreeSet<(u64, BatchDigest)>,
    closed_at: Option<Timestamp>,
}

impl ModelOutbox {
    fn watermark(&self) -> Timestamp {
        let contiguous = (0..).zip(&self.numbers).take_while(|(n, (number, _))| n == *number);
        contiguous.map(|(_, (_, (watermark, _)))| *watermark).max().unwrap_or_default()
    }

    fn missing(&self) -> Vec<u64> {
        let largest = self.numbers.keys().max().copied().unwrap_or(0);
        (0..largest).filter(|number| !self.numbers.contains_key(number)).collect()
    }
}

#[derive(Default)]
pub(super) struct Oracle {
    answers: Answers,
    seen: HashSet<(IssuerId, BlockId, u16, Kind, bool)>,
    outboxes: BTreeMap<OutboxId, ModelOutbox>,
    /// Outboxes that were closed longer ago than the horizon.
    over: BTreeSet<OutboxId>,
    /// The largest watermark so far.
    settled: Timestamp,
    /// By page view: the largest number that it told, and the hour in which it did.
    page_views: BTreeMap<PageView, (u16, u64)>,
    /// Stamps that were too far ahead, and that no later stamp has confirmed yet.
    wild: Vec<Timestamp>,
    pub(super) applied: Applied,
}

impl Oracle {
    pub(super) fn answers(&self) -> Answers {
        let mut answers = self.answers.clone();
        let open = self.outboxes.values().filter(|outbox| outbox.closed_at.is_none());
        let horizon = Timestamp(answers.clock.0.saturating_sub(HORIZON_MS));
        let mut open: Vec<_> = open.map(|outbox| outbox.watermark().max(horizon)).collect();
        open.sort_unstable();
        let watermark = open.first().copied().unwrap_or(answers.clock);
        answers.finality = Finality { watermark, open };
        let missing = self.outboxes.iter().map(|(outbox, state)| (*outbox, state.missing()));
        let conflicts = self.outboxes.iter().flat_map(|(outbox, state)| {
            state.conflicts.iter().map(|(number, digest)| (*outbox, *number, *digest))
        });
        answers.conflicts = conflicts.collect();
        answers.gaps = missing.filter(|(_, missing)| !missing.is_empty()).collect();
        answers
    }

    fn account(&mut self, minute: Minute) -> &mut MinuteAccount {
        self.answers.accounts.entry(minute).or_default()
    }

    fn advance(&mut self, stamp: Timestamp) {
        let clock = &mut self.answers.clock;
        // Stamps that are too far ahead are not believed until they cover a span as long as a jump.
        self.wild.push(stamp);
        let least = self.wild.iter().map(|wild| wild.0).min().unwrap_or(0);
        let is_near = clock.0 == 0 || stamp.0 <= clock.0 + CLOCK_JUMP_MS_MAX;
        if is_near || stamp.0 - least >= CLOCK_JUMP_MS_MAX {
            *clock = stamp.max(*clock);
            self.wild.clear();
        }
        let now = clock.0;
        let behind =
            |outbox: &ModelOutbox| outbox.closed_at.is_some_and(|at| at.0 + HORIZON_MS < now);
        let over: Vec<_> =
            self.outboxes.iter().filter(|(_, o)| behind(o)).map(|(id, _)| *id).collect();
        self.over.extend(&over);
        self.outboxes.retain(|id, _| !over.contains(id));
        self.page_views.retain(|_, (_, hour)| *hour + 24 >= now / 3_600_000);
    }

    fn take_batch(&mut self, batch: &BatchEntry) -> bool {
        let BatchEntry { outbox, number, watermark, digest, .. } = *batch;
        let known = self.outboxes.contains_key(&outbox);
        let is_over = |over: &OutboxId| over.edge == outbox.edge && over.epoch >= outbox.epoch;
        if !known && self.over.iter().any(is_over) {
            self.applied.redelivered += 1;
            return false;
        }
        let clock = self.answers.clock;
        let state = self.outboxes.entry(outbox).or_default();
        if let Some((_, first)) = state.numbers.get(&number) {
            let same = [first, &digest].contains(&&BatchDigest::UNKNOWN) || *first == digest;
            let is_conflict = !same && state.conflicts.insert((number, digest));
            self.applied.conflicts += u64::from(is_conflict);
            self.applied.redelivered += u64::from(!is_conflict);
            return false;
        }
        state.numbers.insert(number, (watermark, digest));
        if state.watermark() == Timestamp::MAX && state.closed_at.is_none() {
            state.closed_at = Some(clock);
        }
        true
    }

    fn take_page_views(&mut self, message: &MessageView<'_>, is_fresh: impl Fn(usize) -> bool) {
        for row in message.page_views.iter().filter(|row| is_fresh(usize::from(row.entry))) {
            let (last, hour) = self.page_views.entry(row.told.page).or_default();
            if row.told.seq > *last {
                let minute = message.minutes[usize::from(row.minute)];
                let publisher = message.ids[usize::from(row.publisher)].cast();
                self.answers.told.entry((minute, publisher)).or_default().sent +=
                    u64::from(row.told.seq - *last);
                (*last, *hour) = (row.told.seq, self.answers.clock.0 / 3_600_000);
            }
        }
    }

    pub(super) fn apply(&mut self, message: &MessageView<'_>) {
        self.settled = self.settled.max(self.answers().finality.watermark);
        let watermark = self.settled;
        let rows_before: BTreeMap<SourceId, u64> =
            self.answers.sources.iter().map(|(source, state)| (*source, state.rows)).collect();
        self.applied = Applied::default();
        self.advance(message.stamp);
        let mut entries = Vec::new();
        for batch in &message.batches {
            let fresh = self.take_batch(batch);
            entries.push(fresh.then_some(None));
            for (minute, count) in batch.declared.iter().filter(|(_, n)| fresh && *n > 0) {
                self.account(*minute).declared += u64::from(*count);
            }
        }
        for chunk in &message.chunks {
            self.answers.sources.entry(chunk.source).or_default();
            entries.push(Some(Some(chunk.source)));
        }
        let mut touched = BTreeSet::new();
        for row in message.rows() {
            let Some(source) = entries[usize::from(row.entry)] else { continue };
            let minute = message.minutes[usize::from(row.minute)];
            let (issuer, block) = message.blocks[usize::from(row.block)];
            let behind = issuer != import::ISSUER
                && block.opened().end().0 + HORIZON_MS < self.answers.clock.0;
            let dimensions = dimensions(message, &row);
            let fate = match row.outcome {
                Err(reason) => Fate::Reason(reason),
                Ok(_) if row.block == 0 => Fate::Reason(Reason::Malformed),
                Ok(_) if behind => Fate::Reason(Reason::TooLate),
                Ok(verdict) => {
                    let test = verdict == Some(Reason::Test);
                    let key = (issuer, block, row.seq, row.kind(), verdict.is_none() || test);
                    let taken = source.is_some_and(|source| {
                        let rows = rows_before.get(&source).copied().unwrap_or(0);
                        (0..rows).step_by(1 << 16).any(|first| {
                            import::block(source, first >> 16) == block
                                && first + u64::from(row.seq) < rows
                        })
                    });
                    if taken || !self.seen.insert(key) {
                        Fate::Duplicate
                    } else if test {
                        Fate::Reason(Reason::Test)
                    } else {
                        touched.insert(minute);
                        if row.numbered {
                            let told = self.answers.told.entry((minute, dimensions.publisher));
                            told.or_default().counted += 1;
                        }
                        *self.answers.cells.entry((minute, dimensions)).or_default() += 1;
                        let total = (minute, dimensions.ad, row.kind(), verdict.is_none());
                        *self.answers.totals.entry(total).or_default() += 1;
                        verdict.map_or(Fate::Counted, Fate::Reason)
                    }
                }
            };
            if fate == Fate::Counted {
                let price = message.prices[usize::from(row.price)];
                if row.kind() == Kind::Impression && row.price != 0 {
                    let key = (minute, dimensions, Amount::Spend, price.currency);
                    *self.answers.amounts.entry(key).or_default() += price.micros;
                }
            }
            self.count(minute, source, fate, 1);
        }
        self.take_page_views(message, |entry| entries[entry].is_some());
        for tally in &message.tallies {
            let Some(source) = entries[usize::from(tally.entry)] else { continue };
            let (minute, reason) = (tally.tally.minute, tally.tally.reason);
            self.count(minute, source, Fate::Reason(reason), u64::from(tally.tally.count));
        }
        for minute in touched {
            self.account(minute).revision += u64::from(watermark >= minute.end());
        }
        self.take_chunks(message);
    }

    fn take_chunks(&mut self, message: &MessageView<'_>) {
        let mut chunks = message.chunks.clone();
        chunks.sort_by_key(|chunk| (chunk.source, chunk.first_row, chunk.end_row));
        for chunk in chunks {
            let state = self.answers.sources.entry(chunk.source).or_default();
            if chunk.first_row <= state.rows && state.rows < chunk.end_row {
                state.rows = chunk.end_row;
                state.digest = chunk.digest;
            }
        }
    }

    fn count(&mut self, minute: Minute, source: Option<SourceId>, fate: Fate, n: u64) {
        if n == 0 {
            return;
        }
        let account = self.account(minute);
        account.imported += if source.is_some() { n } else { 0 };
        fate.count(n, &mut account.counted, &mut account.duplicate, &mut account.reasons);
        if let Some(source) = source {
            let SourceState { counted, duplicate, reasons, .. } =
                self.answers.sources.get_mut(&source).unwrap();
            fate.count(n, counted, duplicate, reasons);
        }
        let Applied { events, counted, duplicate, reasons, .. } = &mut self.applied;
        *events += n;
        fate.count(n, counted, duplicate, reasons);
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Counted,
    Duplicate,
    Reason(Reason),
}

impl Fate {
    fn count(self, n: u64, c: &mut u64, d: &mut u64, reasons: &mut [u64; REASON_CODES]) {
        match self {
            Self::Counted => *c += n,
            Self::Duplicate => *d += n,
            Self::Reason(reason) => reasons[usize::from(reason.code())] += n,
        }
    }
}
