//! The bits of a dedup page: where there are few, as a list of their places. So an id costs memory by
//! its own, and not by the thousands beside it that nobody has issued.

use std::fmt;

/// Bits of a dedup page.
pub const PAGE_BITS: usize = 4_096;
/// Bit `i` of word `w` is the event with sequence `page × 4096 + w × 64 + i`.
pub type Bits = [u64; PAGE_BITS / 64];

/// The most places of a list, which takes a sixteenth of a bitmap.
const FEW_MAX: usize = 16;
/// No place.
const UNUSED: u16 = u16::MAX;

/// A few places of a page, ascending; unused ones at the end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Few([u16; FEW_MAX]);

/// What became of a place that was to be put into a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Put {
    New,
    Known,
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
        let mut bits = [0; PAGE_BITS / 64];
        self.places().for_each(|place| bits[usize::from(place) / 64] |= 1 << (place % 64));
        bits
    }
}

impl fmt::Debug for Few {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.places()).finish()
    }
}

/// A page on its way to the store or from it. Of equal bits there is one form.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Page {
    /// With few bits: the list of them.
    Few(Few),
    /// With more than a list holds.
    Many(Box<Bits>),
}

impl Page {
    /// Its bits.
    #[must_use]
    pub fn bits(&self) -> Bits {
        match self {
            Self::Few(few) => few.bits(),
            Self::Many(bits) => **bits,
        }
    }
}

impl From<&Bits> for Page {
    fn from(bits: &Bits) -> Self {
        let mut few = Few::NONE;
        for (word, at) in bits.iter().zip((0_u16..).step_by(64)) {
            let mut left = *word;
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

/// The number of no page.
pub(super) const ABSENT: u32 = u32::MAX;
/// Marks the number of a page that is a bitmap; without it, the page is a list.
const MANY: u32 = 1 << 31;

/// All pages of a partition, by number.
#[derive(Clone, Debug)]
pub(super) struct Arenas {
    few: Arena<Few>,
    many: Arena<Bits>,
}

impl Default for Arenas {
    fn default() -> Self {
        Self { few: Arena::new(Few::NONE), many: Arena::new([0; PAGE_BITS / 64]) }
    }
}

impl Arenas {
    /// Sets a bit of a page, which gets another number when it is new or becomes a bitmap; true when
    /// the bit was not set before.
    #[inline]
    pub(super) fn set(&mut self, page: &mut u32, place: usize) -> bool {
        if *page < MANY || *page == ABSENT {
            return self.set_in_list(page, place);
        }
        set(self.many.page(*page & !MANY), place)
    }

    fn set_in_list(&mut self, page: &mut u32, place: usize) -> bool {
        if *page == ABSENT {
            *page = self.few.allocate();
        }
        let list = self.few.page(*page);
        let put = u16::try_from(place).map_or(Put::Known, |place| list.put(place));
        if put == Put::Full {
            let bits = list.bits();
            self.few.release(*page);
            *page = self.many.allocate() | MANY;
            let many = self.many.page(*page & !MANY);
            *many = bits;
            return set(many, place);
        }
        put == Put::New
    }

    /// The page of this number, as it goes to the store.
    pub(super) fn get(&mut self, page: u32) -> Page {
        match page & MANY {
            0 => Page::Few(*self.few.page(page)),
            _ => Page::Many(Box::new(*self.many.page(page & !MANY))),
        }
    }

    /// The number of a page that comes from the store.
    pub(super) fn load(&mut self, page: &Page) -> u32 {
        match page {
            Page::Few(few) => {
                let at = self.few.allocate();
                *self.few.page(at) = *few;
                at
            }
            Page::Many(bits) => {
                let at = self.many.allocate();
                *self.many.page(at) = **bits;
                at | MANY
            }
        }
    }

    pub(super) fn release(&mut self, page: u32) {
        match page & MANY {
            0 => self.few.release(page),
            _ => self.many.release(page & !MANY),
        }
    }

    /// True when a page has no bit at or beyond a place.
    pub(super) fn is_clear_from(&mut self, page: u32, place: usize) -> bool {
        match page & MANY {
            0 => is_clear_from(&self.few.page(page).bits(), place),
            _ => is_clear_from(self.many.page(page & !MANY), place),
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

/// Values by number, in pieces, so that growing moves nothing and wastes little.
#[derive(Clone, Debug)]
struct Arena<T> {
    blank: T,
    pieces: Vec<Box<[T]>>,
    next: u32,
    free: Vec<u32>,
}

/// Values that are allocated at once.
const PIECE: usize = 64;

impl<T: Copy> Arena<T> {
    const fn new(blank: T) -> Self {
        Self { blank, pieces: Vec::new(), next: 0, free: Vec::new() }
    }

    /// The number of a blank one.
    fn allocate(&mut self) -> u32 {
        if let Some(at) = self.free.pop() {
            *self.page(at) = self.blank;
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
    fn page(&mut self, at: u32) -> &mut T {
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
        /// In any order: a list is what a bitmap is, as long as it has room.
        #[test]
        fn a_list_says_what_a_bitmap_does(places in prop::collection::vec(0_u16..4_096, 0..24)) {
            let (mut few, mut bits) = (Few::NONE, [0_u64; PAGE_BITS / 64]);
            for place in places {
                let (word, bit) = (&mut bits[usize::from(place) / 64], 1 << (place % 64));
                let expected = if *word & bit != 0 { Put::Known } else { Put::New };
                let put = few.put(place);
                if put == Put::Full {
                    prop_assert_eq!((expected, few.places().count()), (Put::New, FEW_MAX));
                    *word |= bit;
                    prop_assert!(matches!(Page::from(&bits), Page::Many(_)));
                    return Ok(());
                }
                *word |= bit;
                prop_assert_eq!(put, expected);
                prop_assert_eq!(few.bits(), bits);
                prop_assert_eq!(Page::from(&bits), Page::Few(few));
            }
        }
    }

    #[test]
    fn a_page_is_clear_from_behind_its_last_bit_on() {
        let mut bits = [0; PAGE_BITS / 64];
        bits[1] = 1 << 5;
        for (place, clear) in [(0, false), (64, false), (69, false), (70, true), (1 << 16, true)] {
            assert_eq!(is_clear_from(&bits, place), clear, "{place}");
        }
    }
}
