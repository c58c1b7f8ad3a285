//! The counts of one partition, computed again in the plainest way there is: sets and maps, nothing
//! forgotten, nothing packed. What the engine says must be the same.

use std::collections::{BTreeMap, BTreeSet};

use shared::event::REASON_CODES;
use shared::limits::{CLOCK_JUMP_MS_MAX, HORIZON_MS};
use shared::wire::MessageView;
use shared::{BlockId, Id, Kind, Minute, OutboxId, Reason, SourceId, Timestamp, import};

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
    /// By minute.
    pub(super) accounts: BTreeMap<Minute, Account>,
    /// Valid events by minute, ad and kind.
    pub(super) totals: BTreeMap<(Minute, Id, Kind, bool), u64>,
    /// Micros of spend.
    pub(super) spend: i64,
    /// Contiguous rows of imported logs.
    pub(super) rows: BTreeMap<SourceId, u64>,
    wild: Vec<Timestamp>,
    batches: BTreeMap<OutboxId, BTreeMap<u64, Timestamp>>,
    seen: BTreeSet<(Id, BlockId, u16, Kind, bool)>,
}

impl Oracle {
    /// Takes a message.
    pub(super) fn apply(&mut self, message: &MessageView<'_>) {
        // Stamps that are too far ahead wait until the span that they cover is as long.
        self.wild.push(message.stamp);
        let least = self.wild.iter().min().copied().unwrap_or_default();
        let is_near =
            self.clock == Timestamp(0) || message.stamp <= self.clock.plus_ms(CLOCK_JUMP_MS_MAX);
        if is_near || message.stamp.0 - least.0 >= CLOCK_JUMP_MS_MAX {
            self.clock = self.clock.max(message.stamp);
            self.wild.clear();
        }
        let fresh: Vec<bool> = message.batches.iter().map(|batch| self.batch(batch)).collect();
        let is_fresh = |entry: u16| fresh.get(usize::from(entry)).copied().unwrap_or(true);
        for tally in message.tallies.iter().filter(|tally| is_fresh(tally.entry)) {
            let account = self.accounts.entry(tally.tally.minute).or_default();
            account.reasons[usize::from(tally.tally.reason.code())] += u64::from(tally.tally.count);
        }
        for row in message.rows().filter(|row| is_fresh(row.entry)) {
            let (issuer, block) = message.blocks[usize::from(row.block)];
            let minute = message.minutes[usize::from(row.minute)];
            // A test is what would have been counted.
            let as_valid = matches!(row.outcome, Ok(None | Some(Reason::Test)));
            let key = (issuer, block, row.seq, row.kind, as_valid);
            let late =
                issuer != import::ISSUER && block.opened().end().plus_ms(HORIZON_MS) < self.clock;
            let account = self.accounts.entry(minute).or_default();
            if usize::from(row.entry) >= message.batches.len() {
                account.imported += 1;
            }
            let ad = message.ids[usize::from(row.ad)];
            match row.outcome {
                Err(reason) => account.reasons[usize::from(reason.code())] += 1,
                Ok(_) if late => account.reasons[usize::from(Reason::TooLate.code())] += 1,
                Ok(_) if !self.seen.insert(key) => account.duplicate += 1,
                Ok(Some(Reason::Test)) => account.reasons[usize::from(Reason::Test.code())] += 1,
                Ok(Some(reason)) => {
                    account.reasons[usize::from(reason.code())] += 1;
                    *self.totals.entry((minute, ad, row.kind, false)).or_default() += 1;
                }
                Ok(None) => {
                    account.counted += 1;
                    *self.totals.entry((minute, ad, row.kind, true)).or_default() += 1;
                    if row.kind == Kind::Impression {
                        self.spend += message.prices[usize::from(row.price)].micros;
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

    fn batch(&mut self, batch: &shared::wire::BatchEntry) -> bool {
        let numbers = self.batches.entry(batch.outbox).or_default();
        // What comes again says nothing, also when another collector believed less of its watermark.
        if numbers.contains_key(&batch.number) {
            return false;
        }
        numbers.insert(batch.number, batch.watermark);
        for (minute, count) in &batch.declared {
            self.accounts.entry(*minute).or_default().declared += u64::from(*count);
        }
        true
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

    /// Whether anything of an outbox has come, but not this number.
    #[must_use]
    pub(super) fn waits_for(&self, outbox: OutboxId, number: u64) -> bool {
        self.batches.get(&outbox).is_some_and(|numbers| !numbers.contains_key(&number))
    }

    /// The watermarks of the outboxes that are not closed.
    fn open(&self) -> impl Iterator<Item = Timestamp> {
        let reached = |numbers: &BTreeMap<u64, Timestamp>| {
            let contiguous = (0..).zip(numbers).take_while(|(n, (number, _))| n == *number);
            contiguous.map(|(_, (_, watermark))| *watermark).max().unwrap_or_default()
        };
        self.batches.values().map(reached).filter(|mark| *mark != Timestamp::MAX)
    }
}
