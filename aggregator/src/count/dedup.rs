//! Which events were seen before: one bit for each impression, kind and validity, in containers
//! ([`super::bits`]) that are allocated when their first bit is set.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use shared::limits::HORIZON_MS;
use shared::{BlockId, IssuerId, Kind, Minute, Timestamp, import};

use super::bits::{ABSENT, Arenas, CONTAINER_BITS, Container};
use super::changes::ContainerKey;

/// Containers of a block's bitmap.
const CONTAINERS: usize = (1 << 16) / CONTAINER_BITS;
/// The most bitmaps that are kept for one issuer. Each is of a block, a kind and a validity, so
/// they last for 65 536 blocks of which each has valid and invalid events of all four kinds. They
/// take some 60 MB, and their containers at most 32 bytes an event. An event that needs one more
/// bitmap is refused.
const BITMAPS_PER_ISSUER_MAX: usize = 1 << 19;

/// What a bitmap is of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct BitmapKey {
    pub(super) issuer: IssuerId,
    pub(super) block: BlockId,
    pub(super) kind: Kind,
    pub(super) valid: bool,
}

impl BitmapKey {
    fn hash(&self) -> u64 {
        FixedState::default().hash_one(self)
    }

    const fn container(&self, index: usize) -> ContainerKey {
        let Self { issuer, block, kind, valid } = *self;
        #[expect(clippy::cast_possible_truncation, reason = "there are 16")]
        let index = index as u8;
        ContainerKey { issuer, block, kind, valid, index }
    }
}

#[derive(Clone, Debug)]
struct Bitmap {
    key: BitmapKey,
    /// A bit for each container that the next checkpoint writes.
    dirty: u16,
    /// A bit for each container that the store has.
    saved: u16,
    /// Their numbers in [`Dedup::arenas`], or [`ABSENT`].
    containers: [u32; CONTAINERS],
}

/// True when every event that may still come of a signed block is too late.
pub(super) fn is_behind_horizon(block: BlockId, clock: Timestamp) -> bool {
    block.opened().end().plus_ms(HORIZON_MS) < clock
}

/// The bitmaps of a partition.
#[derive(Clone, Debug)]
pub(super) struct Dedup {
    /// [`BITMAPS_PER_ISSUER_MAX`], but in tests.
    pub(super) per_issuer_max: usize,
    /// How many bitmaps of signed blocks each issuer has; those of imported logs are not counted.
    held: BTreeMap<IssuerId, usize>,
    /// The numbers of the bitmaps in use, found by their keys.
    index: HashTable<u32>,
    /// By number.
    bitmaps: Vec<Bitmap>,
    /// Numbers that are free to be used again.
    free: Vec<u32>,
    /// The bitmaps of signed blocks, by the minute in which the block was opened: they are
    /// forgotten in this order.
    opened: BTreeMap<Minute, Vec<u32>>,
    arenas: Arenas,
    /// Bitmaps that may have dirty containers.
    dirty: Vec<u32>,
    /// Containers that the store has and the next checkpoint deletes.
    dropped: BTreeSet<ContainerKey>,
}

impl Default for Dedup {
    fn default() -> Self {
        Self {
            per_issuer_max: BITMAPS_PER_ISSUER_MAX,
            held: BTreeMap::new(),
            index: HashTable::new(),
            bitmaps: Vec::new(),
            free: Vec::new(),
            opened: BTreeMap::new(),
            arenas: Arenas::default(),
            dirty: Vec::new(),
            dropped: BTreeSet::new(),
        }
    }
}

impl Dedup {
    fn find(&self, key: &BitmapKey) -> Option<u32> {
        self.index.find(key.hash(), |at| self.bitmaps[*at as usize].key == *key).copied()
    }

    /// The number of a bitmap, which is made when it is missing; none when its issuer has too many.
    /// The number holds until the next [`Self::forget_below`] or [`Self::forget_behind`].
    pub(super) fn bitmap(&mut self, key: BitmapKey) -> Option<u32> {
        if let Some(at) = self.find(&key) {
            return Some(at);
        }
        let held = self.held.get(&key.issuer).copied().unwrap_or(0);
        (held < self.per_issuer_max).then(|| self.make(key))
    }

    fn make(&mut self, key: BitmapKey) -> u32 {
        let bitmap = Bitmap { key, dirty: 0, saved: 0, containers: [ABSENT; CONTAINERS] };
        let at = match self.free.pop() {
            Some(at) => {
                self.bitmaps[at as usize] = bitmap;
                at
            }
            None => {
                self.bitmaps.push(bitmap);
                u32::try_from(self.bitmaps.len() - 1).expect("2^32 bitmaps would take 400 GB")
            }
        };
        let bitmaps = &self.bitmaps;
        self.index.insert_unique(key.hash(), at, |at| bitmaps[*at as usize].key.hash());
        if key.issuer != import::ISSUER {
            self.opened.entry(key.block.opened()).or_default().push(at);
            *self.held.entry(key.issuer).or_default() += 1;
        }
        at
    }

    /// Sets a bit; true when it was not set before.
    #[inline]
    pub(super) fn insert(&mut self, bitmap: u32, seq: u16) -> bool {
        let number = usize::from(seq) / CONTAINER_BITS;
        let entry = &mut self.bitmaps[bitmap as usize];
        if !self.arenas.set(&mut entry.containers[number], usize::from(seq) % CONTAINER_BITS) {
            return false;
        }
        if entry.dirty == 0 {
            self.dirty.push(bitmap);
        }
        entry.dirty |= 1 << number;
        true
    }

    /// Drops the bitmaps of signed blocks that are behind the horizon.
    pub(super) fn forget_behind(&mut self, clock: Timestamp) {
        // In the order of time: behind the first minute that stays, all stay.
        while let Some(first) = self.opened.first_entry() {
            if first.key().end().plus_ms(HORIZON_MS) >= clock {
                return;
            }
            for at in first.remove() {
                self.remove(at);
            }
        }
    }

    /// Drops the containers of an imported block that have no bit at the sequence number `bound` or
    /// beyond: rows before it need no bits, for a row that comes again is known by its number
    /// ([`super::sources`]). `bound` may be one more than the largest sequence number.
    pub(super) fn forget_below(&mut self, block: BlockId, bound: usize) {
        for (kind, valid) in Kind::ALL.iter().flat_map(|kind| [(*kind, false), (*kind, true)]) {
            let key = BitmapKey { issuer: import::ISSUER, block, kind, valid };
            let Some(at) = self.find(&key) else { continue };
            for index in 0..CONTAINERS {
                let held = self.bitmaps[at as usize].containers[index];
                let first = index * CONTAINER_BITS;
                if held != ABSENT && self.arenas.is_clear_from(held, bound.saturating_sub(first)) {
                    self.remove_container(at, index);
                }
            }
            if self.bitmaps[at as usize].containers == [ABSENT; CONTAINERS] {
                self.remove(at);
            }
        }
    }

    fn remove(&mut self, at: u32) {
        for index in 0..CONTAINERS {
            self.remove_container(at, index);
        }
        let key = self.bitmaps[at as usize].key;
        if let Ok(entry) = self.index.find_entry(key.hash(), |found| *found == at) {
            entry.remove();
        }
        if let Some(held) = self.held.get_mut(&key.issuer) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&key.issuer);
            }
        }
        self.free.push(at);
    }

    fn remove_container(&mut self, at: u32, index: usize) {
        let bitmap = &mut self.bitmaps[at as usize];
        let held = std::mem::replace(&mut bitmap.containers[index], ABSENT);
        if held == ABSENT {
            return;
        }
        self.arenas.release(held);
        bitmap.dirty &= !(1 << index);
        if bitmap.saved & 1 << index != 0 {
            bitmap.saved &= !(1 << index);
            self.dropped.insert(bitmap.key.container(index));
        }
    }

    /// What the store must change: the containers to delete, and those to put, each in the order of
    /// their keys.
    pub(super) fn checkpoint(&mut self) -> (Vec<ContainerKey>, Vec<(ContainerKey, Container)>) {
        let mut changed = Vec::new();
        for at in std::mem::take(&mut self.dirty) {
            let bitmap = &mut self.bitmaps[at as usize];
            let dirty = std::mem::take(&mut bitmap.dirty);
            bitmap.saved |= dirty;
            for index in (0..CONTAINERS).filter(|index| dirty & 1 << index != 0) {
                changed.push((bitmap.key.container(index), bitmap.containers[index]));
            }
        }
        changed.sort_unstable();
        let mut dropped = std::mem::take(&mut self.dropped);
        let mut containers = Vec::with_capacity(changed.len());
        for (key, number) in changed {
            // One that was dropped and made again is put, not deleted.
            dropped.remove(&key);
            containers.push((key, self.arenas.get(number)));
        }
        (dropped.into_iter().collect(), containers)
    }

    /// Takes a container back from the store; false when it is there already, or when a block has
    /// no container of this index.
    pub(super) fn load(&mut self, key: &ContainerKey, container: &Container) -> bool {
        let ContainerKey { issuer, block, kind, valid, index } = *key;
        let index = usize::from(index);
        let key = BitmapKey { issuer, block, kind, valid };
        let at = self.find(&key).unwrap_or_else(|| self.make(key));
        let bitmap = &mut self.bitmaps[at as usize];
        if index >= CONTAINERS || bitmap.containers[index] != ABSENT {
            return false;
        }
        bitmap.containers[index] = self.arenas.load(container);
        bitmap.saved |= 1 << index;
        true
    }

    /// Bytes, overhead included.
    pub(super) fn bytes(&self) -> usize {
        let opened: usize = self.opened.values().map(|list| list.capacity() * 4 + 40).sum();
        let lists = (self.free.capacity() + self.dirty.capacity()) * 4;
        let bitmaps = self.bitmaps.capacity() * size_of::<Bitmap>() + self.index.allocation_size();
        self.arenas.bytes()
            + bitmaps
            + opened
            + lists
            + self.dropped.len() * size_of::<ContainerKey>()
    }

    /// How many containers the next checkpoint writes.
    pub(super) fn unsaved_containers(&self) -> usize {
        let dirty = self.dirty.iter().map(|at| self.bitmaps[*at as usize].dirty.count_ones());
        dirty.sum::<u32>() as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bits of memory for each id, when of each of 100 blocks the ids are issued that `is_issued`
    /// takes.
    fn bits_an_id(is_issued: impl Fn(u16) -> bool) -> f64 {
        let mut dedup = Dedup::default();
        let issued: Vec<u16> = (0..=u16::MAX).filter(|seq| is_issued(*seq)).collect();
        for block in 0..100_u64 {
            let mut id = [0; 10];
            id[2..].copy_from_slice(&block.to_le_bytes());
            let issuer = IssuerId::literal("demo");
            let key = BitmapKey { issuer, block: BlockId(id), kind: Kind::Click, valid: true };
            let bitmap = dedup.bitmap(key).unwrap();
            assert!(issued.iter().all(|seq| dedup.insert(bitmap, *seq)));
            assert!(issued.iter().all(|seq| !dedup.insert(bitmap, *seq)));
        }
        dedup.bytes() as f64 * 8.0 / (100.0 * issued.len() as f64)
    }

    #[test]
    fn takes_at_most_1_1_bits_per_place_at_60_percent() {
        let bits = bits_an_id(|seq| seq % 5 < 3) * 0.6;
        assert!((1.0..1.1).contains(&bits), "{bits}");
    }

    /// An isolate of a Worker leases 256 ids. One that ends after handing out a few leaves the rest
    /// of its lease unused, and a bitmap has a bit for each id, used or not.
    #[test]
    fn ids_of_leases_that_are_hardly_used_cost_what_the_empty_places_beside_them_do() {
        const LEASE: u16 = 256;
        for (used, most) in [(3, 90.0), (26, 10.5), (LEASE, 1.1)] {
            let bits = bits_an_id(|seq| seq % LEASE < used);
            eprintln!("{used} ids of each lease of {LEASE}: {bits:.2} bits an id");
            assert!(bits < most, "{bits}");
        }
    }

    /// Whoever signs a few ids in each of many blocks costs memory by their number, not by that of
    /// the blocks.
    #[test]
    fn an_event_costs_at_most_so_much_however_far_it_is_from_others() {
        const CONTAINER: u16 = 4_096;
        for (in_container, most) in [(1, 56), (16, 4), (17, 34), (18, 32)] {
            let bits = bits_an_id(|seq| seq % CONTAINER < in_container);
            eprintln!("{in_container} ids of each container: {:.1} bytes an id", bits / 8.0);
            assert!(bits < f64::from(most * 8), "{bits}");
        }
    }
}
