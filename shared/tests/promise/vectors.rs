//! Golden files: read, compared, and on demand written anew.

use std::path::Path;

use serde_json::{Value, json};
use shared::text::hex;

/// Compares with `vectors/<name>`, or writes it when `COUNTERSIGN_WRITE_VECTORS=1`.
pub(super) fn compare(name: &str, computed: &Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors").join(name);
    if std::env::var("COUNTERSIGN_WRITE_VECTORS").is_ok_and(|on| on == "1") {
        let text = serde_json::to_string_pretty(computed).unwrap();
        std::fs::write(&path, text + "\n").unwrap();
        return;
    }
    let stored = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let stored: Value = serde_json::from_str(&stored).unwrap();
    differ("", &stored, computed, name);
}

/// Says where two values differ, not just that they do.
fn differ(at: &str, stored: &Value, computed: &Value, name: &str) {
    match (stored, computed) {
        (Value::Object(a), Value::Object(b)) if a.keys().eq(b.keys()) => {
            a.iter().for_each(|(key, value)| differ(&format!("{at}/{key}"), value, &b[key], name));
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            let pairs = a.iter().zip(b).enumerate();
            pairs.for_each(|(i, (a, b))| differ(&format!("{at}/{i}"), a, b, name));
        }
        _ => assert_eq!(stored, computed, "vectors/{name} at {at}"),
    }
}

/// Cuts bytes into named parts, as hex: what stands where.
pub(super) struct Parts<'a> {
    bytes: &'a [u8],
    at: usize,
    parts: Vec<Value>,
}

impl<'a> Parts<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, parts: Vec::new() }
    }

    /// The next `length` bytes.
    pub(super) fn take(&mut self, what: &str, length: usize) -> &'a [u8] {
        let part = &self.bytes[self.at..self.at + length];
        self.at += length;
        self.parts.push(json!([what, hex(part)]));
        part
    }

    /// A little-endian number of four bytes.
    pub(super) fn count(&mut self, what: &str) -> usize {
        u32::from_le_bytes(self.take(what, 4).try_into().unwrap()) as usize
    }

    /// The parts, which must have covered everything.
    pub(super) fn end(self) -> Value {
        assert_eq!(self.at, self.bytes.len(), "the parts do not cover the bytes");
        Value::Array(self.parts)
    }
}
