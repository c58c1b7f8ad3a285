//! Bytes that others wrote: a reader with bounds that knows where it is, and what it reads as it is
//! written. Numbers of a fixed size are little endian; [`Reader::number`] is LEB128 (7 bits a byte, the
//! lowest first).

use crate::name::{ID_BYTES_MAX, Id, Noun};

/// Bytes that are nothing of ours, or a damaged one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at byte {at}: {what}")]
pub struct WireError {
    /// What was expected or wrong.
    pub what: &'static str,
    /// Where, in bytes from the start.
    pub at: usize,
}

/// Where the place does not matter: a value is named by its key.
impl From<WireError> for &'static str {
    fn from(error: WireError) -> Self {
        error.what
    }
}

/// Reads from the front of a slice and knows where it is.
#[derive(Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

#[expect(clippy::missing_errors_doc, reason = "each is a `WireError` that says what was expected")]
impl<'a> Reader<'a> {
    /// At the first byte.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Something is wrong here.
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

    /// All that follows.
    pub fn rest(&mut self) -> &'a [u8] {
        let rest = &self.bytes[self.at..];
        self.at = self.bytes.len();
        rest
    }

    /// So many bytes.
    pub fn slice(&mut self, length: usize) -> Result<&'a [u8], WireError> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len());
        let Some(end) = end else {
            return Err(self.error("the bytes end too early"));
        };
        let slice = &self.bytes[self.at..end];
        self.at = end;
        Ok(slice)
    }

    /// So many bytes.
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

    /// As [`put_number`] writes it.
    pub fn number(&mut self) -> Result<u64, WireError> {
        let mut number = 0;
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

    /// As [`put_signed`] writes it.
    pub fn signed(&mut self) -> Result<i64, WireError> {
        let number = self.number()?;
        Ok((number >> 1).cast_signed() ^ -(number & 1).cast_signed())
    }

    /// An id of sixteen bytes, which is not none.
    pub fn id<T: Noun>(&mut self) -> Result<Id<T>, WireError> {
        let id = Id::from_padded(self.array()?).ok().filter(|id| !id.is_none());
        id.ok_or_else(|| self.error("an id with a byte that none has"))
    }

    /// An id of so many bytes; of none for [`Id::NONE`].
    pub fn short_id<T: Noun>(&mut self, length: u8) -> Result<Id<T>, WireError> {
        let bytes = self.slice(usize::from(length))?;
        let mut padded = [0; ID_BYTES_MAX];
        let place =
            padded.get_mut(..bytes.len()).ok_or_else(|| self.error("an id that is none"))?;
        place.copy_from_slice(bytes);
        let id = Id::from_padded(padded).ok();
        // A zero within the length would be padding twice.
        let id = id.filter(|id| id.is_digest() || !bytes.contains(&0));
        id.ok_or_else(|| self.error("an id that is none"))
    }

    /// A count of things that take at least `least` bytes each and may be `most` at most.
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

    /// Nothing may follow.
    pub fn end(&self) -> Result<(), WireError> {
        if self.is_empty() { Ok(()) } else { Err(self.error("bytes after the end")) }
    }
}

/// LEB128: small numbers are short.
pub fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

/// Zigzag: small numbers of either sign are short.
pub fn put_signed(out: &mut Vec<u8>, number: i64) {
    put_number(out, ((number << 1) ^ (number >> 63)).cast_unsigned());
}

/// The length and the bytes of an id, without padding.
pub fn put_id<T>(out: &mut Vec<u8>, id: Id<T>) {
    let bytes = id.text().map_or(&id.padded()[..], str::as_bytes);
    // At most 16.
    out.push(bytes.len().to_le_bytes()[0]);
    out.extend_from_slice(bytes);
}
