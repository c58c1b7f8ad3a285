//! Numbers and ids as bytes. Numbers are LEB128 (7 bits a byte, the lowest first), unless their
//! size is given.

use shared::Id;

/// A value could not be read: what was expected.
pub(crate) type Unreadable = &'static str;

pub(crate) fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

/// Zigzag: small numbers of either sign are short.
pub(crate) fn put_signed(out: &mut Vec<u8>, number: i64) {
    put_number(out, ((number << 1) ^ (number >> 63)).cast_unsigned());
}

pub(crate) fn put_id(out: &mut Vec<u8>, id: Id) {
    let bytes = id.as_bytes();
    // At most 16 (shared::id::ID_BYTES_MAX).
    out.push(bytes.len().to_le_bytes()[0]);
    out.extend_from_slice(bytes);
}

/// Reads a value from its start to its end.
#[derive(Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Refuses another version than `version`.
    pub(crate) fn new(value: &'a [u8], version: u8) -> Result<Self, Unreadable> {
        match value.split_first() {
            Some((first, rest)) if *first == version => Ok(Self(rest)),
            Some(_) => Err("a version that this build does not know"),
            None => Err("an empty value"),
        }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Unreadable> {
        let (first, rest) = self.0.split_first_chunk::<N>().ok_or("a value that is cut short")?;
        self.0 = rest;
        Ok(*first)
    }

    pub(crate) fn slice(&mut self, length: usize) -> Result<&'a [u8], Unreadable> {
        let (first, rest) = self.0.split_at_checked(length).ok_or("a value that is cut short")?;
        self.0 = rest;
        Ok(first)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Unreadable> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Unreadable> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Unreadable> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Unreadable> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn number(&mut self) -> Result<u64, Unreadable> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            if part << shift >> shift != part {
                return Err("a number beyond 64 bits");
            }
            number |= part << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err("a number beyond 64 bits")
    }

    pub(crate) fn signed(&mut self) -> Result<i64, Unreadable> {
        let number = self.number()?;
        Ok((number >> 1).cast_signed() ^ -(number & 1).cast_signed())
    }

    pub(crate) fn id_of(&mut self, length: u8) -> Result<Id, Unreadable> {
        match self.slice(usize::from(length))? {
            [] => Ok(Id::NONE),
            bytes => Id::new(bytes).map_err(|_| "an id that is none"),
        }
    }

    pub(crate) fn id(&mut self) -> Result<Id, Unreadable> {
        let length = self.byte()?;
        self.id_of(length)
    }

    pub(crate) fn end(self) -> Result<(), Unreadable> {
        if self.0.is_empty() { Ok(()) } else { Err("bytes behind the end of the value") }
    }
}

/// Adds up what has the same key. `add` says whether the sum fits.
pub(crate) fn sum<K: Ord + Copy, V>(
    mut entries: Vec<(K, V)>,
    mut add: impl FnMut(&mut V, V) -> Result<(), Unreadable>,
) -> Result<Vec<(K, V)>, Unreadable> {
    entries.sort_by_key(|(key, _)| *key);
    let mut sums: Vec<(K, V)> = Vec::with_capacity(entries.len());
    for (key, value) in entries {
        match sums.last_mut() {
            Some((last, total)) if *last == key => add(total, value)?,
            _ => sums.push((key, value)),
        }
    }
    Ok(sums)
}

/// The keys of a list are in order, each once.
pub(crate) fn in_order<K: Ord, V>(entries: Vec<(K, V)>) -> Result<Vec<(K, V)>, Unreadable> {
    if entries.windows(2).all(|pair| pair[0].0 < pair[1].0) {
        Ok(entries)
    } else {
        Err("a list that is out of order")
    }
}
