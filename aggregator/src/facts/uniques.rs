//! How many different visitors there are: exact while they are few, then by a sketch (CPC, Apache
//! DataSketches), whose bytes other tools read.
//!
//! The answer is the same however the visitors came and in whatever parts they were merged. Up to
//! `MAX` different ones all are remembered. Beyond that there is the set of coupons that they have,
//! which does not depend on their order, and the estimate is always that of a union, which depends
//! on nothing but this set. (A sketch that has seen all visitors itself could tell a little more, by
//! the order in which they came.)

use datasketches::common::NumStdDev;
use datasketches::cpc::{CpcSketch, CpcUnion};
use foldhash::fast::FixedState;
use hashbrown::HashSet;

/// 2^11 rows: at most 1 332 bytes as it is stored.
const LG_K: u8 = 11;
/// The relative standard error of an estimate from a union: ln 2 / √2^11 (Lang, "Back to the future:
/// an even more nearly optimal cardinality estimation algorithm", 2017).
const STD_ERROR: f64 = std::f64::consts::LN_2 / 45.254_833_995_939_04;

/// The different visitors, exact up to `MAX` of them.
#[derive(Clone, Debug)]
pub(crate) struct Uniques<const MAX: usize>(Kept);

#[derive(Clone, Debug)]
enum Kept {
    Exact(HashSet<u64, FixedState>),
    Sketched(Box<CpcSketch>),
}

/// How many different visitors there are.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Estimate {
    pub(crate) uniques: u64,
    pub(crate) exact: bool,
    /// Relative; 0 when exact.
    pub(crate) std_error: f64,
    /// The bounds of two standard errors; both are `uniques` when exact.
    pub(crate) low: u64,
    pub(crate) high: u64,
}

impl<const MAX: usize> Default for Uniques<MAX> {
    fn default() -> Self {
        Self(Kept::Exact(HashSet::default()))
    }
}

impl<const MAX: usize> Uniques<MAX> {
    /// Adds a visitor, who may be there already.
    #[inline]
    pub(crate) fn add(&mut self, visitor: u64) {
        match &mut self.0 {
            Kept::Exact(visitors) => {
                visitors.insert(visitor);
                if visitors.len() > MAX {
                    self.sketch();
                }
            }
            Kept::Sketched(sketch) => sketch.update(visitor),
        }
    }

    /// Adds all visitors of another.
    pub(crate) fn merge(&mut self, other: Self) {
        match (&mut self.0, other.0) {
            (Kept::Sketched(one), Kept::Sketched(other)) => **one = union([&**one, &*other]),
            (Kept::Exact(_), Kept::Sketched(sketch)) => {
                let Kept::Exact(visitors) = std::mem::replace(&mut self.0, Kept::Sketched(sketch))
                else {
                    return;
                };
                visitors.into_iter().for_each(|visitor| self.add(visitor));
            }
            (_, Kept::Exact(visitors)) => {
                visitors.into_iter().for_each(|visitor| self.add(visitor))
            }
        }
    }

    /// How many there are.
    pub(crate) fn estimate(&self) -> Estimate {
        match &self.0 {
            Kept::Exact(visitors) => {
                let uniques = visitors.len() as u64;
                Estimate { uniques, exact: true, std_error: 0.0, low: uniques, high: uniques }
            }
            Kept::Sketched(sketch) => {
                let merged = union([&**sketch]);
                let bounds =
                    [merged.lower_bound(NumStdDev::Two), merged.upper_bound(NumStdDev::Two)];
                let [low, high] = bounds.map(whole);
                let uniques = whole(merged.estimate());
                Estimate { uniques, exact: false, std_error: STD_ERROR, low, high }
            }
        }
    }

    /// Forgets who they are, and keeps a sketch.
    #[cold]
    fn sketch(&mut self) {
        if let Kept::Exact(visitors) = &self.0 {
            let mut sketch = Box::new(empty());
            visitors.iter().for_each(|visitor| sketch.update(*visitor));
            self.0 = Kept::Sketched(sketch);
        }
    }
}

fn empty() -> CpcSketch {
    CpcSketch::new(LG_K).expect("11 lies within the 4 to 26 that a sketch may have")
}

fn union<'a>(sketches: impl IntoIterator<Item = &'a CpcSketch>) -> CpcSketch {
    let mut union = CpcUnion::new(LG_K).expect("11 lies within the 4 to 26 that a union may have");
    for sketch in sketches {
        union.update(sketch).expect("all sketches here have one size and one seed");
    }
    union.to_sketch()
}

/// The nearest whole number.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of visitors")]
fn whole(estimate: f64) -> u64 {
    estimate.round() as u64
}

#[cfg(test)]
mod tests;
