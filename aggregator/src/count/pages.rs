//! What pages have sent, beside what was counted of it.
//!
//! A page view numbers the events that it tells, and each request says the largest number so far. So
//! of a page view that was heard of at all it is known how many events it has sent, whether they came
//! or not; what is remembered of it is that number.

use std::collections::BTreeMap;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use shared::{PageSeq, PageView, Timestamp};

/// A page view that was not heard of for so many hours is forgotten. One that speaks again begins
/// anew, and what it has told before is counted as sent once more.
const KEPT_HOURS: u32 = 24;
/// So many page views are remembered, 16 bytes each; beyond that the oldest hour's are forgotten.
const PAGES_MAX: usize = 4 << 20;

/// What is remembered of a page view.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PageState {
    /// The largest number so far.
    pub seq: u16,
    /// The hour since 1970, by the log's clock, in which it was said.
    pub hour: u32,
}

/// What the pages of a publisher have told in a minute.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Told {
    /// Sent, as far as pages have said so in this minute.
    pub sent: u64,
    /// Of events that a page numbers: counted for the first time, with a verdict or without.
    pub counted: u64,
}

impl Told {
    /// Adds both.
    pub fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.counted += other.counted;
    }
}

/// All page views of a partition.
#[derive(Clone, Debug, Default)]
pub(super) struct Pages {
    states: HashMap<PageView, PageState, FixedState>,
    /// Who was heard of in which hour; a page view may stand in several, the last one holds.
    hours: BTreeMap<u32, Vec<PageView>>,
    /// Since the checkpoint; `None`: forgotten.
    changed: BTreeMap<PageView, Option<PageState>>,
}

impl Pages {
    /// How many events a page view has told that it had not told before.
    pub(super) fn take(&mut self, told: PageSeq, clock: Timestamp) -> u64 {
        let hour = hour(clock);
        let state = self.states.entry(told.page).or_default();
        if told.seq <= state.seq {
            return 0;
        }
        let before = std::mem::replace(state, PageState { seq: told.seq, hour });
        self.changed.insert(told.page, Some(*state));
        if before.seq == 0 || before.hour != hour {
            self.hours.entry(hour).or_default().push(told.page);
        }
        u64::from(told.seq - before.seq)
    }

    /// Forgets what is old, and the oldest when there are too many.
    pub(super) fn forget_behind(&mut self, clock: Timestamp) {
        self.forget(clock, PAGES_MAX);
    }

    fn forget(&mut self, clock: Timestamp, most: usize) {
        let first = hour(clock).saturating_sub(KEPT_HOURS);
        while let Some((oldest, _)) = self.hours.first_key_value() {
            let oldest = *oldest;
            if oldest >= first && self.states.len() <= most {
                return;
            }
            for page in self.hours.remove(&oldest).unwrap_or_default() {
                if self.states.get(&page).is_some_and(|state| state.hour == oldest) {
                    self.states.remove(&page);
                    self.changed.insert(page, None);
                }
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.states.len()
    }

    /// What changed: to put, and to delete (`None`).
    pub(super) fn checkpoint(&mut self) -> Vec<(PageView, Option<PageState>)> {
        std::mem::take(&mut self.changed).into_iter().collect()
    }

    pub(super) fn load(states: Vec<(PageView, PageState)>) -> Self {
        let mut this = Self::default();
        for (page, state) in states {
            this.hours.entry(state.hour).or_default().push(page);
            this.states.insert(page, state);
        }
        this
    }
}

fn hour(clock: Timestamp) -> u32 {
    u32::try_from(clock.0 / 3_600_000).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: u64 = 3_600_000;

    fn told(page: u64, seq: u16) -> PageSeq {
        PageSeq { page: PageView(page), seq }
    }

    #[test]
    fn a_page_is_what_it_said_last_whatever_the_order() {
        let mut pages = Pages::default();
        let now = Timestamp(HOUR_MS);
        let sent = [(1, 3), (1, 1), (2, 1), (1, 3), (1, 10), (2, 2)];
        let sent = sent.map(|(page, seq)| pages.take(told(page, seq), now));
        assert_eq!(sent, [3, 0, 1, 0, 7, 1]);
    }

    #[test]
    fn a_page_is_forgotten_a_day_after_it_last_said_anything() {
        let mut pages = Pages::default();
        pages.take(told(1, 1), Timestamp(0));
        pages.take(told(2, 1), Timestamp(0));
        pages.take(told(1, 2), Timestamp(HOUR_MS));
        assert_eq!(pages.checkpoint().len(), 2);
        pages.forget_behind(Timestamp(25 * HOUR_MS));
        assert_eq!((pages.len(), pages.take(told(1, 3), Timestamp(25 * HOUR_MS))), (1, 1));
        let state = PageState { seq: 3, hour: 25 };
        assert_eq!(pages.checkpoint(), [(PageView(1), Some(state)), (PageView(2), None)]);
        // What was loaded is forgotten as what was heard.
        let mut pages = Pages::load(vec![(PageView(1), state)]);
        pages.forget_behind(Timestamp(49 * HOUR_MS));
        assert_eq!(pages.len(), 1);
        pages.forget_behind(Timestamp(50 * HOUR_MS));
        assert_eq!((pages.len(), pages.checkpoint()), (0, vec![(PageView(1), None)]));
    }

    #[test]
    fn of_too_many_pages_the_oldest_hour_goes() {
        let mut pages = Pages::default();
        for page in 0..9 {
            pages.take(told(page, 1), Timestamp((page % 3) * HOUR_MS));
        }
        pages.forget(Timestamp(3 * HOUR_MS), 9);
        assert_eq!(pages.len(), 9);
        pages.forget(Timestamp(3 * HOUR_MS), 8);
        assert_eq!(pages.len(), 6);
        assert_eq!(pages.take(told(1, 2), Timestamp(3 * HOUR_MS)), 1, "of the second hour");
        assert_eq!(pages.take(told(3, 2), Timestamp(3 * HOUR_MS)), 2, "of the first");
    }
}
