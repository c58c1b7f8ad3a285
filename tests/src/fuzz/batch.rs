//! A batch that is read is written as the same bytes (one of an earlier version: as bytes that say
//! the same), and its JSON form says the same.

use shared::Timestamp;
use shared::limits::{BATCH_NUMBERS_MAX, TOKEN_BYTES_MAX};
use shared::wire::json::JsonBatch;
use shared::wire::{Batch, WireError};

use super::{Outcome, hold};

pub(super) fn judge(input: &[u8]) -> Outcome {
    let batch = match Batch::read(input) {
        Ok(batch) => batch,
        Err(error) => return refused(&error, input),
    };
    let written = batch.to_bytes();
    let same = if input.starts_with(b"CSB3") {
        written == input
    } else {
        Batch::read(&written).is_ok_and(|again| again == batch)
    };
    hold(same, || "written otherwise than it was read".to_owned())?;
    hold(batch.number < BATCH_NUMBERS_MAX, || "a number out of range".to_owned())?;
    hold(batch.events.iter().all(|event| event.token.len() <= TOKEN_BYTES_MAX), || {
        "a token longer than any".to_owned()
    })?;
    declared(&batch)?;
    let text = serde_json::to_string(&JsonBatch::new(&batch)).map_err(|e| e.to_string())?;
    let json: JsonBatch = serde_json::from_str(&text).map_err(|e| format!("its JSON: {e}"))?;
    let again = json.batch().map_err(|e| format!("its JSON form: {e}"))?;
    hold(again == batch, || "its JSON form says something else".to_owned())?;
    Ok(format!(
        "read{}{}{}",
        if batch.watermark == Timestamp::MAX { " closing" } else { "" },
        if batch.events.is_empty() { "" } else { " with events" },
        if batch.tallies.is_empty() { "" } else { " with tallies" },
    ))
}

/// An error lies within the bytes and says what is wrong; its place depends on what is before it.
pub(super) fn refused(error: &WireError, input: &[u8]) -> Outcome {
    hold(error.at <= input.len() && !error.what.is_empty(), || {
        format!("the error {error:?} is of {} bytes", input.len())
    })?;
    hold(error.to_string().contains(&error.at.to_string()), || "no place is named".to_owned())?;
    Ok(format!("refused: {}", error.what))
}

fn declared(batch: &Batch<'_>) -> Result<(), String> {
    let declared = batch.declared();
    hold(declared.is_sorted_by(|a, b| a.0 < b.0), || "declared out of order".to_owned())?;
    let sum: u64 = declared.iter().map(|(_, count)| u64::from(*count)).sum();
    let tallied: u64 = batch.tallies.iter().map(|tally| u64::from(tally.count)).sum();
    let should = batch.events.len() as u64 + tallied;
    let saturates = tallied + batch.events.len() as u64 > u64::from(u32::MAX);
    hold(sum == should || saturates, || format!("declares {sum} and has {should}"))
}
