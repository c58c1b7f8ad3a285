//! A segment file of any bytes is opened, cut or refused with the place of the damage. It yields
//! the records of its whole groups, each with the right digest; the next start yields the same; and
//! it can be appended to.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use eventlog::position::digest;
use eventlog::segments::{
    Record, Recovered, Segments, SegmentsConfig, SegmentsError, SegmentsView,
};
use shared::random::{Random, below};

use super::segment_plain::{self, GROUP, HEADER, Plain, number};
use super::{Outcome, hold, words_of};

pub(super) fn judge(input: &[u8]) -> Outcome {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let dir = folder.path();
    let first = number(input, 32, 8).unwrap_or(0);
    let file = dir.join(format!("{first:020}.seg"));
    fs::write(&file, input).map_err(|error| error.to_string())?;
    let plain = segment_plain::read(input);
    let checked = Segments::verify(dir);
    let opened = Segments::open(dir, SegmentsConfig::default(), [0; 16]);
    let (segments, recovered) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            hold(plain.is_none(), || format!("refused, and there is nothing wrong: {error}"))?;
            hold(checked.is_err(), || "refused, and found good before".to_owned())?;
            hold(fs::read(&file).is_ok_and(|now| now == input), || {
                "refused, and changed".to_owned()
            })?;
            return refused(&error);
        }
    };
    let Some(plain) = plain else {
        return Err("opened, and it should be refused".to_owned());
    };
    let cut = recovered.cut.as_ref().map_or(0, |cut| cut.bytes);
    hold(cut == plain.torn as u64, || format!("cut {cut} bytes of {}", plain.torn))?;
    hold(!recovered.created, || "begun anew over a file".to_owned())?;
    let damaged = same_records(segments.view(), &plain)?;
    hold(checked.is_ok() != damaged.is_some(), || "verify says something else".to_owned())?;
    drop(segments);
    started_again(dir, &recovered, &plain, damaged.is_some())?;
    let found = match (plain.records.is_empty(), plain.torn > 0) {
        (true, false) => "opened, empty",
        (true, true) => "opened, empty, a torn end",
        (false, false) => "opened with records",
        (false, true) => "opened with records, a torn end",
    };
    Ok(match damaged {
        Some(error) => format!("{found}; {}", refused(&error)?),
        None => found.to_owned(),
    })
}

fn refused(error: &SegmentsError) -> Outcome {
    match error {
        SegmentsError::Damaged { file, what, .. } => {
            let named = file.extension().is_some_and(|extension| extension == "seg");
            hold(named && !what.is_empty(), || format!("no place is named: {error}"))?;
            Ok(format!("refused: {}", words_of(what)))
        }
        other => Err(format!("bytes of a file are no reason for: {other}")),
    }
}

/// Reads all streams from where they start; says why when it ends at a wrong digest.
fn same_records(view: &SegmentsView, plain: &Plain) -> Result<Option<SegmentsError>, String> {
    let mut should: BTreeMap<u16, Vec<_>> = BTreeMap::new();
    for (record, right) in &plain.records {
        should.entry(record.0).or_default().push((record, *right));
    }
    let mut damaged = None;
    for stream in view.streams() {
        let start = view.trimmed(stream);
        let mut reader = view.reader(stream, start).map_err(|error| error.to_string())?;
        for ((_, sequence, payload), right) in should.remove(&stream).unwrap_or_default() {
            match reader.try_next() {
                Ok(Some(stored)) => {
                    hold(right && digest(&stored.payload) == stored.digest, || {
                        "a record with a wrong digest was given".to_owned()
                    })?;
                    hold(stored.sequence == *sequence && stored.payload == *payload, || {
                        format!("another record at {sequence} of stream {stream}")
                    })?;
                }
                Ok(None) => return Err(format!("sequence {sequence} is missing")),
                Err(error) => {
                    hold(!right, || format!("a good record is not given: {error}"))?;
                    damaged = Some(error);
                    break;
                }
            }
        }
        let more = damaged.is_none() && reader.try_next().is_ok_and(|next| next.is_some());
        hold(!more, || "more than was written".to_owned())?;
    }
    hold(should.is_empty(), || "a stream is missing".to_owned())?;
    Ok(damaged)
}

/// The next start finds the same and cuts nothing, and what is appended then can be read.
fn started_again(
    dir: &Path,
    before: &Recovered,
    plain: &Plain,
    damaged: bool,
) -> Result<(), String> {
    let again = Segments::open(dir, SegmentsConfig::default(), [0; 16]);
    let (mut segments, recovered) = again.map_err(|error| format!("opened once only: {error}"))?;
    hold(recovered.cut.is_none() && recovered.ends == before.ends, || {
        "the second start finds something else".to_owned()
    })?;
    hold(same_records(segments.view(), plain)?.is_some() == damaged, || {
        "read otherwise after the second start".to_owned()
    })?;
    let appended = segments.append(&[Record { stream: 77, payload: b"more" }]);
    let appended = appended.map_err(|error| format!("cannot be written on: {error}"))?;
    let after = appended[0].sequence - 1;
    let reader = segments.view().reader(77, after);
    let next = reader.and_then(|mut reader| reader.try_next()).map_err(|e| e.to_string())?;
    hold(next.is_some_and(|next| next.payload == b"more"[..]), || {
        "what was appended is not there".to_owned()
    })
}

/// Good files: of three groups, one that ends within a group, one without groups, and one that goes
/// on after others.
pub(super) fn golden() -> Vec<Vec<u8>> {
    let three: [&[(u16, &[u8])]; 3] =
        [&[(0, b"first"), (3, b"")], &[(0, b"second")], &[(3, &[7; 300]), (0, b"third")]];
    let whole = last_file(&three, SegmentsConfig::default());
    let torn = whole[..whole.len() - 3].to_vec();
    let following = last_file(&three, SegmentsConfig { segment_bytes: 1 });
    vec![whole, torn, last_file(&[], SegmentsConfig::default()), following]
}

fn last_file(groups: &[&[(u16, &[u8])]], config: SegmentsConfig) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder for scratch files");
    let opened = Segments::open(folder.path(), config, *b"identity of fuzz");
    let (mut segments, _) = opened.expect("a new log");
    for group in groups {
        let records: Vec<_> =
            group.iter().map(|(stream, payload)| Record { stream: *stream, payload }).collect();
        segments.append(&records).expect("room on the disk");
    }
    let files = fs::read_dir(folder.path()).expect("it was just made").flatten();
    let files = files.map(|entry| entry.path());
    let last = files.filter(|path| path.extension().is_some_and(|end| end == "seg")).max();
    fs::read(last.expect("a log has a file")).expect("it was just written")
}

/// Writes the checksums, lengths and offsets that the bytes should have, and mostly the digests.
pub(super) fn checksums(mut file: Vec<u8>, random: &mut dyn Random) -> Vec<u8> {
    if file.len() < HEADER + 4 {
        return file;
    }
    let most = (file.len() - HEADER - 4) / 26;
    let streams = (number(&file, 56, 4).unwrap_or(0) as usize).min(most);
    let mut at = HEADER + 26 * streams + 4;
    put(&mut file, 12, at as u32);
    put(&mut file, 56, streams as u32);
    let crc = crc32c::crc32c(&file[..at - 4]);
    put(&mut file, at - 4, crc);
    let digests = below(random, 4) > 0;
    while at + GROUP + 32 <= file.len() && below(random, 16) > 0 {
        let rest = file.len() - at;
        let bytes = number(&file, at + 16, 4).unwrap_or(0) as usize;
        let bytes = if (GROUP + 32..=rest).contains(&bytes) { bytes } else { rest };
        let records = number(&file, at + 20, 4).unwrap_or(0) as usize;
        let records = records.clamp(1, (bytes - GROUP) / 32);
        put(&mut file, at + 16, bytes as u32);
        put(&mut file, at + 20, records as u32);
        file[at + 32..at + 40].copy_from_slice(&(at as u64).to_le_bytes());
        if digests {
            put_digests(&mut file[at..at + bytes], records);
        }
        let identity = crc32c::crc32c(&file[16..32]);
        let head = at + GROUP + 32 * records;
        for (to, from, end) in [(at + 12, at + 16, head), (at + 8, at + 12, at + bytes)] {
            let crc = crc32c::crc32c_append(identity, &file[from..end]);
            put(&mut file, to, crc);
        }
        at += bytes;
    }
    file
}

fn put_digests(group: &mut [u8], records: usize) {
    let mut payload = GROUP + 32 * records;
    for entry in (0..records).map(|n| GROUP + 32 * n) {
        let bytes = number(group, entry + 4, 4).unwrap_or(0) as usize;
        let Some(content) = group.get(payload..payload + bytes) else { return };
        let digest = digest(content);
        group[entry + 16..entry + 32].copy_from_slice(&digest);
        payload += bytes;
    }
}

fn put(file: &mut [u8], at: usize, number: u32) {
    file[at..at + 4].copy_from_slice(&number.to_le_bytes());
}
