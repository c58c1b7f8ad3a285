//! The count engine: partition messages in, exact counts out. No clock, no I/O, no randomness.

mod accounts;
mod apply;
mod bits;
mod cells;
mod changes;
mod contents;
mod dedup;
mod engine;
mod error;
mod intern;
mod outbox;
mod outboxes;
mod page_views;
mod sources;
mod table;
#[cfg(test)]
mod tests;
mod window;

pub use accounts::MinuteAccount;
pub use bits::{Bits, CONTAINER_BITS, Container};
pub use changes::{
    AdTotal, Cell, CellAmount, Changes, ContainerKey, MinuteRows, PublisherTold, Snapshot,
};
pub use contents::{Conflict, Contents};
pub use engine::{Applied, Engine, Settings, Size};
pub use error::EngineError;
pub use outbox::{OutboxState, Run};
pub use outboxes::{CutOff, Finality, Gap};
pub use page_views::{PageViewState, Told};
pub use sources::SourceState;
