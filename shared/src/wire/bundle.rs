//! Several outbox batches in one message of the work queue.
//!
//! `CSU1`, number of batches (2), then each: its length (4) and the batch. A single batch is sent
//! without a bundle. The work queue waits for its disk once for each message. An edge may seal a
//! batch of an event or two every few milliseconds, and a disk that needs 4 ms for a message would
//! take only 250 of them a second.

use super::WireError;
use crate::bytes::Reader;
use crate::limits::BUNDLE_BATCHES_MAX;

pub(super) const MAGIC: [u8; 4] = *b"CSU1";
/// Bytes of a bundle without its batches …
pub const HEADER_BYTES: usize = 6;
/// … and of each batch without itself.
pub const LENGTH_BYTES: usize = 4;

/// The bundle of these batches.
///
/// # Panics
/// When there are more than [`BUNDLE_BATCHES_MAX`], or one has 4 GiB.
#[must_use]
pub fn join<B: AsRef<[u8]>>(batches: &[B]) -> Vec<u8> {
    assert!(batches.len() <= BUNDLE_BATCHES_MAX, "a bundle has so many batches and no more");
    let bytes: usize = batches.iter().map(|batch| LENGTH_BYTES + batch.as_ref().len()).sum();
    let mut out = Vec::with_capacity(HEADER_BYTES + bytes);
    out.extend(MAGIC);
    out.extend(u16::try_from(batches.len()).expect("there are so many").to_le_bytes());
    for batch in batches.iter().map(AsRef::as_ref) {
        out.extend(u32::try_from(batch.len()).expect("none has 4 GiB").to_le_bytes());
        out.extend(batch);
    }
    out
}

/// The batches of a message: those in the bundle, or else the message itself. The batches are not
/// looked at.
///
/// # Errors
/// [`WireError`] when the message begins like a bundle, and is none.
pub fn split(message: &[u8]) -> Result<Vec<&[u8]>, WireError> {
    if !message.starts_with(&MAGIC) {
        return Ok(vec![message]);
    }
    let mut reader = Reader::new(message);
    reader.slice(MAGIC.len())?;
    let count = usize::from(reader.u16()?);
    if !(1..=BUNDLE_BATCHES_MAX).contains(&count) {
        return Err(reader.error("a bundle of 1 to 256 batches"));
    }
    let batches = (0..count).map(|_| {
        let length = reader.u32()?;
        reader.slice(usize::try_from(length).unwrap_or(usize::MAX))
    });
    let batches = batches.collect::<Result<Vec<_>, _>>()?;
    reader.end()?;
    Ok(batches)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_joined_is_split_and_what_is_damaged_is_refused() {
        let batches = [&b"one"[..], b"", b"CSB2 two"];
        let bundle = join(&batches);
        assert_eq!(bundle.len(), HEADER_BYTES + 3 * LENGTH_BYTES + 11);
        assert_eq!(split(&bundle).unwrap(), batches);
        assert_eq!(split(b"CSB2 alone").unwrap(), [b"CSB2 alone"]);
        assert_eq!(split(b"").unwrap(), [b""]);
        for end in MAGIC.len()..bundle.len() {
            assert!(split(&bundle[..end]).is_err(), "{end}");
        }
        let longer = [&bundle[..], b"x"].concat();
        assert_eq!(split(&longer).unwrap_err().at, bundle.len());
        let count = |count: u16| [&MAGIC[..], &count.to_le_bytes()].concat();
        assert!(split(&count(0)).is_err());
        let many = [count(257), vec![0; 257 * LENGTH_BYTES]].concat();
        assert!(split(&many).is_err());
        let most = join(&[b""; BUNDLE_BATCHES_MAX]);
        assert_eq!(split(&most).unwrap().len(), BUNDLE_BATCHES_MAX);
    }

    proptest! {
        #[test]
        fn any_batches_come_back_and_no_bytes_panic(
            batches in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..20),
            noise in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            let bundle = join(&batches);
            prop_assert_eq!(split(&bundle).unwrap(), batches);
            let _ = split(&[&MAGIC[..], &noise].concat());
        }
    }
}
