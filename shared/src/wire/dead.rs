//! Dead letters: what could not be decoded, kept as it came in the log's stream of dead letters
//! until an operator has looked at it.
//!
//! Version 2, little endian: `CSD2`, time in ms (8), the authenticated sender (1; 0 nobody, 1 the
//! operator, 2 an issuer, 3 an edge) and its id (16; zeros when it has none), length (2) and text
//! of where the letter came from, length (2) and text of what is wrong, the bytes as they came.
//! When an operator has looked at a letter, a note is appended: `CSR1`, time in ms (8), the
//! letter's sequence (8).
//!
//! Version 1, `CSD1`, is version 2 without the sender. It is still read, because a log may hold
//! such letters, and not written any more.

use crate::keys::Sender;
use crate::name::{EdgeId, ID_BYTES_MAX, IssuerId};
use crate::time::Timestamp;

const MAGIC: [u8; 4] = *b"CSD2";
const MAGIC_1: [u8; 4] = *b"CSD1";
const NOTE: [u8; 4] = *b"CSR1";
/// Texts are cut after so many bytes.
const TEXT_BYTES_MAX: usize = 1_024;
/// How many of the bytes that came are kept at most: letters stay in the log until an operator has
/// looked at them.
pub const LETTER_BYTES_MAX: usize = 64 << 10;

/// One dead letter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeadLetter<'a> {
    /// When the collector got it.
    pub at: Timestamp,
    /// The authenticated sender, with which what the bytes say of their origin is compared. None in
    /// version 1, and for a message in a partition's log that no program of ours wrote.
    pub sender: Option<Sender>,
    /// Where it came from, as far as is known.
    pub from: &'a str,
    /// What is wrong with it, and where.
    pub reason: &'a str,
    /// The bytes as they came, or only the first of them when there were many.
    pub bytes: &'a [u8],
}

impl<'a> DeadLetter<'a> {
    /// The binary form. Both texts are cut after 1 024 bytes; of the bytes the first
    /// [`LETTER_BYTES_MAX`] are kept, and the reason then begins with how many there were and their
    /// digest.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.to_bytes_of(LETTER_BYTES_MAX)
    }

    /// As [`Self::to_bytes`], but with the first `most` of the bytes, for a log that takes no
    /// larger message.
    #[must_use]
    pub fn to_bytes_of(&self, most: usize) -> Vec<u8> {
        if let Some((bytes, [_, ..])) = self.bytes.split_at_checked(most) {
            let (length, digest) = (self.bytes.len(), blake3::hash(self.bytes));
            let reason = format!(
                "{}; the first {most} of {length} bytes with BLAKE3 {digest} are kept",
                &self.reason[..self.reason.floor_char_boundary(TEXT_BYTES_MAX - 200)]
            );
            return DeadLetter { reason: &reason, bytes, ..*self }.to_bytes_of(most);
        }
        let mut out = Vec::with_capacity(self.bytes.len() + 256);
        out.extend(MAGIC);
        out.extend(self.at.0.to_le_bytes());
        let (code, id) = match self.sender {
            None => (0, [0; ID_BYTES_MAX]),
            Some(Sender::Operator) => (1, [0; ID_BYTES_MAX]),
            Some(Sender::Issuer(issuer)) => (2, *issuer.padded()),
            Some(Sender::Edge(edge)) => (3, *edge.padded()),
        };
        out.push(code);
        out.extend(id);
        for text in [self.from, self.reason] {
            let text = &text[..text.floor_char_boundary(TEXT_BYTES_MAX)];
            let length = u16::try_from(text.len()).expect("cut to 1 024 bytes");
            out.extend(length.to_le_bytes());
            out.extend(text.as_bytes());
        }
        out.extend(self.bytes);
        out
    }

    /// Reads the binary form; `None` when it is none.
    #[must_use]
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk()?;
        let (at, rest) = rest.split_first_chunk()?;
        let (sender, rest) = match *magic {
            MAGIC => sender(rest)?,
            MAGIC_1 => (None, rest),
            _ => return None,
        };
        let (from, rest) = text(rest)?;
        let (reason, bytes) = text(rest)?;
        Some(Self { at: Timestamp(u64::from_le_bytes(*at)), sender, from, reason, bytes })
    }
}

/// The note that an operator has looked at a letter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Resolved {
    /// When.
    pub at: Timestamp,
    /// The letter's sequence among the dead letters.
    pub sequence: u64,
}

impl Resolved {
    /// The binary form.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        [&NOTE[..], &self.at.0.to_le_bytes(), &self.sequence.to_le_bytes()].concat()
    }

    /// Reads the binary form; `None` when it is none.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (at, sequence) = bytes.strip_prefix(&NOTE)?.split_first_chunk()?;
        let sequence = u64::from_le_bytes(sequence.try_into().ok()?);
        Some(Self { at: Timestamp(u64::from_le_bytes(*at)), sequence })
    }
}

fn sender(bytes: &[u8]) -> Option<(Option<Sender>, &[u8])> {
    let (code, rest) = bytes.split_first()?;
    let (id, rest) = rest.split_first_chunk()?;
    let sender = match (code, *id == [0; ID_BYTES_MAX]) {
        (0, true) => None,
        (1, true) => Some(Sender::Operator),
        (2, false) => Some(Sender::Issuer(IssuerId::from_padded(*id).ok()?)),
        (3, false) => Some(Sender::Edge(EdgeId::from_padded(*id).ok()?)),
        _ => return None,
    };
    Some((sender, rest))
}

fn text(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (text, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    Some((std::str::from_utf8(text).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LETTER: DeadLetter<'_> =
        DeadLetter { at: Timestamp(1), sender: None, from: "a", reason: "bé", bytes: &[0xff] };

    #[test]
    fn comes_back_and_is_pinned() {
        let id = IssuerId::literal("house");
        for (sender, said) in [
            (None, "00".to_owned() + &"00".repeat(16)),
            (Some(Sender::Operator), "01".to_owned() + &"00".repeat(16)),
            (Some(Sender::Issuer(id)), "02".to_owned() + "686f757365" + &"00".repeat(11)),
            (
                Some(Sender::Edge(EdgeId::literal("house"))),
                "03".to_owned() + "686f757365" + &"00".repeat(11),
            ),
        ] {
            let letter = DeadLetter { sender, ..LETTER };
            let bytes = letter.to_bytes();
            let wanted = format!("435344320100000000000000{said}0100610300") + "62c3a9ff";
            assert_eq!(crate::text::hex(&bytes), wanted);
            assert_eq!(DeadLetter::read(&bytes), Some(letter));
            for length in 0..bytes.len() - 1 {
                assert_eq!(DeadLetter::read(&bytes[..length]), None, "{length} bytes");
            }
            // Nobody with a name, the operator with one, an issuer without one, and a code that no
            // build has written.
            let mut other = bytes.clone();
            other[12] ^= 2;
            assert_eq!(DeadLetter::read(&other), None, "{sender:?}");
            other[12] = 4;
            assert_eq!(DeadLetter::read(&other), None);
        }
    }

    #[test]
    fn a_letter_of_version_1_is_read_and_tells_nothing_of_who_sent_it() {
        let bytes = b"CSD1\x01\0\0\0\0\0\0\0\x01\0a\x03\0b\xc3\xa9\xff";
        assert_eq!(DeadLetter::read(bytes), Some(LETTER));
        for length in 0..bytes.len() - 1 {
            assert_eq!(DeadLetter::read(&bytes[..length]), None, "{length} bytes");
        }
    }

    #[test]
    fn of_a_large_letter_the_beginning_is_kept_and_what_all_of_it_was() {
        let large = vec![7; LETTER_BYTES_MAX + 1];
        let reason = "é".repeat(900);
        let letter = DeadLetter { reason: &reason, bytes: &large, ..LETTER };
        let bytes = letter.to_bytes();
        let read = DeadLetter::read(&bytes).unwrap();
        assert_eq!(read.bytes, &large[..LETTER_BYTES_MAX]);
        let said = format!("the first 65536 of 65537 bytes with BLAKE3 {}", blake3::hash(&large));
        assert!(read.reason.starts_with('é') && read.reason.contains(&said), "{}", read.reason);
        let whole = DeadLetter { bytes: &large[1..], ..letter }.to_bytes();
        assert_eq!(DeadLetter::read(&whole).unwrap().bytes.len(), LETTER_BYTES_MAX);
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let from = "é".repeat(600);
        let letter = DeadLetter { from: &from, reason: "", bytes: b"x", ..LETTER };
        let bytes = letter.to_bytes();
        let read = DeadLetter::read(&bytes).unwrap();
        assert_eq!((read.from.len(), read.bytes), (1_024, b"x".as_slice()));
    }

    #[test]
    fn a_note_comes_back_and_is_pinned() {
        let note = Resolved { at: Timestamp(1), sequence: 2 };
        let bytes = note.to_bytes();
        assert_eq!(crate::text::hex(&bytes), "4353523101000000000000000200000000000000");
        assert_eq!(Resolved::read(&bytes), Some(note));
        assert_eq!(Resolved::read(&bytes[1..]), None);
        assert_eq!((Resolved::read(&bytes[..19]), DeadLetter::read(&bytes)), (None, None));
    }
}
