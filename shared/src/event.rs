//! What can happen to an impression, and what can become of the event that tells of it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::text::{hex_text, serde_as_text};

/// Defines an enum of words, each with a code (on the wire) and a name (in JSON and metrics).
/// Reading refuses everything else.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $what:literal { $($(#[$word_doc:meta])* $word:ident = $code:literal $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        #[repr(u8)]
        pub enum $name { $($(#[$word_doc])* $word = $code,)+ }

        impl $name {
            /// All of them, in the order of their codes.
            pub const ALL: &'static [Self] = &[$(Self::$word,)+];
            /// All codes are below this.
            pub const CODES: u32 = {
                let mut codes = 0;
                $(if codes <= $code { codes = $code + 1; })+
                codes
            };

            /// The code on the wire.
            #[must_use]
            pub const fn code(self) -> u8 { self as u8 }

            /// The word of a code.
            #[must_use]
            pub const fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$word),)+ _ => None }
            }

            /// The name in JSON and in metrics.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$word => $text,)+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.pad(self.name()) }
        }

        impl FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($text => Ok(Self::$word),)+
                    other => Err(format!(
                        "{:?} is no {}; there are: {}",
                        other.chars().take(32).collect::<String>(), $what,
                        Self::ALL.iter().map(|w| w.name()).collect::<Vec<_>>().join(", "),
                    )),
                }
            }
        }

        serde_as_text!($name);
    };
}

pub(crate) use words;

words! {
    /// What happened to an impression, in the order in which it does.
    Kind, "kind of event" {
        /// A token was issued.
        Served = 0 "served",
        /// The creative began to render (MRC: begin to render). The billable event.
        Impression = 1 "impression",
        /// It was viewable (MRC: 50 % of its pixels for one continuous second).
        Viewable = 2 "viewable",
        /// The visitor clicked it.
        Click = 3 "click",
    }
}

words! {
    /// Why an event that was received is not counted. Each received event is counted, is a
    /// duplicate, or has one of these reasons.
    Reason, "reason" {
        /// The token or the element could not be read: truncated, oversized, not canonical
        /// base64url, a field out of range.
        Malformed = 1 "malformed",
        /// The token has a version that this build does not know.
        UnknownVersion = 2 "unknown_version",
        /// The token is of another deployment.
        WrongDeployment = 3 "wrong_deployment",
        /// The token names a signing key that is not in the keyring.
        UnknownKey = 4 "unknown_key",
        /// The token's signing key was revoked.
        RevokedKey = 5 "revoked_key",
        /// The token's signing key was not in force when it was issued, or has been retired for
        /// longer than the horizon.
        RetiredKey = 6 "retired_key",
        /// The seal does not fit: a byte was altered, or it was never ours.
        BadSeal = 7 "bad_seal",
        /// Received after the token's expiry for this kind.
        Expired = 8 "expired",
        /// Received before the token was issued, by more than clocks may differ.
        NotYetValid = 9 "not_yet_valid",
        /// The signing key may not sign for this publisher.
        PublisherNotAllowed = 10 "publisher_not_allowed",
        /// The outbox was full; the redirect went out, the event was lost.
        OutboxFull = 11 "outbox_full",
        /// The edge's clock is further ahead of the collector's than it may be.
        ClockAhead = 12 "clock_ahead",
        /// The edge was taken out of service before this came.
        EdgeRetired = 13 "edge_retired",
        /// The impression's block is behind the horizon.
        TooLate = 14 "too_late",
        /// Asked for with HEAD, which never counts (IAB click measurement).
        HeadRequest = 15 "head_request",
        /// A prefetch or prerender (`Sec-Purpose`, `Purpose`), not a person's act.
        Prefetch = 16 "prefetch",
        /// Of a token that was issued as a test (`test=1`): it would have been counted.
        Test = 17 "test",
        /// A program by its own words: the user agent is that of a crawler, a link preview, a
        /// monitor or a library.
        Bot = 18 "bot",
        /// The user agent is empty, or is not like any browser's (MRC GIVT: non-browser agents).
        NonBrowser = 19 "non_browser",
        /// From a network of a data centre, where programs run and people do not browse (MRC GIVT:
        /// known data-centre traffic).
        DataCentre = 20 "data_centre",
        /// One of more clicks of one visitor in a short time than a person makes (MRC GIVT:
        /// activity-based filtration).
        TooManyClicks = 21 "too_many_clicks",
        /// A click sooner after the ad was given out than a person can see and click it.
        ClickTooSoon = 22 "click_too_soon",
        /// The token was signed by another issuer than the one whose edge reports it.
        ForeignIssuer = 23 "foreign_issuer",
        /// Its sender has used up what it may have kept: gaps, outboxes or blocks beyond what one
        /// sender may cost.
        OverQuota = 25 "over_quota",
        /// The edge has had the same event of the same token before, and knows that this is kept:
        /// it is not kept again.
        Repeated = 26 "repeated",
        /// The signing key may not sign for this advertiser, or not at this price.
        IssuerLimit = 27 "issuer_limit",
    }
}

/// The number of codes that a [`Reason`] may have: the length of a table indexed by them. There is
/// room for some more.
pub const REASON_CODES: usize = 29;

/// The edge's opinion of the request that brought an event: valid, or the reason it is not. Unlike
/// a rejected event it has its own dedup bit, so that a link preview's click never hides the
/// person's.
pub type Verdict = Option<Reason>;

/// What the collector found: `Ok` with the edge's verdict, or `Err` with why it may not be counted
/// at all.
pub type Outcome = Result<Verdict, Reason>;

/// The reasons that an edge may give as a verdict.
pub const VERDICTS: &[Reason] = &[
    Reason::HeadRequest,
    Reason::Prefetch,
    Reason::Bot,
    Reason::NonBrowser,
    Reason::DataCentre,
    Reason::TooManyClicks,
    Reason::ClickTooSoon,
];

words! {
    /// Which events a question is about: those that count, or those that were flagged (MRC: invalid
    /// traffic).
    Validity, "validity" {
        /// Without a verdict. What billing and budgets go by.
        Valid = 0 "valid",
        /// With a verdict: see [`VERDICTS`].
        Invalid = 1 "invalid",
        /// Both.
        All = 2 "all",
    }
}

impl Validity {
    /// Whether the question is about events of this validity.
    #[must_use]
    pub const fn takes(self, valid: bool) -> bool {
        match self {
            Self::Valid => valid,
            Self::Invalid => !valid,
            Self::All => true,
        }
    }
}

words! {
    /// The class of the visitor's device (AdCOM 1.0, List: Device Types, folded to four).
    #[derive(Default)]
    Device, "device" {
        /// It cannot be told.
        #[default]
        Unknown = 0 "unknown",
        /// A desktop or laptop computer.
        Desktop = 1 "desktop",
        /// A phone.
        Phone = 2 "phone",
        /// A tablet.
        Tablet = 3 "tablet",
        /// A television, console or set-top box.
        Tv = 4 "tv",
    }
}

/// An ISO 3166-1 alpha-2 code, two capital letters; `ZZ` when it is not known.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Country([u8; 2]);

impl Country {
    /// Not known.
    pub const UNKNOWN: Self = Self(*b"ZZ");

    /// Reads two capital letters.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 2]) -> Option<Self> {
        bytes.iter().all(u8::is_ascii_uppercase).then_some(Self(bytes))
    }

    /// Reads what a header or a log says: upper or lower case, `UK` for `GB`. Anything else is
    /// unknown, and so is `XX`, which Cloudflare says where it does not know.
    #[must_use]
    pub fn lenient(text: &str) -> Self {
        let bytes = <[u8; 2]>::try_from(text.trim().as_bytes()).ok();
        let code = bytes.and_then(|b| Self::from_bytes(b.map(|c| c.to_ascii_uppercase())));
        match code {
            Some(Self([b'U', b'K'])) => Self(*b"GB"),
            None | Some(Self([b'X', b'X'])) => Self::UNKNOWN,
            Some(code) => code,
        }
    }

    /// The two letters.
    #[must_use]
    pub const fn bytes(self) -> [u8; 2] {
        self.0
    }

    /// Below 676: the letters as a number to base 26.
    #[must_use]
    pub fn index(self) -> u16 {
        let [a, b] = self.0;
        u16::from(a - b'A') * 26 + u16::from(b - b'A')
    }

    /// The inverse of [`Country::index`].
    #[must_use]
    pub fn from_index(index: u16) -> Option<Self> {
        let letter = |n: u16| u8::try_from(n).ok().and_then(|n| b'A'.checked_add(n));
        (index < 676).then_some(Self([letter(index / 26)?, letter(index % 26)?]))
    }
}

impl Default for Country {
    fn default() -> Self {
        Self::UNKNOWN
    }
}

impl fmt::Display for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(std::str::from_utf8(&self.0).expect("two ASCII letters"))
    }
}

impl fmt::Debug for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A text that is no country.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a country has two capital letters (ISO 3166-1 alpha-2)")]
pub struct CountryError;

impl FromStr for Country {
    type Err = CountryError;
    fn from_str(text: &str) -> Result<Self, CountryError> {
        let bytes = <[u8; 2]>::try_from(text.as_bytes()).ok();
        bytes.and_then(Self::from_bytes).ok_or(CountryError)
    }
}

serde_as_text!(Country);

/// The part of a country (ISO 3166-2), without the country's own letters: up to three letters and
/// digits, zero-padded; none when it is not known.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Region([u8; 3]);

impl Region {
    /// Not known.
    pub const UNKNOWN: Self = Self([0; 3]);

    /// Reads the three bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 3]) -> Option<Self> {
        let length = bytes.iter().position(|b| *b == 0).unwrap_or(3);
        let (code, padding) = bytes.split_at(length);
        let is_code = |b: &u8| b.is_ascii_uppercase() || b.is_ascii_digit();
        (code.iter().all(is_code) && padding.iter().all(|b| *b == 0)).then_some(Self(bytes))
    }

    /// The three bytes.
    #[must_use]
    pub const fn bytes(self) -> [u8; 3] {
        self.0
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = self.0.iter().position(|b| *b == 0).unwrap_or(3);
        f.pad(std::str::from_utf8(&self.0[..length]).unwrap_or_default())
    }
}

/// A text that is no region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a region has one to three capital letters or digits (ISO 3166-2, behind the country's)")]
pub struct RegionError;

impl FromStr for Region {
    type Err = RegionError;
    fn from_str(text: &str) -> Result<Self, RegionError> {
        let mut bytes = [0; 3];
        let place = bytes.get_mut(..text.len()).filter(|place| !place.is_empty());
        place.ok_or(RegionError)?.copy_from_slice(text.as_bytes());
        Self::from_bytes(bytes).filter(|region| *region != Self::UNKNOWN).ok_or(RegionError)
    }
}

serde_as_text!(Region);

/// The network that a request came from, never the whole address: an IPv4 /24 or an IPv6 /48. The
/// first byte is 4 or 6, and the prefix follows, zero-padded to six bytes; or the first byte is
/// [`Network::HASHED`], and six bytes of a keyed hash follow
/// ([`crate::keys::VisitorKey::of_address`]). All zeros when the network is not known or not kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Network(pub [u8; 7]);

impl Network {
    /// The first byte of a network that is a hash.
    pub const HASHED: u8 = 1;

    /// The network of an address. An IPv4 address inside IPv6 (`::ffff:…`) is IPv4.
    #[must_use]
    pub fn from_address(address: IpAddr) -> Self {
        let mut bytes = [0; 7];
        match address.to_canonical() {
            IpAddr::V4(v4) => {
                bytes[0] = 4;
                bytes[1..4].copy_from_slice(&v4.octets()[..3]);
            }
            IpAddr::V6(v6) => {
                bytes[0] = 6;
                bytes[1..7].copy_from_slice(&v6.octets()[..6]);
            }
        }
        Self(bytes)
    }

    /// Whether the bytes have one of the forms above. Logs of earlier builds may hold others.
    #[must_use]
    pub fn is_canonical(self) -> bool {
        match self.0 {
            [4, _, _, _, 0, 0, 0] | [6 | Self::HASHED, ..] => true,
            bytes => bytes == [0; 7],
        }
    }
}

hex_text!(Network, 7, std::convert::identity, std::convert::identity);

/// Eight bytes that tell one visitor's requests of a day from another's (a keyed hash of network
/// and browser); zero without consent, and then nothing is compared or kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Fingerprint(pub u64);

hex_text!(Fingerprint, 8, u64::to_be_bytes, u64::from_be_bytes);

impl Fingerprint {
    /// No consent, nothing kept.
    pub const NONE: Self = Self(0);
}

/// The rules by which an edge gave its verdicts: four bytes of a hash of everything that verdicts
/// depend on, so that two edges with the same lists, thresholds and program have the same number.
/// Zero when it is not known (an edge of a third party, an imported log, an older build).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct RuleSet(pub u32);

hex_text!(RuleSet, 4, u32::to_be_bytes, u32::from_be_bytes);

impl RuleSet {
    /// Not known.
    pub const UNKNOWN: Self = Self(0);
}

/// A page view: one visit of a page, named by a random number that the page itself chooses and the
/// browser does not store.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct PageView(pub u64);

hex_text!(PageView, 8, u64::to_be_bytes, u64::from_be_bytes);

/// The page view that an event came from, and how many events it had made by then. So the number of
/// events that were sent can be compared with that of the events that were counted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PageSeq {
    /// Which page view.
    pub page: PageView,
    /// How many events it had made: from 1 to [`crate::limits::PAGE_SEQ_MAX`].
    pub seq: u16,
}

impl PageSeq {
    /// Whether the number is one that a page may give.
    #[must_use]
    pub fn is_good(&self) -> bool {
        (1..=crate::limits::PAGE_SEQ_MAX).contains(&self.seq)
    }
}

/// Remarks on an event that change no count.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Flags(pub u8);

impl Flags {
    /// The token was given to another visitor (another fingerprint, both known).
    pub const OTHER_VISITOR: u8 = 1;
    /// A mail program, or the image proxy of a mail service, asked for the picture: a person opened
    /// the mail, and nothing is known of who and where it is.
    pub const PROXIED: u8 = 2;
    /// All flags that have a meaning. A wire form with others is refused.
    pub const KNOWN: u8 = Self::OTHER_VISITOR | Self::PROXIED;
}
