//! Containers of the dedup bitmap: the sequence numbers of a block that have been seen, 4 096 to a
//! container, as in a Roaring bitmap. A container with few bits is a list of their places, one with
//! more is a bitmap. So memory is spent on ids that were issued, and not on the thousands between
//! them that were not.

use std::fmt;

/// Bits of a container.
pub const CONTAINER_BITS: usize = 4_096;
/// Bit `i` of word `w` is the event with sequence number `index × 4096 + w × 64 + i`, where `index`
/// is that of the container in its block.
pub type Bits = [u64; CONTAINER_BITS / 64];

/// The most places of a list. A full list takes 32 bytes, a sixteenth of a bitmap.
const FEW_MAX: usize = 16;
/// Fills the rest of a list: no place is so large.
const UNUSED: u16 = u16::MAX;

/// The places of a container's bits when they are few: ascending, the rest unused.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Few([u16; FEW_MAX]);

/// What became of a place that was to be put into a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Put {
    /// It was added.
    New,
    /// It was in the list before.
    Known,
    /// It was not in the list, which has no room for it.
    Full,
}

impl Few {
    pub(super) const NONE: Self = Self([UNUSED; FEW_MAX]);

    pub(super) fn put(&mut self, place: u16) -> Put {
        let at = self.0.partition_point(|known| *known < place);
        if self.0.get(at) == Some(&place) {
            return Put::Known;
        }
        if self.0[FEW_MAX - 1] != UNUSED {
            return Put::Full;
        }
        self.0[at..].rotate_right(1);
        self.0[at] = place;
        Put::New
    }

    fn places(&self) -> impl Iterator<Item = u16> {
        self.0.into_iter().take_while(|place| *place != UNUSED)
    }

    pub(super) fn bits(&self) -> Bits {
        let mut bits = [0; CONTAINER_BITS / 64];
        self.places().for_each(|place| bits[usize::from(place) / 64] |= 1 << (place % 64));
        bits
    }
}

impl fmt::Debug for Few {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.places()).finish()
    }
}

/// A container on its way to the store or from it. Containers with equal bits have the same form.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Container {
    /// At most 16 bits: the list of their places.
    Few(Few),
    /// More bits: the bitmap.
    Many(Box<Bits>),
}

impl Container {
    /// Its bits.
    #[must_use]
    pub fn bits(&self) -> Bits {
        match self {
            Self::Few(few) => few.bits(),
            Self::Many(bits) => **bits,
        }
    }
}

impl From<&Bits> for Container {
    fn from(bits: &Bits) -> Self {
        let mut few = Few::NONE;
        for (word, at) in bits.iter().zip((0_u16..).step_by(64)) {
            let mut left = *word;
            // Each round clears the lowest bit that is left, so there are 64 rounds at most.
            while left != 0 {
                #[expect(clippy::cast_possible_truncation, reason = "below 64")]
                let bit = left.trailing_zeros() as u16;
                if few.put(at + bit) == Put::Full {
                    return Self::Many(Box::new(*bits));
                }
                left &= left - 1;
            }
        }
        Self::Few(few)
    }
}

/// Stands for a container that was not allocated.
pub(super) const ABSENT: u32 = u32::MAX;
/// Set in the number of a container that is a bitmap, and not in that of one that is a list.
const MANY: u32 = 1 << 31;

/// The memory of all containers of a partition. Each is known by a number.
#[derive(Clone, Debug)]
pub(super) struct Arenas {
    few: Arena<Few>,
    many: Arena<Bits>,
}

impl Default for Arenas {
    fn default() -> Self {
        Self { few: Arena::new(Few::NONE), many: Arena::new([0; CONTAINER_BITS / 64]) }
    }
}

impl Arenas {
    /// Sets a bit of a container; true when the bit was not set before. A container that was
    /// [`ABSENT`], or that becomes a bitmap, gets another number, which is written to `number`.
    #[inline]
    pub(super) fn set(&mut self, number: &mut u32, place: usize) -> bool {
        if *number < MANY || *number == ABSENT {
            return self.set_in_list(number, place);
        }
        set(self.many.value(*number & !MANY), place)
    }

    fn set_in_list(&mut self, number: &mut u32, place: usize) -> bool {
        if *number == ABSENT {
            *number = self.few.allocate();
        }
        let list = self.few.value(*number);
        // Places are below CONTAINER_BITS, so that the conversion never fails.
        let put = u16::try_from(place).map_or(Put::Known, |place| list.put(place));
        if put == Put::Full {
            let bits = list.bits();
            self.few.release(*number);
            *number = self.many.allocate() | MANY;
            let many = self.many.value(*number & !MANY);
            *many = bits;
            return set(many, place);
        }
        put == Put::New
    }

    /// A copy of the container with this number, for the store.
    pub(super) fn get(&mut self, number: u32) -> Container {
        match number & MANY {
            0 => Container::Few(*self.few.value(number)),
            _ => Container::Many(Box::new(*self.many.value(number & !MANY))),
        }
    }

    /// Takes a container from the store in, and gives it a number.
    pub(super) fn load(&mut self, container: &Container) -> u32 {
        match container {
            Container::Few(few) => {
                let at = self.few.allocate();
                *self.few.value(at) = *few;
                at
            }
            Container::Many(bits) => {
                let at = self.many.allocate();
                *self.many.value(at) = **bits;
                at | MANY
            }
        }
    }

    pub(super) fn release(&mut self, number: u32) {
        match number & MANY {
            0 => self.few.release(number),
            _ => self.many.release(number & !MANY),
        }
    }

    /// True when the container has no bit at `place` or beyond.
    pub(super) fn is_clear_from(&mut self, number: u32, place: usize) -> bool {
        match number & MANY {
            0 => is_clear_from(&self.few.value(number).bits(), place),
            _ => is_clear_from(self.many.value(number & !MANY), place),
        }
    }

    /// Bytes, overhead included.
    pub(super) fn bytes(&self) -> usize {
        self.few.bytes() + self.many.bytes()
    }
}

fn set(bits: &mut Bits, place: usize) -> bool {
    let (word, bit) = (&mut bits[place / 64], 1 << (place % 64));
    let is_new = *word & bit == 0;
    *word |= bit;
    is_new
}

fn is_clear_from(bits: &Bits, place: usize) -> bool {
    let clear = |(index, word): (usize, &u64)| match place.saturating_sub(index * 64) {
        0 => *word == 0,
        below @ 1..64 => word >> below == 0,
        _ => true,
    };
    bits.iter().enumerate().all(clear)
}

/// Values by number. Memory is allocated in pieces of [`PIECE`] values, so that growing moves no
/// value and wastes less than a piece.
#[derive(Clone, Debug)]
struct Arena<T> {
    blank: T,
    pieces: Vec<Box<[T]>>,
    next: u32,
    free: Vec<u32>,
}

/// How many values are allocated at once.
const PIECE: usize = 64;

impl<T: Copy> Arena<T> {
    const fn new(blank: T) -> Self {
        Self { blank, pieces: Vec::new(), next: 0, free: Vec::new() }
    }

    /// Makes a blank value, and returns its number.
    fn allocate(&mut self) -> u32 {
        if let Some(at) = self.free.pop() {
            *self.value(at) = self.blank;
            return at;
        }
        if self.next as usize == self.pieces.len() * PIECE {
            self.pieces.push(vec![self.blank; PIECE].into_boxed_slice());
        }
        assert!(self.next < MANY - 1, "2^31 pages would take 64 GB");
        self.next += 1;
        self.next - 1
    }

    fn release(&mut self, at: u32) {
        self.free.push(at);
    }

    #[inline]
    fn value(&mut self, at: u32) -> &mut T {
        &mut self.pieces[at as usize / PIECE][at as usize % PIECE]
    }

    fn bytes(&self) -> usize {
        let values = self.pieces.len() * PIECE * size_of::<T>();
        values + self.pieces.capacity() * size_of::<Box<[T]>>() + self.free.capacity() * 4
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// In whatever order places are put, a list with room for them has the bits of a bitmap.
        #[test]
        fn a_list_says_what_a_bitmap_does(places in prop::collection::vec(0_u16..4_096, 0..24)) {
            let (mut few, mut bits) = (Few::NONE, [0_u64; CONTAINER_BITS / 64]);
            for place in places {
                let (word, bit) = (&mut bits[usize::from(place) / 64], 1 << (place % 64));
                let expected = if *word & bit != 0 { Put::Known } else { Put::New };
                let put = few.put(place);
                if put == Put::Full {
                    prop_assert_eq!((expected, few.places().count()), (Put::New, FEW_MAX));
                    *word |= bit;
                    prop_assert!(matches!(Container::from(&bits), Container::Many(_)));
                    return Ok(());
                }
                *word |= bit;
                prop_assert_eq!(put, expected);
                prop_assert_eq!(few.bits(), bits);
                prop_assert_eq!(Container::from(&bits), Container::Few(few));
            }
        }
    }

    #[test]
    fn a_container_is_clear_from_behind_its_last_bit_on() {
        let mut bits = [0; CONTAINER_BITS / 64];
        bits[1] = 1 << 5;
        for (place, clear) in [(0, false), (64, false), (69, false), (70, true), (1 << 16, true)] {
            assert_eq!(is_clear_from(&bits, place), clear, "{place}");
        }
    }
}
