//! Which batches of one outbox have been applied, and how far its watermark is.

use std::ops::Range;

use shared::Timestamp;
use shared::limits::{BATCH_NUMBERS_MAX, CLOCK_AHEAD_MS_MAX, EPOCH_AHEAD_MS_MAX, HORIZON_MS};

use super::contents::Contents;

/// What a partition knows of an outbox.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct OutboxState {
    /// All numbers before this one have been applied, or were given up.
    pub next: u64,
    /// The largest watermark among the batches before `next`: nothing older comes any more.
    /// [`Timestamp::MAX`] when the outbox is closed, and zero while there is no batch.
    pub watermark: Timestamp,
    /// Runs of numbers above `next` that have been applied, in order, with a gap before each.
    pub above: Vec<Run>,
    /// The log's clock when the outbox was closed: its closing batch and all before it had come or
    /// were given up.
    pub closed_at: Option<Timestamp>,
    /// The log's clock when its closing batch came, even if that stands behind a gap. None before
    /// that, and when an earlier build heard it.
    pub ended_at: Option<Timestamp>,
    /// What is known of the contents of its batches.
    pub contents: Contents,
}

/// Neighbouring numbers that have been applied beyond a gap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// The first.
    pub first: u64,
    /// The one after the last.
    pub end: u64,
    /// The largest watermark among them. It becomes the outbox's when the gap before them is
    /// filled.
    pub watermark: Timestamp,
}

/// Batches that are waited for no more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct GivenUp {
    /// Their events were received near this time; zero when nothing tells the time.
    pub(super) after: Timestamp,
    /// How many batches.
    pub(super) batches: u64,
}

impl OutboxState {
    /// Takes a number; false when it has been applied before.
    pub(super) fn take(&mut self, number: u64, watermark: Timestamp) -> bool {
        if number < self.next {
            return false;
        }
        // The first run that ends at the number or later: the number continues it, lies in it, or
        // comes before it.
        let at = self.above.partition_point(|run| run.end < number);
        let touches = self.above.get(at).is_some_and(|run| run.end == number);
        if self.above.get(at).is_some_and(|run| (run.first..run.end).contains(&number)) {
            return false;
        }
        // The run behind the number, which may begin right behind it.
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

    /// Whether a number has been taken, or was given up.
    pub(super) fn has(&self, number: u64) -> bool {
        let at = self.above.partition_point(|run| run.end <= number);
        number < self.next || self.above.get(at).is_some_and(|run| run.first <= number)
    }

    /// Whether taking a number makes one more run: it is new, and touches no other number that
    /// came.
    pub(super) fn makes_a_run(&self, number: u64) -> bool {
        let at = self.above.partition_point(|run| run.end < number);
        let near = [self.above.get(at), self.above.get(at + 1)];
        let alone = |run: &Run| !(run.first.saturating_sub(1)..=run.end).contains(&number);
        number > self.next && near.into_iter().flatten().all(alone)
    }

    /// Waits no more for the batches of the oldest gap. There must be one.
    pub(super) fn give_up(&mut self) -> GivenUp {
        let given_up =
            GivenUp { after: self.before(self.next), batches: self.above[0].first - self.next };
        let run = self.above.remove(0);
        self.next = run.end;
        self.watermark = self.watermark.max(run.watermark);
        given_up
    }

    /// The watermark of the batch before a missing number, or of the one behind it when there is
    /// none before: the events that are missing were received near that time. Zero when neither
    /// tells a time.
    pub(super) fn before(&self, number: u64) -> Timestamp {
        let at = self.above.partition_point(|run| run.end <= number);
        let before = at.checked_sub(1).map_or(self.watermark, |run| self.above[run].watermark);
        let behind = self.above.get(at).map_or(Timestamp(0), |run| run.watermark);
        let known = if before == Timestamp(0) { behind } else { before };
        if known == Timestamp::MAX { Timestamp(0) } else { known }
    }

    /// Whether missing batches may have had events from `from` (inclusive) to `to` (exclusive). The
    /// events of a gap are not older than the watermark before it, nor younger than the one behind
    /// it. A gap at the very beginning has no watermark before it: see [`Self::first_at`]. A
    /// closing batch has none that tells a time: what is missing before it happened before it came.
    #[must_use]
    pub fn misses_between(
        &self,
        epoch: u64,
        clock: Timestamp,
        from: Timestamp,
        to: Timestamp,
    ) -> bool {
        let is_first = self.watermark == Timestamp(0);
        let first = if is_first { self.first_at(epoch, clock) } else { self.watermark };
        let before = std::iter::once(first).chain(self.above.iter().map(|run| run.watermark));
        let ended_at = self.ended_at.unwrap_or(clock).plus_ms(CLOCK_AHEAD_MS_MAX);
        let last = |run: &Run| match run.watermark {
            Timestamp::MAX => ended_at,
            watermark => watermark,
        };
        before.zip(&self.above).any(|(before, run)| before < to && last(run) >= from)
    }

    /// The time before which no event counts that is missing in a gap at the very beginning. A
    /// missing batch comes, if it does, after the outbox began (its epoch), and after the batch
    /// behind the gap was sealed (its watermark); and an event that is older by more than the
    /// horizon when it comes is too late. So it is the later of the two times, less the horizon.
    /// Where neither tells a time, the log's clock stands for them, and the result moves on with
    /// it.
    fn first_at(&self, epoch: u64, clock: Timestamp) -> Timestamp {
        let behind = self.above.first().map_or(Timestamp(0), |run| run.watermark);
        // `Timestamp::MAX`, which closes an outbox, is no time; nor is what lies ahead of all
        // clocks.
        let latest = clock.plus_ms(EPOCH_AHEAD_MS_MAX);
        let known = [Timestamp(epoch), behind].into_iter().filter(|at| *at <= latest).max();
        let first = known.unwrap_or_default().minus_ms(HORIZON_MS + CLOCK_AHEAD_MS_MAX);
        if first == Timestamp(0) { clock.minus_ms(HORIZON_MS) } else { first }
    }

    /// One more than the largest number that has come; 0 when none has.
    pub(super) fn end(&self) -> u64 {
        self.above.last().map_or(self.next, |run| run.end)
    }

    /// Numbers that have not come although larger ones have.
    #[must_use]
    pub fn missing(&self) -> Vec<Range<u64>> {
        let ends = std::iter::once(self.next).chain(self.above.iter().map(|run| run.end));
        ends.zip(&self.above).map(|(end, run)| end..run.first).collect()
    }

    /// Whether a checkpoint can have written this.
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
    fn a_gap_before_the_first_batch_reaches_back_by_the_horizon() {
        const DAY_MS: u64 = 24 * 3_600_000;
        let clock = Timestamp(1_790_000_000_000);
        let day = |days: u64| clock.minus_ms(days * DAY_MS);
        let misses = |watermark, epoch, from, to| {
            let mut state = OutboxState::default();
            assert!(state.take(1, watermark));
            state.ended_at = (watermark == Timestamp::MAX).then_some(day(5));
            state.misses_between(epoch, clock, day(from), day(to))
        };
        // The watermark behind the gap decides when the epoch is no time of ours.
        for epoch in [7, u64::MAX] {
            assert!(!misses(day(2), epoch, 300, 10), "a week before, it would be too late");
            assert!(misses(day(2), epoch, 9, 8), "as long as it would not be too late");
            assert!(misses(day(2), epoch, 300, 0));
            assert!(misses(day(2), epoch, 3, 2));
            assert!(!misses(day(2), epoch, 1, 0), "nothing younger comes before it");
            // The same when the clock has gone on since.
            assert!(misses(day(30), epoch, 33, 31) && !misses(day(30), epoch, 60, 38));
        }
        // An outbox that was closed behind the gap has told no time: its epoch decides, else the
        // clock.
        assert!(misses(Timestamp::MAX, day(30).0, 33, 31));
        assert!(!misses(Timestamp::MAX, day(30).0, 60, 38));
        assert!(!misses(Timestamp::MAX, 7, 60, 8) && misses(Timestamp::MAX, 7, 6, 0));
        // And nothing that is missing is younger than its closing batch.
        assert!(misses(Timestamp::MAX, 7, 5, 4) && !misses(Timestamp::MAX, 7, 4, 0));
        let mut heard_by_an_earlier_build = OutboxState::default();
        heard_by_an_earlier_build.take(1, Timestamp::MAX);
        let misses = |from: Timestamp| {
            heard_by_an_earlier_build.misses_between(7, clock, from, from.plus_ms(60_000))
        };
        assert!(misses(clock) && !misses(clock.plus_ms(2 * CLOCK_AHEAD_MS_MAX)));
        // Where there is a watermark before the gap, it decides alone.
        let mut state = OutboxState::default();
        state.take(0, day(20));
        state.take(2, day(10));
        assert!(!state.misses_between(7, clock, day(25), day(21)));
        assert!(state.misses_between(7, clock, day(25), day(19)));
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
