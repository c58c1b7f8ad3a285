#![allow(clippy::unwrap_used)]

use tempfile::TempDir;

use super::*;
use crate::segments::{Record, Segments, SegmentsConfig};

const CONFIG: SegmentsConfig = SegmentsConfig { segment_bytes: 1 << 20 };

/// Three groups, the bytes of the file, and where each group begins.
struct Sample {
    dir: TempDir,
    path: PathBuf,
    bytes: Vec<u8>,
    groups: [usize; 4],
}

fn append(segments: &mut Segments, payloads: &[&[u8]]) {
    let records: Vec<_> = payloads.iter().map(|payload| Record { stream: 1, payload }).collect();
    segments.append(&records).unwrap();
}

fn sample() -> Sample {
    let dir = tempfile::tempdir().unwrap();
    let path = segment_path(dir.path(), 0);
    let mut groups = [0; 4];
    let length = || fs::metadata(&path).unwrap().len() as usize;
    let (mut segments, _) = Segments::open(dir.path(), CONFIG, [7; 16]).unwrap();
    groups[0] = length();
    for (group, payloads) in
        [[&b"one"[..], b"two"], [b"three", b""], [b"five", b"six"]].iter().enumerate()
    {
        append(&mut segments, payloads);
        groups[group + 1] = length();
    }
    let bytes = fs::read(&path).unwrap();
    Sample { dir, path, bytes, groups }
}

/// Payloads of stream 1 after opening, and what was cut.
fn reopen(dir: &Path) -> Result<(Vec<Vec<u8>>, Option<Cut>)> {
    let (mut segments, recovered) = Segments::open(dir, CONFIG, [8; 16])?;
    if let Some(cut) = &recovered.cut {
        let length = fs::metadata(&cut.file).unwrap().len();
        assert_eq!(length, cut.offset, "nothing of it is left in the file");
    }
    let mut reader = segments.view().reader(1, 0)?;
    let mut payloads = Vec::new();
    while let Some(stored) = reader.try_next()? {
        payloads.push(stored.payload.to_vec());
    }
    // It can be written again, right behind.
    append(&mut segments, &[b"new"]);
    assert_eq!(reader.try_next()?.unwrap().payload, "new");
    Ok((payloads, recovered.cut))
}

fn damaged_at(error: &SegmentsError, path: &Path) -> u64 {
    let SegmentsError::Damaged { file, offset, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(file, path);
    *offset
}

#[test]
fn a_torn_tail_is_cut_at_every_byte() {
    let sample = sample();
    let last = sample.groups[2];
    for length in last..sample.bytes.len() {
        fs::write(&sample.path, &sample.bytes[..length]).unwrap();
        let (payloads, cut) = reopen(sample.dir.path()).unwrap();
        assert_eq!(payloads, [&b"one"[..], b"two", b"three", b""], "{length}");
        match cut {
            None => assert_eq!(length, last),
            Some(cut) => {
                assert_eq!((cut.offset, cut.bytes), (last as u64, (length - last) as u64));
                assert_eq!(cut.file, sample.path);
            }
        }
    }
}

#[test]
fn pages_that_came_in_another_order_are_cut() {
    let sample = sample();
    let last = sample.groups[2];
    // The end of the group reached the disk, its beginning did not.
    let mut bytes = sample.bytes.clone();
    bytes[last..last + 40].fill(0);
    fs::write(&sample.path, &bytes).unwrap();
    assert_eq!(reopen(sample.dir.path()).unwrap().0.len(), 4);
    // Only the file's length did, and then some.
    bytes.resize(last, 0);
    bytes.resize(last + 3_000_000, 0);
    fs::write(&sample.path, &bytes).unwrap();
    let (payloads, cut) = reopen(sample.dir.path()).unwrap();
    assert_eq!((payloads.len(), cut.unwrap().bytes), (4, 3_000_000));
}

#[test]
fn a_flipped_bit_in_a_middle_group_is_refused_at_every_byte() {
    let sample = sample();
    for group in [0, 1] {
        let range = sample.groups[group]..sample.groups[group + 1];
        for at in range.clone() {
            let mut bytes = sample.bytes.clone();
            bytes[at] ^= 1 << (at % 8);
            fs::write(&sample.path, &bytes).unwrap();
            for error in [
                reopen(sample.dir.path()).unwrap_err(),
                Segments::verify(sample.dir.path()).unwrap_err(),
            ] {
                let offset = damaged_at(&error, &sample.path);
                assert_eq!(offset as usize, range.start, "byte {at}: {error}");
                assert!(error.to_string().contains("behind it at offset"));
            }
            assert_eq!(fs::read(&sample.path).unwrap(), bytes, "left as it is");
        }
    }
}

#[test]
fn a_flipped_bit_in_the_last_group_is_cut() {
    let sample = sample();
    for at in sample.groups[2]..sample.groups[3] {
        let mut bytes = sample.bytes.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(&sample.path, &bytes).unwrap();
        let torn = Segments::verify(sample.dir.path()).unwrap().torn;
        let (payloads, cut) = reopen(sample.dir.path()).unwrap();
        assert_eq!(payloads.len(), 4, "byte {at}");
        assert_eq!(cut.as_ref().unwrap().offset as usize, sample.groups[2]);
        assert_eq!(torn, cut);
    }
}

#[test]
fn a_flipped_bit_in_the_segment_header_is_refused() {
    let sample = sample();
    for at in 0..sample.groups[0] {
        let mut bytes = sample.bytes.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(&sample.path, &bytes).unwrap();
        let error = reopen(sample.dir.path()).unwrap_err();
        assert_eq!(damaged_at(&error, &sample.path), 0, "byte {at}");
    }
    for length in 0..sample.groups[0] {
        fs::write(&sample.path, &sample.bytes[..length]).unwrap();
        let error = reopen(sample.dir.path()).unwrap_err();
        assert_eq!(damaged_at(&error, &sample.path), 0, "length {length}");
    }
    let mut newer = sample.bytes.clone();
    newer[8] = 2;
    fs::write(&sample.path, &newer).unwrap();
    let error = reopen(sample.dir.path()).unwrap_err().to_string();
    assert!(error.contains("version 2 is not known"), "{error}");
}

/// A payload that holds a valid group of this very log neither stops the
/// recovery of a torn group nor is taken for one.
#[test]
fn a_group_within_a_payload_is_no_group() {
    let sample = sample();
    let inner = sample.bytes[sample.groups[0]..].to_vec();
    let (mut segments, _) = Segments::open(sample.dir.path(), CONFIG, [8; 16]).unwrap();
    append(&mut segments, &[&inner]);
    drop(segments);
    let mut bytes = fs::read(&sample.path).unwrap();
    bytes[sample.groups[3]] ^= 1;
    fs::write(&sample.path, &bytes).unwrap();
    let (payloads, cut) = reopen(sample.dir.path()).unwrap();
    assert_eq!(payloads.len(), 6);
    assert_eq!(cut.unwrap().offset as usize, sample.groups[3]);
}

/// Segments of one group each.
fn segmented(groups: usize) -> (TempDir, Vec<PathBuf>) {
    let dir = tempfile::tempdir().unwrap();
    let config = SegmentsConfig { segment_bytes: 1 };
    let (mut segments, _) = Segments::open(dir.path(), config, [7; 16]).unwrap();
    for number in 0..groups {
        append(&mut segments, &[&[number as u8; 30]]);
    }
    let files = list(dir.path()).unwrap();
    assert_eq!(files.len(), groups);
    (dir, files.into_iter().map(|(_, path)| path).collect())
}

#[test]
fn damage_in_an_earlier_segment_is_met_when_it_is_read() {
    let (dir, files) = segmented(4);
    let bytes = fs::read(&files[1]).unwrap();
    let header = SegmentHeader::decode(&bytes[..90]).unwrap();
    assert_eq!(header.starts[&1].sequence, 1);
    for at in 90..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x10;
        fs::write(&files[1], &flipped).unwrap();
        let (segments, _) = Segments::open(dir.path(), CONFIG, [7; 16]).unwrap();
        let mut reader = segments.view().reader(1, 0).unwrap();
        assert_eq!(reader.try_next().unwrap().unwrap().sequence, 1);
        let checked_by_crc = 98..102;
        if checked_by_crc.contains(&at) {
            // The CRC over the whole group is for the recovery and `verify`.
            assert_eq!(reader.try_next().unwrap().unwrap().sequence, 2);
        } else {
            for _ in 0..2 {
                let error = reader.try_next().unwrap_err();
                damaged_at(&error, &files[1]);
                assert_eq!(reader.sequence(), 1, "it does not move");
            }
        }
        let error = Segments::verify(dir.path()).unwrap_err();
        damaged_at(&error, &files[1]);
        // Those behind it can be read.
        let mut reader = segments.view().reader(1, 2).unwrap();
        assert_eq!(reader.try_next().unwrap().unwrap().sequence, 3);
    }
}

#[test]
fn segments_that_do_not_follow_each_other_are_refused() {
    let (dir, files) = segmented(4);
    let refuse = |what: &str, file: &Path| {
        let error = Segments::open(dir.path(), CONFIG, [7; 16]).unwrap_err();
        assert_eq!(damaged_at(&error, file), 0);
        assert!(error.to_string().contains(what), "{error}");
        assert!(Segments::verify(dir.path()).is_err());
    };
    let second = fs::read(&files[1]).unwrap();
    fs::remove_file(&files[1]).unwrap();
    refuse("00000000000000000001.seg, is missing", &files[2]);
    fs::write(&files[1], &second[..second.len() - 1]).unwrap();
    refuse("but had", &files[2]);
    fs::write(&files[1], fs::read(&files[0]).unwrap()).unwrap();
    refuse("begins at group 0", &files[1]);
    let (_other, others) = {
        let other = tempfile::tempdir().unwrap();
        let config = SegmentsConfig { segment_bytes: 1 };
        let (mut segments, _) = Segments::open(other.path(), config, [6; 16]).unwrap();
        append(&mut segments, &[b"x"]);
        append(&mut segments, &[b"x"]);
        (other, segments.view().shared.catalog.read().segments.clone())
    };
    fs::write(&files[1], fs::read(&others[1].path).unwrap()).unwrap();
    refuse("another log", &files[1]);
    fs::write(&files[1], &second).unwrap();
    Segments::open(dir.path(), CONFIG, [7; 16]).unwrap();
    let odd = dir.path().join("7.seg");
    fs::write(&odd, b"").unwrap();
    refuse("not a segment's name", &odd);
}

#[test]
fn a_segment_that_was_being_created_is_made_again() {
    let (dir, files) = segmented(2);
    // It ended before the rename: a name that is no segment's.
    fs::write(files[1].with_extension("new"), b"half").unwrap();
    let unrelated = dir.path().join("acked");
    fs::write(&unrelated, b"kept").unwrap();
    let (segments, _) = Segments::open(dir.path(), CONFIG, [7; 16]).unwrap();
    assert!(!files[1].with_extension("new").exists());
    assert!(unrelated.exists());
    drop(segments);
    // It ended right behind the rename: an empty last segment.
    let header = SegmentHeader::decode(&fs::read(&files[1]).unwrap()[..90]).unwrap();
    let bytes = fs::read(&files[1]).unwrap();
    fs::write(&files[1], &bytes[..header.encode().len()]).unwrap();
    let (payloads, cut) = reopen(dir.path()).unwrap();
    assert_eq!((payloads.len(), cut), (1, None));
}

/// A group whose CRC is right, but that does not continue the one before, was
/// not torn by a crash: nothing is cut.
#[test]
fn a_valid_group_that_does_not_follow_is_refused() {
    let sample = sample();
    for (index, sequence) in [(4, 7), (3, 8)] {
        let mut ends = Streams::new();
        ends.entry(1).or_default().sequence = sequence - 1;
        let mut group = Vec::new();
        let record = Record { stream: 1, payload: b"x" };
        let offset = sample.bytes.len() as u64;
        let encode = super::super::format::encode_group;
        encode(&mut group, &[7; 16], index, offset, &[record], &mut ends);
        let mut bytes = sample.bytes.clone();
        bytes.extend_from_slice(&group);
        fs::write(&sample.path, &bytes).unwrap();
        // Not by reading it, but at the door.
        let error = Segments::open(sample.dir.path(), CONFIG, [7; 16]).unwrap_err();
        assert_eq!(damaged_at(&error, &sample.path), offset);
        let error = Segments::verify(sample.dir.path()).unwrap_err();
        assert_eq!(damaged_at(&error, &sample.path), offset);
    }
}
