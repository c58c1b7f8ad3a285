//! Facts: one row for each counted event, valid or flagged, in columns. Any question about counted
//! events can be answered from them, exactly.
//!
//! [`Tail`] takes the counted rows of each message as it is applied; a checkpoint turns them into a
//! [`Block`] for each hour, which the store keeps. A filter becomes a [`Select`], which says of each
//! row of a block whether it is meant, and a [`Tally`] sums up the rows that are.

mod block;
mod cells;
mod column;
mod measures;
mod overlay;
mod runs;
pub(crate) mod segment;
mod select;
mod sorted;
mod tail;
mod tally;
#[cfg(test)]
mod tests;
mod uniques;

pub use block::Block;
pub(crate) use cells::Cell;
#[cfg(test)]
pub(crate) use column::code_text;
pub use column::{COLUMNS, Column, Name};
pub(crate) use measures::{Count, Measures, Sum, Visitors};
pub(crate) use overlay::{Judgement, Overlay};
pub(crate) use runs::{Runs, Scope};
pub(crate) use select::Select;
pub use sorted::{blocks, merged};
pub use tail::{Part, Tail};
pub(crate) use tally::{BY_MAX, Key, Tally, Value};
