//! The minutes that a message may speak of. Collectors refuse other minutes when they judge; this
//! check holds for messages of builds that did not, and against any other mistake. Events outside
//! the window get a reason, and are noted in the nearest minute inside, and so is what batches
//! declare for such minutes: no sender can make a partition keep minutes of arbitrary years.

use shared::limits::{CLOCK_AHEAD_MS_MAX, HORIZON_MS};
use shared::wire::MessageView;
use shared::{Minute, Reason, Timestamp};

/// The minutes that one message may speak of.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// The log's clock less the horizon: events of earlier minutes are too late. Rows of imported
    /// logs may be older.
    first: Minute,
    /// The collector's stamp and the most by which clocks may differ.
    last: Minute,
    /// The minutes of the message's table, then `first` and `last`.
    minutes: Vec<Minute>,
    /// Whether a minute of the message's table lies outside.
    has_outside: bool,
}

impl Window {
    /// Begins anew, for this message.
    pub(super) fn begin(&mut self, message: &MessageView<'_>, clock: Timestamp) {
        self.first = clock.minus_ms(HORIZON_MS).minute();
        self.last = message.stamp.plus_ms(CLOCK_AHEAD_MS_MAX).minute().max(self.first);
        self.minutes.clear();
        self.minutes.extend(&message.minutes);
        self.has_outside = message.minutes.iter().any(|m| *m < self.first || *m > self.last);
        self.minutes.extend([self.first, self.last]);
    }

    /// The minutes of the message's table, then the first and the last of the window:
    /// [`Self::place`] is an index into them.
    pub(super) fn minutes(&self) -> &[Minute] {
        &self.minutes
    }

    /// The minute itself when it lies inside; else the nearest minute inside, and the reason.
    pub(super) fn within(&self, minute: Minute, imported: bool) -> (Minute, Option<Reason>) {
        if minute > self.last {
            (self.last, Some(Reason::ClockAhead))
        } else if minute < self.first && !imported {
            (self.first, Some(Reason::TooLate))
        } else {
            (minute, None)
        }
    }

    /// [`Self::within`] of a minute by its number in the message, as an index into
    /// [`Self::minutes`].
    #[inline]
    pub(super) fn place(&self, number: u16, imported: bool) -> (usize, Option<Reason>) {
        let number = usize::from(number);
        if !self.has_outside {
            return (number, None);
        }
        let first = self.minutes.len() - 2;
        match self.within(self.minutes[number], imported) {
            (_, None) => (number, None),
            (_, Some(Reason::TooLate)) => (first, Some(Reason::TooLate)),
            (_, Some(reason)) => (first + 1, Some(reason)),
        }
    }
}
