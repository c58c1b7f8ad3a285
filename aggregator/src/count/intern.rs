//! Numbers for the ids of ads and publishers, so that cells have short keys.

use foldhash::fast::FixedState;
use hashbrown::{HashMap, HashTable};
use shared::name::Any;
use shared::{AnyId, Name, NameBuf};

use super::table::mix;

/// Bits of a number. A cell's key has so many for each of its names.
pub(super) const NUMBER_BITS: u32 = 23;
/// Numbers are below this.
const NUMBERS_MAX: usize = 1 << NUMBER_BITS;

/// With fewer ids than this, a sweep would free too little to be worth its time.
const SWEEP_MIN: usize = 1 << 16;

/// Gives ids numbers, and keeps the names of those that are digests. [`shared::Id::NONE`] has 0. A
/// number is given out again after [`Interner::sweep`] has found that nothing uses it.
#[derive(Clone, Debug)]
pub(super) struct Interner {
    numbers: HashTable<(AnyId, u32)>,
    ids: Vec<AnyId>,
    /// The names of ids that are digests, by number.
    names: HashMap<u32, NameBuf<Any>, FixedState>,
    /// Names that no checkpoint has written yet.
    unsaved: Vec<NameBuf<Any>>,
    /// Bytes of the texts in `names` and `unsaved`.
    text_bytes: usize,
    /// Numbers that may be given out again.
    free: Vec<u32>,
    /// A sweep is due when there are so many ids.
    sweep_at: usize,
    /// [`NUMBERS_MAX`], but in tests.
    pub(super) most: usize,
}

fn hash(id: &AnyId) -> u64 {
    let wide = u128::from_le_bytes(*id.padded());
    #[expect(clippy::cast_possible_truncation, reason = "both halves are taken")]
    let (low, high) = (wide as u64, (wide >> 64) as u64);
    // Advertisers choose the names of ads, and must not be able to make ids with one hash: each
    // half goes through a multiplication of its own, so that no choice of one half undoes the
    // other.
    mix(low) ^ mix(high ^ 0x2545_f491_4f6c_dd1d).rotate_left(29)
}

impl Interner {
    pub(super) fn new() -> Self {
        let mut interner = Self {
            numbers: HashTable::new(),
            ids: Vec::new(),
            names: HashMap::default(),
            unsaved: Vec::new(),
            text_bytes: 0,
            free: Vec::new(),
            sweep_at: SWEEP_MIN,
            most: NUMBERS_MAX,
        };
        interner.number(AnyId::NONE);
        interner
    }

    /// The number of an id that has one.
    pub(super) fn find(&self, id: AnyId) -> Option<u32> {
        self.numbers.find(hash(&id), |entry| entry.0 == id).map(|entry| entry.1)
    }

    /// The number of an id, which it is given when it has none. The caller has made sure that there
    /// [is room](Self::has_room).
    pub(super) fn number(&mut self, id: AnyId) -> u32 {
        if let Some(number) = self.find(id) {
            return number;
        }
        let number = self.free.pop().unwrap_or_else(|| {
            self.ids.push(AnyId::NONE);
            u32::try_from(self.ids.len() - 1).expect("has_room() keeps it below 2^23")
        });
        self.ids[number as usize] = id;
        self.numbers.insert_unique(hash(&id), (id, number), |entry| hash(&entry.0));
        number
    }

    /// [`Self::number`] of an id whose name is known. The name is kept when the id is a digest; any
    /// other id is its own name.
    pub(super) fn number_named(&mut self, id: AnyId, name: Name<'_, Any>) -> u32 {
        let number = self.number(id);
        if id.is_digest() && !name.is_none() && !self.names.contains_key(&number) {
            self.names.insert(number, name.to_buf());
            self.unsaved.push(name.to_buf());
            self.text_bytes += 2 * name.as_str().len();
        }
        number
    }

    /// The name of an id that is a digest, if it is in memory.
    pub(super) fn name(&self, id: AnyId) -> Option<&NameBuf<Any>> {
        self.names.get(&self.find(id)?)
    }

    /// The names that came since the last call, in the order of their ids.
    pub(super) fn checkpoint(&mut self) -> Vec<(AnyId, NameBuf<Any>)> {
        let unsaved = std::mem::take(&mut self.unsaved).into_iter();
        let mut names: Vec<_> = unsaved.map(|name| (name.id(), name)).collect();
        self.text_bytes -= names.iter().map(|(_, name)| name.as_str().len()).sum::<usize>();
        names.sort_unstable();
        // A name is here twice when a sweep took the number away and the id came again.
        names.dedup();
        names
    }

    /// The id of a number that was given out.
    pub(super) fn id(&self, number: u32) -> AnyId {
        self.ids[number as usize]
    }

    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Whether so many more ids can be numbered.
    pub(super) fn has_room(&self, more: usize) -> bool {
        self.len() + more <= self.most
    }

    /// Whether it is time for a sweep: there are twice as many ids as after the last one. So a
    /// sweep, which looks at all ids, costs little for each.
    pub(super) fn is_sweep_due(&self) -> bool {
        self.len() >= self.sweep_at
    }

    /// Forgets the ids whose numbers are not marked; `used` is as long as [`Self::slots`].
    pub(super) fn sweep(&mut self, used: &[bool]) {
        let (free, names, bytes) = (&mut self.free, &mut self.names, &mut self.text_bytes);
        self.numbers.retain(|(id, number)| {
            let keep = id.is_none() || used[*number as usize];
            if !keep {
                free.push(*number);
                *bytes -= names.remove(number).map_or(0, |name| name.as_str().len());
            }
            keep
        });
        self.sweep_at = (self.len() * 2).max(SWEEP_MIN);
    }

    /// By number, the rank of each used id among all used ids in bytewise order; `used` is as long
    /// as [`Self::slots`].
    pub(super) fn ranks(&self, used: &[bool]) -> Vec<u32> {
        let ids = (0_u32..).zip(&self.ids).zip(used).filter(|(_, used)| **used);
        let mut ids: Vec<(AnyId, u32)> = ids.map(|((number, id), _)| (*id, number)).collect();
        ids.sort_unstable();
        let mut ranks = vec![0; self.slots()];
        for (rank, (_, number)) in (0_u32..).zip(ids) {
            ranks[number as usize] = rank;
        }
        ranks
    }

    /// One more than the largest number ever given out.
    pub(super) fn slots(&self) -> usize {
        self.ids.len()
    }

    /// Bytes on the heap.
    pub(super) fn bytes(&self) -> usize {
        let names = self.names.allocation_size() + self.text_bytes;
        self.numbers.allocation_size() + self.ids.capacity() * 16 + self.free.capacity() * 4 + names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_given_out_again_after_a_sweep() {
        let mut interner = Interner::new();
        let [a, b, c] = ["a", "b", "c"].map(AnyId::literal);
        assert_eq!(interner.number(AnyId::NONE), 0);
        assert_eq!([a, b, a].map(|id| interner.number(id)), [1, 2, 1]);
        interner.sweep(&[false, false, true]);
        assert_eq!((interner.find(a), interner.find(b), interner.len()), (None, Some(2), 2));
        assert_eq!(interner.number(c), 1);
        assert_eq!((interner.id(1), interner.slots()), (c, 3));
    }
}
