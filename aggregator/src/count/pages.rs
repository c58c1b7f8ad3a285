//! What pages have sent, beside what was counted of it.
//!
//! A page view numbers the events that it tells, and each request says the largest number so far. So
//! of a page view that was heard of at all it is known how many events it has sent, whether they came
//! or not; what is remembered of it is that number.

use std::collections::BTreeMap;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use shared::{EdgeId, PageSeq, PageView, Timestamp};

/// A page view that was not heard of for so many hours is forgotten. One that speaks again begins
/// anew, and what it has told before is counted as sent once more.
const KEPT_HOURS: u32 = 24;
/// So many page views are remembered, some 20 bytes each; beyond that the oldest of the edge that has told of
/// the most are forgotten, so that no flood of one makes others forgotten.
const PAGES_MAX: usize = 4 << 20;

/// What is remembered of a page view.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PageState {
    /// The largest number so far.
    pub seq: u16,
    /// The hour since 1970, by the log's clock, in which it was said.
    pub hour: u32,
    /// The edge that has told of it first, by its registered name; none where an earlier build has not
    /// kept that.
    pub edge: EdgeId,
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

/// A [`PageState`] in 8 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct State {
    seq: u16,
    /// Its place among the edges.
    edge: u16,
    hour: u32,
}

/// All page views of a partition.
#[derive(Clone, Debug, Default)]
pub(super) struct Pages {
    states: HashMap<PageView, State, FixedState>,
    /// Who was heard of in which hour, by edge; a page view may stand in several, the last one holds.
    hours: BTreeMap<(u32, u16), Vec<PageView>>,
    /// Those that have told of any, and of how many that are remembered. Beyond what a number can say
    /// they share the last.
    edges: Vec<(EdgeId, usize)>,
    /// Since the checkpoint; `None`: forgotten.
    changed: BTreeMap<PageView, Option<State>>,
}

impl Pages {
    /// How many events a page view has told, by this edge, that it had not told before.
    pub(super) fn take(&mut self, told: PageSeq, edge: EdgeId, clock: Timestamp) -> u64 {
        let hour = hour(clock);
        let before = self.states.get(&told.page).copied();
        let seq = before.map_or(0, |state| state.seq);
        if told.seq <= seq {
            return 0;
        }
        let edge = before.map_or_else(|| self.place(edge), |state| state.edge);
        let state = State { seq: told.seq, edge, hour };
        self.put(told.page, state);
        self.changed.insert(told.page, Some(state));
        u64::from(told.seq - seq)
    }

    fn put(&mut self, page: PageView, state: State) {
        let before = self.states.insert(page, state);
        self.edges[usize::from(state.edge)].1 += usize::from(before.is_none());
        if before.is_none_or(|before| before.hour != state.hour) {
            self.hours.entry((state.hour, state.edge)).or_default().push(page);
        }
    }

    /// The place of an edge. There are as many as are registered.
    fn place(&mut self, edge: EdgeId) -> u16 {
        let known = self.edges.iter().position(|(known, _)| *known == edge);
        let at = known.unwrap_or_else(|| {
            if self.edges.len() <= usize::from(u16::MAX) {
                self.edges.push((edge, 0));
            }
            self.edges.len() - 1
        });
        u16::try_from(at).unwrap_or(u16::MAX)
    }

    /// Forgets what is old, and the oldest of who has most when there are too many.
    pub(super) fn forget_behind(&mut self, clock: Timestamp) {
        self.forget(clock, PAGES_MAX);
    }

    fn forget(&mut self, clock: Timestamp, most: usize) {
        let first = hour(clock).saturating_sub(KEPT_HOURS);
        while let Some((at, _)) =
            self.hours.first_key_value().filter(|((hour, _), _)| *hour < first)
        {
            self.forget_at(*at);
        }
        while self.states.len() > most {
            let by_size = |(_, (edge, pages)): &(usize, &(EdgeId, usize))| (*pages, *edge);
            let largest = self.edges.iter().enumerate().max_by_key(by_size);
            let largest = largest.map_or(0, |(edge, _)| edge);
            let of_edge = |(_, edge): &&(u32, u16)| usize::from(*edge) == largest;
            let Some(oldest) = self.hours.keys().find(of_edge) else { return };
            self.forget_at(*oldest);
        }
    }

    /// Forgets what an edge was heard to tell last in an hour.
    fn forget_at(&mut self, at: (u32, u16)) {
        for page in self.hours.remove(&at).unwrap_or_default() {
            if self.states.get(&page).is_some_and(|state| (state.hour, state.edge) == at) {
                self.states.remove(&page);
                self.edges[usize::from(at.1)].1 -= 1;
                self.changed.insert(page, None);
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.states.len()
    }

    /// What changed: to put, and to delete (`None`).
    pub(super) fn checkpoint(&mut self) -> Vec<(PageView, Option<PageState>)> {
        let whole = |State { seq, edge, hour }| {
            let edge = self.edges[usize::from(edge)].0;
            PageState { seq, hour, edge }
        };
        let changed = std::mem::take(&mut self.changed).into_iter();
        changed.map(|(page, state)| (page, state.map(whole))).collect()
    }

    pub(super) fn load(states: Vec<(PageView, PageState)>) -> Self {
        let mut this = Self::default();
        for (page, PageState { seq, hour, edge }) in states {
            let edge = this.place(edge);
            this.put(page, State { seq, edge, hour });
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
    const EDGE: EdgeId = EdgeId::literal("edge");

    fn told(page: u64, seq: u16) -> PageSeq {
        PageSeq { page: PageView(page), seq }
    }

    #[test]
    fn a_page_is_what_it_said_last_whatever_the_order() {
        let mut pages = Pages::default();
        let now = Timestamp(HOUR_MS);
        let sent = [(1, 3), (1, 1), (2, 1), (1, 3), (1, 10), (2, 2)];
        let sent = sent.map(|(page, seq)| pages.take(told(page, seq), EDGE, now));
        assert_eq!(sent, [3, 0, 1, 0, 7, 1]);
    }

    #[test]
    fn a_page_is_forgotten_a_day_after_it_last_said_anything() {
        let mut pages = Pages::default();
        pages.take(told(1, 1), EDGE, Timestamp(0));
        pages.take(told(2, 1), EDGE, Timestamp(0));
        pages.take(told(1, 2), EDGE, Timestamp(HOUR_MS));
        assert_eq!(pages.checkpoint().len(), 2);
        pages.forget_behind(Timestamp(25 * HOUR_MS));
        assert_eq!((pages.len(), pages.take(told(1, 3), EDGE, Timestamp(25 * HOUR_MS))), (1, 1));
        let state = PageState { seq: 3, hour: 25, edge: EDGE };
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
            pages.take(told(page, 1), EDGE, Timestamp((page % 3) * HOUR_MS));
        }
        pages.forget(Timestamp(3 * HOUR_MS), 9);
        assert_eq!(pages.len(), 9);
        pages.forget(Timestamp(3 * HOUR_MS), 8);
        assert_eq!(pages.len(), 6);
        let now = Timestamp(3 * HOUR_MS);
        assert_eq!(pages.take(told(1, 2), EDGE, now), 1, "of the second hour");
        assert_eq!(pages.take(told(3, 2), EDGE, now), 2, "of the first");
    }

    #[test]
    fn a_flood_of_one_edge_s_pages_makes_none_of_another_s_forgotten() {
        let mut pages = Pages::default();
        let flood = EdgeId::literal("flood");
        pages.take(told(1, 7), EDGE, Timestamp(0));
        for page in 2..1_000 {
            let now = Timestamp(page * HOUR_MS / 100);
            pages.take(told(page, 1), flood, now);
            pages.forget(now, 50);
            assert!(pages.len() <= 50);
        }
        let now = Timestamp(10 * HOUR_MS);
        assert_eq!(pages.take(told(1, 8), EDGE, now), 1, "it is known that there were seven");
        assert_eq!(pages.take(told(2, 2), flood, now), 2, "of its own the oldest went");
        // So it is after a crash: whose they are is kept.
        let mut states: BTreeMap<PageView, PageState> = BTreeMap::new();
        for (page, state) in pages.checkpoint() {
            match state {
                Some(state) => drop(states.insert(page, state)),
                None => drop(states.remove(&page)),
            }
        }
        let loaded = Pages::load(states.into_iter().collect());
        let counts = |pages: &Pages| pages.edges.iter().copied().collect::<BTreeMap<_, _>>();
        assert_eq!((loaded.len(), counts(&loaded)), (pages.len(), counts(&pages)));
    }
}
