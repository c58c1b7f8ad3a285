//! Reads a segment file in the plainest way that its format allows: the recovery must find the
//! same.

use std::collections::BTreeMap;

use eventlog::position::digest;

const GROUP_MAGIC: [u8; 8] = *b"\xc5CSgrp\r\n";
/// Bytes of a segment's header before its streams, and of a group's before its directory.
pub(super) const HEADER: usize = 60;
pub(super) const GROUP: usize = 40;

/// A record: stream, sequence, payload.
pub(super) type Record = (u16, u64, Vec<u8>);

/// What a file holds.
pub(super) struct Plain {
    /// The records of all whole groups, and whether each has the digest that its entry says.
    pub(super) records: Vec<(Record, bool)>,
    /// Bytes behind the last whole group.
    pub(super) torn: usize,
}

/// Reads a file; `None` when it must be refused.
pub(super) fn read(file: &[u8]) -> Option<Plain> {
    let length = number(file, 12, 4)? as usize;
    let streams = number(file, 56, 4)? as usize;
    let good = file.get(..8)? == b"CSsegmt\n"
        && number(file, 8, 4)? == 1
        && streams <= 65_536
        && length == HEADER + 26 * streams + 4
        && number(file, length - 4, 4)? == u64::from(crc32c::crc32c(file.get(..length - 4)?));
    if !good {
        return None;
    }
    let mut ends = BTreeMap::new();
    for at in (0..streams).map(|n| HEADER + 26 * n) {
        ends.insert(number(file, at, 2)? as u16, number(file, at + 2, 8)?);
    }
    let (mut at, mut index, mut records) = (length, number(file, 32, 8)?, Vec::new());
    if ends.values().chain([&index]).any(|number| *number >= 1 << 63) {
        return None;
    }
    while let Some(group) = whole_group(file, at) {
        if number(group, 24, 8)? != index {
            return None;
        }
        let count = number(group, 20, 4)? as usize;
        let mut payload = GROUP + 32 * count;
        for entry in (0..count).map(|n| GROUP + 32 * n) {
            let stream = number(group, entry, 2)? as u16;
            let (bytes, sequence) =
                (number(group, entry + 4, 4)? as usize, number(group, entry + 8, 8)?);
            let end = ends.entry(stream).or_default();
            if *end + 1 != sequence {
                return None;
            }
            *end = sequence;
            let content = group.get(payload..payload + bytes)?;
            let right = digest(content) == group[entry + 16..entry + 32];
            records.push(((stream, sequence, content.to_vec()), right));
            payload += bytes;
        }
        if payload != group.len() {
            return None;
        }
        (at, index) = (at + group.len(), index + 1);
    }
    // A whole group behind a torn one: that is no torn write.
    let behind = (at + 1..file.len()).any(|at| whole_group(file, at).is_some());
    (!behind).then_some(Plain { records, torn: file.len() - at })
}

/// The group at an offset, when both its checksums hold.
fn whole_group(file: &[u8], at: usize) -> Option<&[u8]> {
    let head = file.get(at..at + GROUP)?;
    let (bytes, records) = (number(head, 16, 4)? as usize, number(head, 20, 4)? as usize);
    let within = (1..=65_536).contains(&records) && bytes >= GROUP + 32 * records;
    if head[..8] != GROUP_MAGIC || number(head, 32, 8)? != at as u64 || !within {
        return None;
    }
    let group = file.get(at..at + bytes)?;
    let crc = |bytes: &[u8]| u64::from(crc32c::crc32c_append(crc32c::crc32c(&file[16..32]), bytes));
    let whole = crc(&group[16..GROUP + 32 * records]) == number(group, 12, 4)?
        && crc(&group[12..]) == number(group, 8, 4)?;
    whole.then_some(group)
}

/// A little-endian number.
pub(super) fn number(bytes: &[u8], at: usize, length: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(length)?)?;
    Some(bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}
