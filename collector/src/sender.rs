//! What a sender may send, once it has been authenticated.

use shared::keys::{Sender, registered_name};
use shared::limits::{BATCH_BYTES_MAX, EPOCH_AHEAD_MS_MAX};
use shared::{EdgeId, IssuerId, Timestamp};

use crate::keys::CollectorKeys;
use crate::verify::Inspected;

/// Why a batch is not let in. Nothing of it is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The batch's edge is not the sender's.
    ForeignEdge,
    /// The batch's edge is not registered.
    UnregisteredEdge,
    /// The batch's epoch lies further in the future than a wrong clock explains.
    EpochAhead,
    /// The batch or chunk is too large: a batch is larger than any that an outbox seals, or the log does
    /// not take it even alone. A batch that is larger could make a partition's message larger than the log
    /// takes, and then no batch would get through.
    BatchTooLarge,
}

impl Refusal {
    /// All refusals.
    pub const ALL: [Self; 4] =
        [Self::ForeignEdge, Self::UnregisteredEdge, Self::EpochAhead, Self::BatchTooLarge];

    /// The name in problems and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ForeignEdge => "foreign_edge",
            Self::UnregisteredEdge => "unregistered_edge",
            Self::EpochAhead => "epoch_ahead",
            Self::BatchTooLarge => "batch_too_large",
        }
    }

    /// What was wrong, and what to do.
    #[must_use]
    pub fn detail(self, batch: &Inspected) -> String {
        let (edge, name) = (batch.outbox.edge, registered_name(batch.outbox.edge));
        match self {
            Self::ForeignEdge => {
                format!("the edge {edge} is not the sender's: an edge belongs to one issuer")
            }
            Self::UnregisteredEdge => format!(
                "the edge {edge} is not registered: `countersign edges register {name} --issuer \
                 ISSUER` gives it to the issuer whose tokens it serves"
            ),
            Self::EpochAhead => format!(
                "the epoch {} of the edge {edge} is its start in ms, and more than {} hours ahead \
                 of this clock: set the edge's clock",
                batch.outbox.epoch,
                EPOCH_AHEAD_MS_MAX / 3_600_000
            ),
            Self::BatchTooLarge => format!(
                "the batch has {} bytes in its binary form, and may have {BATCH_BYTES_MAX}: send its \
                 events in smaller ones",
                batch.bytes
            ),
        }
    }
}

/// The issuer whose quotas a batch of this edge is charged to. None when the operator sends it, who has no
/// quotas, or when the edge is not registered.
pub(crate) fn charged_issuer(
    sender: Sender,
    edge: EdgeId,
    keys: &CollectorKeys,
) -> Option<IssuerId> {
    match sender {
        Sender::Operator => None,
        Sender::Issuer(_) | Sender::Edge(_) => keys.edges.owner(edge),
    }
}

/// Whether the sender may send this batch at `now`.
///
/// # Errors
/// Why not.
pub fn check(
    sender: Sender,
    batch: &Inspected,
    keys: &CollectorKeys,
    now: Timestamp,
) -> Result<(), Refusal> {
    let edge = batch.outbox.edge;
    if keys.edges.owner(edge).is_none() {
        return Err(Refusal::UnregisteredEdge);
    }
    if !sender.owns(edge, &keys.edges) {
        return Err(Refusal::ForeignEdge);
    }
    if batch.outbox.epoch > now.plus_ms(EPOCH_AHEAD_MS_MAX).0 {
        return Err(Refusal::EpochAhead);
    }
    if batch.bytes > BATCH_BYTES_MAX {
        return Err(Refusal::BatchTooLarge);
    }
    Ok(())
}
