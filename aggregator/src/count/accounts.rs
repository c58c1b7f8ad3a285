//! How many events were received in each minute, and what became of them.

use shared::Reason;
use shared::event::REASON_CODES;

/// The account of one minute in one partition. Every field only grows. The accounts of several
/// checkpoints are added up. So are those of several partitions, except for `declared` and
/// `given_up`: every partition hears of every batch, so of these the largest is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MinuteAccount {
    /// Events that the batches applied so far declared for this minute, in all partitions.
    pub declared: u64,
    /// Events of imported logs in this partition. (A chunk declares nothing for all partitions: one
    /// that reached only some of them is sent again, and then some have heard of it once and others
    /// twice.)
    pub imported: u64,
    /// Valid, and seen for the first time.
    pub counted: u64,
    /// Seen before.
    pub duplicate: u64,
    /// By [`Reason::code`].
    pub reasons: [u64; REASON_CODES],
    /// Batches that have not come and are waited for no more. Nobody knows which minutes their
    /// events were of: a batch is noted in the minute of the watermark before it.
    pub given_up: u64,
    /// How many messages added to the cells of this minute after it was final.
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
        // A hostile sender can leave gaps of up to 2^63 batches.
        self.given_up = self.given_up.saturating_add(other.given_up);
        self.revision += other.revision;
    }

    /// How many events of this minute have an outcome: counted, duplicate, or a reason.
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
