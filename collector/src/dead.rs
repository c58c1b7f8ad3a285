//! What an operator sees of the dead letters ([`shared::wire::dead`]).

use std::collections::BTreeMap;

use bytes::Bytes;
use eventlog::{DEAD, Log, LogError, Message, Reader};
use serde::Serialize;
use shared::keys::Sender;
use shared::wire::{DeadLetter, Resolved, batch};
use shared::{Id, OutboxId, Timestamp};

/// What is said of who has sent a letter where that is not known.
pub const UNKNOWN: &str = "not known";

/// What an operator is shown of a letter.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Summary {
    /// Its place among the dead letters.
    pub sequence: u64,
    /// When the collector got it.
    pub at: Timestamp,
    /// Who had authenticated himself; none of a letter of an earlier build, and of what nobody of ours
    /// wrote.
    pub sender: Option<Sender>,
    /// Where it came from, as far as is known.
    pub from: String,
    /// What is wrong with it, and where.
    pub reason: String,
    /// How many bytes are kept.
    pub bytes: usize,
    /// Which batch it says that it is, when its first bytes say so: the number is missing until it
    /// is resolved. Only when it is the sender's is that believed.
    pub batch: Option<BatchName>,
}

/// One batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchName {
    /// Whose.
    pub edge: Id,
    /// The outbox's.
    pub epoch: u64,
    /// Its number.
    pub number: u64,
}

impl BatchName {
    /// The outbox.
    #[must_use]
    pub fn outbox(&self) -> OutboxId {
        OutboxId { edge: self.edge, epoch: self.epoch }
    }
}

/// The letters that nobody has looked at yet, oldest first; at most `most`, and whether there are
/// more.
///
/// # Errors
/// [`LogError`].
pub async fn unresolved<L: Log>(log: &L, most: usize) -> Result<(Vec<Summary>, bool), LogError> {
    let mut letters = BTreeMap::new();
    let mut more = false;
    each(log, |sequence, payload| {
        if let Some(Resolved { sequence, .. }) = Resolved::read(payload) {
            letters.remove(&sequence);
        } else if letters.len() >= most {
            more = true;
        } else if let Some(letter) = DeadLetter::read(payload) {
            letters.insert(
                sequence,
                Summary {
                    sequence,
                    at: letter.at,
                    sender: letter.sender,
                    from: letter.from.to_owned(),
                    reason: letter.reason.to_owned(),
                    bytes: letter.bytes.len(),
                    batch: name_of(letter.bytes),
                },
            );
        }
        true
    })
    .await?;
    Ok((letters.into_values().collect(), more))
}

/// One letter, as it came.
///
/// # Errors
/// [`LogError`].
pub async fn find<L: Log>(log: &L, wanted: u64) -> Result<Option<Bytes>, LogError> {
    let mut found = None;
    each(log, |sequence, payload| {
        if sequence == wanted && DeadLetter::read(payload).is_some() {
            found = Some(payload.clone());
        }
        sequence < wanted
    })
    .await?;
    Ok(found)
}

/// Notes that an operator has looked at a letter.
///
/// # Errors
/// [`LogError`].
pub async fn resolve<L: Log>(log: &L, sequence: u64, now: Timestamp) -> Result<(), LogError> {
    let payload = Resolved { at: now, sequence }.to_bytes().into();
    log.append(vec![Message { partition: DEAD, payload }]).await.map(drop)
}

/// Hands over what lies there, until it is told that this is enough.
async fn each<L: Log>(log: &L, mut take: impl FnMut(u64, &Bytes) -> bool) -> Result<(), LogError> {
    let Some(end) = log.end(DEAD).await? else { return Ok(()) };
    let mut reader = log.reader(DEAD, None).await?;
    loop {
        let next = reader.next().await?;
        let sequence = next.position.sequence;
        if !take(sequence, &next.payload) || sequence >= end.sequence {
            return Ok(());
        }
    }
}

/// Which batch these bytes begin like.
#[must_use]
pub fn name_of(bytes: &[u8]) -> Option<BatchName> {
    let (outbox, number) = batch::name_of(bytes)?;
    Some(BatchName { edge: outbox.edge, epoch: outbox.epoch, number })
}
