//! The JSON forms: a value that is read is always written in the same way, and its binary form says
//! the same.

use serde::Serialize;
use serde::de::DeserializeOwned;
use shared::import::ImportChunk;
use shared::wire::Batch;
use shared::wire::json::JsonBatch;

use super::{Outcome, hold, words_of};

pub(super) const BATCH_WORDS: &[&str] = &[
    "\"version\":1",
    "\"events\":[",
    "\"tallies\":[]",
    "\"watermark\":null",
    "\"verdict\":\"prefetch\"",
    "\"verdict\":\"expired\"",
    "\"flags\":",
    "\"kind\":\"click\"",
    "\"number\":",
    "9223372036854775808",
    "18446744073709551615",
    "-1",
    "1e3",
    "null",
    "\\u0041",
    ",",
    "{}",
    "[[[[[[[[",
];
pub(super) const CHUNK_WORDS: &[&str] = &[
    "\"first_row\":",
    "\"end_row\":65537",
    "\"ip\":\"2001:db8::1\"",
    "\"user\":\"\\u0000\"",
    "\"device\":\"phone\"",
    "\"country\":\"de\"",
    "\"row\":1",
    "18446744073709551615",
    "-1",
    "null",
    ",",
    "{}",
];
pub(super) const BEACON_WORDS: &[&str] = &[
    "{\"events\":[",
    "{\"token\":\"\",\"kind\":\"click\"}",
    "\"kind\":\"served\"",
    "\"kind\":\"viewable\"",
    "\"kind\":\"\\u0063lick\"",
    "]}",
    "null",
    ",",
    "{}",
    "\u{0}",
];

/// Reads a value, writes it and reads it again: it must be the same.
fn round<T: DeserializeOwned + Serialize + PartialEq>(input: &[u8]) -> Result<T, Outcome> {
    let value: T = serde_json::from_slice(input).map_err(|error| {
        let text = error.to_string();
        hold(text.contains(" at line ") && text.contains("column"), || {
            format!("no place is named: {text}")
        })?;
        Ok(format!("refused: {}", words_of(&text)))
    })?;
    let text = serde_json::to_string(&value).map_err(|error| Err(error.to_string()))?;
    match serde_json::from_str::<T>(&text) {
        Ok(again) if again == value => Ok(value),
        Ok(_) => Err(Err("written, it says something else".to_owned())),
        Err(error) => Err(Err(format!("what it writes is refused: {error}"))),
    }
}

pub(super) fn batch(input: &[u8]) -> Outcome {
    let json: JsonBatch = match round(input) {
        Ok(json) => json,
        Err(outcome) => return outcome,
    };
    let batch = match json.batch() {
        Ok(batch) => batch,
        Err(why) => {
            hold(!why.is_empty(), || "refused without a word".to_owned())?;
            let named = why.split_once(": ").map_or(why.as_str(), |(_, what)| what);
            return Ok(format!("refused as a batch: {}", words_of(named)));
        }
    };
    let bytes = batch.to_bytes();
    let read = Batch::read(&bytes).map_err(|error| format!("its binary form: {error}"))?;
    hold(read == batch, || "its binary form says something else".to_owned())?;
    // A watermark of 2^64 - 1 is written as null, which closes the epoch as well.
    let again = JsonBatch::new(&read);
    hold(again.batch().is_ok_and(|again| again == batch), || "JSON, binary, JSON".to_owned())?;
    Ok(format!(
        "read{}{}{}",
        if json.watermark.is_none() { " closing" } else { "" },
        if json.events.is_empty() { "" } else { " with events" },
        if json.tallies.is_empty() { "" } else { " with tallies" },
    ))
}

pub(super) fn chunk(input: &[u8]) -> Outcome {
    let chunk: ImportChunk = match round(input) {
        Ok(chunk) => chunk,
        Err(outcome) => return outcome,
    };
    if let Err(why) = chunk.check() {
        hold(!why.is_empty(), || "refused without a word".to_owned())?;
        return Ok(format!("refused as a chunk: {}", words_of(&why)));
    }
    let declared: u64 = chunk.declared().iter().map(|(_, count)| u64::from(*count)).sum();
    hold(declared == chunk.events.len() as u64, || "declares other than it has".to_owned())?;
    let inside = chunk.events.iter().all(|e| e.row >= chunk.first_row && e.row < chunk.end_row);
    hold(inside, || "a row outside".to_owned())?;
    Ok(format!("read{}", if chunk.events.is_empty() { "" } else { " with events" }))
}

pub(super) fn chunks() -> Vec<Vec<u8>> {
    let digest = "00".repeat(32);
    let head = format!(r#""source":"{}","digest":"{digest}""#, "01".repeat(16));
    let event = r#"{"row":5,"kind":"click","at":1574553600000,"ad":"boots","ip":"203.0.113.9","user":"u","country":"DE"}"#;
    [
        format!(r#"{{{head},"first_row":5,"end_row":9,"events":[{event}]}}"#),
        format!(r#"{{{head},"first_row":5,"end_row":9,"events":[{event},{event}]}}"#),
        format!(r#"{{{head},"first_row":0,"end_row":0,"events":[]}}"#),
    ]
    .map(String::into_bytes)
    .into()
}
