//! Dead letters: what could not be decoded, kept as it came in the log's stream
//! [`eventlog::DEAD`] until an operator has looked at it.
//!
//! Form, little endian: `CSD1`, collector's time in ms (8), length (2) and text of the sender,
//! length (2) and text of what is wrong, the bytes as they came. When an operator has looked at one,
//! a note follows it: `CSR1`, time in ms (8), the letter's sequence (8).

use std::collections::BTreeMap;

use bytes::Bytes;
use eventlog::{DEAD, Log, LogError, Message, Reader};
use serde::Serialize;
use shared::wire::batch;
use shared::{Id, OutboxId, Timestamp};

const MAGIC: [u8; 4] = *b"CSD1";
const NOTE: [u8; 4] = *b"CSR1";
/// Longer texts are cut.
const TEXT_BYTES_MAX: usize = 1_024;

/// One dead letter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeadLetter<'a> {
    /// When the collector got it.
    pub at: Timestamp,
    /// Who sent it, as far as is known.
    pub sender: &'a str,
    /// What is wrong with it, and where.
    pub reason: &'a str,
    /// The bytes as they came.
    pub bytes: &'a [u8],
}

impl<'a> DeadLetter<'a> {
    /// The binary form. Sender and reason are cut after 1 024 bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes.len() + 256);
        out.extend(MAGIC);
        out.extend(self.at.0.to_le_bytes());
        for text in [self.sender, self.reason] {
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
        let rest = bytes.strip_prefix(&MAGIC)?;
        let (at, rest) = rest.split_first_chunk()?;
        let (sender, rest) = text(rest)?;
        let (reason, bytes) = text(rest)?;
        Some(Self { at: Timestamp(u64::from_le_bytes(*at)), sender, reason, bytes })
    }
}

/// What an operator is shown of a letter.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Summary {
    /// Its place among the dead letters.
    pub sequence: u64,
    /// When the collector got it.
    pub at: Timestamp,
    /// Who sent it, as far as is known.
    pub sender: String,
    /// What is wrong with it, and where.
    pub reason: String,
    /// How many bytes came.
    pub bytes: usize,
    /// Which batch it says that it is, when its first bytes say so: the number is missing until it
    /// is resolved.
    pub batch: Option<BatchName>,
}

/// One batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchName {
    /// Whose.
    pub edge: Id,
    /// The outbox's.
    pub epoch: u64,
    /// Its number.
    pub number: u64,
}

impl BatchName {
    /// The outbox.
    #[must_use]
    pub fn outbox(&self) -> OutboxId {
        OutboxId { edge: self.edge, epoch: self.epoch }
    }
}

/// The letters that nobody has looked at yet, oldest first; at most `most`, and whether there are
/// more.
///
/// # Errors
/// [`LogError`].
pub async fn unresolved<L: Log>(log: &L, most: usize) -> Result<(Vec<Summary>, bool), LogError> {
    let mut letters = BTreeMap::new();
    let mut more = false;
    each(log, |sequence, payload| {
        if let Some(note) = resolved_by(payload) {
            letters.remove(&note);
        } else if letters.len() >= most {
            more = true;
        } else if let Some(letter) = DeadLetter::read(payload) {
            letters.insert(
                sequence,
                Summary {
                    sequence,
                    at: letter.at,
                    sender: letter.sender.to_owned(),
                    reason: letter.reason.to_owned(),
                    bytes: letter.bytes.len(),
                    batch: name_of(letter.bytes),
                },
            );
        }
        true
    })
    .await?;
    Ok((letters.into_values().collect(), more))
}

/// One letter, as it came.
///
/// # Errors
/// [`LogError`].
pub async fn find<L: Log>(log: &L, wanted: u64) -> Result<Option<Bytes>, LogError> {
    let mut found = None;
    each(log, |sequence, payload| {
        if sequence == wanted && DeadLetter::read(payload).is_some() {
            found = Some(payload.clone());
        }
        sequence < wanted
    })
    .await?;
    Ok(found)
}

/// Notes that an operator has looked at a letter.
///
/// # Errors
/// [`LogError`].
pub async fn resolve<L: Log>(log: &L, sequence: u64, now: Timestamp) -> Result<(), LogError> {
    let payload = [&NOTE[..], &now.0.to_le_bytes(), &sequence.to_le_bytes()].concat();
    log.append(vec![Message { partition: DEAD, payload: payload.into() }]).await.map(drop)
}

/// Hands over what lies there, until it is told that this is enough.
async fn each<L: Log>(log: &L, mut take: impl FnMut(u64, &Bytes) -> bool) -> Result<(), LogError> {
    let Some(end) = log.end(DEAD).await? else { return Ok(()) };
    let mut reader = log.reader(DEAD, None).await?;
    loop {
        let next = reader.next().await?;
        let sequence = next.position.sequence;
        if !take(sequence, &next.payload) || sequence >= end.sequence {
            return Ok(());
        }
    }
}

fn resolved_by(payload: &[u8]) -> Option<u64> {
    let rest = payload.strip_prefix(&NOTE)?;
    let (_, rest) = rest.split_first_chunk::<8>()?;
    rest.try_into().ok().map(u64::from_le_bytes)
}

/// Which batch these bytes begin like.
#[must_use]
pub fn name_of(bytes: &[u8]) -> Option<BatchName> {
    let (outbox, number) = batch::name_of(bytes)?;
    Some(BatchName { edge: outbox.edge, epoch: outbox.epoch, number })
}

fn text(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (text, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    Some((std::str::from_utf8(text).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_and_is_pinned() {
        let letter = DeadLetter { at: Timestamp(1), sender: "a", reason: "bé", bytes: &[0xff] };
        let bytes = letter.to_bytes();
        assert_eq!(
            shared::text::hex(&bytes),
            "4353443101000000000000000100610300".to_owned() + "62c3a9ff"
        );
        assert_eq!(DeadLetter::read(&bytes), Some(letter));
        for length in 0..bytes.len() - 1 {
            assert_eq!(DeadLetter::read(&bytes[..length]), None, "{length} bytes");
        }
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let sender = "é".repeat(600);
        let letter = DeadLetter { at: Timestamp(1), sender: &sender, reason: "", bytes: b"x" };
        let bytes = letter.to_bytes();
        let read = DeadLetter::read(&bytes).unwrap();
        assert_eq!((read.sender.len(), read.bytes), (1_024, b"x".as_slice()));
    }
}
