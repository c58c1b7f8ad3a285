//! How far the collector has acknowledged: a small file, written now and then. It may be old or
//! lost: then batches are sent again, and the counting engine knows their numbers.

use std::fs;
use std::io;
use std::path::Path;

use eventlog::Identity;

pub(super) const NAME: &str = "acked";

/// The sequence of the last record of this log that is known to be acknowledged; 0 when it is not
/// known.
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

/// Whether an outbox was here that a collector has acknowledged something of, whatever its log.
pub(super) fn is_there(dir: &Path) -> bool {
    let sequence = fs::read(dir.join(NAME)).ok().and_then(|bytes| bytes.first_chunk().copied());
    sequence.is_some_and(|sequence: [u8; 8]| sequence != [0; 8])
}

/// Writes it, in one step.
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
