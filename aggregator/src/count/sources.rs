//! Imported logs ("sources"): how far each has been taken.

use std::collections::{BTreeMap, BTreeSet};

use shared::event::REASON_CODES;
use shared::wire::ChunkEntry;
use shared::{BlockId, SourceId, import};

use super::dedup::Dedup;

/// What a partition knows of an imported log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SourceState {
    /// All rows before this one have been taken.
    pub rows: u64,
    /// BLAKE3 of the log's bytes up to the end of these rows; zeros while there are none.
    pub digest: [u8; 32],
    /// Events counted in this partition.
    pub counted: u64,
    /// Events of this partition that were seen before.
    pub duplicate: u64,
    /// Events of this partition with a reason, by its code.
    pub reasons: [u64; REASON_CODES],
}

/// All imported logs of a partition.
#[derive(Clone, Debug, Default)]
pub(super) struct Sources {
    states: BTreeMap<SourceId, SourceState>,
    changed: BTreeSet<SourceId>,
}

impl Sources {
    pub(super) fn get(&self, source: SourceId) -> Option<SourceState> {
        self.states.get(&source).copied()
    }

    /// The rows taken so far.
    pub(super) fn rows(&self, source: SourceId) -> u64 {
        self.states.get(&source).map_or(0, |state| state.rows)
    }

    /// The state of a source, to be changed.
    pub(super) fn change(&mut self, source: SourceId) -> &mut SourceState {
        self.changed.insert(source);
        self.states.entry(source).or_default()
    }

    /// Moves the sources on by the chunks of a message, after all rows of the message were counted.
    /// Dedup containers that only have rows before the end of what is taken are dropped.
    pub(super) fn advance<'a>(
        &mut self,
        chunks: impl Iterator<Item = &'a ChunkEntry>,
        dedup: &mut Dedup,
    ) {
        // In the order of the rows, so that each chunk may go on where the one before it ended. A
        // chunk that does not reach beyond what is taken, or leaves a gap before it, moves nothing.
        let mut chunks: Vec<_> = chunks.collect();
        chunks.sort_by_key(|chunk| (chunk.source, chunk.first_row, chunk.end_row));
        for chunk in chunks {
            let state = self.change(chunk.source);
            if !(chunk.first_row..chunk.end_row).contains(&state.rows) {
                continue;
            }
            let before = std::mem::replace(&mut state.rows, chunk.end_row);
            state.digest = chunk.digest;
            for index in before >> 16..=chunk.end_row >> 16 {
                let bound = (chunk.end_row - (index << 16)).min(1 << 16);
                let bound = usize::try_from(bound).unwrap_or(1 << 16);
                dedup.forget_below(import::block(chunk.source, index), bound);
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.states.len()
    }

    pub(super) fn checkpoint(&mut self) -> Vec<(SourceId, SourceState)> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().map(|source| (source, self.states[&source])).collect()
    }

    pub(super) fn load(states: Vec<(SourceId, SourceState)>) -> Self {
        Self { states: states.into_iter().collect(), changed: BTreeSet::new() }
    }
}

/// The rows of a chunk, and the two blocks in which they may lie.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChunkRows {
    first: u64,
    end: u64,
    blocks: [BlockId; 2],
}

impl ChunkRows {
    /// None when the chunk covers more rows than it may.
    pub(super) fn from_chunk(chunk: &ChunkEntry) -> Option<Self> {
        let rows = chunk.end_row.checked_sub(chunk.first_row)?;
        if rows > import::CHUNK_ROWS_MAX {
            return None;
        }
        let index = chunk.first_row >> 16;
        let blocks = [index, index + 1].map(|index| import::block(chunk.source, index));
        Some(Self { first: chunk.first_row, end: chunk.end_row, blocks })
    }

    /// The row that has this block and sequence number; none when it lies outside the chunk.
    pub(super) fn row(&self, block: BlockId, seq: u16) -> Option<u64> {
        let at = self.blocks.iter().position(|own| *own == block)?;
        let index = (self.first >> 16) + at as u64;
        let row = index << 16 | u64::from(seq);
        (self.first..self.end).contains(&row).then_some(row)
    }
}
