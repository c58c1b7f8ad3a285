//! Reads and writes the fields that several wire forms have.

use super::{Declared, WireError};
use crate::bytes::Reader;
use crate::event::{Kind, Reason};
use crate::time::{Minute, Timestamp};

impl Reader<'_> {
    pub(super) fn time(&mut self) -> Result<Timestamp, WireError> {
        self.u64().map(Timestamp)
    }

    pub(super) fn minute(&mut self) -> Result<Minute, WireError> {
        self.u32().map(Minute)
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
