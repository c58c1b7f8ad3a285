//! A hash table of counts by key: cells and totals are kept in it.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// A small key with a hash of its own.
pub(super) trait Key: Copy + Eq {
    /// The hash. Its lowest and its highest bits must be well mixed: hashbrown uses both.
    fn hash(self) -> u64;
}

/// Folded multiplication: with one multiplication every bit of the key reaches every bit that
/// hashbrown uses. A fixed hash is safe here: the keys are made of numbers that we gave out
/// ourselves, so nobody can choose keys that fall into one bucket.
pub(super) fn mix(bits: u64) -> u64 {
    let wide = u128::from(bits ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93_u128;
    #[expect(clippy::cast_possible_truncation, reason = "both halves are taken")]
    let folded = (wide as u64) ^ ((wide >> 64) as u64);
    folded
}

/// Counts by key. An entry has 32 bits for its count, to be small; the few counts that are larger
/// have their upper bits in `carries`.
#[derive(Clone, Debug)]
pub(super) struct Counter<K> {
    table: HashTable<(K, u32)>,
    /// Multiples of 2^32 to be added. Nearly always empty, never long.
    carries: Vec<(K, u64)>,
}

impl<K> Default for Counter<K> {
    fn default() -> Self {
        Self { table: HashTable::new(), carries: Vec::new() }
    }
}

impl<K: Key> Counter<K> {
    pub(super) fn reserve(&mut self, more: usize) {
        self.table.reserve(more, |entry| entry.0.hash());
    }

    #[inline]
    pub(super) fn add_one(&mut self, key: K) {
        self.add_low(key, 1);
    }

    pub(super) fn add(&mut self, key: K, n: u64) {
        let low = u32::try_from(n & 0xffff_ffff).expect("masked to 32 bits");
        self.add_low(key, low);
        if n >> 32 > 0 {
            self.carry(key, n >> 32);
        }
    }

    #[inline]
    fn add_low(&mut self, key: K, n: u32) {
        let entry = self.table.entry(key.hash(), |entry| entry.0 == key, |entry| entry.0.hash());
        match entry {
            Entry::Occupied(mut entry) => {
                let (sum, over) = entry.get().1.overflowing_add(n);
                entry.get_mut().1 = sum;
                if over {
                    self.carry(key, 1);
                }
            }
            Entry::Vacant(entry) => {
                entry.insert((key, n));
            }
        }
    }

    #[cold]
    fn carry(&mut self, key: K, times: u64) {
        match self.carries.iter_mut().find(|(carried, _)| *carried == key) {
            Some((_, carried)) => *carried += times,
            None => self.carries.push((key, times)),
        }
    }

    fn carried(&self, key: K) -> u64 {
        let carry = self.carries.iter().find(|(carried, _)| *carried == key);
        carry.map_or(0, |(_, times)| times << 32)
    }

    /// The count of a key; 0 when it has none.
    pub(super) fn get(&self, key: K) -> u64 {
        let entry = self.table.find(key.hash(), |entry| entry.0 == key);
        entry.map_or(0, |(_, n)| u64::from(*n) + self.carried(key))
    }

    pub(super) fn contains(&self, key: K) -> bool {
        self.table.find(key.hash(), |entry| entry.0 == key).is_some()
    }

    /// Every key once, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (K, u64)> + '_ {
        self.table.iter().map(|(key, n)| (*key, u64::from(*n) + self.carried(*key)))
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// Bytes on the heap.
    pub(super) fn bytes(&self) -> usize {
        self.table.allocation_size()
    }

    /// Adds all of another's counts.
    pub(super) fn merge(&mut self, other: &Self) {
        other.iter().for_each(|(key, n)| self.add(key, n));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Key for u64 {
        fn hash(self) -> u64 {
            mix(self)
        }
    }

    #[test]
    fn counts_beyond_32_bits_are_exact() {
        let mut counter = Counter::default();
        counter.add(7_u64, u64::from(u32::MAX));
        counter.add_one(7);
        assert_eq!(counter.get(7), 1 << 32);
        counter.add(7, (3 << 32) + 5);
        counter.add_one(8);
        assert_eq!((counter.get(7), counter.get(8), counter.get(9)), ((4 << 32) + 5, 1, 0));
        let mut sum = Counter::default();
        sum.add(7, u64::from(u32::MAX));
        sum.merge(&counter);
        assert_eq!(sum.get(7), (5 << 32) + 4);
        let mut all: Vec<_> = sum.iter().collect();
        all.sort_unstable();
        assert_eq!(all, [(7, (5 << 32) + 4), (8, 1)]);
    }
}
