//! A parcel: the effects of some decisions, as a rim hands them to an outbox in another process.
//!
//! It has the form of a batch without a number: the owner of the outbox stamps the events, gives
//! the number and keeps the tallies.

use shared::limits::{BATCH_EVENTS_MAX, BATCH_TALLIES_MAX};
use shared::wire::{Batch, Event, Tally, WireError};
use shared::{EdgeId, Minute, OutboxId, Timestamp};

use crate::decision::{Draft, Loss};

/// The most events of one parcel.
pub const EVENTS_MAX: usize = BATCH_EVENTS_MAX;

/// Events and losses that are handed over together.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Parcel {
    /// At most [`EVENTS_MAX`].
    pub events: Vec<Draft>,
    /// What is counted and not kept as events; at most [`BATCH_TALLIES_MAX`] are sent.
    pub losses: Vec<Loss>,
}

impl Parcel {
    /// Whether it is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.losses.is_empty()
    }

    /// Its bytes. `edge` names the rim's edge, for people who look at the bytes.
    ///
    /// # Panics
    /// When there are more than [`EVENTS_MAX`] events.
    #[must_use]
    pub fn to_bytes(&self, edge: EdgeId) -> Vec<u8> {
        let events = self.events.iter().map(|draft| draft.stamped(Timestamp(0))).collect();
        let tally = |loss: &Loss| {
            let Loss { kind, reason, count } = *loss;
            Tally { minute: Minute(0), kind, reason, count }
        };
        let tallies = self.losses.iter().take(BATCH_TALLIES_MAX).map(tally).collect();
        let outbox = OutboxId { edge, epoch: 0 };
        Batch { outbox, number: 0, watermark: Timestamp(0), events, tallies }.to_bytes()
    }

    /// Reads a parcel that fills `bytes`.
    ///
    /// # Errors
    /// [`WireError`] says what is wrong and where.
    pub fn read(bytes: &[u8]) -> Result<Self, WireError> {
        let Batch { events, tallies, .. } = Batch::read(bytes)?;
        let loss = |tally: Tally| {
            let Tally { kind, reason, count, .. } = tally;
            Loss { kind, reason, count }
        };
        Ok(Self {
            events: events.iter().map(draft).collect(),
            losses: tallies.into_iter().map(loss).collect(),
        })
    }
}

fn draft(event: &Event<'_>) -> Draft {
    Draft {
        kind: event.kind,
        verdict: event.verdict,
        rules: event.rules,
        flags: event.flags,
        codes: event.codes,
        region: event.region,
        network: event.network,
        visitor: event.visitor,
        page: event.page,
        token: event.token.to_vec(),
    }
}
