//! The count engine: partition messages in, exact counts out. No clock, no I/O, no randomness.

mod accounts;
mod changes;
mod engine;
mod error;
mod outboxes;
mod sources;

pub use accounts::MinuteAccount;
pub use changes::{
    AdTotal, Cell, Changes, Dimensions, MinuteRows, PAGE_BITS, Page, PageKey, Snapshot, Spend,
};
pub use engine::{Applied, Engine, Settings, Size};
pub use error::EngineError;
pub use outboxes::{Finality, Gap, OutboxState, Run};
pub use sources::SourceState;
