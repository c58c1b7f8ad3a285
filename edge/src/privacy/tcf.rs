//! Reads a TCF string (IAB Europe, "Transparency and Consent String with Global Vendor & CMP List
//! Formats", version 2). Of its core it needs the consents to purposes and to one vendor, and what
//! the publisher has forbidden that vendor. Legitimate interest is not enough here and is skipped.

use super::PrivacyPolicy;
use super::bits::Bits;

const VERSION: u32 = 2;
/// Bits between the version and the first purpose: two times (36 each), the platform and its
/// version (12 each), the screen (6), the language and the vendor list (12 each), the policy (6),
/// two flags, special features (12).
const BEFORE_PURPOSES: usize = 36 + 36 + 12 + 12 + 6 + 12 + 12 + 6 + 1 + 1 + 12;
/// Bits between the purposes and the vendors: purposes by legitimate interest (24), treatment of
/// purpose one (1), the publisher's country (12).
const BEFORE_VENDORS: usize = 24 + 1 + 12;
/// The restriction by which the vendor must have consent, which it asks for here anyway.
const REQUIRE_CONSENT: u32 = 1;

/// Whether the string allows what the policy asks for; `None` when it cannot be read.
pub(super) fn allows(text: &str, policy: &PrivacyPolicy) -> Option<bool> {
    // The other segments add nothing that is asked for here.
    let core = text.split('.').next()?;
    let mut bits = Bits::new(core);
    if bits.number(6)? != VERSION {
        return None;
    }
    bits.skip(BEFORE_PURPOSES)?;
    // The first bit is purpose 1.
    let consents = bits.number(24)?.reverse_bits() >> 8;
    let all = consents & policy.purposes == policy.purposes;
    bits.skip(BEFORE_VENDORS)?;
    let Some(vendor) = policy.vendor else { return Some(all) };
    let consented = has_vendor(&mut bits, vendor)?;
    // The vendors by legitimate interest, which are skipped.
    has_vendor(&mut bits, vendor)?;
    Some(all && consented && !is_restricted(&mut bits, vendor, policy.purposes)?)
}

/// Whether a set of vendors has this one. The set is a bit for each vendor, or a list of ranges.
fn has_vendor(bits: &mut Bits<'_>, vendor: u16) -> Option<bool> {
    let most = bits.number(16)?;
    if bits.bit()? {
        return in_ranges(bits, vendor);
    }
    let (vendor, most) = (usize::from(vendor), usize::try_from(most).ok()?);
    if vendor == 0 || vendor > most {
        bits.skip(most)?;
        return Some(false);
    }
    bits.skip(vendor - 1)?;
    let bit = bits.bit()?;
    bits.skip(most - vendor)?;
    Some(bit)
}

/// Whether one of a list of ranges has this vendor. Each range takes at least 17 bits, so the
/// length of the text bounds the loop.
fn in_ranges(bits: &mut Bits<'_>, vendor: u16) -> Option<bool> {
    let mut found = false;
    for _ in 0..bits.number(12)? {
        let is_range = bits.bit()?;
        let first = bits.number(16)?;
        let last = if is_range { bits.number(16)? } else { first };
        found |= (first..=last).contains(&u32::from(vendor));
    }
    Some(found)
}

/// Whether the publisher has restricted the vendor for one of the purposes, other than by asking
/// for consent.
fn is_restricted(bits: &mut Bits<'_>, vendor: u16, purposes: u32) -> Option<bool> {
    let mut restricted = false;
    for _ in 0..bits.number(12)? {
        let purpose = bits.number(6)?;
        let kind = bits.number(2)?;
        let of_vendor = in_ranges(bits, vendor)?;
        let is_asked = purpose >= 1 && purposes >> (purpose - 1).min(31) & 1 == 1;
        restricted |= is_asked && of_vendor && kind != REQUIRE_CONSENT;
    }
    Some(restricted)
}
