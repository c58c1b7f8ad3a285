//! Reads the bits of a base64url text (RFC 4648 §5, without padding), the highest bit of each
//! character first.

pub(super) struct Bits<'a> {
    text: &'a [u8],
    /// The number of bits read.
    at: usize,
}

impl<'a> Bits<'a> {
    pub(super) const fn new(text: &'a str) -> Self {
        Self { text: text.as_bytes(), at: 0 }
    }

    /// The next bit; `None` at the end, and at a character outside base64url.
    pub(super) fn bit(&mut self) -> Option<bool> {
        let six = six(*self.text.get(self.at / 6)?)?;
        let bit = six >> (5 - self.at % 6) & 1;
        self.at += 1;
        Some(bit == 1)
    }

    /// The next bits as a number; at most 32.
    pub(super) fn number(&mut self, bits: u32) -> Option<u32> {
        (0..bits).try_fold(0, |number, _| Some(number << 1 | u32::from(self.bit()?)))
    }

    /// Skips bits, which must exist.
    pub(super) fn skip(&mut self, bits: usize) -> Option<()> {
        let at = self.at.checked_add(bits)?;
        self.at = at;
        (at <= self.text.len() * 6).then_some(())
    }
}

fn six(character: u8) -> Option<u8> {
    match character {
        b'A'..=b'Z' => Some(character - b'A'),
        b'a'..=b'z' => Some(character - b'a' + 26),
        b'0'..=b'9' => Some(character - b'0' + 52),
        b'-' => Some(62),
        b'_' => Some(63),
        _ => None,
    }
}
