//! The impression token: what an edge signs when it serves an ad, and what comes back with every
//! event of that impression.
//!
//! Version 1, all numbers big endian:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version, 1; 128 more ([`TEST_MARK`]) in the token of a test, 64 more ([`QUERY_MARK`]) when a click's own query is passed on |
//! | 4 | deployment |
//! | 4 | key id |
//! | 12 | impression id: block 10, sequence 2 |
//! | 6 | issued at, ms since 1970 |
//! | 3 | impression expiry, seconds after issue (viewable too) |
//! | 3 | click expiry, seconds after issue |
//! | 11 | clearing price with currency, covered ([`PriceKey`](crate::keys::PriceKey)) |
//! | 8 | fingerprint of the visitor, 0 without consent |
//! | 5 × (1 + n) | ad, campaign, advertiser, publisher, placement: length 1–128, name |
//! | 2 + n | landing URL: length, bytes |
//! | 64 | Ed25519 signature (RFC 8032) over the domain string and all before it |
//! | 16 | keyed BLAKE3 tag over the domain string and all before it |
//!
//! The text form is base64url without padding (RFC 4648 §5). Only the canonical spelling is read.

mod layout;
mod seal;

pub use crate::keys::Signer;
pub use seal::{SIGNATURE_BYTES, TAG_BYTES, Unsealed, Unverified, sign, tag};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::event::{Fingerprint, Kind, Reason};
use crate::id::ImpressionId;
use crate::keys::{DeploymentId, KeyId};
use crate::limits::{BLOCK_LIFE_MS, CLOCK_AHEAD_MS_MAX, TOKEN_CHARS_MAX, TOKEN_LIFE_MS_MAX};
use crate::name::{Ad, Advertiser, Campaign, Name, Placement, Publisher};
use crate::time::Timestamp;

/// The version that this build writes, and the only one so far.
pub const VERSION: u8 = 1;
/// Added to the version of a token that was asked for as a test: its events are never counted. A
/// reader that does not know the mark refuses the version, and so does not count either.
pub const TEST_MARK: u8 = 0x80;
/// Added to the version of a token when the query of its click is passed on to the landing page.
pub const QUERY_MARK: u8 = 0x40;
/// Schemes that no link may have: their addresses are code, or mean something on the visitor's own
/// machine or page.
const SCHEMES_REFUSED: [&str; 8] =
    ["about", "blob", "data", "file", "filesystem", "javascript", "vbscript", "view-source"];

/// The content of a token. [`Unverified`] gives it out only when a seal has proved that we made it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Token<'a> {
    /// Whether it was asked for as a test: then its events get [`Reason::Test`] instead of being
    /// counted.
    pub test: bool,
    /// Whether the query of a click is passed on to the landing page, as the ad asks for.
    pub pass_query: bool,
    /// Of which installation.
    pub deployment: DeploymentId,
    /// Signed with which key.
    pub key: KeyId,
    /// The impression.
    pub id: ImpressionId,
    /// When it was issued, in ms; at most 48 bits.
    pub issued_at: Timestamp,
    /// How many seconds after the issue its impression may come; at most 24 bits.
    pub impression_life_s: u32,
    /// How many seconds after the issue its click may come; at most 24 bits.
    pub click_life_s: u32,
    /// The clearing price, encrypted ([`PriceKey`](crate::keys::PriceKey)).
    pub price: [u8; 11],
    /// The visitor that it was given to; none without consent.
    pub visitor: Fingerprint,
    /// The ad shown.
    pub ad: Name<'a, Ad>,
    /// Its campaign.
    pub campaign: Name<'a, Campaign>,
    /// Its advertiser.
    pub advertiser: Name<'a, Advertiser>,
    /// The publisher that shows it.
    pub publisher: Name<'a, Publisher>,
    /// Where on the publisher's pages.
    pub placement: Name<'a, Placement>,
    /// Where a click leads, at most 2 048 bytes: see [`check_url`].
    pub url: &'a str,
}

impl<'a> Token<'a> {
    /// The texts of its names: ad, campaign, advertiser, publisher, placement.
    #[must_use]
    pub const fn names(&self) -> [&'a str; 5] {
        [
            self.ad.as_str(),
            self.campaign.as_str(),
            self.advertiser.as_str(),
            self.publisher.as_str(),
            self.placement.as_str(),
        ]
    }

    /// Checks that an edge of ours could have issued this token, whoever signed it: its lives are
    /// at most [`TOKEN_LIFE_MS_MAX`], and its block was open when it was issued, that is opened at
    /// most [`BLOCK_LIFE_MS`] before. There is a margin for the difference of clocks, and for the
    /// minute in which a block was opened.
    ///
    /// # Errors
    /// [`Reason::Malformed`].
    pub fn check_life(&self) -> Result<(), Reason> {
        let life_s = u64::from(self.impression_life_s.max(self.click_life_s));
        let opened = self.id.block.opened();
        let is_open = opened.start() <= self.issued_at.plus_ms(CLOCK_AHEAD_MS_MAX)
            && self.issued_at <= opened.end().plus_ms(BLOCK_LIFE_MS + CLOCK_AHEAD_MS_MAX);
        if life_s * 1000 <= TOKEN_LIFE_MS_MAX && is_open { Ok(()) } else { Err(Reason::Malformed) }
    }

    /// Checks that an event of this kind may come at `at` (the edge's receive time).
    ///
    /// # Errors
    /// [`Reason::Expired`], or [`Reason::NotYetValid`] when it comes before the issue by more than
    /// two edges' clocks may differ.
    pub fn check_time(&self, kind: Kind, at: Timestamp) -> Result<(), Reason> {
        let life_s = match kind {
            Kind::Served | Kind::Impression | Kind::Viewable => self.impression_life_s,
            Kind::Click => self.click_life_s,
        };
        if at.plus_ms(CLOCK_AHEAD_MS_MAX) < self.issued_at {
            return Err(Reason::NotYetValid);
        }
        if at > self.issued_at.plus_ms(u64::from(life_s) * 1000) {
            return Err(Reason::Expired);
        }
        Ok(())
    }
}

/// Reads the text form.
///
/// # Errors
/// [`Reason::Malformed`] when it is longer than a token can be, or not the canonical base64url of
/// its bytes.
pub fn from_text(text: &[u8]) -> Result<Vec<u8>, Reason> {
    if text.len() > TOKEN_CHARS_MAX {
        return Err(Reason::Malformed);
    }
    // This engine refuses padding and non-zero trailing bits: one spelling for each token.
    URL_SAFE_NO_PAD.decode(text).map_err(|_| Reason::Malformed)
}

/// Reads the text form at the end of a link, where letters, `-` or `_` may follow that do not
/// belong to it: a mail program takes `_https://…_` for the link. The token itself says where it
/// ends, and its seals tell whether it is whole.
///
/// # Errors
/// As [`from_text`].
pub fn from_link(text: &[u8]) -> Result<Vec<u8>, Reason> {
    let length = |bytes: &[u8]| Some(layout::length(bytes)? + SIGNATURE_BYTES + TAG_BYTES);
    let read = from_text(text);
    if read.as_ref().is_ok_and(|bytes| length(bytes).is_none_or(|length| length >= bytes.len())) {
        return read;
    }
    // The whole groups of four characters can be decoded, whatever follows them.
    let groups = text.len().min(TOKEN_CHARS_MAX) / 4 * 4;
    let head = URL_SAFE_NO_PAD.decode(&text[..groups]).unwrap_or_default();
    let chars = length(&head).map_or(text.len(), |length| (length * 4).div_ceil(3));
    text.get(..chars).map_or(read, from_text)
}

/// The text form: base64url without padding.
#[must_use]
pub fn to_text(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Checks that a landing page's URL may stand in a token. Which schemes besides http and https an
/// edge redirects to is a setting of its operator.
///
/// # Errors
/// Says what is wrong: too long, of no scheme or of one that nobody may use, http or https without
/// a host, with characters that have no place in a URL (RFC 3986 §2: they would have to be
/// percent-encoded).
pub fn check_url(url: &str) -> Result<(), String> {
    if url.len() > crate::limits::URL_BYTES_MAX {
        return Err(format!("a landing URL has at most 2048 bytes, and this has {}", url.len()));
    }
    let web = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    match (web, scheme_of(url)) {
        (Some(rest), _) => {
            let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
            if authority.is_empty() || authority.starts_with(':') || authority.contains('@') {
                return Err(format!(
                    "the landing URL {url:?} needs a host, and no user name before it"
                ));
            }
        }
        (None, Some(scheme)) if !matches!(scheme, "http" | "https") => {
            check_scheme(scheme).map_err(|why| format!("the landing URL {url:?}: {why}"))?;
        }
        _ => {
            return Err(format!(
                "a landing URL starts with https:// or http://, and not so {url:?}"
            ));
        }
    }
    let plain = |b: u8| {
        b.is_ascii_graphic()
            && !matches!(b, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}')
    };
    if let Some(bad) = url.bytes().find(|b| !plain(*b)) {
        return Err(format!("the landing URL {url:?} has the byte {bad:#04x}: percent-encode it"));
    }
    Ok(())
}

/// The scheme of a URL: what stands before its first colon, when something follows.
#[must_use]
pub fn scheme_of(url: &str) -> Option<&str> {
    url.split_once(':').filter(|(_, rest)| !rest.is_empty()).map(|(scheme, _)| scheme)
}

/// Checks that an operator may allow links with this scheme (RFC 3986 §3.1, in lower case).
///
/// # Errors
/// Says why not.
pub fn check_scheme(scheme: &str) -> Result<(), String> {
    let is_of_scheme =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.');
    if !scheme.starts_with(|c: char| c.is_ascii_lowercase()) || !scheme.bytes().all(is_of_scheme) {
        return Err(format!("{scheme:?} is no scheme: a-z, then a-z 0-9 + - ."));
    }
    match SCHEMES_REFUSED.contains(&scheme) {
        true => Err(format!("no link leads to {scheme}:")),
        false => Ok(()),
    }
}
