//! What stands beside the Parquet file of a segment, made of its facts one after the other: when
//! the file is written, and again when it is rebuilt from the file.

use std::ops::Range;
use std::sync::Arc;

use shared::{AnyId, Minute, Money};

use super::directory::Sums;
use super::write::Made;
use super::{Directory, nodes, totals};
use crate::facts::block::Fact;
use crate::facts::runs::Runs;

/// Makes what stands beside the file.
pub(super) struct Beside {
    pub(super) ids: Arc<[AnyId]>,
    pub(super) prices: Arc<[Money]>,
    pub(super) sums: Sums,
    runs: Runs,
    nodes: nodes::Maker,
    totals: totals::Maker,
    minutes: Range<Minute>,
}

impl Beside {
    /// `ids`, in order, and `prices`: what the facts' numbers are of.
    pub(super) fn new(ids: Arc<[AnyId]>, prices: Arc<[Money]>) -> Self {
        let (nodes, totals) = (nodes::Maker::default(), totals::Maker::default());
        let (runs, minutes) = (Runs::default(), Minute(u32::MAX)..Minute(0));
        Self { ids, prices, sums: Sums::default(), runs, nodes, totals, minutes }
    }

    /// Takes the next fact.
    pub(super) fn push(&mut self, fact: &Fact) {
        let Range { start, end } = &mut self.minutes;
        *start = fact.minute.min(*start);
        *end = Minute(fact.minute.0.saturating_add(1)).max(*end);
        self.runs.push(fact);
        let run = self.runs.len() - 1;
        self.nodes.push(run, fact);
        self.totals.push(run, fact);
    }

    /// `bytes`: of the Parquet file.
    pub(super) fn finish(self, bytes: u64) -> Made {
        let Self { ids, prices, sums, runs, nodes, totals, minutes } = self;
        let (nodes, sketches) = nodes.finish();
        let (places, totals) = totals.finish();
        let directory = Directory::new(minutes, ids, prices, runs, (nodes, places), sums);
        Made { bytes, directory, sketches, totals }
    }
}
