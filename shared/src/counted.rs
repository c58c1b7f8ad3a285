//! What is counted, and by which dimensions. All of that stands in one list; the packed key of a
//! cell, the row of a message, the rows of the store, exports, the columns of the archive and the
//! recount are made from it.
//!
//! A *measure* is a number that adds up: the events of a [`Kind`], or an amount ([`Amount`]). A
//! *dimension* tells counts apart: a name, or a code of a few bits. A room that needs something of each
//! dimension hands a macro of its own to [`dimensions!`](crate::dimensions).

use crate::event::{Country, Device, Kind, words};
use crate::name::{AnyId, Id};
use crate::text::serde_as_text;
use std::fmt;
use std::str::FromStr;

/// The list of dimensions. Hands it to the macro that is given.
///
/// A name is a number in a message and in memory, and an id in the store. A code has the number of
/// bits that stands behind it in the packed form ([`Codes::pack`]), which is in messages and
/// stores. So a code that is there keeps its place and its bits, and a new one goes *before* the
/// others: older packed forms have zeros there, and the code 0 must say that nothing is known.
#[macro_export]
macro_rules! dimensions {
    ($then:ident) => {
        $then! {
            names {
                /// The ad.
                ad: $crate::name::Ad,
                /// The publisher; none of links without one.
                publisher: $crate::name::Publisher,
            }
            codes {
                /// The country.
                country: $crate::event::Country, 10,
                /// The class of device.
                device: $crate::event::Device, 3,
            }
        }
    };
}

words! {
    /// An amount of money that is added up by currency beside the events of a cell. The codes are
    /// in stores, and below 0x41, the first byte that a currency can have.
    Amount, "amount" {
        /// What the valid impressions cost.
        Spend = 0 "spend",
    }
}

/// A value of a few bits.
pub trait Code: Copy + Default + Sized {
    /// All codes are below this.
    const CODES: u32;

    /// The code.
    fn code(self) -> u32;

    /// The value of a code.
    fn from_code(code: u32) -> Option<Self>;
}

macro_rules! code_of_words {
    ($($words:ident)+) => {$(
        impl Code for $words {
            const CODES: u32 = $words::CODES;
            #[inline]
            fn code(self) -> u32 {
                u32::from($words::code(self))
            }
            #[inline]
            fn from_code(code: u32) -> Option<Self> {
                u8::try_from(code).ok().and_then($words::from_code)
            }
        }
    )+};
}

code_of_words!(Device);

impl Code for Country {
    const CODES: u32 = 26 * 26;
    #[inline]
    fn code(self) -> u32 {
        u32::from(self.index())
    }
    #[inline]
    fn from_code(code: u32) -> Option<Self> {
        u16::try_from(code).ok().and_then(Self::from_index)
    }
}

/// Bits of the kind in the packed form, behind all codes. There is room for more kinds, such as
/// `conversion` and `billed`.
const KIND_BITS: u32 = 3;

macro_rules! define {
    (
        names { $($(#[$name_doc:meta])* $name:ident: $noun:ty,)+ }
        codes { $($(#[$code_doc:meta])* $code:ident: $type:ty, $bits:literal,)+ }
    ) => {
        /// What an edge knows of the visitor whose event it is, in codes.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        pub struct Codes {
            $($(#[$code_doc])* pub $code: $type,)+
        }

        /// What tells one cell of a minute from another.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct Dimensions {
            $($(#[$name_doc])* pub $name: Id<$noun>,)+
            $($(#[$code_doc])* pub $code: $type,)+
            /// What happened.
            pub kind: Kind,
            /// Whether it counts for money: it has no verdict.
            pub valid: bool,
        }

        /// The index of each code in the list.
        #[expect(non_camel_case_types, reason = "they are named as the list names them")]
        enum CodeIndex { $($code,)+ }

        const WIDTHS: [u32; Codes::NAMES.len()] = [$($bits,)+];

        // The bits of a code hold all its values, and the packed form all codes.
        const _: () = {
            $(assert!(<$type as Code>::CODES <= 1 << $bits, "this code needs more bits");)+
        };

        impl Codes {
            /// What they are called.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($code),)+];

            /// The codes behind one another in one number, the first in the highest bits, so that
            /// the numbers sort as the codes do.
            #[inline]
            #[must_use]
            pub fn pack(self) -> u32 {
                $(Code::code(self.$code) << bits_behind(CodeIndex::$code as usize))|+
            }

            /// The inverse of [`Codes::pack`]; `None` when a code has no value, or a bit is set
            /// that belongs to no code.
            #[inline]
            #[must_use]
            pub fn unpack(packed: u32) -> Option<Self> {
                let codes = Self {
                    $($code: <$type as Code>::from_code(part(packed, CodeIndex::$code as usize))?,)+
                };
                (packed >> Self::BITS == 0).then_some(codes)
            }

            /// Every code at its `n`th value, counted on from the first one after the last: for
            /// tests, whose events then say something of each code in the list.
            #[must_use]
            pub fn nth(n: u32) -> Self {
                Self {
                    $($code: <$type as Code>::from_code(n % <$type as Code>::CODES)
                        .unwrap_or_default(),)+
                }
            }

            /// Their texts, in order.
            #[must_use]
            pub fn texts(&self) -> [String; Self::NAMES.len()] {
                [$(self.$code.to_string(),)+]
            }
        }

        impl Dimensions {
            /// What the names are called.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($name),)+];

            /// The ids of the names, in order.
            #[inline]
            #[must_use]
            pub const fn names(&self) -> [AnyId; Self::NAMES.len()] {
                [$(self.$name.any(),)+]
            }

            /// The codes.
            #[inline]
            #[must_use]
            pub const fn codes(&self) -> Codes {
                Codes { $($code: self.$code,)+ }
            }

            /// The codes, kind and validity.
            #[inline]
            #[must_use]
            pub fn packed(&self) -> Packed {
                Packed::new(self.codes().pack(), self.kind, self.valid)
            }

            /// The dimensions with these names, in the order of [`Self::NAMES`], codes, kind and
            /// validity.
            #[inline]
            #[must_use]
            pub const fn new(
                names: [AnyId; Self::NAMES.len()],
                codes: Codes,
                kind: Kind,
                valid: bool,
            ) -> Self {
                let [$($name,)+] = names;
                Self { $($name: $name.cast(),)+ $($code: codes.$code,)+ kind, valid }
            }
        }
    };
}

dimensions!(define);

impl Codes {
    /// A country and a class of device. All other codes say that nothing is known.
    #[must_use]
    pub fn new(country: Country, device: Device) -> Self {
        let mut codes = Self::default();
        (codes.country, codes.device) = (country, device);
        codes
    }

    /// Bits of the packed form.
    pub const BITS: u32 = bits_behind(0) + WIDTHS[0];
}

/// All but the names of a cell, as one number in the order of [`Dimensions`]: codes, kind (3 bits),
/// valid (1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Packed(u32);

const _: () = {
    assert!(Kind::CODES <= 1 << KIND_BITS, "the kind needs more bits");
    assert!(Packed::BITS < u32::BITS, "the codes need a larger packed form");
};

impl Packed {
    /// Bits that are used.
    pub const BITS: u32 = Codes::BITS + KIND_BITS + 1;

    /// Codes in their [packed form](Codes::pack), kind and validity.
    #[inline]
    #[must_use]
    pub const fn new(codes: u32, kind: Kind, valid: bool) -> Self {
        Self((codes << KIND_BITS | kind.code() as u32) << 1 | valid as u32)
    }

    /// Kind and validity alone, from the lowest bits of a number.
    #[inline]
    #[must_use]
    pub const fn from_outcome(number: u32) -> Self {
        Self(Self(number).outcome())
    }

    /// A number that [`Packed::read`] has read.
    #[inline]
    #[must_use]
    pub(crate) const fn checked(number: u32) -> Self {
        Self(number)
    }

    /// The number.
    #[inline]
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// Reads the number; `None` when one of the codes has no value.
    #[inline]
    #[must_use]
    pub fn read(number: u32) -> Option<(Codes, Kind, bool)> {
        let codes = Codes::unpack(number >> (KIND_BITS + 1))?;
        Some((codes, Self(number).kind_of()?, number & 1 == 1))
    }

    /// What happened.
    #[inline]
    #[must_use]
    pub fn kind(self) -> Kind {
        self.kind_of().unwrap_or(Kind::Served)
    }

    #[inline]
    fn kind_of(self) -> Option<Kind> {
        u8::try_from(self.0 >> 1 & ((1 << KIND_BITS) - 1)).ok().and_then(Kind::from_code)
    }

    /// Whether it has no verdict.
    #[inline]
    #[must_use]
    pub const fn is_valid(self) -> bool {
        self.0 & 1 == 1
    }

    /// Kind and validity alone, as a number of so many [bits](Packed::OUTCOME_BITS).
    #[inline]
    #[must_use]
    pub const fn outcome(self) -> u32 {
        self.0 & ((1 << Self::OUTCOME_BITS) - 1)
    }

    /// Bits of kind and validity.
    pub const OUTCOME_BITS: u32 = KIND_BITS + 1;
}

/// How many bits the codes behind this one have together.
const fn bits_behind(mut index: usize) -> u32 {
    let mut bits = 0;
    while index + 1 < WIDTHS.len() {
        index += 1;
        bits += WIDTHS[index];
    }
    bits
}

/// One code of the packed form.
#[inline]
const fn part(packed: u32, index: usize) -> u32 {
    packed >> bits_behind(index) & ((1 << WIDTHS[index]) - 1)
}
