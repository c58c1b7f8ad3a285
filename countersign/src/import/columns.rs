//! Finds the fields of a row by their columns' names.

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny};
use std::collections::BTreeMap;

use super::row::Fields;

/// The names that are known, in the order of [`Fields`].
const NAMES: [&str; 11] = [
    "ad_id",
    "timestamp",
    "click_timestamp",
    "event",
    "click",
    "user_id",
    "ip",
    "country",
    "publisher",
    "placement",
    "device",
];

/// The name of a column as we call it: other servers' exports say the same otherwise.
fn known_as(name: &str) -> &str {
    match name {
        "clicked" | "is_click" => "click",
        "event_type" | "event_name" => "event",
        other => other,
    }
}

/// Which column of a CSV or TSV log holds what.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Columns {
    delimiter: u8,
    places: [Option<usize>; NAMES.len()],
    count: usize,
    /// Names that say nothing to us.
    pub(super) unknown: Unknown,
}

/// The names of a log's columns that say nothing to us.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Unknown {
    pub(super) names: Vec<String>,
    /// Whether there is one besides that says what happened; else each row is a click.
    pub(super) says_what: bool,
}

impl Columns {
    /// Reads the header line.
    ///
    /// # Errors
    /// Says which column is missing or there twice, and which were found.
    pub(super) fn read(header: &[u8], delimiter: u8) -> Result<Self, String> {
        let header = header.strip_prefix(super::records::BOM).unwrap_or(header);
        let mut fields = csv::StringRecord::new();
        split(header, delimiter, &mut fields)?;
        let names: Vec<String> = fields.iter().map(|name| name.trim().to_lowercase()).collect();
        let mut places = [None; NAMES.len()];
        let mut unknown = Vec::new();
        for (at, name) in names.iter().enumerate() {
            let name = known_as(name);
            match NAMES.iter().position(|known| *known == name) {
                Some(known) if places[known].is_some() => {
                    return Err(format!("the header has the column {name} twice"));
                }
                Some(known) => places[known] = Some(at),
                None => unknown.push(name.to_owned()),
            }
        }
        let has = |name: &str| names.iter().any(|there| known_as(there) == name);
        check_names(has, &names)?;
        let says_what = has("event") || has("click");
        Ok(Self {
            delimiter,
            places,
            count: names.len(),
            unknown: Unknown { names: unknown, says_what },
        })
    }

    /// The fields of a record; `buffer` holds their text.
    ///
    /// # Errors
    /// When there are more or fewer than the header has, or it is not UTF-8.
    pub(super) fn fields<'b>(
        &self,
        record: &[u8],
        buffer: &'b mut csv::StringRecord,
    ) -> Result<Fields<'b>, String> {
        split(record, self.delimiter, buffer)?;
        if buffer.len() != self.count {
            return Err(format!("{} columns where the header has {}", buffer.len(), self.count));
        }
        let field = |at: usize| self.places[at].and_then(|place| buffer.get(place)).map(str::trim);
        let or_none = |at: usize| field(at).filter(|text| !text.is_empty());
        let time = match (or_none(1), or_none(2)) {
            (Some(_), Some(_)) => return Err("both timestamp and click_timestamp".to_owned()),
            (one, other) => one.or(other),
        };
        Ok(Fields {
            ad: field(0).unwrap_or_default(),
            time: time.unwrap_or_default(),
            // An empty cell of these is a mistake, and no click.
            event: field(3),
            click: field(4),
            user: or_none(5),
            ip: or_none(6),
            country: or_none(7),
            publisher: or_none(8),
            placement: or_none(9),
            device: or_none(10),
        })
    }
}

fn check_names(has: impl Fn(&str) -> bool, found: &[String]) -> Result<(), String> {
    let missing = match (has("ad_id"), has("timestamp") || has("click_timestamp")) {
        (true, true) => return Ok(()),
        (false, true) => "a column ad_id",
        (true, false) => "a column timestamp or click_timestamp",
        (false, false) => "columns ad_id and timestamp (or click_timestamp)",
    };
    Err(format!("it needs {missing}, and has: {}", found.join(", ")))
}

fn split(record: &[u8], delimiter: u8, into: &mut csv::StringRecord) -> Result<(), String> {
    let text = std::str::from_utf8(record)
        .map_err(|error| format!("not UTF-8 at byte {}", error.valid_up_to()))?;
    into.clear();
    if !record.contains(&b'"') {
        text.split(char::from(delimiter)).for_each(|field| into.push_field(field));
        return Ok(());
    }
    let mut builder = csv::ReaderBuilder::new();
    builder.has_headers(false).flexible(true).delimiter(delimiter).buffer_capacity(record.len());
    match builder.from_reader(record).read_record(into) {
        Ok(true) => Ok(()),
        Ok(false) => Err("an empty row".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// A row of an NDJSON log: strings or numbers, `null` is none.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct JsonRow {
    ad_id: Text,
    timestamp: Text,
    click_timestamp: Text,
    #[serde(alias = "event_type", alias = "event_name")]
    event: Text,
    #[serde(alias = "clicked", alias = "is_click")]
    click: Text,
    user_id: Text,
    ip: Text,
    country: Text,
    publisher: Text,
    placement: Text,
    device: Text,
}

#[derive(Default)]
struct Text(Option<String>);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde_json::Value;
        match Value::deserialize(deserializer)? {
            Value::Null => Ok(Self(None)),
            Value::String(text) => Ok(Self(Some(text))),
            Value::Number(number) => Ok(Self(Some(number.to_string()))),
            Value::Bool(yes) => Ok(Self(Some(yes.to_string()))),
            _ => Err(D::Error::custom("a list or an object where a text or number belongs")),
        }
    }
}

impl JsonRow {
    /// Reads a line.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub(super) fn read(line: &[u8]) -> Result<Self, String> {
        let line = line.strip_prefix(super::records::BOM).unwrap_or(line);
        // A list would be read as the fields in their order.
        if !line.trim_ascii_start().starts_with(b"{") {
            return Err("not a JSON object".to_owned());
        }
        serde_json::from_slice(line).map_err(|error| format!("not a JSON object of ours: {error}"))
    }

    /// The fields of the row.
    ///
    /// # Errors
    /// When it has two times.
    pub(super) fn fields(&self) -> Result<Fields<'_>, String> {
        fn text(text: &Text) -> Option<&str> {
            text.0.as_deref().map(str::trim)
        }
        fn or_none(field: &Text) -> Option<&str> {
            text(field).filter(|text| !text.is_empty())
        }
        let time = match (or_none(&self.timestamp), or_none(&self.click_timestamp)) {
            (Some(_), Some(_)) => return Err("both timestamp and click_timestamp".to_owned()),
            (one, other) => one.or(other),
        };
        Ok(Fields {
            ad: text(&self.ad_id).unwrap_or_default(),
            time: time.unwrap_or_default(),
            event: text(&self.event),
            click: text(&self.click),
            user: or_none(&self.user_id),
            ip: or_none(&self.ip),
            country: or_none(&self.country),
            publisher: or_none(&self.publisher),
            placement: or_none(&self.placement),
            device: or_none(&self.device),
        })
    }

    /// The names of a line's fields that say nothing to us, when it has those that it must have. A
    /// line that is no object has none.
    ///
    /// # Errors
    /// Says which is missing and which were found.
    pub(super) fn check_names(line: &[u8]) -> Result<Unknown, String> {
        let line = line.strip_prefix(super::records::BOM).unwrap_or(line);
        let Ok(all) = serde_json::from_slice::<BTreeMap<String, IgnoredAny>>(line) else {
            return Ok(Unknown { names: Vec::new(), says_what: true });
        };
        let names: Vec<String> = all.into_keys().collect();
        let has = |name: &str| names.iter().any(|there| known_as(there) == name);
        check_names(has, &names)?;
        let says_what = has("event") || has("click");
        let names = names.into_iter().filter(|name| !NAMES.contains(&known_as(name))).collect();
        Ok(Unknown { names, says_what })
    }
}

#[cfg(test)]
mod tests;
