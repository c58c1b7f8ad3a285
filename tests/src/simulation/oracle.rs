//! The counts of one partition, computed again in the plainest way: with sets and maps, nothing
//! packed, nothing forgotten except epochs that were closed a horizon ago. The engine must have the
//! same.

use std::collections::{BTreeMap, BTreeSet};

use shared::counted::Amount;
use shared::event::REASON_CODES;
use shared::keys::registered_name;
use shared::limits::{CLOCK_AHEAD_MS_MAX, CLOCK_JUMP_MS_MAX, HORIZON_MS};
use shared::wire::{BatchEntry, MessageView};
use shared::{
    AdId, BlockId, EdgeId, Id, IssuerId, Kind, Minute, OutboxId, Reason, SourceId, Timestamp,
    import,
};

/// What became of the events of a minute.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Account {
    /// By batches.
    pub(super) declared: u64,
    /// By chunks.
    pub(super) imported: u64,
    /// Counted.
    pub(super) counted: u64,
    /// Duplicates.
    pub(super) duplicate: u64,
    /// By code.
    pub(super) reasons: [u64; REASON_CODES],
}

/// Everything that the messages of a partition say.
#[derive(Clone, Debug, Default)]
pub(super) struct Oracle {
    /// The log's clock.
    pub(super) clock: Timestamp,
    /// By edge (an imported log has none) and by minute.
    pub(super) accounts: BTreeMap<(EdgeId, Minute), Account>,
    /// Valid events by minute, ad and kind.
    pub(super) totals: BTreeMap<(Minute, AdId, Kind, bool), u64>,
    /// In micros, those that are none left out.
    pub(super) amounts: BTreeMap<Amount, i64>,
    /// Contiguous rows of imported logs.
    pub(super) rows: BTreeMap<SourceId, u64>,
    /// By batch: how many events it declared, and how many of them have an outcome here.
    pub(super) told: BTreeMap<(OutboxId, u64), Told>,
    wild: Vec<Timestamp>,
    batches: BTreeMap<OutboxId, BTreeMap<u64, Timestamp>>,
    /// Outboxes that are closed, and since when.
    closed: BTreeMap<OutboxId, Timestamp>,
    /// Epochs up to these are over and forgotten, by edge.
    over: BTreeMap<EdgeId, u64>,
    seen: BTreeSet<(IssuerId, BlockId, u16, Kind, bool)>,
}

/// How many events a batch declared, and how many of them have an outcome in a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Told {
    /// Events in all partitions.
    pub(super) declared: u64,
    /// Events that have an outcome in this partition.
    pub(super) outcomes: u64,
}

/// The minutes that a message may speak of.
#[derive(Clone, Copy)]
struct Window {
    first: Minute,
    last: Minute,
}

impl Window {
    /// The nearest minute inside, and the reason when that is another one.
    fn within(self, minute: Minute, imported: bool) -> (Minute, Option<Reason>) {
        match minute {
            minute if minute > self.last => (self.last, Some(Reason::ClockAhead)),
            minute if minute < self.first && !imported => (self.first, Some(Reason::TooLate)),
            minute => (minute, None),
        }
    }
}

impl Account {
    /// Adds another.
    pub(super) fn add(&mut self, other: &Self) {
        self.declared += other.declared;
        self.imported += other.imported;
        self.counted += other.counted;
        self.duplicate += other.duplicate;
        self.reasons.iter_mut().zip(other.reasons).for_each(|(to, n)| *to += n);
    }

    /// Events that have an outcome.
    pub(super) fn outcomes(&self) -> u64 {
        self.counted + self.duplicate + self.reasons.iter().sum::<u64>()
    }

    /// Events with this reason.
    pub(super) fn reason(&self, reason: Reason) -> u64 {
        self.reasons[usize::from(reason.code())]
    }
}

impl Oracle {
    /// Takes a message.
    pub(super) fn apply(&mut self, message: &MessageView<'_>) {
        // Stamps that are too far ahead of the log's clock are set aside. They are believed when
        // they span as much time as the largest step that is believed at once.
        self.wild.push(message.stamp);
        let least = self.wild.iter().min().copied().unwrap_or_default();
        let is_near =
            self.clock == Timestamp(0) || message.stamp <= self.clock.plus_ms(CLOCK_JUMP_MS_MAX);
        if is_near || message.stamp.0 - least.0 >= CLOCK_JUMP_MS_MAX {
            self.clock = self.clock.max(message.stamp);
            self.wild.clear();
        }
        self.forget();
        let first = self.clock.minus_ms(HORIZON_MS).minute();
        let last = message.stamp.plus_ms(CLOCK_AHEAD_MS_MAX).minute().max(first);
        let window = Window { first, last };
        let fresh = message.batches.iter().map(|batch| self.batch(batch, window));
        let fresh: Vec<bool> = fresh.collect();
        let is_fresh = |entry: u16| fresh.get(usize::from(entry)).copied().unwrap_or(true);
        for tally in message.tallies.iter().filter(|tally| is_fresh(tally.entry)) {
            let batch = message.batches.get(usize::from(tally.entry));
            let (minute, outside) = window.within(tally.tally.minute, batch.is_none());
            let reason = outside.unwrap_or(tally.tally.reason);
            let count = u64::from(tally.tally.count);
            self.account(batch, minute, count).reasons[usize::from(reason.code())] += count;
        }
        for row in message.rows().filter(|row| is_fresh(row.entry)) {
            let batch = message.batches.get(usize::from(row.entry));
            let (issuer, block) = message.blocks[usize::from(row.block)];
            let minute = message.minutes[usize::from(row.minute)];
            let (minute, outside) = window.within(minute, batch.is_none());
            // A test is told apart as the valid event that it would have been.
            let as_valid = matches!(row.outcome, Ok(None | Some(Reason::Test)));
            let key = (issuer, block, row.seq, row.kind(), as_valid);
            let late =
                issuer != import::ISSUER && block.opened().end().plus_ms(HORIZON_MS) < self.clock;
            let refused = outside.or(late.then_some(Reason::TooLate));
            let outcome = refused.map_or(row.outcome, |why| row.outcome.and(Err(why)));
            let is_new = outcome.is_err() || self.seen.insert(key);
            let ad = message.ids[usize::from(row.ad)].cast();
            let account = self.account(batch, minute, 1);
            account.imported += u64::from(batch.is_none());
            match outcome {
                Err(reason) => account.reasons[usize::from(reason.code())] += 1,
                Ok(_) if !is_new => account.duplicate += 1,
                Ok(Some(Reason::Test)) => account.reasons[usize::from(Reason::Test.code())] += 1,
                Ok(Some(reason)) => {
                    account.reasons[usize::from(reason.code())] += 1;
                    *self.totals.entry((minute, ad, row.kind(), false)).or_default() += 1;
                }
                Ok(None) => {
                    account.counted += 1;
                    *self.totals.entry((minute, ad, row.kind(), true)).or_default() += 1;
                    if row.kind() == Kind::Impression {
                        let micros = message.prices[usize::from(row.price)].micros;
                        if micros != 0 {
                            *self.amounts.entry(Amount::Spend).or_default() += micros;
                        }
                    }
                }
            }
        }
        for chunk in &message.chunks {
            let rows = self.rows.entry(chunk.source).or_default();
            if chunk.first_row <= *rows {
                *rows = chunk.end_row.max(*rows);
            }
        }
    }

    /// The account of a minute, for events of a batch or of an imported log.
    fn account(&mut self, batch: Option<&BatchEntry>, minute: Minute, count: u64) -> &mut Account {
        if let Some(batch) = batch {
            self.told.entry((batch.outbox, batch.number)).or_default().outcomes += count;
        }
        let edge = batch.map_or(Id::NONE, |batch| registered_name(batch.outbox.edge));
        self.accounts.entry((edge, minute)).or_default()
    }

    fn batch(&mut self, batch: &BatchEntry, window: Window) -> bool {
        let OutboxId { edge, epoch } = batch.outbox;
        let is_over = self.over.get(&edge).is_some_and(|over| epoch <= *over);
        if is_over && !self.batches.contains_key(&batch.outbox) {
            return false;
        }
        let numbers = self.batches.entry(batch.outbox).or_default();
        // A batch that comes again says nothing, even when another collector believed less of its
        // watermark.
        if numbers.contains_key(&batch.number) {
            return false;
        }
        numbers.insert(batch.number, batch.watermark);
        if reached(numbers) == Timestamp::MAX {
            self.closed.entry(batch.outbox).or_insert(self.clock);
        }
        for (minute, count) in &batch.declared {
            let (minute, _) = window.within(*minute, false);
            self.account(Some(batch), minute, 0).declared += u64::from(*count);
            let told = self.told.entry((batch.outbox, batch.number)).or_default();
            told.declared += u64::from(*count);
        }
        true
    }

    /// Forgets outboxes that were closed a horizon ago.
    fn forget(&mut self) {
        let is_past = |since: &Timestamp| since.plus_ms(HORIZON_MS) < self.clock;
        let past: Vec<_> = self.closed.iter().filter(|(_, since)| is_past(since)).collect();
        let past: Vec<OutboxId> = past.into_iter().map(|(outbox, _)| *outbox).collect();
        for outbox in past {
            self.closed.remove(&outbox);
            self.batches.remove(&outbox);
            let over = self.over.entry(outbox.edge).or_default();
            *over = outbox.epoch.max(*over);
        }
    }

    /// Whether an outbox is forgotten, or would be if it sent something now.
    pub(super) fn is_over(&self, outbox: OutboxId) -> bool {
        self.over.get(&outbox.edge).is_some_and(|over| outbox.epoch <= *over)
    }

    /// The least watermark of the open outboxes; the log's clock when none is open.
    #[must_use]
    pub(super) fn watermark(&self) -> Timestamp {
        self.open().min().unwrap_or(self.clock)
    }

    /// How many open outboxes are not past a minute.
    #[must_use]
    pub(super) fn behind(&self, minute: Minute) -> usize {
        self.open().filter(|mark| *mark < minute.end()).count()
    }

    /// Whether something of an outbox has come, but not this number.
    #[must_use]
    pub(super) fn waits_for(&self, outbox: OutboxId, number: u64) -> bool {
        self.batches.get(&outbox).is_some_and(|numbers| !numbers.contains_key(&number))
    }

    /// The watermarks of the outboxes that are not closed, at least the horizon's: events behind
    /// the horizon are too late whoever brings them, so no outbox keeps those minutes open.
    fn open(&self) -> impl Iterator<Item = Timestamp> {
        let marks = self.batches.values().map(reached).filter(|mark| *mark != Timestamp::MAX);
        marks.map(|mark| mark.max(self.clock.minus_ms(HORIZON_MS)))
    }
}

/// The watermark that numbers without a gap have reached.
fn reached(numbers: &BTreeMap<u64, Timestamp>) -> Timestamp {
    let contiguous = (0..).zip(numbers).take_while(|(n, (number, _))| n == *number);
    contiguous.map(|(_, (_, watermark))| *watermark).max().unwrap_or_default()
}
