#![allow(clippy::unwrap_used)]

use super::*;
use crate::segments::Record;

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default())
        .flat_map(str::bytes)
        .filter(u8::is_ascii_hexdigit)
        .collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

// The CRCs were computed by another implementation too.
const GROUP: &str = "
    c543536772700d0a                    # magic
    9c5d63e5                            # CRC32C of identity and all that follows
    1ee58886                            # CRC32C of identity, lengths and directory
    6b000000                            # length of the group: 107
    02000000                            # records
    0500000000000000                    # index of the group
    4000000000000000                    # offset in the file
    0300 0000                           # stream 3
    03000000                            # 3 bytes
    0101000000000000                    # sequence 257
    6437b3ac38465133ffb63b75273a8db5    # BLAKE3 of abc
    ffff 0000                           # stream 65535
    00000000                            # no bytes
    0100000000000000                    # sequence 1
    af1349b9f5f9a1a6a0404dea36dcc949    # BLAKE3 of nothing
    616263                              # payload abc
";

const HEADER: &str = "
    43537365676d740a                    # magic
    01000000                            # version
    5a000000                            # length of the header: 90
    aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa    # identity of the log
    0900000000000000                    # index of the first group
    0400000000000000                    # first group of the segment before
    0010000000000000                    # length of the segment before
    01000000                            # streams
    0300                                # stream 3
    0201000000000000                    # ends at sequence 258
    dddddddddddddddddddddddddddddddd    # with this digest
    be6e5d09                            # CRC32C of all before
";

fn sample() -> Vec<u8> {
    let records = [Record { stream: 3, payload: b"abc" }, Record { stream: 0xffff, payload: b"" }];
    let mut ends = Streams::new();
    ends.entry(3).or_default().sequence = 0x0100;
    let mut out = vec![9; 9];
    encode_group(&mut out, &[0xaa; 16], 5, 0x40, &records, &mut ends);
    assert_eq!(ends[&3].sequence, 0x0101);
    assert_eq!(ends[&0xffff].sequence, 1);
    out
}

fn header() -> SegmentHeader {
    let end = StreamEnd { sequence: 0x0102, digest: [0xdd; 16] };
    SegmentHeader {
        identity: [0xaa; 16],
        first_group: 9,
        previous_first_group: 4,
        previous_bytes: 0x1000,
        starts: Streams::from([(3, end)]),
    }
}

#[test]
fn the_bytes_of_a_group_are_pinned() {
    assert_eq!(shared::text::hex(&sample()), shared::text::hex(&unhex(GROUP)));
    let group = unhex(GROUP);
    let head = GroupHead::decode(&group).unwrap();
    assert_eq!((head.index, head.offset, head.records), (5, 0x40, 2));
    assert_eq!(head.bytes, group.len());
    head.check_head(&[0xaa; 16], &group).unwrap();
    head.check_group(&[0xaa; 16], &group).unwrap();
    let entries = head.entries(&group).unwrap();
    assert_eq!((entries[0].stream, entries[0].sequence), (3, 0x0101));
    assert_eq!(group[entries[0].at..][..entries[0].bytes], *b"abc");
    assert_eq!(entries[0].digest, digest(b"abc"));
    assert_eq!((entries[1].stream, entries[1].bytes), (0xffff, 0));
    // Of another log: both CRCs say no.
    assert!(head.check_head(&[0xab; 16], &group).is_err());
    assert!(head.check_group(&[0xab; 16], &group).is_err());
}

#[test]
fn the_bytes_of_a_segment_header_are_pinned() {
    assert_eq!(shared::text::hex(&header().encode()), shared::text::hex(&unhex(HEADER)));
    assert_eq!(SegmentHeader::decode(&unhex(HEADER)).unwrap(), header());
}

#[test]
fn lengths_that_lie_are_refused() {
    let good = sample();
    let change = |at: usize, value: u32| {
        let mut bytes = good.clone();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        GroupHead::decode(&bytes)
    };
    assert!(change(16, good.len() as u32).is_ok());
    for (at, value) in [
        (16, 0),
        (16, 103),
        (16, GROUP_BYTES_MAX as u32 + 1),
        (16, u32::MAX),
        (20, 0),
        (20, GROUP_RECORDS_MAX as u32 + 1),
        (20, u32::MAX),
    ] {
        assert!(change(at, value).is_err(), "{at}: {value}");
    }
    for length in 0..GROUP_FIXED {
        assert!(GroupHead::decode(&good[..length]).is_err());
    }
    // Payloads shorter and longer than the group.
    for bytes in [102, 104] {
        let mut group = good.clone();
        group[44..48].copy_from_slice(&(bytes - 100_u32).to_le_bytes());
        let head = GroupHead::decode(&group).unwrap();
        assert!(head.entries(&group).is_err());
    }
    let mut fixed = [0; SEGMENT_FIXED];
    fixed.copy_from_slice(&header().encode()[..SEGMENT_FIXED]);
    assert_eq!(SegmentHeader::length(&fixed), Ok(90));
    for streams in [0, 2, 1 << 16, u32::MAX] {
        fixed[56..60].copy_from_slice(&streams.to_le_bytes());
        assert!(SegmentHeader::length(&fixed).is_err());
    }
}
