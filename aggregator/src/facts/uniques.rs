//! How many different visitors there are: while they are few, all of them are remembered; many
//! leave a sketch (CPC of Apache DataSketches with 2^11 rows), whose bytes other tools read.
//!
//! **The answer does not depend on the order** in which visitors come or parts are merged, nor on
//! how the visitors were divided into parts. A sketch is a set of coupons, at most one for each
//! visitor: its row and its column, which are two parts of the visitor's hash. To merge is to unite
//! these sets, and the estimate of a union is worked out from the number of coupons alone (ICON). A
//! sketch that has seen all visitors itself could tell a little more from the order in which they
//! came (HIP), and would give another number; it is never asked for that.
//!
//! **Visitors are hashed as Apache's libraries hash integers** of 64 bits: the eight bytes, least
//! significant first, through MurmurHash3 with the seed 9001. So any tool that is given the same
//! ids makes the same sketch.
//!
//! **Whoever can choose ids can choose coupons**, as this hash has no key. The crate keeps a table of
//! exceptions: of the coupons in far columns, and of those that are missing in near ones. Visitors
//! that nobody chose need some 200 of its 49 152 places; where one more would be needed, it panics.
//! What would need more than 6 144 is left out. Only then does the order of merging matter, and
//! the estimate says nothing anyway.

use datasketches::common::NumStdDev;
use datasketches::cpc::{CpcSketch, CpcUnion, CpcWrapper};
use datasketches::error::Error;
use datasketches::hll::{HllSketch, HllType};
use foldhash::fast::RandomState;
use hashbrown::HashSet;

/// So many different visitors are remembered where nothing else is said. They take 1.2 MB.
const EXACT_MAX: usize = 65_536;
/// 2^11 rows: 99.9 % of sketches have at most 1 332 bytes.
const LG_K: u8 = 11;
/// 2^12 registers of four bits: the HLL sketch whose error is most like that of ours.
const LG_K_HLL: u8 = 12;

/// A union with a larger estimate was not made of visitors. It has some 39 coupons in each row.
const VISITORS_MAX: f64 = 1e15;
/// A sketch with more coupons than this is not even read: all that is worked out from their number
/// stays within the 64 columns.
const COUPONS_MAX: u32 = 40 << LG_K;
/// A sketch that is read, or was merged, has at most so many exceptions: three for each row.
/// Wherever these are, a union of two such sketches has less than twelve for each row, and there
/// are places for 24.
const EXCEPTIONS_MAX: u32 = 3 << LG_K;
/// Bytes of a sketch with [`EXCEPTIONS_MAX`]: one for each row, and four for each place of a table
/// that is three quarters full.
const SIZE_MAX: usize = (1 << LG_K) + 4 * (4 << LG_K);
/// Bytes of a sketch that may take another visitor: its table is half as large. A visitor brings
/// one exception, and another one for each row where the window moves on.
const SIZE_TO_ADD_MAX: usize = (1 << LG_K) + 4 * (2 << LG_K);

/// Where the bytes of a sketch say which columns are full.
const FULL_COLUMNS_AT: usize = 4;
/// Where its flags are.
const FLAGS_AT: usize = 5;
/// Where they say how many coupons it has.
const COUPONS_AT: usize = 8;
/// Where they say how many exceptions it has. If it has none, here is the length of its only part.
const EXCEPTIONS_AT: usize = 12;
/// Where a sketch that is no union keeps what the order of its visitors tells.
const ORDER_AT: std::ops::Range<usize> = 16..32;
/// The flag of such a sketch.
const FLAG_ORDER: u8 = 1 << 2;

/// The different visitors, all of them up to `MAX`, and a sketch of more than that.
#[derive(Clone, Debug)]
pub(crate) struct Uniques<const MAX: usize = EXACT_MAX>(Known);

#[derive(Clone, Debug)]
enum Known {
    /// With a hash that differs from set to set and from process to process: nobody can choose ids
    /// that fall into one bucket. The set's order never reaches an answer.
    Exact(HashSet<u64, RandomState>),
    Sketched(Box<CpcSketch>),
}

/// How many different visitors there are.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Estimate {
    /// How many, or the best guess.
    pub(crate) uniques: u64,
    /// Whether `uniques` is no guess.
    pub(crate) exact: bool,
    /// The standard error, as a part of `uniques`; 0 when exact.
    pub(crate) std_error: f64,
    /// With 95 % there are at least so many: two standard errors less. `uniques` when exact.
    pub(crate) low: u64,
    /// With 95 % there are at most so many: two standard errors more. `uniques` when exact.
    pub(crate) high: u64,
}

/// Why a sketch cannot be read or made.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum SketchError {
    /// The reader's words.
    #[error("the sketch is damaged, or no CPC sketch of Apache DataSketches: {0}")]
    Unreadable(String),
    /// It has another size: the logarithm of its rows to the base 2.
    #[error("the sketch has lg_k {0}; only sketches with lg_k {LG_K} can be merged")]
    Size(u8),
    /// It can be read, but nothing writes it like that: how that shows.
    #[error("the sketch is damaged: {0}")]
    Damaged(&'static str),
    /// There is a sketch already, of which no other kind can be made.
    #[error("there are too many visitors for an HLL sketch: ask for a CPC sketch")]
    OnlyCpc,
}

#[cfg(test)]
impl Uniques {
    /// Exact up to so many different visitors.
    pub(crate) const EXACT_MAX: usize = EXACT_MAX;

    /// Nobody yet.
    pub(crate) fn new() -> Self {
        Self::default()
    }
}

impl<const MAX: usize> Default for Uniques<MAX> {
    fn default() -> Self {
        Self(Known::Exact(HashSet::default()))
    }
}

impl<const MAX: usize> Uniques<MAX> {
    /// Adds a visitor, who may be there already.
    #[inline]
    pub(crate) fn add(&mut self, visitor: u64) {
        match &mut self.0 {
            Known::Exact(visitors) => {
                visitors.insert(visitor);
                if visitors.len() > MAX {
                    self.forget();
                }
            }
            Known::Sketched(sketch) => update(sketch, visitor),
        }
    }

    /// Adds all visitors of another.
    pub(crate) fn merge(&mut self, mut other: Self) {
        if other.remembered() > self.remembered() {
            std::mem::swap(self, &mut other);
        }
        match (&mut self.0, other.0) {
            (_, Known::Exact(visitors)) => {
                visitors.into_iter().for_each(|visitor| self.add(visitor));
            }
            (Known::Sketched(one), Known::Sketched(other)) => unite(one, union_of(&other)),
            (known @ Known::Exact(_), sketched) => *known = sketched,
        }
    }

    /// Adds all visitors of a stored sketch: the bytes of [`to_cpc`](Self::to_cpc), or those of a
    /// CPC sketch that another library made with lg_k 11 and the default seed. Unless it is empty,
    /// what is known then is no longer exact.
    ///
    /// The format has no checksum: damage is found where the sketch contradicts itself, and of
    /// single bits one in three to ten does not. What is stored needs a checksum of its own.
    ///
    /// # Errors
    /// When the bytes are damaged or something else. Nothing has changed then.
    pub(crate) fn merge_sketch(&mut self, bytes: &[u8]) -> Result<(), SketchError> {
        let union = read(bytes)?;
        if let Known::Sketched(sketch) = &mut self.0 {
            unite(sketch, union);
            return Ok(());
        }
        let sketch = union.to_sketch();
        if !sketch.is_empty() {
            self.merge(Self(Known::Sketched(Box::new(sketch))));
        }
        Ok(())
    }

    /// How many there are.
    pub(crate) fn estimate(&self) -> Estimate {
        match &self.0 {
            Known::Exact(visitors) => {
                let uniques = visitors.len() as u64;
                Estimate { uniques, exact: true, std_error: 0.0, low: uniques, high: uniques }
            }
            Known::Sketched(sketch) => {
                let sketch = union_of(sketch).to_sketch();
                Estimate {
                    uniques: whole(sketch.estimate().round()),
                    exact: false,
                    std_error: std_error(),
                    low: whole(sketch.lower_bound(NumStdDev::Two).floor()),
                    high: whole(sketch.upper_bound(NumStdDev::Two).ceil()),
                }
            }
        }
    }

    /// A CPC sketch of the visitors, in the bytes of Apache DataSketches: lg_k 11, marked as a
    /// union. The same visitors give the same bytes.
    pub(crate) fn to_cpc(&self) -> Vec<u8> {
        match &self.0 {
            Known::Exact(visitors) => union_of(&sketch_of(visitors)).to_sketch().serialize(),
            Known::Sketched(sketch) => union_of(sketch).to_sketch().serialize(),
        }
    }

    /// An HLL sketch of the visitors, in the bytes of Apache DataSketches: lg_k 12, four bits a
    /// register. The same visitors give the same bytes.
    ///
    /// # Errors
    /// When the visitors are not remembered any more.
    pub(crate) fn to_hll(&self) -> Result<Vec<u8>, SketchError> {
        let Known::Exact(visitors) = &self.0 else { return Err(SketchError::OnlyCpc) };
        // The bytes tell something of the order in which visitors came: let it be always the same.
        let mut visitors: Vec<u64> = visitors.iter().copied().collect();
        visitors.sort_unstable();
        let mut sketch = HllSketch::new(LG_K_HLL, HllType::Hll4)
            .expect("12 lies within the 4 to 21 that an HLL sketch may have");
        visitors.into_iter().for_each(|visitor| sketch.update(visitor));
        Ok(sketch.serialize())
    }

    /// How many visitors are remembered. More than any number when there is a sketch.
    fn remembered(&self) -> usize {
        match &self.0 {
            Known::Exact(visitors) => visitors.len(),
            Known::Sketched(_) => usize::MAX,
        }
    }

    /// Forgets who the visitors are, and keeps a sketch of them.
    #[cold]
    fn forget(&mut self) {
        if let Known::Exact(visitors) = &self.0 {
            self.0 = Known::Sketched(Box::new(sketch_of(visitors)));
        }
    }
}

fn empty() -> CpcSketch {
    CpcSketch::new(LG_K).expect("11 lies within the 4 to 26 that a CPC sketch may have")
}

fn sketch_of(visitors: &HashSet<u64, RandomState>) -> CpcSketch {
    let mut sketch = empty();
    visitors.iter().for_each(|visitor| update(&mut sketch, *visitor));
    sketch
}

/// Adds a visitor, unless somebody chose the visitors' ids.
#[inline]
fn update(sketch: &mut CpcSketch, visitor: u64) {
    if sketch.estimated_size() <= SIZE_TO_ADD_MAX {
        sketch.update(visitor);
    }
}

/// The union of a sketch with nothing else.
fn union_of(sketch: &CpcSketch) -> CpcUnion {
    let mut union = CpcUnion::new(LG_K).expect("11 lies within the 4 to 26 that a union may have");
    union.update(sketch).expect("all sketches here have the default seed");
    union
}

/// Adds a union to a sketch, unless somebody chose the visitors' ids.
fn unite(sketch: &mut CpcSketch, mut union: CpcUnion) {
    union.update(sketch).expect("all sketches here have the default seed");
    let both = union.to_sketch();
    if is_sound(&both) {
        *sketch = both;
    }
}

/// Whether the sketch of a union can be merged with another one, stored, and read again.
fn is_sound(sketch: &CpcSketch) -> bool {
    sketch.estimated_size() <= SIZE_MAX && sketch.estimate() <= VISITORS_MAX
}

/// Reads a sketch from its bytes.
fn read(bytes: &[u8]) -> Result<CpcUnion, SketchError> {
    let unreadable = |error: Error| SketchError::Unreadable(error.message().to_owned());
    let lg_k = CpcWrapper::new(bytes).map_err(unreadable)?.lg_k();
    if lg_k != LG_K {
        return Err(SketchError::Size(lg_k));
    }
    let bytes = bare(bytes);
    // What the crate asserts of sketches only holds within these bounds.
    if word(&bytes, COUPONS_AT) > Some(COUPONS_MAX)
        || word(&bytes, EXCEPTIONS_AT) > Some(EXCEPTIONS_MAX)
    {
        return Err(SketchError::Damaged("no visitors leave so many coupons"));
    }
    let union = union_of(&CpcSketch::deserialize(&bytes).map_err(unreadable)?);
    let sketch = union.to_sketch();
    if bare(&sketch.serialize()) != bytes {
        return Err(SketchError::Damaged("its coupons would be written otherwise"));
    }
    if !is_sound(&sketch) {
        return Err(SketchError::Damaged("no visitors leave so many coupons"));
    }
    Ok(union)
}

/// The bytes of a union with the same coupons: without what the order of the visitors tells. Nor do
/// they say which columns are full, which only saves work; coupons there would be ignored. The
/// header has been read.
fn bare(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[FULL_COLUMNS_AT] = 0;
    if bytes[FLAGS_AT] & FLAG_ORDER != 0 {
        bytes[FLAGS_AT] ^= FLAG_ORDER;
        if usize::from(bytes[0]) * 4 >= ORDER_AT.end {
            bytes[0] -= 4;
            bytes.drain(ORDER_AT);
        }
    }
    bytes
}

/// The number that stands at a place of a sketch's bytes.
fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_le_bytes(*word))
}

/// ln 2 / √rows (Lang, "Back to the future: an even more nearly optimal cardinality estimation
/// algorithm", 2017). Of few visitors the error is smaller.
fn std_error() -> f64 {
    std::f64::consts::LN_2 / f64::from(1_u32 << LG_K).sqrt()
}

/// A number that is whole.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
fn whole(number: f64) -> u64 {
    number as u64
}

#[cfg(test)]
mod tests;
