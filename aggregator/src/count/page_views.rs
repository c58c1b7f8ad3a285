//! How many events page views have sent, to be compared with how many were counted.
//!
//! A page view numbers its events, and each of its requests tells the largest number so far. So one
//! request that arrives is enough to know how many events were sent by then, also those that never
//! arrived. That number is what is remembered of a page view.

use std::collections::BTreeMap;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use shared::{EdgeId, PageSeq, PageView, Timestamp};

/// A page view that tells nothing new for so many hours is forgotten. Should it tell something
/// after all, it begins anew: what it had sent before is counted as sent once more.
const KEPT_HOURS: u32 = 24;
/// The most page views that are remembered, some 20 bytes each. Beyond that, the edge with the most
/// of them loses its oldest, so that a flood from one edge makes none of another's forgotten.
const PAGE_VIEWS_MAX: usize = 4 << 20;

/// What is remembered of a page view.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PageViewState {
    /// The largest number that it has told.
    pub seq: u16,
    /// When it told that number: the hour since 1970, by the log's clock.
    pub hour: u32,
    /// The edge whose batch was the first to bring it, by its registered name; [`EdgeId::NONE`] in
    /// rows of earlier builds, which did not keep it.
    pub edge: EdgeId,
}

/// What page views at a publisher have told in a minute, beside what was counted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Told {
    /// By how many events the numbers that page views told have grown in this minute.
    pub sent: u64,
    /// How many events that page views number were new, with a verdict or without.
    pub counted: u64,
}

impl Told {
    /// Adds both.
    pub fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.counted += other.counted;
    }
}

/// A [`PageViewState`] in 8 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct PackedState {
    seq: u16,
    /// The number of the edge: its index in [`PageViews::edges`].
    edge: u16,
    hour: u32,
}

/// All page views of a partition.
#[derive(Clone, Debug, Default)]
pub(super) struct PageViews {
    states: HashMap<PageView, PackedState, FixedState>,
    /// By hour and number of the edge: the page views that told something new then. One that did so
    /// in several hours stands under each; only the entry that agrees with its state counts.
    hours: BTreeMap<(u32, u16), Vec<PageView>>,
    /// By number: each edge that has brought page views, and how many of them are remembered. When
    /// the 65 536 numbers are used up, all further edges share the last.
    edges: Vec<(EdgeId, usize)>,
    /// What changed since the last checkpoint; `None`: forgotten.
    changed: BTreeMap<PageView, Option<PackedState>>,
}

impl PageViews {
    /// Takes a number that a page view has told through this edge. Returns by how many events it
    /// has grown: 0 when as much or more was told before.
    pub(super) fn take(&mut self, told: PageSeq, edge: EdgeId, clock: Timestamp) -> u64 {
        let hour = hour(clock);
        let before = self.states.get(&told.page).copied();
        let seq = before.map_or(0, |state| state.seq);
        if told.seq <= seq {
            return 0;
        }
        let edge = before.map_or_else(|| self.edge_number(edge), |state| state.edge);
        let state = PackedState { seq: told.seq, edge, hour };
        self.put(told.page, state);
        self.changed.insert(told.page, Some(state));
        u64::from(told.seq - seq)
    }

    fn put(&mut self, page: PageView, state: PackedState) {
        let before = self.states.insert(page, state);
        self.edges[usize::from(state.edge)].1 += usize::from(before.is_none());
        if before.is_none_or(|before| before.hour != state.hour) {
            self.hours.entry((state.hour, state.edge)).or_default().push(page);
        }
    }

    /// The number of an edge, which it is given when it has none. Looked up one by one: there are
    /// no more edges than are registered.
    fn edge_number(&mut self, edge: EdgeId) -> u16 {
        let known = self.edges.iter().position(|(known, _)| *known == edge);
        let at = known.unwrap_or_else(|| {
            if self.edges.len() <= usize::from(u16::MAX) {
                self.edges.push((edge, 0));
            }
            self.edges.len() - 1
        });
        u16::try_from(at).unwrap_or(u16::MAX)
    }

    /// Forgets page views that have told nothing new for [`KEPT_HOURS`], and of those beyond
    /// [`PAGE_VIEWS_MAX`] the oldest of the edge with the most.
    pub(super) fn forget_behind(&mut self, clock: Timestamp) {
        self.forget(clock, PAGE_VIEWS_MAX);
    }

    fn forget(&mut self, clock: Timestamp, most: usize) {
        let first = hour(clock).saturating_sub(KEPT_HOURS);
        // Each round takes away the oldest entry of `hours`, until that is of `first` or later.
        while let Some((at, _)) =
            self.hours.first_key_value().filter(|((hour, _), _)| *hour < first)
        {
            self.forget_at(*at);
        }
        // Each round takes away an entry of `hours`. Every page view that is remembered stands
        // there under its state, so enough of them go before the entries do.
        while self.states.len() > most {
            let by_size = |(_, (edge, count)): &(usize, &(EdgeId, usize))| (*count, *edge);
            let largest = self.edges.iter().enumerate().max_by_key(by_size);
            let largest = largest.map_or(0, |(edge, _)| edge);
            let of_edge = |(_, edge): &&(u32, u16)| usize::from(*edge) == largest;
            let Some(oldest) = self.hours.keys().find(of_edge) else { return };
            self.forget_at(*oldest);
        }
    }

    /// Forgets the page views of an edge that told something new last in an hour.
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

    /// What changed since the last checkpoint: states to put, and page views to delete (`None`).
    pub(super) fn checkpoint(&mut self) -> Vec<(PageView, Option<PageViewState>)> {
        let whole = |PackedState { seq, edge, hour }| {
            let edge = self.edges[usize::from(edge)].0;
            PageViewState { seq, hour, edge }
        };
        let changed = std::mem::take(&mut self.changed).into_iter();
        changed.map(|(page, state)| (page, state.map(whole))).collect()
    }

    pub(super) fn load(states: Vec<(PageView, PageViewState)>) -> Self {
        let mut this = Self::default();
        for (page, PageViewState { seq, hour, edge }) in states {
            let edge = this.edge_number(edge);
            this.put(page, PackedState { seq, edge, hour });
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
    fn of_a_page_view_the_largest_number_holds_whatever_the_order() {
        let mut views = PageViews::default();
        let now = Timestamp(HOUR_MS);
        let sent = [(1, 3), (1, 1), (2, 1), (1, 3), (1, 10), (2, 2)];
        let sent = sent.map(|(page, seq)| views.take(told(page, seq), EDGE, now));
        assert_eq!(sent, [3, 0, 1, 0, 7, 1]);
    }

    #[test]
    fn a_page_view_is_forgotten_a_day_after_it_last_said_anything() {
        let mut views = PageViews::default();
        views.take(told(1, 1), EDGE, Timestamp(0));
        views.take(told(2, 1), EDGE, Timestamp(0));
        views.take(told(1, 2), EDGE, Timestamp(HOUR_MS));
        assert_eq!(views.checkpoint().len(), 2);
        views.forget_behind(Timestamp(25 * HOUR_MS));
        assert_eq!((views.len(), views.take(told(1, 3), EDGE, Timestamp(25 * HOUR_MS))), (1, 1));
        let state = PageViewState { seq: 3, hour: 25, edge: EDGE };
        assert_eq!(views.checkpoint(), [(PageView(1), Some(state)), (PageView(2), None)]);
        // A page view that was loaded is forgotten at the same time as one that was heard.
        let mut views = PageViews::load(vec![(PageView(1), state)]);
        views.forget_behind(Timestamp(49 * HOUR_MS));
        assert_eq!(views.len(), 1);
        views.forget_behind(Timestamp(50 * HOUR_MS));
        assert_eq!((views.len(), views.checkpoint()), (0, vec![(PageView(1), None)]));
    }

    #[test]
    fn of_too_many_page_views_the_oldest_hour_goes() {
        let mut views = PageViews::default();
        for page in 0..9 {
            views.take(told(page, 1), EDGE, Timestamp((page % 3) * HOUR_MS));
        }
        views.forget(Timestamp(3 * HOUR_MS), 9);
        assert_eq!(views.len(), 9);
        views.forget(Timestamp(3 * HOUR_MS), 8);
        assert_eq!(views.len(), 6);
        let now = Timestamp(3 * HOUR_MS);
        assert_eq!(views.take(told(1, 2), EDGE, now), 1, "of the second hour");
        assert_eq!(views.take(told(3, 2), EDGE, now), 2, "of the first");
    }

    #[test]
    fn a_flood_of_one_edge_s_page_views_makes_none_of_another_s_forgotten() {
        let mut views = PageViews::default();
        let flood = EdgeId::literal("flood");
        views.take(told(1, 7), EDGE, Timestamp(0));
        for page in 2..1_000 {
            let now = Timestamp(page * HOUR_MS / 100);
            views.take(told(page, 1), flood, now);
            views.forget(now, 50);
            assert!(views.len() <= 50);
        }
        let now = Timestamp(10 * HOUR_MS);
        assert_eq!(views.take(told(1, 8), EDGE, now), 1, "it is known that there were seven");
        assert_eq!(views.take(told(2, 2), flood, now), 2, "of its own the oldest went");
        // A checkpoint keeps which edge each is of.
        let mut states: BTreeMap<PageView, PageViewState> = BTreeMap::new();
        for (page, state) in views.checkpoint() {
            match state {
                Some(state) => drop(states.insert(page, state)),
                None => drop(states.remove(&page)),
            }
        }
        let loaded = PageViews::load(states.into_iter().collect());
        let counts = |views: &PageViews| views.edges.iter().copied().collect::<BTreeMap<_, _>>();
        assert_eq!((loaded.len(), counts(&loaded)), (views.len(), counts(&views)));
    }
}
