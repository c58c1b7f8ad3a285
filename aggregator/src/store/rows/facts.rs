//! The rows of facts. Each checkpoint brings a block for each hour that it has facts of. So that a
//! question reads few of them, the newest blocks of an hour become one when they are many, in the
//! same atomic write.

use std::collections::BTreeMap;
use std::ops::Range;

use shared::Minute;
use shared::bytes::{Reader, put_number};

use super::{family, read_key};
use crate::facts::{self, Block};
use crate::store::{Change, Stop, StoreError, View, keys};

/// So many of the newest blocks of an hour become one.
const MERGED_MIN: usize = 8;
/// So many bytes of facts are read before other tasks get their turn: some milliseconds of work.
const READ_BYTES: usize = 4 << 20;
/// A block is not merged into a larger one than of so many facts: about 30 MB, and some hundred
/// milliseconds of work.
const MERGED_FACTS_MAX: u64 = 1 << 20;

/// Which blocks there are: by hour, the sequence at which each was saved and how many facts it has,
/// in the order of the sequences.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FactsIndex(BTreeMap<u32, Vec<(u64, u64)>>);

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
        let blocks = self.0.entry(hour).or_default();
        let (mut total, mut first) = (facts, blocks.len());
        // Blocks that are not larger than all behind them together: so a fact is written anew about
        // as often as its hour's facts can be halved, and few blocks are left.
        while let Some((_, before)) = first.checked_sub(1).and_then(|at| blocks.get(at))
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
        let blocks = self.0.get(&hour).map(Vec::as_slice).unwrap_or_default();
        put_number(&mut out, blocks.len() as u64);
        for (sequence, facts) in blocks {
            put_number(&mut out, *sequence);
            put_number(&mut out, *facts);
        }
        out
    }

    /// Reads which blocks a store has.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load<V: View>(view: &V) -> Result<Self, StoreError> {
        let rows = family(view, keys::FACTS_INDEX, |f| f.u32(), read_value).await?;
        Ok(Self(rows.into_iter().collect()))
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

/// Hands the facts of the hours of a range to `each`, block by block, from the key `from` on
/// (`None`: from the first). It ends after some megabytes, and returns the key to go on with; `None`
/// when it was through.
///
/// # Errors
/// [`StoreError`].
pub async fn facts<V: View>(
    view: &V,
    range: &Range<Minute>,
    from: Option<Vec<u8>>,
    mut each: impl FnMut(Block) -> Result<(), Stop> + Send,
) -> Result<Option<Vec<u8>>, StoreError> {
    if range.is_empty() {
        return Ok(None);
    }
    let from = from.unwrap_or_else(|| keys::facts(range.start.0 / 60, 0));
    let to = keys::facts((range.end.0 - 1) / 60 + 1, 0);
    let (mut bytes, mut next) = (0, None);
    view.scan(&from, &to, &mut |key, value| {
        if bytes >= READ_BYTES {
            next = Some(key.to_vec());
            return Err(Stop::Enough);
        }
        bytes += value.len();
        read_key(key, |f| f.u32().zip(f.u64()))?;
        each(Block::read(value).map_err(|what| StoreError::row(key, what))?)
    })
    .await?;
    Ok(next)
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
            written += index.0[&7].last().unwrap().1;
            let blocks = &index.0[&7];
            assert_eq!(blocks.iter().map(|(_, facts)| facts).sum::<u64>(), facts);
            assert!(blocks.len() <= 20, "{} blocks", blocks.len());
            assert!(blocks.windows(2).all(|pair| pair[0].0 < pair[1].0));
        }
        assert!(written < 8 * facts, "{written} facts written for {facts}");
        assert_eq!(read_value(&index.value(7)).unwrap(), index.0[&7]);
    }

    #[test]
    fn large_blocks_stay_as_they_are() {
        let mut index = FactsIndex::default();
        for checkpoint in 1..=20 {
            assert_eq!(index.plan(7, MERGED_FACTS_MAX, checkpoint).merged, [0_u64; 0]);
        }
        assert_eq!(index.0[&7].len(), 20);
    }
}
