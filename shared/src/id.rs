//! The ids of impressions, which are dense, and those of outboxes, imported logs and batches.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::name::EdgeId;
use crate::random::Random;
use crate::text::{hex, hex_text};
use crate::time::{Minute, Timestamp};

/// A block of 65 536 impression ids that one edge process hands out one after the other: the
/// minute of its opening (24 bits, since 2020-01-01 UTC) and 56 random bits. The
/// block of an imported log is a digest instead, and its issuer says so
/// ([`crate::import::ISSUER`]).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct BlockId(pub [u8; 10]);

impl BlockId {
    /// Whether a block can say that it was opened at this time: from 2020 to 2051.
    #[must_use]
    pub fn opens_at(now: Timestamp) -> bool {
        now.minute().0.checked_sub(Minute::BLOCK_EPOCH.0).is_some_and(|minute| minute < 1 << 24)
    }

    /// Opens a block now.
    pub fn open(now: Timestamp, random: &mut dyn Random) -> Self {
        let minute = now.minute().0.saturating_sub(Minute::BLOCK_EPOCH.0) & 0x00ff_ffff;
        let mut bytes = [0; 10];
        bytes[..3].copy_from_slice(&minute.to_be_bytes()[1..]);
        random.fill(&mut bytes[3..]);
        Self(bytes)
    }

    /// The minute in which a signed block was opened.
    #[must_use]
    pub fn opened(&self) -> Minute {
        let [a, b, c, ..] = self.0;
        Minute(Minute::BLOCK_EPOCH.0 + u32::from_be_bytes([0, a, b, c]))
    }
}

impl fmt::Debug for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

/// One impression: its block and its place there. 12 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct ImpressionId {
    /// The block that it was handed out of.
    pub block: BlockId,
    /// Its place in the block.
    pub seq: u16,
}

impl ImpressionId {
    /// Block, then the sequence number, big endian.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[..10].copy_from_slice(&self.block.0);
        bytes[10..].copy_from_slice(&self.seq.to_be_bytes());
        bytes
    }

    /// The inverse of [`ImpressionId::to_bytes`]; every 12 bytes are an id.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 12]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = bytes;
        Self { block: BlockId([a, b, c, d, e, f, g, h, i, j]), seq: u16::from_be_bytes([k, l]) }
    }
}

/// Ids of one block that are handed out one after the other: all that are left of a block, or a
/// part of it that was leased.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IdRange {
    block: BlockId,
    opened: Timestamp,
    next: u32,
    end: u32,
}

impl IdRange {
    /// Bytes of a range.
    pub const BYTES: usize = 26;

    /// A whole block that is opened now.
    fn open(now: Timestamp, random: &mut dyn Random) -> Self {
        let block = BlockId::open(now, random);
        Self { block, opened: now, next: 0, end: u32::from(u16::MAX) + 1 }
    }

    /// Whether an id may be handed out: one is left, the block is younger than
    /// [`crate::limits::BLOCK_LIFE_MS`], and the clock has not gone back behind the block's
    /// opening.
    #[must_use]
    pub fn is_fresh(&self, now: Timestamp) -> bool {
        let age_ms = now.0.checked_sub(self.opened.0);
        self.next < self.end && age_ms.is_some_and(|ms| ms < crate::limits::BLOCK_LIFE_MS)
    }

    /// How many ids are left.
    #[must_use]
    pub const fn left(&self) -> u32 {
        self.end - self.next
    }

    /// The next id; `None` when the range is not fresh.
    pub fn next(&mut self, now: Timestamp) -> Option<ImpressionId> {
        let seq = u16::try_from(self.next).ok().filter(|_| self.is_fresh(now))?;
        self.next += 1;
        Some(ImpressionId { block: self.block, seq })
    }

    /// Takes up to `count` ids from the front, for somebody else to hand out; `None` when the range
    /// is not fresh.
    fn lease(&mut self, now: Timestamp, count: u16) -> Option<Self> {
        let first = self.next;
        self.next = self.end.min(first + u32::from(count));
        let leased = Self { next: first, end: self.next, ..*self };
        leased.is_fresh(now).then_some(leased)
    }

    /// Block (10), opened in ms (8), next (4), end (4).
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..10].copy_from_slice(&self.block.0);
        bytes[10..18].copy_from_slice(&self.opened.0.to_le_bytes());
        bytes[18..22].copy_from_slice(&self.next.to_le_bytes());
        bytes[22..].copy_from_slice(&self.end.to_le_bytes());
        bytes
    }

    /// The inverse of [`IdRange::to_bytes`]; `None` when the bytes are no range.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::BYTES] = bytes.try_into().ok()?;
        let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let range = Self {
            block: BlockId(std::array::from_fn(|i| bytes[i])),
            opened: Timestamp(u64::from_le_bytes(std::array::from_fn(|i| bytes[10 + i]))),
            next: u32_at(18),
            end: u32_at(22),
        };
        (range.next <= range.end && range.end <= u32::from(u16::MAX) + 1).then_some(range)
    }
}

/// Hands out impression ids, from a block for at most [`crate::limits::BLOCK_LIFE_MS`] and 65 536
/// ids. No id may be given out twice. Therefore the block is in memory only, and a restart begins
/// another; or, where ids are leased ([`IdAllocator::lease`]), the rest of the block is made
/// durable before a lease is given out.
#[derive(Clone, Debug, Default)]
pub struct IdAllocator {
    open: Option<IdRange>,
}

impl IdAllocator {
    /// Goes on with what is left of a block.
    #[must_use]
    pub const fn resume(open: Option<IdRange>) -> Self {
        Self { open }
    }

    /// What is left of the open block.
    #[must_use]
    pub const fn open(&self) -> Option<&IdRange> {
        self.open.as_ref()
    }

    /// The next id. Opens a block when there is none, when the open one is used up or too old, or
    /// when the clock went back behind its opening.
    pub fn next(&mut self, now: Timestamp, random: &mut dyn Random) -> ImpressionId {
        self.fresh(now, random).next(now).expect("a fresh block has ids left")
    }

    /// The next ids, up to `count` (at least one), for somebody else to hand out. Opens a block as
    /// [`IdAllocator::next`] does.
    pub fn lease(&mut self, now: Timestamp, random: &mut dyn Random, count: u16) -> IdRange {
        self.fresh(now, random).lease(now, count.max(1)).expect("a fresh block has ids left")
    }

    fn fresh(&mut self, now: Timestamp, random: &mut dyn Random) -> &mut IdRange {
        let open = self.open.filter(|open| open.is_fresh(now));
        self.open.insert(open.unwrap_or_else(|| IdRange::open(now, random)))
    }
}

/// A durable queue of an edge process or shard; a restart is a new epoch.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct OutboxId {
    /// The edge.
    pub edge: EdgeId,
    /// Its epoch: larger than every earlier one of this edge.
    pub epoch: u64,
}

/// An imported log: the digest of its name, or of its decompressed bytes when it has none.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceId(pub [u8; 16]);

hex_text!(SourceId, 16, std::convert::identity, std::convert::identity);

impl fmt::Debug for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The digest of a batch's content, which tells two batches under one number apart: the first 16
/// bytes of BLAKE3 of the binary form. Messages before version 3 do not have it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchDigest(pub [u8; 16]);

hex_text!(BatchDigest, 16, std::convert::identity, std::convert::identity);

impl BatchDigest {
    /// Not known.
    pub const UNKNOWN: Self = Self([0; 16]);

    /// The digest of a batch in its binary form.
    #[must_use]
    pub fn compute(batch: &[u8]) -> Self {
        let mut digest = Self::UNKNOWN;
        blake3::Hasher::new().update(batch).finalize_xof().fill(&mut digest.0);
        digest
    }

    /// Whether it is known.
    #[must_use]
    pub fn is_known(self) -> bool {
        self != Self::UNKNOWN
    }
}

impl fmt::Debug for BatchDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
