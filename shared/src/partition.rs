//! Which partition counts what. All copies of an event come to the same partition, because all
//! events of a block do.

use crate::event::PageView;
use crate::id::{BlockId, OutboxId};
use crate::limits::PARTITIONS_MAX;
use crate::name::IssuerId;

/// The number of partitions of a deployment: fixed when it is created, and stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Partitions(u16);

impl Partitions {
    /// 1 to [`PARTITIONS_MAX`].
    #[must_use]
    pub const fn new(count: u16) -> Option<Self> {
        if count == 0 || count > PARTITIONS_MAX { None } else { Some(Self(count)) }
    }

    /// How many there are.
    #[must_use]
    pub const fn count(self) -> u16 {
        self.0
    }

    /// All of them, from 0.
    pub fn all(self) -> impl Iterator<Item = u16> {
        0..self.0
    }
}

/// Maps blocks to partitions: BLAKE3, in key-derivation mode with the context
/// `countersign partition v1`, of the issuer (16 bytes, zero-padded) and the block (10 bytes); its
/// first 8 bytes as a little-endian number, modulo the number of partitions.
#[derive(Clone, Debug)]
pub struct PartitionMap {
    partitions: Partitions,
    hasher: blake3::Hasher,
}

impl PartitionMap {
    /// The mapping of a deployment.
    #[must_use]
    pub fn new(partitions: Partitions) -> Self {
        Self { partitions, hasher: blake3::Hasher::new_derive_key("countersign partition v1") }
    }

    /// The partition that counts the events of this block. An event whose token says nothing that
    /// can be believed has [`IssuerId::NONE`](crate::Id::NONE) and the zero block.
    #[must_use]
    pub fn of_block(&self, issuer: IssuerId, block: BlockId) -> u16 {
        self.hash(&[issuer.padded(), &block.0])
    }

    /// The partition that remembers how many events a page view has told.
    #[must_use]
    pub fn of_page_view(&self, page: PageView) -> u16 {
        self.hash(&[b"page", &page.0.to_le_bytes()])
    }

    /// The partition that counts the tallies of a batch.
    #[must_use]
    pub fn of_tallies(&self, outbox: OutboxId) -> u16 {
        self.hash(&[outbox.edge.padded(), &outbox.epoch.to_le_bytes()])
    }

    /// The deployment's partitions.
    #[must_use]
    pub const fn partitions(&self) -> Partitions {
        self.partitions
    }

    /// The partition to which these bytes hash.
    fn hash(&self, parts: &[&[u8]]) -> u16 {
        let mut hasher = self.hasher.clone();
        for part in parts {
            hasher.update(part);
        }
        let mut first = [0; 8];
        hasher.finalize_xof().fill(&mut first);
        let rest = u64::from_le_bytes(first) % u64::from(self.partitions.0);
        u16::try_from(rest).expect("less than a u16")
    }
}
