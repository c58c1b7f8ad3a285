//! What became of what was received, minute by minute.

use shared::Reason;
use shared::event::REASON_CODES;

/// The account of one minute in one partition. Every field only grows, and is added up over
/// checkpoints; over partitions, all but `declared` and `given_up` are added up, and of these the
/// largest is taken, because every partition hears of every batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MinuteAccount {
    /// Events that the batches applied so far declared for this minute, in all partitions.
    pub declared: u64,
    /// Events of imported logs in this partition. (Of a log nothing is declared beforehand: a
    /// chunk that reached some partitions only is sent again, and no count over all partitions
    /// would fit both those that have it once and those that have it twice.)
    pub imported: u64,
    /// Valid, and seen for the first time.
    pub counted: u64,
    /// Seen before.
    pub duplicate: u64,
    /// By [`Reason::code`].
    pub reasons: [u64; REASON_CODES],
    /// Batches that have not come and are waited for no more: what they would have declared nobody
    /// knows. They stand in the minute of the watermark before them.
    pub given_up: u64,
    /// How many messages added to the cells of this minute when it was final already.
    pub revision: u64,
}

impl MinuteAccount {
    /// Adds every field.
    pub fn add(&mut self, other: &Self) {
        self.declared += other.declared;
        self.imported += other.imported;
        self.counted += other.counted;
        self.duplicate += other.duplicate;
        self.reasons.iter_mut().zip(other.reasons).for_each(|(to, n)| *to += n);
        // A sender's numbers may be as large as he likes.
        self.given_up = self.given_up.saturating_add(other.given_up);
        self.revision += other.revision;
    }

    /// How many events of this minute have their outcome.
    #[must_use]
    pub fn outcomes(&self) -> u64 {
        self.counted + self.duplicate + self.reasons.iter().sum::<u64>()
    }

    /// How many events have this reason.
    #[must_use]
    pub fn reason(&self, reason: Reason) -> u64 {
        self.reasons[usize::from(reason.code())]
    }
}
