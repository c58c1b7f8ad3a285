//! Names that people choose, and the sixteen bytes that stand for them where events are counted.
//!
//! Ads, campaigns, advertisers, publishers and placements have the names that their owners give
//! them: up to [`NAME_BYTES_MAX`] bytes of printable UTF-8 ([`Name`], [`NameBuf`]). Counting needs
//! something that is `Copy` and of one size ([`Id`]). A name of up to [`ID_BYTES_MAX`] characters
//! of `[A-Za-z0-9_-]` is its own id. Any other has a digest for its id, with the first bit set,
//! which no such character has. Since a digest does not tell the name, the text goes along in the
//! token, and once in each message.
//!
//! Edges and issuers stand in paths, subjects and headers, so their names must be their own ids.

use std::fmt;
use std::hash::Hash;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::text::hex;

/// Bytes of an [`Id`], and the longest name that is its own id.
pub const ID_BYTES_MAX: usize = 16;
/// The longest name, in bytes of UTF-8.
pub const NAME_BYTES_MAX: usize = 128;

/// Set in the first byte of a digest.
const DIGEST: u8 = 0x80;

/// What an id or a name is of. There is a type for each, so that the id of an ad is never taken for
/// that of a publisher.
pub trait Noun: Copy + Eq + Ord + Hash + fmt::Debug + Default + Send + Sync + 'static {
    /// The noun with its article, for messages.
    const NOUN: &'static str;
    /// Whether its names may have digests for their ids.
    const MAY_BE_LONG: bool;
}

/// A noun whose names may be any printable text.
pub trait Named: Noun {}

/// A noun whose names have 1–16 characters of `[A-Za-z0-9_-]`, and so are their own ids.
pub trait Short: Noun {}

macro_rules! nouns {
    (@ Named) => { true };
    (@ Short) => { false };
    ($($(#[$doc:meta])* $noun:ident: $of:ident, $text:literal, $id:ident $(, $name:ident)?;)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
        pub struct $noun;

        impl Noun for $noun {
            const NOUN: &'static str = $text;
            const MAY_BE_LONG: bool = nouns!(@ $of);
        }
        impl $of for $noun {}

        #[doc = concat!("The id of ", $text, ".")]
        pub type $id = Id<$noun>;

        $(
            #[doc = concat!("The name of ", $text, ".")]
            pub type $name = NameBuf<$noun>;
        )?
    )+};
}

nouns! {
    /// A creative in a campaign.
    Ad: Named, "an ad", AdId, AdName;
    /// Ads that an advertiser pays for together.
    Campaign: Named, "a campaign", CampaignId, CampaignName;
    /// A party that pays for ads.
    Advertiser: Named, "an advertiser", AdvertiserId, AdvertiserName;
    /// A party on whose pages ads are shown.
    Publisher: Named, "a publisher", PublisherId, PublisherName;
    /// A place on a publisher's pages where ads are shown.
    Placement: Named, "a placement", PlacementId, PlacementName;
    /// Any of these.
    Any: Named, "a name", AnyId;
    /// A process that serves visitors, or a shard of one.
    Edge: Short, "an edge", EdgeId;
    /// A party that signs tokens.
    Issuer: Short, "an issuer", IssuerId;
}

/// Sixteen bytes that stand for a name: itself, zero-padded, or its digest. It is `Copy`, hashes as
/// one `u128`, and names that are their own ids sort bytewise. [`Id::NONE`] (no bytes) stands for
/// "there is none" on the wire; no name has it.
///
/// Of what a thing is an id is in the type: two that change places do not compile.
/// ```compile_fail,E0308
/// # use shared::{AdId, PublisherId};
/// fn spend(_ad: AdId, _publisher: PublisherId) {}
/// spend(PublisherId::literal("news"), AdId::literal("shoes-1"));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Id<T>([u8; ID_BYTES_MAX], PhantomData<T>);

/// Why a text is no [`Id`] of an edge or an issuer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an id has 1 to 16 characters of A-Z a-z 0-9 _ -, and {0:?} is not one")]
pub struct IdError(pub String);

impl<T> Id<T> {
    /// No id.
    pub const NONE: Self = Self([0; ID_BYTES_MAX], PhantomData);

    /// An id that is known when the program is written. In a constant, a wrong one does not
    /// compile; elsewhere it panics.
    #[must_use]
    pub const fn literal(text: &str) -> Self {
        match padded(text.as_bytes()) {
            Some(padded) => Self(padded, PhantomData),
            None => panic!("an id has 1 to 16 characters of A-Z a-z 0-9 _ -"),
        }
    }

    /// The sixteen bytes.
    #[must_use]
    pub const fn padded(&self) -> &[u8; ID_BYTES_MAX] {
        &self.0
    }

    /// True for [`Id::NONE`].
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.0 == [0; ID_BYTES_MAX]
    }

    /// Whether it is a digest: then its name has to be looked up elsewhere.
    #[must_use]
    pub const fn is_digest(&self) -> bool {
        self.0[0] & DIGEST != 0
    }

    /// The name that this id is itself, empty for [`Id::NONE`]; `None` when it is a digest.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        let length = self.0.iter().position(|b| *b == 0).unwrap_or(ID_BYTES_MAX);
        std::str::from_utf8(&self.0[..length]).ok().filter(|_| !self.is_digest())
    }
}

impl<T: Noun> Id<T> {
    /// Reads sixteen bytes; all zeros is [`Id::NONE`].
    ///
    /// # Errors
    /// [`IdError`] when they are no digest, and a byte is not allowed or follows the padding.
    pub fn from_padded(padded: [u8; ID_BYTES_MAX]) -> Result<Self, IdError> {
        if T::MAY_BE_LONG && padded[0] & DIGEST != 0 {
            return Ok(Self(padded, PhantomData));
        }
        // All bytes at once, without a branch for each: readers of messages spend much of their
        // time here.
        let padding = u128::from_le_bytes(padded).leading_zeros() as usize / 8;
        let length = ID_BYTES_MAX - padding;
        let fits = |(at, byte): (usize, &u8)| ALLOWED[usize::from(*byte)] | (at >= length);
        if padded.iter().enumerate().map(fits).fold(true, |all, fits| all & fits) {
            return Ok(Self(padded, PhantomData));
        }
        Err(IdError(String::from_utf8_lossy(&padded).into_owned()))
    }
}

impl<T: Named> Id<T> {
    /// The same id, of any noun.
    #[must_use]
    pub const fn any(self) -> AnyId {
        Id(self.0, PhantomData)
    }
}

impl<T: Named> Id<T> {
    /// The name that this id is itself; `None` when it is a digest.
    #[must_use]
    pub fn own_name(&self) -> Option<NameBuf<T>> {
        self.text().map(|text| NameBuf(text.into(), PhantomData))
    }
}

impl AnyId {
    /// The id as one of a certain noun. Nothing is checked: the caller knows what it is of.
    #[must_use]
    pub const fn cast<T: Named>(self) -> Id<T> {
        Id(self.0, PhantomData)
    }
}

impl<T: Short> Id<T> {
    /// Reads 1–16 allowed bytes.
    ///
    /// # Errors
    /// [`IdError`] when there are none, too many, or others.
    pub fn new(bytes: &[u8]) -> Result<Self, IdError> {
        let shown = || String::from_utf8_lossy(&bytes[..bytes.len().min(64)]).into_owned();
        padded(bytes).map(|padded| Self(padded, PhantomData)).ok_or_else(|| IdError(shown()))
    }

    /// The text; empty for [`Id::NONE`].
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.text().expect("every constructor of a short id allows ASCII only")
    }
}

const fn padded(bytes: &[u8]) -> Option<[u8; ID_BYTES_MAX]> {
    if bytes.is_empty() || bytes.len() > ID_BYTES_MAX {
        return None;
    }
    let mut padded = [0; ID_BYTES_MAX];
    let mut at = 0;
    while at < bytes.len() {
        if !ALLOWED[bytes[at] as usize] {
            return None;
        }
        padded[at] = bytes[at];
        at += 1;
    }
    Some(padded)
}

const ALLOWED: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        byte += 1;
    }
    table
};

impl<T: Short> FromStr for Id<T> {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::new(text.as_bytes())
    }
}

impl<T: Short> fmt::Display for Id<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl<T: Short> Serialize for Id<T> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de, T: Short> Deserialize<'de> for Id<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl<T> fmt::Debug for Id<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.text() {
            Some(text) => write!(f, "{text:?}"),
            None => write!(f, "digest {}", hex(&self.0)),
        }
    }
}

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// There is nothing.
    #[error("a name has at least one character")]
    Empty,
    /// More than [`NAME_BYTES_MAX`] bytes.
    #[error("a name has at most {NAME_BYTES_MAX} bytes of UTF-8, and {0:?} has {1}")]
    TooLong(String, usize),
    /// A character that is not visible, or that changes the direction of others.
    #[error("a name has only characters that can be seen, and {0:?} has U+{code:04X}", code = u32::from(*.1))]
    Unseen(String, char),
    /// White space at the beginning or the end, where nobody sees it.
    #[error("a name neither begins nor ends with a space, and {0:?} does")]
    Space(String),
    /// `.` or `..`, which browsers and HTTP clients take out of a path before they ask for it.
    #[error("a name is not {0:?}: in a URL that means a folder")]
    Dots(String),
}

/// A checked name, borrowed; empty for "there is none".
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Name<'a, T>(&'a str, PhantomData<T>);

impl<'a, T: Named> Name<'a, T> {
    /// No name.
    pub const NONE: Self = Self("", PhantomData);

    /// Checks a name. Nothing is normalised: two spellings are two names.
    ///
    /// # Errors
    /// [`NameError`] says which rule is broken.
    pub fn new(text: &'a str) -> Result<Self, NameError> {
        check(text).map(|()| Self(text, PhantomData))
    }

    /// A name that is known when the program is written, and is its own id. In a constant, a wrong
    /// one does not compile; elsewhere it panics.
    #[must_use]
    pub const fn literal(text: &'a str) -> Self {
        assert!(padded(text.as_bytes()).is_some(), "1 to 16 characters of A-Z a-z 0-9 _ -");
        Self(text, PhantomData)
    }

    /// A name from a text that was checked before, or is that of an id.
    pub(crate) const fn from_checked(text: &'a str) -> Self {
        Self(text, PhantomData)
    }

    /// The id of this name.
    #[must_use]
    pub fn id(self) -> Id<T> {
        Id(bytes_of(self.0), PhantomData)
    }

    /// Whether its id is a digest.
    #[must_use]
    pub const fn is_long(self) -> bool {
        !self.is_none() && !is_own_id(self.0)
    }

    /// The text; empty for [`Name::NONE`].
    #[must_use]
    pub const fn as_str(self) -> &'a str {
        self.0
    }

    /// True for [`Name::NONE`].
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0.is_empty()
    }

    /// An owned copy.
    #[must_use]
    pub fn to_buf(self) -> NameBuf<T> {
        NameBuf(self.0.into(), PhantomData)
    }
}

impl<T> fmt::Display for Name<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0)
    }
}

impl<T> fmt::Debug for Name<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// Whether a name is its own id.
#[must_use]
pub const fn is_own_id(text: &str) -> bool {
    padded(text.as_bytes()).is_some()
}

/// The bytes of a name's id; zeros for the empty name. A function of its own, so that it is
/// compiled once and not for each noun.
fn bytes_of(name: &str) -> [u8; ID_BYTES_MAX] {
    match padded(name.as_bytes()) {
        Some(padded) => padded,
        None if name.is_empty() => [0; ID_BYTES_MAX],
        None => digest(name),
    }
}

/// Checks that a text is a name. A function of its own, so that it is compiled once and not for
/// each noun.
fn check(text: &str) -> Result<(), NameError> {
    if is_own_id(text) {
        return Ok(());
    }
    let beginning = || text.chars().take(64).collect::<String>();
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > NAME_BYTES_MAX {
        return Err(NameError::TooLong(beginning(), text.len()));
    }
    if let Some(unseen) = text.chars().find(|c| is_unseen(*c)) {
        return Err(NameError::Unseen(beginning(), unseen));
    }
    if text.trim().len() < text.len() {
        return Err(NameError::Space(beginning()));
    }
    if matches!(text, "." | "..") {
        return Err(NameError::Dots(beginning()));
    }
    // Joiners and selectors say how to draw the character before them.
    let is_drawn = |c: char| !matches!(c, '\u{200c}' | '\u{200d}' | '\u{fe00}'..='\u{fe0f}');
    match text.chars().next().filter(|_| !text.chars().any(is_drawn)) {
        Some(first) => Err(NameError::Unseen(beginning(), first)),
        None => Ok(()),
    }
}

fn digest(text: &str) -> [u8; ID_BYTES_MAX] {
    let mut id = [0; ID_BYTES_MAX];
    let mut hasher = blake3::Hasher::new_derive_key("countersign name v1");
    hasher.update(text.as_bytes()).finalize_xof().fill(&mut id);
    id[0] |= DIGEST;
    id
}

/// Control characters, those that Unicode lets programs ignore (Default_Ignorable_Code_Point) and
/// the blank of Braille: two names that differ only in such a character look the same. (The joiners
/// and the selectors of a form are allowed: Persian, Hindi and emoji are written with them.)
fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}')
        || matches!(c, '\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{200b}' | '\u{200e}' | '\u{200f}')
        || matches!(c, '\u{2800}' | '\u{3164}' | '\u{ffa0}' | '\u{1d173}'..='\u{1d17a}')
        || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
        || matches!(c, '\u{fff0}'..='\u{ffff}' | '\u{e0000}'..='\u{e0fff}')
}

/// A checked name, owned.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct NameBuf<T>(Box<str>, PhantomData<T>);

impl NameBuf<Any> {
    /// The name as one of a certain noun. Nothing is checked: the caller knows what it is of.
    #[must_use]
    pub fn cast<T: Named>(self) -> NameBuf<T> {
        NameBuf(self.0, PhantomData)
    }
}

impl<T: Named> NameBuf<T> {
    /// The same name, of any noun.
    #[must_use]
    pub fn any(self) -> NameBuf<Any> {
        NameBuf(self.0, PhantomData)
    }

    /// Borrows the name.
    #[must_use]
    pub fn name(&self) -> Name<'_, T> {
        Name(&self.0, PhantomData)
    }

    /// [`Name::id`].
    #[must_use]
    pub fn id(&self) -> Id<T> {
        self.name().id()
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True for [`Name::NONE`].
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T: Named> FromStr for NameBuf<T> {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Name::new(text).map(Name::to_buf)
    }
}

impl<T> fmt::Display for NameBuf<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl<T> fmt::Debug for NameBuf<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl<T> Serialize for NameBuf<T> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de, T: Named> Deserialize<'de> for NameBuf<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl<T> PartialEq<str> for NameBuf<T> {
    fn eq(&self, text: &str) -> bool {
        *self.0 == *text
    }
}

impl<T> Serialize for Name<'_, T> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.0)
    }
}

/// A type that can be made from a text that is known when the program is written.
pub trait Literal {
    /// Makes it, or panics.
    fn from_literal(text: &'static str) -> Self;
}

impl<T> Literal for Id<T> {
    fn from_literal(text: &'static str) -> Self {
        Self::literal(text)
    }
}

impl<T: Named> Literal for Name<'static, T> {
    fn from_literal(text: &'static str) -> Self {
        Self::new(text).unwrap_or_else(|error| panic!("{text:?}: {error}"))
    }
}

impl<T: Named> Literal for NameBuf<T> {
    fn from_literal(text: &'static str) -> Self {
        Name::from_literal(text).to_buf()
    }
}

/// The id or name from a text that is known when the program is written.
///
/// # Panics
/// When the text is no such id or name.
#[must_use]
pub fn literal<T: Literal>(text: &'static str) -> T {
    T::from_literal(text)
}
