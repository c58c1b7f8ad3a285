//! Reading with bounds, writing without surprises.

use super::{Declared, WireError};
use crate::event::{Kind, Reason};
use crate::id::Id;
use crate::time::{Minute, Timestamp};

/// Reads from the front of a slice and knows where it is.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(super) const fn error(&self, what: &'static str) -> WireError {
        WireError { what, at: self.at }
    }

    pub(super) fn slice(&mut self, length: usize) -> Result<&'a [u8], WireError> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len());
        let Some(end) = end else {
            return Err(self.error("the bytes end too early"));
        };
        let slice = &self.bytes[self.at..end];
        self.at = end;
        Ok(slice)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let slice = self.slice(N)?;
        Ok(slice.try_into().expect("slice() gives the length asked for"))
    }

    pub(super) fn u8(&mut self) -> Result<u8, WireError> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn time(&mut self) -> Result<Timestamp, WireError> {
        self.u64().map(Timestamp)
    }

    pub(super) fn minute(&mut self) -> Result<Minute, WireError> {
        self.u32().map(Minute)
    }

    pub(super) fn id(&mut self) -> Result<Id, WireError> {
        let padded = self.array()?;
        let id = Id::from_padded(padded).ok().filter(|id| !id.is_none());
        id.ok_or_else(|| self.error("an id with a byte that none has"))
    }

    pub(super) fn kind(&mut self) -> Result<Kind, WireError> {
        let code = self.u8()?;
        Kind::from_code(code).ok_or_else(|| self.error("an unknown kind of event"))
    }

    pub(super) fn reason(&mut self) -> Result<Option<Reason>, WireError> {
        match self.u8()? {
            0 => Ok(None),
            code => {
                Reason::from_code(code).map(Some).ok_or_else(|| self.error("an unknown reason"))
            }
        }
    }

    /// A count of things that take at least `least` bytes each and may be `most` at most.
    pub(super) fn count(&mut self, least: usize, most: usize) -> Result<usize, WireError> {
        let count = usize::try_from(self.u32()?).unwrap_or(usize::MAX);
        if count > most {
            return Err(self.error("more of something than the form allows"));
        }
        if count.saturating_mul(least) > self.bytes.len() - self.at {
            return Err(self.error("the bytes end too early"));
        }
        Ok(count)
    }

    pub(super) fn declared(&mut self, most: usize) -> Result<Declared, WireError> {
        let count = self.count(8, most)?;
        let mut declared = Declared::with_capacity(count);
        for _ in 0..count {
            let entry = (self.minute()?, self.u32()?);
            if declared.last().is_some_and(|(minute, _)| *minute >= entry.0) {
                return Err(self.error("declared minutes out of order"));
            }
            declared.push(entry);
        }
        Ok(declared)
    }

    pub(super) fn end(&self) -> Result<(), WireError> {
        if self.at == self.bytes.len() { Ok(()) } else { Err(self.error("bytes after the end")) }
    }
}

pub(super) fn put_count(out: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).expect("bounded by limits.rs far below 2^32");
    out.extend(count.to_le_bytes());
}

pub(super) fn put_declared(out: &mut Vec<u8>, declared: &Declared) {
    put_count(out, declared.len());
    for (minute, count) in declared {
        out.extend(minute.0.to_le_bytes());
        out.extend(count.to_le_bytes());
    }
}

pub(super) fn put_reason(out: &mut Vec<u8>, reason: Option<Reason>) {
    out.push(reason.map_or(0, Reason::code));
}
