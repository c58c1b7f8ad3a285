//! Which batches of one outbox have been applied, and what it is past.

use std::ops::Range;

use shared::Timestamp;
use shared::limits::BATCH_NUMBERS_MAX;

use super::contents::Contents;

/// What a partition knows of an outbox.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct OutboxState {
    /// All numbers before this one have been applied.
    pub next: u64,
    /// The watermark of the last of them: nothing older comes any more. [`Timestamp::MAX`] when the
    /// outbox is closed, and zero while there is none.
    pub watermark: Timestamp,
    /// Runs of numbers above `next` that have been applied, in order, never touching.
    pub above: Vec<Run>,
    /// The log's clock when the outbox was closed.
    pub closed_at: Option<Timestamp>,
    /// What came under its numbers.
    pub contents: Contents,
}

/// Neighbouring numbers that have been applied beyond a gap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// The first.
    pub first: u64,
    /// The one after the last.
    pub end: u64,
    /// The largest watermark among them; it holds when the gap before them is filled.
    pub watermark: Timestamp,
}

/// Batches that are waited for no more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct GivenUp {
    /// Near this time their events were received; zero when nothing tells.
    pub(super) after: Timestamp,
    /// How many.
    pub(super) batches: u64,
}

impl OutboxState {
    /// Takes a number; false when it has been applied before.
    pub(super) fn take(&mut self, number: u64, watermark: Timestamp) -> bool {
        if number < self.next {
            return false;
        }
        // The first run that ends behind the number: it holds it, touches it, or lies beyond it.
        let at = self.above.partition_point(|run| run.end < number);
        let touches = self.above.get(at).is_some_and(|run| run.end == number);
        if self.above.get(at).is_some_and(|run| (run.first..run.end).contains(&number)) {
            return false;
        }
        // The run to put it at the end of, if any, and the one that begins right behind it.
        let behind = at + usize::from(touches);
        let follows = self.above.get(behind).is_some_and(|run| run.first == number + 1);
        let mut run = Run { first: number, end: number + 1, watermark };
        if follows {
            let next = self.above.remove(behind);
            run.end = next.end;
            run.watermark = run.watermark.max(next.watermark);
        }
        if touches {
            let before = &mut self.above[at];
            before.end = run.end;
            before.watermark = before.watermark.max(run.watermark);
        } else if number == self.next {
            self.next = run.end;
            self.watermark = self.watermark.max(run.watermark);
        } else {
            self.above.insert(at, run);
        }
        true
    }

    /// Whether a number has been taken.
    pub(super) fn has(&self, number: u64) -> bool {
        let at = self.above.partition_point(|run| run.end <= number);
        number < self.next || self.above.get(at).is_some_and(|run| run.first <= number)
    }

    /// Whether taking a number makes one more run: it is new, and touches none that is there.
    pub(super) fn makes_a_run(&self, number: u64) -> bool {
        let at = self.above.partition_point(|run| run.end < number);
        let near = [self.above.get(at), self.above.get(at + 1)];
        let alone = |run: &Run| !(run.first.saturating_sub(1)..=run.end).contains(&number);
        number > self.next && near.into_iter().flatten().all(alone)
    }

    /// Gives up the oldest gap, of which there is one: what is missing there is waited for no more.
    pub(super) fn give_up(&mut self) -> GivenUp {
        let given_up =
            GivenUp { after: self.before(self.next), batches: self.above[0].first - self.next };
        let run = self.above.remove(0);
        self.next = run.end;
        self.watermark = self.watermark.max(run.watermark);
        given_up
    }

    /// The watermark that stands before a number, or where none does, behind it: near it lie the
    /// events that the number would have brought. Zero where there is none either, or it tells no time.
    pub(super) fn before(&self, number: u64) -> Timestamp {
        let at = self.above.partition_point(|run| run.end <= number);
        let before = at.checked_sub(1).map_or(self.watermark, |run| self.above[run].watermark);
        let behind = self.above.get(at).map_or(Timestamp(0), |run| run.watermark);
        let known = if before == Timestamp(0) { behind } else { before };
        if known == Timestamp::MAX { Timestamp(0) } else { known }
    }

    /// Whether what is missing may have had events between these times: they are not older than the
    /// watermark before the gap, nor younger than the one behind it.
    #[must_use]
    pub fn misses_between(&self, from: Timestamp, to: Timestamp) -> bool {
        let before =
            std::iter::once(self.watermark).chain(self.above.iter().map(|run| run.watermark));
        before.zip(&self.above).any(|(before, run)| before < to && run.watermark >= from)
    }

    /// One more than the largest number that has come.
    pub(super) fn end(&self) -> u64 {
        self.above.last().map_or(self.next, |run| run.end)
    }

    /// Numbers that have not come although larger ones have.
    #[must_use]
    pub fn missing(&self) -> Vec<Range<u64>> {
        let ends = std::iter::once(self.next).chain(self.above.iter().map(|run| run.end));
        ends.zip(&self.above).map(|(end, run)| end..run.first).collect()
    }

    /// Whether it can be what a checkpoint wrote.
    pub(super) fn is_sound(&self) -> bool {
        let mut end = self.next;
        let in_order = self.above.iter().all(|run| {
            let sound = end < run.first && run.first < run.end && run.end <= BATCH_NUMBERS_MAX;
            end = run.end;
            sound
        });
        in_order
            && (self.watermark == Timestamp::MAX) == self.closed_at.is_some()
            && self.contents.is_sound()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_all(numbers: &[u64]) -> (OutboxState, Vec<bool>) {
        let mut state = OutboxState::default();
        let taken = numbers.iter().map(|n| state.take(*n, Timestamp(100 + n))).collect();
        assert!(state.is_sound(), "{state:?}");
        (state, taken)
    }

    #[test]
    fn watermarks_pass_no_gap() {
        let (state, taken) = take_all(&[0, 1, 3, 4, 7, 6, 3]);
        assert_eq!(taken, [true, true, true, true, true, true, false]);
        assert_eq!((state.next, state.watermark), (2, Timestamp(101)));
        assert_eq!(state.missing(), [2..3, 5..6]);
        let (state, _) = take_all(&[0, 1, 3, 4, 7, 6, 2]);
        assert_eq!((state.next, state.watermark), (5, Timestamp(104)));
        assert_eq!(state.missing(), [Range { start: 5, end: 6 }]);
        let (state, _) = take_all(&[1, 0, 3, 4, 7, 6, 5, 2]);
        assert_eq!((state.next, state.watermark, state.above.len()), (8, Timestamp(107), 0));
    }

    #[test]
    fn every_order_of_seven_numbers_ends_alike() {
        let mut orders = vec![vec![]];
        for n in 0..7_u64 {
            let longer = orders.iter().flat_map(|order: &Vec<u64>| {
                (0..=order.len()).map(move |at| [&order[..at], &[n], &order[at..]].concat())
            });
            orders = longer.collect();
        }
        assert_eq!(orders.len(), 5_040);
        for order in orders {
            let twice: Vec<u64> = order.iter().flat_map(|n| [*n, *n]).collect();
            let (state, taken) = take_all(&twice);
            assert_eq!((state.next, state.watermark), (7, Timestamp(106)), "{order:?}");
            assert!(taken.chunks(2).all(|pair| pair == [true, false]), "{order:?}");
        }
    }
}
