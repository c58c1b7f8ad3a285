//! The bytes of a segment file, version 1. All integers little endian.
//!
//! ```text
//! segment header        0  magic "CSsegmt\n"      8
//!                       8  version = 1            u32
//!                      12  header length          u32
//!                      16  log identity           16
//!                      32  index of first group   u64
//!                      40  the previous segment's first group   u64
//!                      48  the previous segment's length        u64 (0: none)
//!                      56  number of streams      u32
//!                      60  per stream: stream u16, last sequence u64, its digest 16
//!                          CRC32C of all before   u32
//! group                 0  magic "\xc5CSgrp\r\n"  8
//!                       8  CRC32C of bytes 12 to the end of the group    u32
//!                      12  CRC32C of bytes 16 to the end of the directory u32
//!                      16  group length           u32
//!                      20  number of records      u32
//!                      24  index of the group     u64
//!                      32  offset of the group in its file   u64
//!                      40  per record: stream u16, zero u16, length u32,
//!                          sequence u64, digest 16
//!                          payloads, in the order of the directory
//! ```
//!
//! Both CRCs of a group begin with the log's identity, and the group names its
//! offset. So when somebody sends the bytes of a group as a payload, they are
//! never taken for a group. The second CRC lets a reader trust a directory
//! without reading the payloads of other streams.

use std::collections::BTreeMap;

use super::view::StreamEnd;
use crate::position::{Digest, Identity, digest};

/// Version of the file format.
pub(super) const VERSION: u32 = 1;
pub(super) const SEGMENT_MAGIC: [u8; 8] = *b"CSsegmt\n";
pub(super) const GROUP_MAGIC: [u8; 8] = *b"\xc5CSgrp\r\n";
/// Bytes before the streams of a segment header.
pub(super) const SEGMENT_FIXED: usize = 60;
const SEGMENT_STREAM: usize = 26;
/// Bytes before the directory of a group.
pub(super) const GROUP_FIXED: usize = 40;
/// Bytes of a directory entry.
pub(super) const ENTRY: usize = 32;

/// Longest group, bytes. Bounds what a reader or the recovery holds in memory.
pub const GROUP_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Most records of a group. Bounds the directory.
pub const GROUP_RECORDS_MAX: usize = 65_536;

/// The largest sequence and group index that a header may have. Counting on from there never overflows,
/// however much is written.
const NUMBER_MAX: u64 = i64::MAX as u64;

const _: () = assert!(GROUP_FIXED + ENTRY * GROUP_RECORDS_MAX < GROUP_BYTES_MAX / 16);
const _: () = assert!(GROUP_BYTES_MAX <= u32::MAX as usize);

/// Last sequence and its digest, by stream.
pub(super) type Streams = BTreeMap<u16, StreamEnd>;

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut out = [0; 4];
    out.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(out)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut out = [0; 8];
    out.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(out)
}

fn array16_at(bytes: &[u8], at: usize) -> [u8; 16] {
    let mut out = [0; 16];
    out.copy_from_slice(&bytes[at..at + 16]);
    out
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// The start of a segment: all that is needed to read it without the segments before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) identity: Identity,
    pub(super) first_group: u64,
    pub(super) previous_first_group: u64,
    pub(super) previous_bytes: u64,
    /// Ends of the streams before this segment.
    pub(super) starts: Streams,
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> Vec<u8> {
        let length = SEGMENT_FIXED + SEGMENT_STREAM * self.starts.len() + 4;
        let mut out = Vec::with_capacity(length);
        out.extend_from_slice(&SEGMENT_MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&(length as u32).to_le_bytes());
        out.extend_from_slice(&self.identity);
        out.extend_from_slice(&self.first_group.to_le_bytes());
        out.extend_from_slice(&self.previous_first_group.to_le_bytes());
        out.extend_from_slice(&self.previous_bytes.to_le_bytes());
        out.extend_from_slice(&(self.starts.len() as u32).to_le_bytes());
        for (stream, end) in &self.starts {
            out.extend_from_slice(&stream.to_le_bytes());
            out.extend_from_slice(&end.sequence.to_le_bytes());
            out.extend_from_slice(&end.digest);
        }
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// Length of the whole header, computed from its fixed part.
    pub(super) fn length(fixed: &[u8; SEGMENT_FIXED]) -> Result<usize, String> {
        if fixed[..8] != SEGMENT_MAGIC {
            return Err("not a segment file (magic)".into());
        }
        let version = u32_at(fixed, 8);
        if version != VERSION {
            return Err(format!("segment version {version} is not known"));
        }
        let streams = u32_at(fixed, 56) as usize;
        let length = SEGMENT_FIXED + SEGMENT_STREAM * streams.min(1 << 16) + 4;
        if u32_at(fixed, 12) as usize != length || streams > 1 << 16 {
            return Err("segment header: length does not fit the streams".into());
        }
        Ok(length)
    }

    /// Decodes a header of exactly [`SegmentHeader::length`] bytes.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let (body, crc) = bytes
            .split_last_chunk::<4>()
            .filter(|(body, _)| body.len() >= SEGMENT_FIXED)
            .ok_or("segment header: too short")?;
        if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
            return Err("segment header: CRC does not match".into());
        }
        let starts: Streams = body[SEGMENT_FIXED..]
            .chunks_exact(SEGMENT_STREAM)
            .map(|entry| {
                let end = StreamEnd { sequence: u64_at(entry, 2), digest: array16_at(entry, 10) };
                (u16_at(entry, 0), end)
            })
            .collect();
        let header = Self {
            identity: array16_at(body, 16),
            first_group: u64_at(body, 32),
            previous_first_group: u64_at(body, 40),
            previous_bytes: u64_at(body, 48),
            starts,
        };
        let mut numbers = header.starts.values().map(|end| end.sequence);
        if header.first_group > NUMBER_MAX || numbers.any(|sequence| sequence > NUMBER_MAX) {
            return Err("segment header: a number of 2^63 or more".into());
        }
        Ok(header)
    }
}

/// The fixed part of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GroupHead {
    crc: u32,
    head_crc: u32,
    pub(super) bytes: usize,
    pub(super) records: usize,
    pub(super) index: u64,
    pub(super) offset: u64,
}

impl GroupHead {
    /// Reads the fixed part and checks what can be checked without the rest of the group.
    pub(super) fn decode(fixed: &[u8]) -> Result<Self, String> {
        if fixed.len() < GROUP_FIXED {
            return Err("group: ends within its header".into());
        }
        if fixed[..8] != GROUP_MAGIC {
            return Err("group: magic does not match".into());
        }
        let head = Self {
            crc: u32_at(fixed, 8),
            head_crc: u32_at(fixed, 12),
            bytes: u32_at(fixed, 16) as usize,
            records: u32_at(fixed, 20) as usize,
            index: u64_at(fixed, 24),
            offset: u64_at(fixed, 32),
        };
        if head.records == 0 || head.records > GROUP_RECORDS_MAX {
            return Err(format!("group: {} records", head.records));
        }
        if head.bytes < head.head_bytes() || head.bytes > GROUP_BYTES_MAX {
            return Err(format!("group: length {}", head.bytes));
        }
        Ok(head)
    }

    /// Bytes of the fixed part and the directory.
    pub(super) fn head_bytes(&self) -> usize {
        GROUP_FIXED + ENTRY * self.records
    }

    /// Checks the head's CRC over fixed part and directory.
    pub(super) fn check_head(&self, identity: &Identity, head: &[u8]) -> Result<(), String> {
        if group_crc(identity, &head[16..self.head_bytes()]) == self.head_crc {
            return Ok(());
        }
        Err("group: CRC of the directory does not match".into())
    }

    /// Checks the CRC over the whole group.
    pub(super) fn check_group(&self, identity: &Identity, group: &[u8]) -> Result<(), String> {
        if group_crc(identity, &group[12..self.bytes]) == self.crc {
            return Ok(());
        }
        Err("group: CRC does not match".into())
    }

    /// The directory of a head whose CRC was checked. Every payload lies within the group.
    pub(super) fn entries(&self, head: &[u8]) -> Result<Vec<Entry>, String> {
        let mut at = self.head_bytes();
        let mut entries = Vec::with_capacity(self.records);
        for bytes in head[GROUP_FIXED..self.head_bytes()].chunks_exact(ENTRY) {
            let entry = Entry {
                stream: u16_at(bytes, 0),
                at,
                bytes: u32_at(bytes, 4) as usize,
                sequence: u64_at(bytes, 8),
                digest: array16_at(bytes, 16),
            };
            at += entry.bytes;
            entries.push(entry);
        }
        if at != self.bytes {
            return Err("group: payloads do not fill it".into());
        }
        Ok(entries)
    }
}

/// One record in a group's directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) stream: u16,
    /// Offset of the payload in the group.
    pub(super) at: usize,
    pub(super) bytes: usize,
    pub(super) sequence: u64,
    pub(super) digest: Digest,
}

fn group_crc(identity: &Identity, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(identity), bytes)
}

/// Encodes a group into `out`, which is cleared first, and advances `ends` to
/// its records. The caller has checked the limits.
pub(super) fn encode_group(
    out: &mut Vec<u8>,
    identity: &Identity,
    index: u64,
    offset: u64,
    records: &[super::Record<'_>],
    ends: &mut Streams,
) {
    out.clear();
    out.extend_from_slice(&GROUP_MAGIC);
    out.extend_from_slice(&[0; 8]);
    let payloads: usize = records.iter().map(|r| r.payload.len()).sum();
    let bytes = GROUP_FIXED + ENTRY * records.len() + payloads;
    out.extend_from_slice(&(bytes as u32).to_le_bytes());
    out.extend_from_slice(&(records.len() as u32).to_le_bytes());
    out.extend_from_slice(&index.to_le_bytes());
    out.extend_from_slice(&offset.to_le_bytes());
    for record in records {
        let end = ends.entry(record.stream).or_default();
        end.sequence += 1;
        end.digest = digest(record.payload);
        out.extend_from_slice(&record.stream.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&(record.payload.len() as u32).to_le_bytes());
        out.extend_from_slice(&end.sequence.to_le_bytes());
        out.extend_from_slice(&end.digest);
    }
    let head_crc = group_crc(identity, &out[16..]);
    out[12..16].copy_from_slice(&head_crc.to_le_bytes());
    for record in records {
        out.extend_from_slice(record.payload);
    }
    let crc = group_crc(identity, &out[12..]);
    out[8..12].copy_from_slice(&crc.to_le_bytes());
}

#[cfg(test)]
mod tests;
