//! Events of a message that outlive it.

use super::{COLD_BYTES, HOT_BYTES, MessageView, Row, row};
use crate::bytes::{Reader, WireError};

/// Some events of a message, in as many bytes as they have there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeptRows(Vec<([u8; HOT_BYTES], [u16; 2])>);

impl KeptRows {
    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The events in their order, each with the numbers of campaign and advertiser; 0 is none.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = (Row, [u16; 2])> {
        self.0.iter().map(|(hot, payers)| (row(hot), *payers))
    }

    /// Bytes on the heap.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.capacity() * (HOT_BYTES + 4)
    }
}

impl MessageView<'_> {
    /// The events at these places, with the numbers of campaign and advertiser of each
    /// ([`MessageView::payers`]), to be kept longer than the message.
    ///
    /// # Panics
    /// When there are not so many.
    #[must_use]
    pub fn kept(&self, places: &[u16]) -> KeptRows {
        // A message of an edge's making can have cold rows that cannot be read; its events count all
        // the same. Then campaign and advertiser are not known.
        let payers = self.payers().unwrap_or_default();
        let (hot, _) = self.hot.as_chunks::<HOT_BYTES>();
        let row = |at: &u16| (hot[usize::from(*at)], payers.get(usize::from(*at)).copied());
        KeptRows(
            places.iter().map(row).map(|(hot, payers)| (hot, payers.unwrap_or_default())).collect(),
        )
    }

    /// Campaign and advertiser of each event, as numbers of [`MessageView::ids`]: what
    /// [`MessageView::cold`] has of them, in a tenth of the space.
    ///
    /// # Errors
    /// As those of [`MessageView::cold`].
    pub fn payers(&self) -> Result<Vec<[u16; 2]>, WireError> {
        if self.version < 4 {
            let rows = self.cold()?;
            return Ok(rows.into_iter().map(|row| [row.campaign, row.advertiser]).collect());
        }
        let mut reader = Reader::new(self.cold);
        let mut rows = Vec::with_capacity(self.hot.len() / HOT_BYTES);
        for _ in 0..self.hot.len() / HOT_BYTES {
            let row: [u8; COLD_BYTES] = reader.array()?;
            let word = |at: usize| u16::from_le_bytes([row[at], row[at + 1]]);
            let payers = [word(0), word(2)];
            if payers.iter().any(|id| usize::from(*id) >= self.ids.len()) {
                return Err(reader.error("a cold row that points nowhere"));
            }
            rows.push(payers);
            reader.slice(usize::from(word(COLD_BYTES - 2)))?;
        }
        reader.end()?;
        Ok(rows)
    }
}
