//! "Seen before?": one bit for each impression and kind, in pages that are allocated when they are
//! first touched.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use shared::limits::HORIZON_MS;
use shared::{BlockId, IssuerId, Kind, Minute, Timestamp, import};

use super::bits::{ABSENT, Arenas, PAGE_BITS, Page};
use super::changes::PageKey;

/// Pages of a block.
const PAGES: usize = (1 << 16) / PAGE_BITS;
/// The most bitmaps that are kept for one issuer, each of a block, a kind and a validity: of 65 536
/// blocks if each has all four kinds, valid ones and others. They take some 60 MB, and what is set in
/// them at most 32 bytes an event. An event that needs one more is refused.
const BITMAPS_PER_ISSUER_MAX: usize = 1 << 19;

/// Which bitmap.
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

    const fn page(&self, page: usize) -> PageKey {
        let Self { issuer, block, kind, valid } = *self;
        #[expect(clippy::cast_possible_truncation, reason = "there are 16")]
        let page = page as u8;
        PageKey { issuer, block, kind, valid, page }
    }
}

#[derive(Clone, Debug)]
struct Bitmap {
    key: BitmapKey,
    /// Which pages the next checkpoint brings.
    dirty: u16,
    /// Which pages the store has.
    saved: u16,
    pages: [u32; PAGES],
}

/// True when everything that an issuer's block can still bring is too late.
pub(super) fn is_behind_horizon(block: BlockId, clock: Timestamp) -> bool {
    block.opened().end().plus_ms(HORIZON_MS) < clock
}

/// The bitmaps of a partition.
#[derive(Clone, Debug)]
pub(super) struct Dedup {
    /// [`BITMAPS_PER_ISSUER_MAX`], but in tests.
    pub(super) per_issuer_max: usize,
    /// How many bitmaps of signed blocks an issuer has.
    held: BTreeMap<IssuerId, usize>,
    index: HashTable<u32>,
    bitmaps: Vec<Bitmap>,
    free: Vec<u32>,
    /// Signed blocks by the minute of their opening, for the horizon.
    opened: BTreeMap<Minute, Vec<u32>>,
    arenas: Arenas,
    /// Bitmaps that may have dirty pages.
    dirty: Vec<u32>,
    dropped: BTreeSet<PageKey>,
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

    /// The number of a bitmap, made when there is none; none when its issuer has too many. Holds
    /// until the next [`Self::forget_below`] or [`Self::forget_behind`].
    pub(super) fn bitmap(&mut self, key: BitmapKey) -> Option<u32> {
        if let Some(at) = self.find(&key) {
            return Some(at);
        }
        let held = self.held.get(&key.issuer).copied().unwrap_or(0);
        (held < self.per_issuer_max).then(|| self.make(key))
    }

    fn make(&mut self, key: BitmapKey) -> u32 {
        let bitmap = Bitmap { key, dirty: 0, saved: 0, pages: [ABSENT; PAGES] };
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
        let number = usize::from(seq) / PAGE_BITS;
        let entry = &mut self.bitmaps[bitmap as usize];
        if !self.arenas.set(&mut entry.pages[number], usize::from(seq) % PAGE_BITS) {
            return false;
        }
        if entry.dirty == 0 {
            self.dirty.push(bitmap);
        }
        entry.dirty |= 1 << number;
        true
    }

    /// Drops the signed blocks behind the horizon.
    pub(super) fn forget_behind(&mut self, clock: Timestamp) {
        while let Some(first) = self.opened.first_entry() {
            if first.key().end().plus_ms(HORIZON_MS) >= clock {
                return;
            }
            for at in first.remove() {
                self.remove(at);
            }
        }
    }

    /// Drops the pages of an imported block that say nothing about the rows from `bound` on, a
    /// sequence number or one more than the largest.
    pub(super) fn forget_below(&mut self, block: BlockId, bound: usize) {
        for (kind, valid) in Kind::ALL.iter().flat_map(|kind| [(*kind, false), (*kind, true)]) {
            let key = BitmapKey { issuer: import::ISSUER, block, kind, valid };
            let Some(at) = self.find(&key) else { continue };
            for page in 0..PAGES {
                let held = self.bitmaps[at as usize].pages[page];
                let first = page * PAGE_BITS;
                if held != ABSENT && self.arenas.is_clear_from(held, bound.saturating_sub(first)) {
                    self.remove_page(at, page);
                }
            }
            if self.bitmaps[at as usize].pages == [ABSENT; PAGES] {
                self.remove(at);
            }
        }
    }

    fn remove(&mut self, at: u32) {
        for page in 0..PAGES {
            self.remove_page(at, page);
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

    fn remove_page(&mut self, at: u32, page: usize) {
        let bitmap = &mut self.bitmaps[at as usize];
        let held = std::mem::replace(&mut bitmap.pages[page], ABSENT);
        if held == ABSENT {
            return;
        }
        self.arenas.release(held);
        bitmap.dirty &= !(1 << page);
        if bitmap.saved & 1 << page != 0 {
            bitmap.saved &= !(1 << page);
            self.dropped.insert(bitmap.key.page(page));
        }
    }

    /// The pages to delete, and those to put.
    pub(super) fn checkpoint(&mut self) -> (Vec<PageKey>, Vec<(PageKey, Page)>) {
        let mut changed = Vec::new();
        for at in std::mem::take(&mut self.dirty) {
            let bitmap = &mut self.bitmaps[at as usize];
            let dirty = std::mem::take(&mut bitmap.dirty);
            bitmap.saved |= dirty;
            for page in (0..PAGES).filter(|page| dirty & 1 << page != 0) {
                changed.push((bitmap.key.page(page), bitmap.pages[page]));
            }
        }
        changed.sort_unstable();
        let mut dropped = std::mem::take(&mut self.dropped);
        let mut pages = Vec::with_capacity(changed.len());
        for (key, page) in changed {
            dropped.remove(&key);
            pages.push((key, self.arenas.get(page)));
        }
        (dropped.into_iter().collect(), pages)
    }

    /// Takes a page back from the store; false when it is there already or cannot be.
    pub(super) fn load(&mut self, key: &PageKey, bits: &Page) -> bool {
        let PageKey { issuer, block, kind, valid, page } = *key;
        let page = usize::from(page);
        let key = BitmapKey { issuer, block, kind, valid };
        let at = self.find(&key).unwrap_or_else(|| self.make(key));
        let bitmap = &mut self.bitmaps[at as usize];
        if page >= PAGES || bitmap.pages[page] != ABSENT {
            return false;
        }
        bitmap.pages[page] = self.arenas.load(bits);
        bitmap.saved |= 1 << page;
        true
    }

    /// Bytes, overhead included.
    pub(super) fn bytes(&self) -> usize {
        let opened: usize = self.opened.values().map(|list| list.capacity() * 4 + 40).sum();
        let lists = (self.free.capacity() + self.dirty.capacity()) * 4;
        let bitmaps = self.bitmaps.capacity() * size_of::<Bitmap>() + self.index.allocation_size();
        self.arenas.bytes() + bitmaps + opened + lists + self.dropped.len() * size_of::<PageKey>()
    }

    /// Pages that the next checkpoint brings.
    pub(super) fn unsaved_pages(&self) -> usize {
        let dirty = self.dirty.iter().map(|at| self.bitmaps[*at as usize].dirty.count_ones());
        dirty.sum::<u32>() as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bits of memory for each id of 100 full blocks, of which those are issued that `is_issued` says.
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

    /// An isolate of a Worker leases 256 ids; one that hands out a few and is gone leaves the rest of
    /// its lease empty. A bitmap costs what the empty places in it do.
    #[test]
    fn ids_of_leases_that_are_hardly_used_cost_what_the_empty_places_beside_them_do() {
        const LEASE: u16 = 256;
        for (used, most) in [(3, 90.0), (26, 10.5), (LEASE, 1.1)] {
            let bits = bits_an_id(|seq| seq % LEASE < used);
            eprintln!("{used} ids of each lease of {LEASE}: {bits:.2} bits an id");
            assert!(bits < most, "{bits}");
        }
    }

    /// Whoever signs ids here and there in many blocks makes a sender pay for events, not for blocks.
    #[test]
    fn an_event_costs_at_most_so_much_however_far_it_is_from_others() {
        const PAGE: u16 = 4_096;
        for (in_page, most) in [(1, 56), (16, 4), (17, 34), (18, 32)] {
            let bits = bits_an_id(|seq| seq % PAGE < in_page);
            eprintln!("{in_page} ids of each page: {:.1} bytes an id", bits / 8.0);
            assert!(bits < f64::from(most * 8), "{bits}");
        }
    }
}
