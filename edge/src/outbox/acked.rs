//! How far the collector has acknowledged: a small file that is written now and then. When it is
//! old or lost, batches are sent again, and the counting engine recognises their numbers.

use std::fs;
use std::io;
use std::path::Path;

use eventlog::Identity;

pub(super) const NAME: &str = "acked";

/// The sequence of the last record of this log that is known to be acknowledged; 0 when none is.
pub(super) fn read(dir: &Path, identity: &Identity) -> u64 {
    let Ok(bytes) = fs::read(dir.join(NAME)) else {
        return 0;
    };
    let Some((sequence, rest)) = bytes.split_first_chunk::<8>() else {
        return 0;
    };
    let sequence = u64::from_le_bytes(*sequence);
    if rest == check(identity, sequence) { sequence } else { 0 }
}

/// Whether this directory had an outbox of which a collector has acknowledged something, be it
/// another log's.
pub(super) fn is_there(dir: &Path) -> bool {
    let sequence = fs::read(dir.join(NAME)).ok().and_then(|bytes| bytes.first_chunk().copied());
    sequence.is_some_and(|sequence: [u8; 8]| sequence != [0; 8])
}

/// Replaces the file in one step.
pub(super) fn write(dir: &Path, identity: &Identity, sequence: u64) -> io::Result<()> {
    let new = dir.join("acked.new");
    let mut bytes = sequence.to_le_bytes().to_vec();
    bytes.extend(check(identity, sequence));
    fs::write(&new, bytes)?;
    fs::rename(&new, dir.join(NAME))
}

fn check(identity: &Identity, sequence: u64) -> [u8; 4] {
    let crc = crc32c::crc32c_append(crc32c::crc32c(identity), &sequence.to_le_bytes());
    crc.to_le_bytes()
}
