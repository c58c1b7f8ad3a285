//! The minutes that a message may speak of. The collector sees to it when it judges; this is the last
//! line, and for messages of builds that did not. What lies outside has a reason, and is put into
//! the nearest minute inside, declared and outcome alike: no sender can make a partition keep minutes
//! of any year.

use shared::limits::{CLOCK_AHEAD_MS_MAX, HORIZON_MS};
use shared::wire::MessageView;
use shared::{Minute, Reason, Timestamp};

/// The minutes of one message.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// The horizon behind the log's clock: what is older is too late for everybody. Rows of a log
    /// may be older.
    first: Minute,
    /// As far ahead of the collector's stamp as clocks may differ.
    last: Minute,
    /// Those of the message, then the first and the last.
    minutes: Vec<Minute>,
    has_outside: bool,
}

impl Window {
    /// For this message.
    pub(super) fn begin(&mut self, message: &MessageView<'_>, clock: Timestamp) {
        self.first = clock.minus_ms(HORIZON_MS).minute();
        self.last = message.stamp.plus_ms(CLOCK_AHEAD_MS_MAX).minute().max(self.first);
        self.minutes.clear();
        self.minutes.extend(&message.minutes);
        self.has_outside = message.minutes.iter().any(|m| *m < self.first || *m > self.last);
        self.minutes.extend([self.first, self.last]);
    }

    /// The minutes by their places.
    pub(super) fn minutes(&self) -> &[Minute] {
        &self.minutes
    }

    /// The minute inside, and the reason when this one is not.
    pub(super) fn within(&self, minute: Minute, imported: bool) -> (Minute, Option<Reason>) {
        if minute > self.last {
            (self.last, Some(Reason::ClockAhead))
        } else if minute < self.first && !imported {
            (self.first, Some(Reason::TooLate))
        } else {
            (minute, None)
        }
    }

    /// The place of a minute of the message, or of the nearest one inside with the reason.
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
