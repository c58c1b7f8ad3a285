//! Tables as CSV (RFC 4180): the rows of an answer, with a column for each field that any row has.

use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use serde_json::Value;

/// How a table is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Format {
    Json,
    Csv,
}

/// What a table says of all its rows, in headers.
pub(super) struct Heading<'a> {
    pub(super) is_final: bool,
    pub(super) revision: u64,
    pub(super) as_of: &'a str,
}

/// The rows as CSV. Fields of fields have their names with a dot between them (`spend_micros.EUR`);
/// what a row does not have is empty. `first`: the columns that come first, of those that there
/// are; the others follow in the order of their names.
pub(super) fn csv(first: &[&str], rows: &[impl Serialize], heading: &Heading<'_>) -> Response {
    let rows: Vec<Vec<(String, String)>> = rows.iter().map(flat).collect();
    let mut columns: Vec<&String> = rows.iter().flatten().map(|(column, _)| column).collect();
    columns.sort_unstable_by_key(|column| {
        let place = first.iter().position(|first| column.starts_with(first));
        (place.unwrap_or(first.len()), *column)
    });
    columns.dedup();
    let cells_of = |row: &[(String, String)]| -> Vec<String> {
        let cell = |column: &&String| {
            let found = row.iter().find(|(name, _)| name == *column);
            found.map_or_else(String::new, |(_, text)| text.clone())
        };
        columns.iter().map(cell).collect()
    };
    let mut writer =
        csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
    // Writing into memory does not fail, and each row has as many cells as the header.
    let _ = writer.write_record(&columns);
    rows.iter().for_each(|row| drop(writer.write_record(cells_of(row))));
    let out = writer.into_inner().unwrap_or_default();
    let kind = HeaderValue::from_static("text/csv; charset=utf-8; header=present");
    let told = |text: &str| HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""));
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (HeaderName::from_static("countersign-final"), told(&heading.is_final.to_string())),
        (HeaderName::from_static("countersign-revision"), told(&heading.revision.to_string())),
        (HeaderName::from_static("countersign-as-of"), told(heading.as_of)),
    ];
    (headers, out).into_response()
}

/// The fields of a row, and those of its fields.
fn flat(row: &impl Serialize) -> Vec<(String, String)> {
    let mut cells = Vec::new();
    let mut left = vec![(String::new(), serde_json::to_value(row).unwrap_or_default())];
    while let Some((name, value)) = left.pop() {
        match value {
            Value::Object(fields) => left.extend(fields.into_iter().map(|(field, value)| {
                let dot = if name.is_empty() { "" } else { "." };
                (format!("{name}{dot}{field}"), value)
            })),
            Value::Null => {}
            Value::String(text) => cells.push((name, harmless(text))),
            other => cells.push((name, other.to_string())),
        }
    }
    cells
}

/// A spreadsheet takes a text that begins with one of these for a formula, and advertisers choose
/// the names of ads. An apostrophe before it says that it is text.
fn harmless(text: String) -> String {
    match text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        true => format!("'{text}"),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn rows_with_other_fields_share_a_header_and_nothing_is_taken_for_a_formula() {
        let rows = [
            json!({"clicks": 1, "start": "2026-01-01T00:00:00Z", "spend": {"EUR": 5, "USD": 2}}),
            json!({"clicks": 2, "start": "a \"b\", c", "rate": 0.5, "spend": {}}),
            json!({"clicks": 3, "start": "=1+1", "spend": {"EUR": 7}, "none": null}),
        ];
        let heading = Heading { is_final: true, revision: 3, as_of: "2026-01-01T00:00:00Z" };
        let response = csv(&["start"], &rows, &heading);
        assert_eq!(response.headers()["countersign-final"], "true");
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        assert_eq!(
            std::str::from_utf8(&body).unwrap(),
            "start,clicks,rate,spend.EUR,spend.USD\r\n\
             2026-01-01T00:00:00Z,1,,5,2\r\n\
             \"a \"\"b\"\", c\",2,0.5,,\r\n\
             '=1+1,3,,7,\r\n"
        );
    }
}
