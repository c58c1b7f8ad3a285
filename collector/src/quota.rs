//! What one issuer may cost over time. An [`Account`] is pure: the time is an argument.
//!
//! An issuer may sign as many ids as it likes, and the engine remembers each block that an issuer opens and
//! each outbox that it begins for a week. So an issuer has three buckets (the generic cell rate algorithm,
//! ITU-T I.371, as the edge has one for each network): of bytes, of new blocks and of new outboxes. A block
//! or outbox that is known costs nothing again. A batch for which a bucket has too little is held back, and
//! nothing of it is written.
//!
//! Each collector counts for itself, from its start.

pub(crate) mod letters;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use shared::ambient::Stopwatch;
use shared::{BlockId, IssuerId, OutboxId};
use tracing::warn;

pub(crate) use letters::{HELD_FOR, Letters};

const SECOND: u64 = 1_000_000_000;
const HOUR: u64 = 3_600 * SECOND;
/// The newest blocks and outboxes of an issuer that are known at least, even where the burst is smaller.
const KNOWN_MIN: u64 = 1_024;
/// A warning about one issuer or sender is logged no more often than this.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// What one issuer may cost each collector. A rate of 0: no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Quotas {
    /// Bytes a second that the log gets of the issuer's batches, in the long run. A batch counts with its
    /// own bytes, and for each partition with 60 bytes and 8 for each minute that it has events of.
    pub bytes_per_s: u64,
    /// The most of these bytes at once, after a silence.
    pub bytes_burst: u64,
    /// New blocks of ids an hour, in the long run; a block is 65 536 impressions.
    pub blocks_per_hour: u64,
    /// The most new blocks at once, after a silence.
    pub blocks_burst: u64,
    /// New outboxes (an edge or shard, and its start) an hour, in the long run.
    pub outboxes_per_hour: u64,
    /// The most new outboxes at once, after a silence.
    pub outboxes_burst: u64,
}

impl Default for Quotas {
    /// Bytes: ten times what 10 000 clicks a second need. Blocks: what 600 000 impressions a second need,
    /// and in a week not so many that the engine has to refuse them. Outboxes: more than an issuer's edges
    /// with all their shards begin in days, and in a week no more than a few hundred MB of memory.
    fn default() -> Self {
        Self {
            bytes_per_s: 32 << 20,
            bytes_burst: 256 << 20,
            blocks_per_hour: 36_000,
            blocks_burst: 100_000,
            outboxes_per_hour: 120,
            outboxes_burst: 4_096,
        }
    }
}

impl Quotas {
    fn bytes(&self) -> Rate {
        Rate { per: SECOND, amount: self.bytes_per_s, burst: self.bytes_burst }
    }
}

/// Which of an issuer's quotas.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Quota {
    /// Bytes that the log gets.
    Bytes,
    /// New blocks of ids.
    Blocks,
    /// New outboxes.
    Outboxes,
    /// The issuer's share of the queue: bytes that are taken in and not acknowledged.
    Queue,
}

impl Quota {
    /// All quotas.
    pub const ALL: [Self; 4] = [Self::Bytes, Self::Blocks, Self::Outboxes, Self::Queue];

    /// The name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Blocks => "blocks",
            Self::Outboxes => "outboxes",
            Self::Queue => "queue",
        }
    }

    /// What the quota counts, for error texts.
    pub(crate) const fn noun(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Blocks => "new blocks of ids",
            Self::Outboxes => "new outboxes",
            Self::Queue => "bytes that are not acknowledged yet",
        }
    }
}

/// The quota that is used up, and after how long there is room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Over(pub(crate) Quota, pub(crate) Duration);

/// The account of each issuer that has sent something; at most as many as the deployment has issuers.
#[derive(Debug)]
pub(crate) struct Accounts {
    quotas: Quotas,
    since: Stopwatch,
    issuers: Mutex<HashMap<IssuerId, Account>>,
}

impl Accounts {
    pub(crate) fn new(quotas: Quotas) -> Self {
        Self { quotas, since: Stopwatch::start(), issuers: Mutex::default() }
    }

    /// Charges the issuer for a batch of this outbox, of which the log gets so many bytes.
    ///
    /// # Errors
    /// The quota that is used up; the bytes are then not charged.
    pub(crate) fn batch(
        &self,
        issuer: IssuerId,
        outbox: OutboxId,
        bytes: usize,
    ) -> Result<(), Over> {
        self.with_account(issuer, |account, now| account.batch(&self.quotas, outbox, bytes, now))
    }

    /// Charges the issuer for those of these blocks that are new.
    ///
    /// # Errors
    /// The quota that is used up. Blocks for which there was room are known from now on.
    pub(crate) fn blocks(&self, issuer: IssuerId, blocks: &BTreeSet<BlockId>) -> Result<(), Over> {
        self.with_account(issuer, |account, now| account.blocks(&self.quotas, blocks, now))
    }

    /// Gives back the bytes of a batch of which nothing was written after all.
    pub(crate) fn give_back(&self, issuer: IssuerId, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        if let Some(account) = self.issuers.lock().get_mut(&issuer) {
            account.bytes.give_back(self.quotas.bytes(), bytes);
        }
    }

    /// Asks the issuer's account, and logs a refusal, though not every one.
    fn with_account(
        &self,
        issuer: IssuerId,
        ask: impl FnOnce(&mut Account, Duration) -> Result<(), Over>,
    ) -> Result<(), Over> {
        let now = self.since.elapsed();
        let mut issuers = self.issuers.lock();
        let account = issuers.entry(issuer).or_default();
        let asked = ask(account, now);
        if let Err(Over(quota, _)) = asked
            && account.told.is_none_or(|told| now >= told + TELL_EVERY)
        {
            account.told = Some(now);
            warn!(%issuer, quota = quota.name(), "over quota: what it sends is held back");
        }
        asked
    }
}

/// One issuer's buckets, and what is known of it.
#[derive(Debug, Default)]
struct Account {
    bytes: Bucket,
    blocks: Bucket,
    outboxes: Bucket,
    known_blocks: Known<BlockId>,
    known_outboxes: Known<OutboxId>,
    /// When a refusal was logged last.
    told: Option<Duration>,
}

impl Account {
    fn batch(
        &mut self,
        quotas: &Quotas,
        outbox: OutboxId,
        bytes: usize,
        now: Duration,
    ) -> Result<(), Over> {
        let bytes_rate = quotas.bytes();
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.bytes.take(bytes_rate, bytes, now).map_err(|wait| Over(Quota::Bytes, wait))?;
        let rate =
            Rate { per: HOUR, amount: quotas.outboxes_per_hour, burst: quotas.outboxes_burst };
        let outboxes = &mut self.outboxes;
        self.known_outboxes.learn(&outbox, rate, || outboxes.take(rate, 1, now)).map_err(|wait| {
            self.bytes.give_back(bytes_rate, bytes);
            Over(Quota::Outboxes, wait)
        })
    }

    /// Learns as many of the new blocks as there is room for, even when the batch has to come again for the
    /// others. So each attempt gets further, and a batch is taken in the end however many blocks it has.
    fn blocks(
        &mut self,
        quotas: &Quotas,
        blocks: &BTreeSet<BlockId>,
        now: Duration,
    ) -> Result<(), Over> {
        let rate = Rate { per: HOUR, amount: quotas.blocks_per_hour, burst: quotas.blocks_burst };
        let mut over = None;
        for block in blocks {
            let bucket = &mut self.blocks;
            let learnt = self.known_blocks.learn(block, rate, || bucket.take(rate, 1, now));
            over = learnt.err().or(over);
        }
        over.map_or(Ok(()), |wait| Err(Over(Quota::Blocks, wait)))
    }
}

/// A rate of `amount` in `per` ns, and the most at once; an amount of 0 means no limit.
#[derive(Clone, Copy, Debug)]
struct Rate {
    per: u64,
    amount: u64,
    burst: u64,
}

impl Rate {
    /// The time in ns in which so many come back; none without a limit.
    fn time(self, amount: u64) -> Option<u64> {
        let whole = u128::from(self.per) * u128::from(amount);
        let time = whole.checked_div(u128::from(self.amount))?;
        // Bounded to some 146 years, which is as good as never, so that sums of such times fit.
        Some(u64::try_from(time).unwrap_or(u64::MAX).min(u64::MAX / 4))
    }
}

/// A bucket that fills at a steady rate. All its state is the time at which it is full again.
#[derive(Debug, Default)]
struct Bucket {
    /// In ns.
    full_at: u64,
}

impl Bucket {
    /// Takes so many out of it; an amount above the burst counts as one whole burst.
    ///
    /// # Errors
    /// After how long the bucket has so many; it stays as it is.
    fn take(&mut self, rate: Rate, amount: u64, now: Duration) -> Result<(), Duration> {
        let burst = rate.burst.max(1);
        let cost = rate.time(amount.min(burst));
        let Some((cost, full)) = cost.zip(rate.time(burst)) else { return Ok(()) };
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX / 4);
        let next = self.full_at.max(now) + cost;
        match next.saturating_sub(now + full) {
            0 => self.full_at = next,
            wait => return Err(Duration::from_nanos(wait)),
        }
        Ok(())
    }

    /// Whether the bucket is full, so that it need not be remembered.
    fn is_full(&self, now: Duration) -> bool {
        u128::from(self.full_at) <= now.as_nanos()
    }

    /// Puts back what was taken and not needed.
    fn give_back(&mut self, rate: Rate, amount: u64) {
        let back = rate.time(amount.min(rate.burst.max(1))).unwrap_or(0);
        self.full_at = self.full_at.saturating_sub(back);
    }
}

/// A bounded set of what was seen last, in two generations: when the newer one is full, it becomes the
/// older one, and what was in that is forgotten.
#[derive(Debug)]
struct Known<T> {
    newer: HashSet<T>,
    older: HashSet<T>,
}

impl<T> Default for Known<T> {
    fn default() -> Self {
        Self { newer: HashSet::new(), older: HashSet::new() }
    }
}

impl<T: Copy + Eq + Hash> Known<T> {
    /// Makes `it` known: for nothing when it is known already, else if `pay` succeeds. A generation holds at
    /// least a burst, so that the newest burst is always known.
    ///
    /// # Errors
    /// That of `pay`; `it` is then not known.
    fn learn<E>(
        &mut self,
        it: &T,
        rate: Rate,
        pay: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        if rate.amount == 0 || self.newer.contains(it) {
            return Ok(());
        }
        if !self.older.contains(it) {
            pay()?;
        }
        if self.newer.len() as u64 >= rate.burst.max(KNOWN_MIN) {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(*it);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn block(number: u32) -> BlockId {
        let mut block = [0; 10];
        block[6..].copy_from_slice(&number.to_be_bytes());
        BlockId(block)
    }

    fn outbox(epoch: u64) -> OutboxId {
        OutboxId { edge: shared::Id::literal("edge"), epoch }
    }

    const QUOTAS: Quotas = Quotas {
        bytes_per_s: 1_000,
        bytes_burst: 5_000,
        blocks_per_hour: 3_600,
        blocks_burst: 3,
        outboxes_per_hour: 3_600,
        outboxes_burst: 2,
    };

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn bytes_go_at_once_as_far_as_a_burst_and_then_at_their_rate() {
        let mut account = Account::default();
        let mut send = |bytes, ms| account.batch(&QUOTAS, outbox(1), bytes, at(ms));
        assert_eq!(send(4_000, 0), Ok(()));
        assert_eq!(send(3_000, 0), Err(Over(Quota::Bytes, at(2_000))));
        assert_eq!(send(3_000, 1_999), Err(Over(Quota::Bytes, at(1))));
        assert_eq!(send(3_000, 2_000), Ok(()));
        // An amount above the burst counts as one burst.
        assert_eq!(send(1 << 40, 6_999), Err(Over(Quota::Bytes, at(1))));
        assert_eq!(send(1 << 40, 7_000), Ok(()));
    }

    #[test]
    fn a_known_outbox_costs_nothing_and_new_ones_wait() {
        let mut account = Account::default();
        let mut send = |epoch, ms| account.batch(&QUOTAS, outbox(epoch), 1, at(ms));
        assert_eq!((send(1, 0), send(2, 0)), (Ok(()), Ok(())));
        assert_eq!(send(3, 0), Err(Over(Quota::Outboxes, at(1_000))));
        assert_eq!((send(1, 0), send(2, 0)), (Ok(()), Ok(())));
        assert_eq!(send(3, 1_000), Ok(()));
        assert_eq!(send(4, 1_000), Err(Over(Quota::Outboxes, at(1_000))));
    }

    #[test]
    fn a_batch_with_more_blocks_than_a_burst_is_taken_in_the_end() {
        let mut account = Account::default();
        let blocks: BTreeSet<_> = (0..10).map(block).collect();
        for second in 0..7 {
            let over = account.blocks(&QUOTAS, &blocks, at(second * 1_000));
            assert_eq!(over, Err(Over(Quota::Blocks, at(1_000))), "{second}");
        }
        assert_eq!(account.blocks(&QUOTAS, &blocks, at(7_000)), Ok(()));
        assert_eq!(account.blocks(&QUOTAS, &blocks, at(7_000)), Ok(()));
    }

    #[test]
    fn without_a_rate_there_is_no_limit_and_nothing_is_remembered() {
        let none = Quotas { bytes_per_s: 0, blocks_per_hour: 0, outboxes_per_hour: 0, ..QUOTAS };
        let mut account = Account::default();
        for number in 0..5_000_u32 {
            assert_eq!(account.batch(&none, outbox(number.into()), 1 << 40, at(0)), Ok(()));
            assert_eq!(account.blocks(&none, &[block(number)].into(), at(0)), Ok(()));
        }
        assert!(account.known_blocks.newer.is_empty() && account.known_outboxes.newer.is_empty());
    }

    #[test]
    fn ten_thousand_clicks_a_second_pass_with_room() {
        let quotas = Quotas::default();
        let mut account = Account::default();
        // 10 000 clicks a second, each with an address of 200 bytes: a batch each 50 ms from one of 20
        // edges, which start again each hour. Each click is of one of a day's blocks, all new at first.
        for tick in 0..20 * 7_200_u64 {
            let now = at(tick * 50);
            let edge = outbox(tick % 20 + tick / 72_000 * 20);
            assert_eq!(account.batch(&quotas, edge, 500 * 400, now), Ok(()));
            if tick % 100 == 0 {
                let clicked = |n: u32| (tick as u32 * 500 + n).wrapping_mul(2_654_435_761) % 13_000;
                let blocks = (0..500).map(|n| block(clicked(n))).collect();
                assert_eq!(account.blocks(&quotas, &blocks, now), Ok(()));
            }
        }
    }

    #[test]
    fn what_is_known_is_bounded_and_the_newest_of_it() {
        let quotas = Quotas { blocks_per_hour: u64::MAX, blocks_burst: 2_000, ..QUOTAS };
        let mut account = Account::default();
        for number in 0..50_000 {
            account.blocks(&quotas, &[block(number)].into(), at(u64::from(number))).unwrap();
        }
        let Known { newer, older } = &account.known_blocks;
        assert!(newer.len() + older.len() <= 4_000);
        assert!((48_000..50_000).all(|n| newer.contains(&block(n)) || older.contains(&block(n))));
    }

    proptest! {
        #[test]
        fn no_more_than_a_burst_and_the_rate_ever_passes(
            steps in proptest::collection::vec((0..3_000_u64, 0..9_000_usize), 1..60),
        ) {
            let mut account = Account::default();
            let (mut now, mut passed) = (0, 0);
            for (ms, bytes) in steps {
                now += ms;
                match account.batch(&QUOTAS, outbox(1), bytes, at(now)) {
                    Ok(()) => passed += bytes.min(5_000) as u64,
                    // After so long there is room.
                    Err(Over(_, wait)) => {
                        now += wait.as_millis() as u64 + 1;
                        prop_assert_eq!(account.batch(&QUOTAS, outbox(1), bytes, at(now)), Ok(()));
                        passed += bytes.min(5_000) as u64;
                    }
                }
                prop_assert!(passed <= 5_000 + now);
            }
        }
    }
}
