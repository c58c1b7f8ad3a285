//! One column of a block.

use std::ops::Range;

use bytes::Bytes;
use shared::bytes::Reader;
use shared::counted::Code;
use shared::{Codes, Kind};

/// How many columns a block has.
pub const COLUMNS: usize = FIXED + Codes::NAMES.len();
const FIXED: usize = 14;

/// Which column. Those of the codes (country, device, …) follow in the order of the list of
/// dimensions ([`shared::dimensions!`]).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Name {
    /// The minute, since 1970.
    Minute,
    /// The second within it.
    Second,
    /// The code of the kind of event.
    Kind,
    /// The code of the verdict; 0 of valid events.
    Reason,
    /// The number of the ad among the block's ids, as those of the other names.
    Ad,
    /// The publisher.
    Publisher,
    /// The placement.
    Placement,
    /// The campaign.
    Campaign,
    /// The advertiser.
    Advertiser,
    /// The part of the country: its three bytes, the first in the highest bits.
    Region,
    /// The network: its seven bytes, the first in the highest bits.
    Network,
    /// The visitor's fingerprint.
    Visitor,
    /// What the event costs: its number among the block's prices, 0 when nothing.
    Price,
    /// Minutes from the issue of its token, zigzag, plus 1; 0 when not known.
    Age,
    /// A code, by its place in the list of dimensions.
    Code(usize),
}

impl Name {
    /// The columns that are no codes, in their order.
    const ALL: [Self; FIXED] = [
        Self::Minute,
        Self::Second,
        Self::Kind,
        Self::Reason,
        Self::Ad,
        Self::Publisher,
        Self::Placement,
        Self::Campaign,
        Self::Advertiser,
        Self::Region,
        Self::Network,
        Self::Visitor,
        Self::Price,
        Self::Age,
    ];
    /// Those that are numbers of ids.
    pub(super) const IDS: [Self; 5] =
        [Self::Ad, Self::Publisher, Self::Placement, Self::Campaign, Self::Advertiser];

    /// The column of the code with this name in the list of dimensions.
    #[must_use]
    pub fn code(name: &str) -> Option<Self> {
        Codes::NAMES.iter().position(|known| *known == name).map(Self::Code)
    }

    /// All columns.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().chain((0..Codes::NAMES.len()).map(Self::Code))
    }

    /// The place of the column in a block.
    #[must_use]
    pub fn index(self) -> usize {
        match self {
            Self::Code(at) => FIXED + at,
            fixed => Self::ALL.iter().position(|name| *name == fixed).unwrap_or_default(),
        }
    }
}

macro_rules! code_values {
    (names $names:tt codes { $($(#[$doc:meta])* $code:ident: $type:ty, $bits:literal,)+ }) => {
        /// The values of the columns of the codes.
        pub(super) fn code_values(codes: &Codes) -> [u64; Codes::NAMES.len()] {
            [$(u64::from(codes.$code.code()),)+]
        }

        /// Codes from the values of their columns, by their places in the list; what has no such
        /// value says that nothing is known.
        pub(super) fn codes_from(value: impl Fn(usize) -> u64) -> Codes {
            let mut at = 0..;
            let mut next = || {
                let value = value(at.next().unwrap_or(usize::MAX));
                u32::try_from(value).unwrap_or(u32::MAX)
            };
            let mut codes = Codes::default();
            $(codes.$code = <$type as Code>::from_code(next()).unwrap_or_default();)+
            codes
        }

        /// All numbers of a code are below this.
        pub(super) fn code_count(at: usize) -> u64 {
            let counts = [$(<$type as Code>::CODES,)+];
            counts.get(at).copied().map_or(0, u64::from)
        }

        /// The text of a code.
        pub(crate) fn code_text(at: usize, value: u64) -> Option<String> {
            let value = u32::try_from(value).ok()?;
            let texts = [$(<$type as Code>::from_code(value).map(|code| code.to_string()),)+];
            texts.into_iter().nth(at).flatten()
        }
    };
}
shared::dimensions!(code_values);

/// The text of a kind's code.
pub(super) fn kind(value: u64) -> Option<Kind> {
    u8::try_from(value).ok().and_then(Kind::from_code)
}

/// Numbers, one for each row: `base` plus an offset of `width` bytes (0, 1, 2, 4 or 8), little
/// endian.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Column {
    base: u64,
    width: usize,
    offsets: Bytes,
}

impl Column {
    /// Zeros.
    pub(super) const EMPTY: Self = Self { base: 0, width: 0, offsets: Bytes::new() };

    /// The same number in every row.
    pub(crate) fn constant(number: u64) -> Self {
        Self { base: number, width: 0, offsets: Bytes::new() }
    }

    /// Bytes on the heap.
    pub(crate) fn bytes(&self) -> usize {
        self.offsets.len()
    }

    /// The numbers in as few bytes as the largest difference needs.
    pub(super) fn new(values: impl Iterator<Item = u64> + Clone) -> Self {
        let mut bounds = Bounds::default();
        bounds.take(values.clone());
        let mut writer = bounds.writer(values.size_hint().0);
        writer.take(values);
        writer.finish()
    }

    /// The number in a row; of a row that is not there, the least number.
    #[inline]
    #[must_use]
    pub fn get(&self, row: usize) -> u64 {
        let at = row * self.width;
        let offset = match self.width {
            0 => 0,
            1 => self.offsets.get(at).copied().map_or(0, u64::from),
            2 => self.word(at).map_or(0, |word| u64::from(u16::from_le_bytes(word))),
            4 => self.word(at).map_or(0, |word| u64::from(u32::from_le_bytes(word))),
            _ => self.word(at).map_or(0, u64::from_le_bytes),
        };
        self.base.wrapping_add(offset)
    }

    #[inline]
    fn word<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.offsets.get(at..)?.first_chunk().copied()
    }

    /// Clears `mask` where the number does not pass the test. `mask` is of the rows from `first` on.
    pub(super) fn keep(&self, first: usize, mask: &mut [u8], test: impl Fn(u64) -> bool) {
        let offsets = self.offsets.get(first * self.width..).unwrap_or_default();
        let base = self.base;
        match self.width {
            0 if test(base) => {}
            0 => mask.fill(0),
            1 => {
                let passes = |byte: &u8| u8::from(test(base + u64::from(*byte)));
                mask.iter_mut().zip(offsets).for_each(|(keep, byte)| *keep &= passes(byte));
            }
            2 => keep::<2>(mask, offsets, |b| test(base + u64::from(u16::from_le_bytes(b)))),
            4 => keep::<4>(mask, offsets, |b| test(base + u64::from(u32::from_le_bytes(b)))),
            _ => keep::<8>(mask, offsets, |b| test(base.wrapping_add(u64::from_le_bytes(b)))),
        }
    }

    /// The first of these rows, which are in the order of their numbers, whose number is not below
    /// `least`.
    pub(super) fn partition_point_in(&self, rows: Range<usize>, least: u64) -> usize {
        let Range { start: mut from, end: mut to } = rows;
        while from < to {
            let middle = from.midpoint(to);
            if self.get(middle) < least { from = middle + 1 } else { to = middle }
        }
        from
    }

    /// The largest number.
    pub(super) fn most(&self) -> u64 {
        let offset = match self.width {
            0 => 0,
            1 => self.offsets.iter().copied().max().map_or(0, u64::from),
            2 => most::<2>(&self.offsets, |word| u16::from_le_bytes(word).into()),
            4 => most::<4>(&self.offsets, |word| u32::from_le_bytes(word).into()),
            _ => most::<8>(&self.offsets, u64::from_le_bytes),
        };
        self.base.wrapping_add(offset)
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.extend(self.base.to_le_bytes());
        out.push(u8::try_from(self.width).unwrap_or(8));
        out.extend_from_slice(&self.offsets);
    }

    /// Reads the column of so many rows. `whole`: what the reader reads.
    pub(super) fn read(reader: &mut Reader<'_>, whole: &Bytes, rows: usize) -> Option<Self> {
        let base = reader.u64().ok()?;
        let width = usize::from(reader.u8().ok()?);
        if !matches!(width, 0 | 1 | 2 | 4 | 8) {
            return None;
        }
        let offsets = reader.slice(rows.checked_mul(width)?).ok()?;
        let column = Self { base, width, offsets: whole.slice_ref(offsets) };
        // No sum may pass the end of the numbers.
        let most = if width == 8 { u64::MAX } else { (1 << (8 * width)) - 1 };
        let fits = width == 8 || base.checked_add(most).is_some();
        fits.then_some(column)
    }
}

/// The least and the largest of the numbers of a column that is to be written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    least: u64,
    most: u64,
}

impl Default for Bounds {
    /// Of no numbers.
    fn default() -> Self {
        Self { least: u64::MAX, most: 0 }
    }
}

impl Bounds {
    #[inline]
    pub(super) fn take(&mut self, values: impl Iterator<Item = u64>) {
        let Self { least, most } = *self;
        let bounds = |(least, most): (u64, u64), value: u64| (least.min(value), most.max(value));
        (self.least, self.most) = values.fold((least, most), bounds);
    }

    /// A writer of so many numbers within these bounds.
    pub(super) fn writer(self, rows: usize) -> Writer {
        // Of no numbers the least is the largest one.
        let base = self.least.min(self.most);
        let width = match self.most - base {
            0 => 0,
            1..=0xff => 1,
            0x100..=0xffff => 2,
            0x1_0000..=0xffff_ffff => 4,
            _ => 8,
        };
        Writer { base, width, offsets: Vec::with_capacity(rows * width) }
    }
}

/// Writes a column piece by piece.
#[derive(Debug)]
pub(super) struct Writer {
    base: u64,
    width: usize,
    offsets: Vec<u8>,
}

impl Writer {
    #[inline]
    pub(super) fn take(&mut self, values: impl Iterator<Item = u64>) {
        let (base, out) = (self.base, &mut self.offsets);
        let offsets = values.map(|value| value - base);
        match self.width {
            0 => {}
            1 => out.extend(offsets.map(|offset| low::<1>(offset)[0])),
            2 => offsets.for_each(|offset| out.extend_from_slice(&low::<2>(offset))),
            4 => offsets.for_each(|offset| out.extend_from_slice(&low::<4>(offset))),
            _ => offsets.for_each(|offset| out.extend_from_slice(&low::<8>(offset))),
        }
    }

    pub(super) fn finish(self) -> Column {
        let Self { base, width, offsets } = self;
        Column { base, width, offsets: offsets.into() }
    }
}

fn most<const N: usize>(offsets: &[u8], number: impl Fn([u8; N]) -> u64) -> u64 {
    let (words, _) = offsets.as_chunks::<N>();
    words.iter().map(|word| number(*word)).max().unwrap_or(0)
}

/// The lowest bytes of a number.
#[inline]
fn low<const N: usize>(number: u64) -> [u8; N] {
    let bytes = number.to_le_bytes();
    std::array::from_fn(|at| bytes.get(at).copied().unwrap_or_default())
}

#[inline]
fn keep<const N: usize>(mask: &mut [u8], offsets: &[u8], test: impl Fn([u8; N]) -> bool) {
    let (words, _) = offsets.as_chunks::<N>();
    mask.iter_mut().zip(words).for_each(|(keep, word)| *keep &= u8::from(test(*word)));
}
