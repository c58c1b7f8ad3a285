//! Filters as JSON: `{"country":["US","CA"],"device":"phone"}`.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value, json};

use super::columns::{Column, Condition, Tally, Written};
use super::{Filter, FilterError, LEVELS_MAX, shown};

/// What the row of a table of filters is known by.
const FILTER_ID: &str = "filter_id";

/// Reads a filter from the text of a JSON object.
pub(super) fn read_text(text: &str) -> Result<Filter, FilterError> {
    let checked: Checked =
        serde_json::from_str(text).map_err(|error| FilterError::Json(error.to_string()))?;
    read(&checked.0)
}

/// Reads a filter.
pub(super) fn read(value: &Value) -> Result<Filter, FilterError> {
    Reader::default().filter("filter", value, 1)
}

/// Reads the row of a table of filters: its id, and the filter.
pub(super) fn read_row(row: &Value) -> Result<(Option<String>, Filter), FilterError> {
    let mut row = object("filter", row)?.clone();
    let id = row.remove(FILTER_ID).filter(|id| !id.is_null());
    let id = id.map(|id| {
        let wanted = "an id is a text";
        text_of(&id).ok_or_else(|| shape(FILTER_ID, wanted, &id))
    });
    Ok((id.transpose()?, Reader::default().entries(&row, 1)?))
}

fn shape(at: &str, wanted: &str, value: &Value) -> FilterError {
    let what = format!("{wanted}, and this is {}", shown(&value.to_string()));
    FilterError::Shape { at: at.to_owned(), what }
}

fn object<'a>(at: &str, value: &'a Value) -> Result<&'a Map<String, Value>, FilterError> {
    let wanted =
        "a filter is an object of columns (`{\"country\":[\"US\"]}`), `all`, `any` or `not`";
    value.as_object().ok_or_else(|| shape(at, wanted, value))
}

/// A text, or a whole number as one: tables of filters have ids without quotes.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) if !number.is_f64() => Some(number.to_string()),
        _ => None,
    }
}

#[derive(Default)]
struct Reader {
    tally: Tally,
}

impl Reader {
    fn filter(&mut self, at: &str, value: &Value, level: usize) -> Result<Filter, FilterError> {
        self.entries(object(at, value)?, level)
    }

    /// All entries of an object hold.
    fn entries(
        &mut self,
        entries: &Map<String, Value>,
        level: usize,
    ) -> Result<Filter, FilterError> {
        if level > LEVELS_MAX {
            return Err(FilterError::TooDeep);
        }
        if entries.is_empty() {
            self.tally.condition()?;
        }
        let filters = entries.iter().map(|(key, value)| match key.as_str() {
            "all" => self.parts(key, value, level).map(Filter::All),
            "any" => self.parts(key, value, level).map(Filter::Any),
            "not" => Ok(Filter::Not(Box::new(self.filter(key, value, level + 1)?))),
            _ => self.condition(key, value),
        });
        filters.collect::<Result<_, _>>().map(Filter::All)
    }

    fn parts(&mut self, at: &str, value: &Value, level: usize) -> Result<Vec<Filter>, FilterError> {
        let parts = value.as_array().ok_or_else(|| shape(at, "a list of filters", value))?;
        if parts.is_empty() {
            self.tally.condition()?;
        }
        parts.iter().map(|part| self.filter(at, part, level + 1)).collect()
    }

    fn condition(&mut self, key: &str, value: &Value) -> Result<Filter, FilterError> {
        let column = Column::named(key)?;
        let values = match value {
            Value::Array(values) => values.as_slice(),
            one => std::slice::from_ref(one),
        };
        let written = values.iter().map(|value| {
            self.tally.value(column)?;
            let wanted = "a value is a text, or a list of texts";
            let text = text_of(value).ok_or_else(|| shape(column.name(), wanted, value))?;
            read_value(column, &text)
        });
        let written = written.collect::<Result<Vec<_>, _>>()?;
        if written.is_empty() {
            return Err(FilterError::EmptyValue { column: column.name() });
        }
        self.tally.is(column, written)
    }
}

fn read_value(column: Column, text: &str) -> Result<Written, FilterError> {
    match text.trim() {
        "" => Err(FilterError::EmptyValue { column: column.name() }),
        "*" => Ok(Written::Any),
        text => Ok(Written::Value(match is_asterisk(text) {
            true => text[1..].to_owned(),
            false => text.to_owned(),
        })),
    }
}

/// Whether a text is an asterisk behind backslashes. One of them is taken off when it is read, and
/// put there when it is written, so that the name `*` is told from any name.
fn is_asterisk(text: &str) -> bool {
    text.len() > 1 && text.trim_start_matches('\\') == "*"
}

/// The JSON of a filter in its normal form.
pub(super) fn write(filter: &Filter) -> Value {
    if let Some(condition) = Condition::of(filter) {
        let values: Vec<String> = condition.texts().map(write_value).collect();
        return Value::Object(Map::from_iter([(
            condition.column.name().to_owned(),
            Value::from(values),
        )]));
    }
    let all = |parts: &[Filter]| parts.iter().map(write).collect::<Vec<_>>();
    match filter {
        Filter::All(parts) => json!({ "all": all(parts) }),
        Filter::Any(parts) => json!({ "any": all(parts) }),
        Filter::Not(part) => json!({ "not": write(part) }),
        Filter::Is(_) => Value::Null,
    }
}

fn write_value(value: String) -> String {
    match value == "*" || is_asterisk(&value) {
        true => format!("\\{value}"),
        false => value,
    }
}

/// A value in which no object has a key twice: of the two, all but one would be lost in silence.
struct Checked(Value);

impl<'de> Deserialize<'de> for Checked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CheckedVisitor).map(Self)
    }
}

struct CheckedVisitor;

impl<'de> Visitor<'de> for CheckedVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Checked(value)) = items.next_element()? {
            values.push(value);
        }
        Ok(Value::from(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some((key, Checked(value))) = entries.next_entry::<String, _>()? {
            if object.contains_key(&key) {
                let what = "is there twice in one object: write its values as one list";
                return Err(A::Error::custom(format!("{:?} {what}", shown(&key))));
            }
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}
