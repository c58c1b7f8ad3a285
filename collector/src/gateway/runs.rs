//! Imports under one source run one after the other. A run begins only when nothing of the run before it is
//! under way any more, and is told how far that one came. So two different logs under one name are told
//! apart, however much they have in common.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use shared::SourceId;
use shared::ambient::Stopwatch;

/// A run that has sent nothing for so long, as one that was killed, may be followed by another.
const QUIET: Duration = Duration::from_secs(3);
/// The most sources that are imported at the same time.
const RUNS_MAX: usize = 4_096;

/// The last run of each source.
#[derive(Default)]
pub(super) struct Runs(Arc<Mutex<HashMap<SourceId, Run>>>);

struct Run {
    name: String,
    /// Since its last chunk came, or was answered.
    heard: Stopwatch,
    /// Chunks that have no answer yet.
    under_way: usize,
    /// The first row behind all rows of the source that were sent, in this run or an earlier one.
    end: u64,
    /// The importer has said that nothing more comes.
    is_over: bool,
}

/// Why a run may not begin or go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RunError {
    /// Another run is under way: try later.
    Busy,
    /// Another run has begun since.
    TakenOver,
}

/// A chunk that has no answer yet; dropping it says that it has one.
pub(super) struct UnderWay {
    runs: Arc<Mutex<HashMap<SourceId, Run>>>,
    source: SourceId,
    name: String,
}

impl Runs {
    /// Begins a run, or goes on with it. Gives the first row behind all rows of the source that were sent
    /// before this chunk. Where another run was, only a chunk without rows begins a new one.
    pub(super) fn take(
        &self,
        source: SourceId,
        name: &str,
        rows: std::ops::Range<u64>,
    ) -> Result<(u64, UnderWay), RunError> {
        let mut runs = self.0.lock();
        let is_quiet =
            |run: &Run| run.under_way == 0 && (run.is_over || run.heard.elapsed() >= QUIET);
        if runs.len() >= RUNS_MAX && !runs.contains_key(&source) {
            runs.retain(|_, run| !is_quiet(run));
            if runs.len() >= RUNS_MAX {
                return Err(RunError::Busy);
            }
        }
        let run = runs.entry(source).or_insert_with(|| Run {
            name: name.to_owned(),
            heard: Stopwatch::start(),
            under_way: 0,
            end: 0,
            is_over: false,
        });
        if run.name != name {
            match (rows.is_empty(), is_quiet(run)) {
                (true, true) => name.clone_into(&mut run.name),
                (true, false) => return Err(RunError::Busy),
                (false, _) => return Err(RunError::TakenOver),
            }
        }
        let before = run.end;
        (run.end, run.under_way) = (before.max(rows.end), run.under_way + 1);
        (run.heard, run.is_over) = (Stopwatch::start(), false);
        let under_way = UnderWay { runs: Arc::clone(&self.0), source, name: name.to_owned() };
        Ok((before, under_way))
    }

    /// Says that nothing more comes of this run, so that another may follow at once.
    pub(super) fn end(&self, source: SourceId, name: &str) {
        if let Some(run) = self.0.lock().get_mut(&source)
            && run.name == name
        {
            run.is_over = true;
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if let Some(run) = self.runs.lock().get_mut(&self.source)
            && run.name == self.name
        {
            run.under_way = run.under_way.saturating_sub(1);
            run.heard = Stopwatch::start();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn one_run_follows_the_other() {
        let (runs, source) = (Runs::default(), SourceId([1; 16]));
        let (end, begun) = runs.take(source, "a", 0..0).unwrap();
        assert_eq!(end, 0);
        let (_, chunk) = runs.take(source, "a", 0..100).unwrap();
        let refused = |name: &str, rows| runs.take(source, name, rows).err();
        assert_eq!(refused("b", 0..0), Some(RunError::Busy));
        assert_eq!(refused("b", 0..10), Some(RunError::TakenOver));
        drop((begun, chunk));
        assert_eq!(refused("b", 0..0), Some(RunError::Busy), "it may go on at once");
        std::thread::sleep(QUIET);
        let (end, begun) = runs.take(source, "b", 0..0).unwrap();
        assert_eq!(end, 100, "so much may still be on its way to the counts");
        assert_eq!(refused("a", 100..110), Some(RunError::TakenOver));
        runs.end(source, "a");
        assert_eq!(refused("c", 0..0), Some(RunError::Busy), "nobody ends another's run");
        runs.end(source, "b");
        assert_eq!(refused("c", 0..0), Some(RunError::Busy), "a chunk of it is under way");
        drop(begun);
        assert_eq!(runs.take(source, "c", 0..0).map(|(end, _)| end).ok(), Some(100));
        assert!(runs.take(SourceId([2; 16]), "c", 0..10).is_ok(), "another log");
    }
}
