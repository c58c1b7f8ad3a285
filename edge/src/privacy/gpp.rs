//! Reads a GPP string (IAB Tech Lab, Global Privacy Platform, version 1): a header that lists
//! sections, then the sections. Three sorts are understood: the European TCF (2), the old US
//! privacy string (6), and the sections of the USA and its states (7 to 23). Any other section that
//! applies forbids.

use super::bits::Bits;
use super::{PrivacyPolicy, Signals, tcf};

/// The header's type and its version.
const HEADER: u32 = 3;
const VERSION: u32 = 1;
/// The highest section number that is read: more than the lists of IAB Tech Lab may ever need.
const SECTION_MAX: u32 = 4_095;

const TCF_EU: u32 = 2;
const US_PRIVACY: u32 = 6;

/// The positions of the opt-outs in the core of a US section, in bits; each has two bits. They are
/// opt-outs from sale, from sharing, and from targeted advertising, as far as the law of the
/// section has them.
const fn opt_outs(section: u32) -> Option<&'static [usize]> {
    match section {
        // The USA.
        7 => Some(&[18, 20, 22]),
        // Virginia, Colorado, Connecticut, Florida, Montana, Oregon, Texas, Delaware, Nebraska, New
        // Hampshire, New Jersey, Tennessee, Minnesota; and California, whose second opt-out is from
        // sharing.
        8..=10 | 12..=17 | 19..=23 => Some(&[12, 14]),
        // Utah and Iowa.
        11 | 18 => Some(&[14, 16]),
        _ => None,
    }
}

/// Whether all sections that apply allow it; `None` when none of them says anything.
pub(super) fn allows(signals: &Signals<'_>, policy: &PrivacyPolicy) -> Option<bool> {
    // What cannot be read forbids.
    said(signals, policy).unwrap_or(Some(false))
}

/// The outer `None`: the string cannot be read. The inner one: no section says anything.
fn said(signals: &Signals<'_>, policy: &PrivacyPolicy) -> Option<Option<bool>> {
    let (header, sections) = signals.gpp.split_once('~').unwrap_or((signals.gpp, ""));
    let mut bits = Bits::new(header);
    if bits.number(6)? != HEADER || bits.number(6)? != VERSION {
        return None;
    }
    let applying = applying(signals.gpp_sid)?;
    let applies = |number| {
        applying.is_none_or(|bits| bits.checked_shr(number).is_some_and(|bits| bits & 1 == 1))
    };
    let mut sections = sections.split('~').filter(|section| !section.is_empty());
    let mut said = None;
    let mut last = 0;
    // Section numbers only grow and are bounded, so this ends whatever the header says. One section
    // that forbids outweighs all that allow.
    for _ in 0..bits.number(12)? {
        let is_range = bits.bit()?;
        let first = last + fibonacci(&mut bits)?;
        last = if is_range { first + fibonacci(&mut bits)? } else { first };
        if last > SECTION_MAX {
            return None;
        }
        for number in first..=last {
            let section = sections.next()?;
            if !applies(number) {
                continue;
            }
            let allowed = match number {
                TCF_EU => Some(tcf::allows(section, policy)?),
                US_PRIVACY => us_privacy(section)?,
                _ => us(section, opt_outs(number)?)?,
            };
            said = match (said, allowed) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (a, b) => a.or(b),
            };
        }
    }
    // More sections than the header lists: nobody can tell which section is which.
    sections.next().is_none().then_some(said)
}

/// The sections that apply, one bit each. The inner `None`: all of them, because nothing is said,
/// or 0 (not known yet). No bit: `-1` says that none applies (IAB Tech Lab, GPP, "applicable
/// sections"). The outer `None`: the list cannot be read. Numbers beyond the bits are left out: no
/// such section is understood here.
fn applying(list: &str) -> Option<Option<u64>> {
    let parts = list.split([',', '_']).flat_map(|part| part.split("%2C"));
    let parts = parts.flat_map(|part| part.split("%2c")).filter(|part| !part.is_empty());
    let (mut bits, mut is_known) = (None, true);
    for part in parts {
        let number = part.parse::<i32>().ok()?;
        is_known &= number != 0;
        let bit = match number {
            -1 => 0,
            number => 1_u64.checked_shl(u32::try_from(number).ok()?).unwrap_or(0),
        };
        bits = Some(bits.unwrap_or(0) | bit);
    }
    Some(bits.filter(|_| is_known))
}

/// A number in Fibonacci coding: a sum of Fibonacci numbers, smallest first, ended by two ones in a
/// row. `None` when it is larger than any section number, which also bounds the loop.
fn fibonacci(bits: &mut Bits<'_>) -> Option<u32> {
    let (mut this, mut next, mut sum, mut before) = (1_u32, 2_u32, 0_u32, false);
    loop {
        let bit = bits.bit()?;
        if bit && before {
            return Some(sum);
        }
        if bit {
            sum += this;
        }
        if sum > SECTION_MAX || this > SECTION_MAX * 2 {
            return None;
        }
        (this, next, before) = (next, this + next, bit);
    }
}

/// `1YNN`: version, notice given, opted out of sale, covered by an agreement.
fn us_privacy(section: &str) -> Option<Option<bool>> {
    match section.as_bytes() {
        [b'1', _, b'Y', _] => Some(Some(false)),
        [b'1', _, b'N', _] => Some(Some(true)),
        [b'1', _, b'-', _] => Some(None),
        _ => None,
    }
}

/// Reads a US section. An opt-out or the global privacy control forbids. "Did not opt out" allows.
fn us(section: &str, opt_outs: &[usize]) -> Option<Option<bool>> {
    let mut segments = section.split('.');
    let core = segments.next()?;
    let mut said = None;
    for at in opt_outs {
        let mut bits = Bits::new(core);
        bits.skip(*at)?;
        match bits.number(2)? {
            0 => {}
            // The visitor did not opt out.
            2 => said = said.or(Some(true)),
            _ => return Some(Some(false)),
        }
    }
    for segment in segments {
        let mut bits = Bits::new(segment);
        // A segment of type 1 is the global privacy control.
        if bits.number(2)? == 1 && bits.bit()? {
            return Some(Some(false));
        }
    }
    Some(said)
}
