//! The rows of facts. Each checkpoint brings a block for each hour that it has facts of. So that a
//! question reads few of them, the newest blocks of an hour become one when they are many, in the
//! same atomic write. When they are large, or their hour is over, they become a segment
//! ([`plan`]); the write that names it deletes them.

use std::collections::BTreeMap;
use std::ops::Range;

use shared::Minute;
use shared::bytes::{Reader, put_number};

use super::segments::{SegmentRow, load};
use super::{family, read_key};
use crate::facts::{self, Block};
use crate::store::{Change, StoreError, View, keys};

/// So many of the newest blocks of an hour become one.
const MERGED_MIN: usize = 8;
/// A block is not merged into a larger one than of so many facts: what is larger waits for the segment
/// that it becomes part of.
const MERGED_FACTS_MAX: u64 = 1 << 17;

/// Which blocks and segments of facts a partition has.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FactsIndex {
    /// By hour, the sequence at which each block was saved and how many facts it has, in the order
    /// of the sequences.
    pub(super) blocks: BTreeMap<u32, Vec<(u64, u64)>>,
    pub(super) segments: Vec<SegmentRow>,
    /// The hour of which blocks become a segment just now, and the last sequence of these: they are
    /// to stay until then.
    pub(super) sealing: Option<(u32, u64)>,
}

/// What became a segment, which is to be named instead.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Swap {
    /// Blocks of an hour: their sequences.
    pub blocks: Option<(u32, Vec<u64>)>,
    /// Segments.
    pub segments: Vec<SegmentRow>,
    /// The segment; none when there was nothing to be had in it.
    pub made: SegmentRow,
}

/// What is to be done with an hour's new block.
#[derive(PartialEq, Eq, Debug)]
struct Plan {
    hour: u32,
    /// The sequences of the blocks that become one with it, in order; none of it alone.
    merged: Vec<u64>,
}

impl FactsIndex {
    /// The rows for the blocks of a checkpoint at this sequence, which is larger than any before.
    /// `view` has the blocks of all checkpoints before.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn add<V: View>(
        &mut self,
        view: &V,
        blocks: Vec<(u32, Block)>,
        sequence: u64,
    ) -> Result<Vec<Change>, StoreError> {
        let mut rows = Vec::with_capacity(2 * blocks.len());
        for (hour, block) in blocks {
            let Plan { merged, .. } = self.plan(hour, block.rows() as u64, sequence);
            let block = match merged.first() {
                None => block,
                Some(first) => {
                    let mut all = read(view, hour, *first).await?;
                    if !all.iter().map(|(sequence, _)| sequence).eq(&merged) {
                        let what = "the blocks of its hour are not those that were saved";
                        return Err(StoreError::row(&keys::facts(hour, *first), what));
                    }
                    all.push((sequence, block));
                    merge(all).await?
                }
            };
            let gone = merged.iter().map(|sequence| Change::Delete(keys::facts(hour, *sequence)));
            rows.extend(gone);
            rows.push(Change::Put(keys::facts(hour, sequence), block.to_bytes()));
            rows.push(Change::Put(keys::facts_index(hour), self.value(hour)));
        }
        Ok(rows)
    }

    /// Notes a new block, and finds out with which before it it becomes one.
    fn plan(&mut self, hour: u32, facts: u64, sequence: u64) -> Plan {
        let sealing = self.sealing.filter(|(own, _)| *own == hour).map_or(0, |(_, last)| last);
        let blocks = self.blocks.entry(hour).or_default();
        let (mut total, mut first) = (facts, blocks.len());
        // Blocks that are not larger than all behind them together: so a fact is written anew about
        // as often as its hour's facts can be halved, and few blocks are left.
        while let Some((sequence, before)) = first.checked_sub(1).and_then(|at| blocks.get(at))
            && *sequence > sealing
            && *before <= total
            && total + before <= MERGED_FACTS_MAX
        {
            total += before;
            first -= 1;
        }
        let merged = if blocks.len() - first + 1 >= MERGED_MIN {
            blocks.split_off(first).into_iter().map(|(sequence, _)| sequence).collect()
        } else {
            total = facts;
            Vec::new()
        };
        blocks.push((sequence, total));
        Plan { hour, merged }
    }

    fn value(&self, hour: u32) -> Vec<u8> {
        let mut out = vec![VERSION];
        let blocks = self.blocks.get(&hour).map(Vec::as_slice).unwrap_or_default();
        put_number(&mut out, blocks.len() as u64);
        for (sequence, facts) in blocks {
            put_number(&mut out, *sequence);
            put_number(&mut out, *facts);
        }
        out
    }

    /// The rows for a segment that takes the place of others.
    pub fn swap(&mut self, swap: Swap) -> Vec<Change> {
        let mut rows = Vec::new();
        if let Some((hour, sequences)) = swap.blocks {
            self.sealing = None;
            let blocks = self.blocks.entry(hour).or_default();
            blocks.retain(|(sequence, _)| !sequences.contains(sequence));
            let is_empty = blocks.is_empty();
            rows.extend(sequences.iter().map(|at| Change::Delete(keys::facts(hour, *at))));
            rows.push(match is_empty {
                true => Change::Delete(keys::facts_index(hour)),
                false => Change::Put(keys::facts_index(hour), self.value(hour)),
            });
            if is_empty {
                self.blocks.remove(&hour);
            }
        }
        self.segments.retain(|own| !swap.segments.contains(own));
        rows.extend(swap.segments.iter().map(SegmentRow::delete));
        rows.push(swap.made.put());
        self.segments.push(swap.made);
        rows
    }

    /// Forgets the segments whose facts are all of minutes before this one: which, and the rows.
    pub fn forget_before(&mut self, minute: Minute) -> (Vec<SegmentRow>, Vec<Change>) {
        let is_old = |segment: &mut SegmentRow| segment.period().end <= minute;
        let old: Vec<_> = self.segments.extract_if(.., is_old).collect();
        let rows = old.iter().map(SegmentRow::delete).collect();
        (old, rows)
    }

    /// How many facts are in blocks.
    #[must_use]
    pub fn loose(&self) -> u64 {
        self.blocks.values().flatten().map(|(_, facts)| facts).sum()
    }

    /// The segments that can have facts of a range.
    pub fn segments_of(&self, range: &Range<Minute>) -> Vec<SegmentRow> {
        let meets = |segment: &&SegmentRow| {
            let period = segment.period();
            period.start < range.end && range.start < period.end
        };
        self.segments.iter().filter(meets).cloned().collect()
    }

    /// The blocks with facts of a range's hours: hour and sequence.
    pub fn blocks_of(&self, range: &Range<Minute>) -> Vec<(u32, u64)> {
        let hours = range.start.0 / 60..range.end.0.div_ceil(60);
        if hours.is_empty() {
            return Vec::new();
        }
        let hours = self.blocks.range(hours);
        hours.flat_map(|(hour, own)| own.iter().map(|(sequence, _)| (*hour, *sequence))).collect()
    }

    /// The segments.
    #[must_use]
    pub fn segments(&self) -> &[SegmentRow] {
        &self.segments
    }

    /// Reads which blocks and segments a partition's store has.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load<V: View>(view: &V, partition: u16) -> Result<Self, StoreError> {
        let blocks = family(view, keys::FACTS_INDEX, |f| f.u32(), read_value).await?;
        let (blocks, segments) = (blocks.into_iter().collect(), load(view, partition).await?);
        Ok(Self { blocks, segments, sealing: None })
    }
}

const VERSION: u8 = 1;

fn read_value(value: &[u8]) -> Result<Vec<(u64, u64)>, &'static str> {
    let mut reader = Reader::new(value);
    if reader.u8()? != VERSION {
        return Err("a list of blocks of a version that this build does not know");
    }
    let count = reader.number()?;
    let mut blocks = Vec::new();
    for _ in 0..count {
        blocks.push((reader.number()?, reader.number()?));
    }
    reader.end()?;
    Ok(blocks)
}

/// A block.
///
/// # Errors
/// [`StoreError`]; also when it is not there.
pub async fn block<V: View>(view: &V, hour: u32, sequence: u64) -> Result<Block, StoreError> {
    let (from, to) = (keys::facts(hour, sequence), keys::facts(hour, sequence + 1));
    let mut found = None;
    view.scan(&from, &to, &mut |key, value| {
        found = Some(Block::read(value).map_err(|what| StoreError::row(key, what))?);
        Ok(())
    })
    .await?;
    found.ok_or_else(|| StoreError::row(&from, "it is missing"))
}

/// Some blocks of an hour: those with these sequences, which are in order.
///
/// # Errors
/// [`StoreError`]; also when one of them is not there.
pub async fn blocks<V: View>(
    view: &V,
    hour: u32,
    sequences: &[u64],
) -> Result<Vec<Block>, StoreError> {
    let first = sequences.first().copied().unwrap_or(u64::MAX);
    let mut found = read(view, hour, first).await?;
    found.retain(|(sequence, _)| sequences.binary_search(sequence).is_ok());
    if found.len() != sequences.len() {
        let what = "a block of its hour is missing";
        return Err(StoreError::row(&keys::facts(hour, first), what));
    }
    Ok(found.into_iter().map(|(_, block)| block).collect())
}

/// The blocks of an hour from a sequence on.
async fn read<V: View>(view: &V, hour: u32, first: u64) -> Result<Vec<(u64, Block)>, StoreError> {
    let mut blocks = Vec::new();
    let (from, to) = (keys::facts(hour, first), keys::facts(hour, u64::MAX));
    view.scan(&from, &to, &mut |key, value| {
        let (_, sequence) = read_key(key, |f| f.u32().zip(f.u64()))?;
        let block = Block::read(value).map_err(|what| StoreError::row(key, what))?;
        blocks.push((sequence, block));
        Ok(())
    })
    .await?;
    Ok(blocks)
}

/// One block of several, made on a thread for long work.
async fn merge(blocks: Vec<(u64, Block)>) -> Result<Block, StoreError> {
    let work = move || {
        let blocks: Vec<_> = blocks.into_iter().map(|(_, block)| block).collect();
        facts::merged(&blocks)
    };
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| StoreError::Unavailable(format!("blocks were not merged: {error}")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn an_hour_keeps_few_blocks_and_a_fact_is_written_few_times() {
        let mut index = FactsIndex::default();
        let (mut written, mut facts) = (0, 0);
        for checkpoint in 1..=360_u64 {
            let new = 1 + checkpoint * 37 % 100;
            facts += new;
            index.plan(7, new, checkpoint);
            written += index.blocks[&7].last().unwrap().1;
            let blocks = &index.blocks[&7];
            assert_eq!(blocks.iter().map(|(_, facts)| facts).sum::<u64>(), facts);
            assert!(blocks.len() <= 20, "{} blocks", blocks.len());
            assert!(blocks.windows(2).all(|pair| pair[0].0 < pair[1].0));
        }
        assert!(written < 8 * facts, "{written} facts written for {facts}");
        assert_eq!(read_value(&index.value(7)).unwrap(), index.blocks[&7]);
    }

    #[test]
    fn large_blocks_stay_as_they_are() {
        let mut index = FactsIndex::default();
        for checkpoint in 1..=20 {
            assert_eq!(index.plan(7, MERGED_FACTS_MAX, checkpoint).merged, [0_u64; 0]);
        }
        assert_eq!(index.blocks[&7].len(), 20);
    }
}
