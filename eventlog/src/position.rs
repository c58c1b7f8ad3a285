//! Positions in a log that can be checked against it.

/// The identity of a log: 16 random bytes drawn when it is created.
pub type Identity = [u8; 16];

/// The first 16 bytes of the BLAKE3 hash of a message's payload.
pub type Digest = [u8; 16];

/// How far a reader has read in a partition: the message at `sequence` is the
/// last one that it has taken.
///
/// The identity and the digest make a position *checkable*: a log that was
/// replaced, or that lost acknowledged messages and used their sequences
/// again, no longer matches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// Identity of the log.
    pub identity: Identity,
    /// Sequence of the message in its partition; the first one is 1.
    pub sequence: u64,
    /// Digest of that message's payload.
    pub digest: Digest,
}

impl Position {
    /// Length of [`Position::to_bytes`].
    pub const BYTES: usize = 40;

    /// Fixed form: identity, sequence (little endian), digest.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[..16].copy_from_slice(&self.identity);
        out[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        out[24..].copy_from_slice(&self.digest);
        out
    }

    /// Reads what [`Position::to_bytes`] wrote. `None` when the length is not
    /// [`Position::BYTES`] or the sequence is 0, which no message has.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::BYTES] = bytes.try_into().ok()?;
        let (identity, rest) = bytes.split_first_chunk::<16>()?;
        let (sequence, digest) = rest.split_first_chunk::<8>()?;
        let position = Self {
            identity: *identity,
            sequence: u64::from_le_bytes(*sequence),
            digest: digest.try_into().ok()?,
        };
        (position.sequence != 0).then_some(position)
    }
}

/// The digest of a payload, as positions and segment directories hold it.
#[must_use]
pub fn digest(payload: &[u8]) -> Digest {
    let mut out = [0; 16];
    out.copy_from_slice(&blake3::hash(payload).as_bytes()[..16]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_pinned_and_come_back() {
        let position = Position { identity: [0xaa; 16], sequence: 0x0102, digest: digest(b"abc") };
        let bytes = position.to_bytes();
        assert_eq!(bytes[..16], [0xaa; 16]);
        assert_eq!(bytes[16..24], [2, 1, 0, 0, 0, 0, 0, 0]);
        // The start of BLAKE3("abc"), from the test vectors of BLAKE3.
        assert_eq!(bytes[24..28], [0x64, 0x37, 0xb3, 0xac]);
        assert_eq!(Position::from_bytes(&bytes), Some(position));
    }

    #[test]
    fn other_lengths_and_sequence_0_are_refused() {
        assert_eq!(Position::from_bytes(&[1; 39]), None);
        assert_eq!(Position::from_bytes(&[1; 41]), None);
        assert_eq!(Position::from_bytes(&[0; 40]), None);
    }
}
