//! The wire forms: binary ones with versions, and one in JSON for people and third parties. All
//! numbers are little endian. Reading refuses whatever it does not know, and any byte behind the
//! end.

pub mod batch;
pub mod bundle;
mod codec;
pub mod control;
pub mod dead;
pub mod json;
pub mod message;
mod message_view;

pub use crate::bytes::WireError;
pub use batch::{Batch, Event, Tally};
pub use control::{Control, Logged, Word};
pub use dead::{DeadLetter, Resolved};
pub use message::{BatchEntry, ChunkEntry, Judged, MessageBuilder, TallyEntry};
pub use message_view::{Cold, KeptRows, MessageView, PageViewRow, Row};

use crate::time::Minute;

/// How many events of each minute a batch or chunk declares, in order of the minutes.
pub type Declared = Vec<(Minute, u32)>;

/// Adds up how many events each minute has, in whatever order the minutes come.
pub(crate) fn declared(counts: impl Iterator<Item = (Minute, u32)>) -> Declared {
    fn add(last: Option<&mut (Minute, u32)>, (minute, count): (Minute, u32)) -> bool {
        let Some(last) = last.filter(|last| last.0 == minute) else { return false };
        last.1 = last.1.saturating_add(count);
        true
    }
    let mut declared = Declared::new();
    // Neighbours are mostly of one minute, so most are added to the last entry; what is left is
    // sorted, and entries of one minute are merged.
    for of_minute in counts {
        if !add(declared.last_mut(), of_minute) {
            declared.push(of_minute);
        }
    }
    declared.sort_unstable_by_key(|(minute, _)| *minute);
    declared.dedup_by(|next, last| add(Some(last), *next));
    declared
}
