//! An operator's word: a message without events, in the log of every partition. So a replay hears
//! the word at the same place.
//!
//! Version 1: `CSC1`, partition (2), collector's stamp in ms (8), then 1 and edge (16): the edge is
//! out of service; or 2, edge (16), epoch (8) and number (8): this batch never comes.

use super::message_view::MessageView;
use super::{WireError, message};
use crate::bytes::Reader;
use crate::id::OutboxId;
use crate::limits::BATCH_NUMBERS_MAX;
use crate::name::EdgeId;
use crate::time::Timestamp;

const MAGIC: [u8; 4] = *b"CSC1";
const RETIRE: u8 = 1;
const RESOLVE: u8 = 2;

/// A word for one partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Control {
    /// Of which partition.
    pub partition: u16,
    /// The collector's time when it was made.
    pub stamp: Timestamp,
    /// What the operator has decided.
    pub word: Word,
}

/// What an operator can decide.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// The edge is out of service for ever: nobody waits for its batches any more.
    Retire {
        /// The edge.
        edge: EdgeId,
    },
    /// This batch could not be decoded, and nobody waits for it any more. Should it come after all,
    /// it is skipped.
    Resolve {
        /// The outbox of the batch.
        outbox: OutboxId,
        /// Its number, below 2^63.
        number: u64,
    },
}

impl Control {
    /// The binary form.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(47);
        out.extend(MAGIC);
        out.extend(self.partition.to_le_bytes());
        out.extend(self.stamp.0.to_le_bytes());
        match self.word {
            Word::Retire { edge } => {
                out.push(RETIRE);
                out.extend(edge.padded());
            }
            Word::Resolve { outbox, number } => {
                out.push(RESOLVE);
                out.extend(outbox.edge.padded());
                out.extend(outbox.epoch.to_le_bytes());
                out.extend(number.to_le_bytes());
            }
        }
        out
    }

    /// Reads a word that fills `bytes`.
    ///
    /// # Errors
    /// [`WireError`] says what is wrong and where.
    pub fn read(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        if reader.array::<4>()? != MAGIC {
            return Err(WireError { what: "no operator's word of version 1 (CSC1)", at: 0 });
        }
        let (partition, stamp) = (reader.u16()?, reader.time()?);
        let word = match reader.u8()? {
            RETIRE => Word::Retire { edge: reader.id()? },
            RESOLVE => {
                let outbox = OutboxId { edge: reader.id()?, epoch: reader.u64()? };
                let number = reader.u64()?;
                if number >= BATCH_NUMBERS_MAX {
                    return Err(reader.error("a batch number that no outbox reaches"));
                }
                Word::Resolve { outbox, number }
            }
            _ => return Err(reader.error("an unknown word")),
        };
        reader.end()?;
        Ok(Self { partition, stamp, word })
    }
}

/// What a partition's log holds.
#[derive(Clone, Debug)]
pub enum Logged<'a> {
    /// Events.
    Message(Box<MessageView<'a>>),
    /// An operator's word.
    Control(Control),
}

impl<'a> Logged<'a> {
    /// Whether bytes that cannot be read begin like a message of ours, of whatever version. Then
    /// they are damaged or of a later version; else no program of ours wrote them.
    #[must_use]
    pub fn is_ours(bytes: &[u8]) -> bool {
        [message::MAGIC, MAGIC].iter().any(|magic| bytes.starts_with(&magic[..3]))
    }

    /// Reads a message of either kind.
    ///
    /// # Errors
    /// [`WireError`] says what is wrong and where.
    pub fn read(bytes: &'a [u8]) -> Result<Self, WireError> {
        match bytes.first_chunk() {
            Some(magic) if message::MAGICS.contains(magic) => {
                MessageView::read(bytes).map(|view| Self::Message(Box::new(view)))
            }
            Some(&MAGIC) => Control::read(bytes).map(Self::Control),
            _ => {
                let what = "neither a partition message (CSM4) nor an operator's word (CSC1)";
                Err(WireError { what, at: 0 })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::hex;

    fn words() -> [Control; 2] {
        let (partition, stamp, edge) = (3, Timestamp(1), EdgeId::literal("e"));
        let outbox = OutboxId { edge, epoch: 2 };
        [
            Control { partition, stamp, word: Word::Retire { edge } },
            Control { partition, stamp, word: Word::Resolve { outbox, number: 9 } },
        ]
    }

    #[test]
    fn the_bytes_are_pinned_and_come_back() {
        // Magic, partition, stamp; word; edge.
        let head = "43534331030001000000000000000";
        let edge = "65000000000000000000000000000000";
        let pinned =
            [format!("{head}1{edge}"), format!("{head}2{edge}02000000000000000900000000000000")];
        for (control, pinned) in words().iter().zip(pinned) {
            let bytes = control.to_bytes();
            assert_eq!(hex(&bytes), pinned);
            assert_eq!(Control::read(&bytes).as_ref(), Ok(control));
            assert!(matches!(Logged::read(&bytes), Ok(Logged::Control(read)) if read == *control));
        }
    }

    #[test]
    fn what_is_none_is_refused_with_its_place() {
        for control in words() {
            let bytes = control.to_bytes();
            for length in 0..bytes.len() {
                assert!(Control::read(&bytes[..length]).is_err(), "{length} bytes");
            }
            let with = |at: usize, byte: u8| {
                let mut bytes = bytes.clone();
                bytes[at] = byte;
                Control::read(&bytes).map_err(|error| error.to_string())
            };
            assert!(with(0, b'X').unwrap_err().contains("CSC1"));
            assert!(with(14, 9).unwrap_err().contains("unknown word"));
            assert!(with(15, b' ').unwrap_err().contains("an id"));
            assert!(Control::read(&[&bytes[..], &[0]].concat()).is_err());
        }
        let mut far = words()[1].to_bytes();
        far[46] = 0x80;
        assert!(Control::read(&far).unwrap_err().to_string().contains("no outbox reaches"));
        assert!(Logged::read(b"CSX1").is_err());
        assert!(Logged::is_ours(b"CSC9") && Logged::is_ours(b"CSM") && !Logged::is_ours(b"CSX1"));
    }
}
