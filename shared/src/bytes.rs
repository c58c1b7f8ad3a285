//! Reads bytes that others wrote, within bounds and with the place of every error; and writes what
//! needs more than one line to write. Numbers of a fixed size are little endian; [`Reader::number`]
//! reads LEB128 (7 bits a byte, the lowest first).

use crate::name::{ID_BYTES_MAX, Id, Noun};

/// Bytes that are not in a form of ours, or are damaged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at byte {at}: {what}")]
pub struct WireError {
    /// What was expected or wrong.
    pub what: &'static str,
    /// Where, in bytes from the start.
    pub at: usize,
}

/// For values of a store, whose errors name the key instead of the place.
impl From<WireError> for &'static str {
    fn from(error: WireError) -> Self {
        error.what
    }
}

/// Reads a slice from the front, and knows how far it is.
#[derive(Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

#[expect(clippy::missing_errors_doc, reason = "each is a `WireError` that says what was expected")]
impl<'a> Reader<'a> {
    /// A reader at the first byte.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The error that this is wrong at the current place.
    #[must_use]
    pub const fn error(&self, what: &'static str) -> WireError {
        WireError { what, at: self.at }
    }

    /// Whether nothing follows.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// How many bytes follow.
    #[must_use]
    pub const fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Reads all that follows.
    pub fn rest(&mut self) -> &'a [u8] {
        let rest = &self.bytes[self.at..];
        self.at = self.bytes.len();
        rest
    }

    /// Reads `length` bytes.
    pub fn slice(&mut self, length: usize) -> Result<&'a [u8], WireError> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len());
        let Some(end) = end else {
            return Err(self.error("the bytes end too early"));
        };
        let slice = &self.bytes[self.at..end];
        self.at = end;
        Ok(slice)
    }

    /// Reads `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let slice = self.slice(N)?;
        Ok(slice.try_into().expect("slice() gives the length asked for"))
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, WireError> {
        self.array().map(|[byte]| byte)
    }

    /// Two bytes.
    pub fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_le_bytes)
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_le_bytes)
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_le_bytes)
    }

    /// Reads a number as [`put_number`] writes it.
    pub fn number(&mut self) -> Result<u64, WireError> {
        let mut number = 0;
        // Ends with the first byte below 0x80, or with an error when bits would be lost beyond 64.
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let part = u64::from(byte & 0x7f);
            if part << shift >> shift != part {
                break;
            }
            number |= part << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(self.error("a number beyond 64 bits"))
    }

    /// Reads a number as [`put_signed`] writes it.
    pub fn signed(&mut self) -> Result<i64, WireError> {
        let number = self.number()?;
        Ok((number >> 1).cast_signed() ^ -(number & 1).cast_signed())
    }

    /// Reads an id of sixteen bytes; [`Id::NONE`] is refused.
    pub fn id<T: Noun>(&mut self) -> Result<Id<T>, WireError> {
        let id = Id::from_padded(self.array()?).ok().filter(|id| !id.is_none());
        id.ok_or_else(|| self.error("an id with a byte that none has"))
    }

    /// Reads an id of `length` bytes without padding; 0 bytes are [`Id::NONE`].
    pub fn short_id<T: Noun>(&mut self, length: u8) -> Result<Id<T>, WireError> {
        let bytes = self.slice(usize::from(length))?;
        let mut padded = [0; ID_BYTES_MAX];
        let place =
            padded.get_mut(..bytes.len()).ok_or_else(|| self.error("an id that is none"))?;
        place.copy_from_slice(bytes);
        let id = Id::from_padded(padded).ok();
        // A zero within the length would be padding, so that one id had two spellings.
        let id = id.filter(|id| id.is_digest() || !bytes.contains(&0));
        id.ok_or_else(|| self.error("an id that is none"))
    }

    /// Reads the number (4 bytes) of things that follow. Each takes at least `least` bytes, and
    /// there may be `most` of them.
    pub fn count(&mut self, least: usize, most: usize) -> Result<usize, WireError> {
        let count = usize::try_from(self.u32()?).unwrap_or(usize::MAX);
        if count > most {
            return Err(self.error("more of something than the form allows"));
        }
        if count.saturating_mul(least) > self.left() {
            return Err(self.error("the bytes end too early"));
        }
        Ok(count)
    }

    /// Checks that nothing follows.
    pub fn end(&self) -> Result<(), WireError> {
        if self.is_empty() { Ok(()) } else { Err(self.error("bytes after the end")) }
    }
}

/// Writes a number as LEB128, in which small numbers are short.
pub fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

/// Writes a number in zigzag form, in which small numbers of either sign are short.
pub fn put_signed(out: &mut Vec<u8>, number: i64) {
    put_number(out, ((number << 1) ^ (number >> 63)).cast_unsigned());
}

/// Writes the length and the bytes of an id, without padding.
pub fn put_id<T>(out: &mut Vec<u8>, id: Id<T>) {
    let bytes = id.text().map_or(&id.padded()[..], str::as_bytes);
    // At most 16.
    out.push(bytes.len().to_le_bytes()[0]);
    out.extend_from_slice(bytes);
}
