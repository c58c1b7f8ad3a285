//! Filters as text: `country!=US;device=phone,tablet`.

use super::columns::{Column, Condition, Tally, Written};
use super::{Filter, FilterError, shown};

/// What an operator is made of, so that `<`, `==` and `!==` are found, and told from a value.
const OPERATORS: [char; 5] = ['=', '!', '<', '>', '~'];

/// Reads a filter; blanks at its ends are taken off.
pub(super) fn read(text: &str) -> Result<Filter, FilterError> {
    if text.is_empty() {
        return Ok(Filter::EVERYTHING);
    }
    let mut tally = Tally::default();
    let conditions = pieces(text, ';').map(|piece| condition(piece, &mut tally));
    conditions.collect::<Result<_, _>>().map(Filter::All)
}

fn condition(piece: &str, tally: &mut Tally) -> Result<Filter, FilterError> {
    if piece.trim().is_empty() {
        return Err(FilterError::NoCondition);
    }
    let no_operator = || FilterError::NoOperator(shown(piece.trim()));
    let (column, behind) = piece.split_at(piece.find(OPERATORS).ok_or_else(no_operator)?);
    let column = Column::named(column.trim())?;
    let is_value = |c: char| !OPERATORS.contains(&c) && !c.is_whitespace();
    let (operator, values) = behind.split_at(behind.find(is_value).unwrap_or(behind.len()));
    let is_not = match operator.trim_end() {
        "=" => false,
        "!=" => true,
        other => return Err(unknown_operator(piece, other)),
    };
    let mut written = Vec::new();
    for value in pieces(values, ',') {
        tally.value(column)?;
        written.push(read_value(column, value)?);
    }
    let filter = tally.is(column, written)?;
    Ok(if is_not { Filter::Not(Box::new(filter)) } else { filter })
}

fn unknown_operator(piece: &str, operator: &str) -> FilterError {
    FilterError::UnknownOperator { piece: shown(piece.trim()), operator: shown(operator) }
}

/// The pieces between separators that no backslash takes.
fn pieces(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut is_taken = false;
    text.split(move |c| {
        let separates = c == separator && !is_taken;
        is_taken = c == '\\' && !is_taken;
        separates
    })
}

fn read_value(column: Column, text: &str) -> Result<Written, FilterError> {
    let text = text.trim_start();
    if text.starts_with(OPERATORS) {
        let end = text.find(|c| !OPERATORS.contains(&c)).unwrap_or(text.len());
        return Err(unknown_operator(text, &text[..end]));
    }
    let (mut value, mut blanks) = (String::new(), String::new());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        // Blanks are a part of the value when something follows.
        if c.is_whitespace() {
            blanks.push(c);
            continue;
        }
        value.push_str(&blanks);
        blanks.clear();
        value.push(match c {
            '\\' => {
                chars.next().ok_or_else(|| FilterError::LoneBackslash { piece: shown(text) })?
            }
            other => other,
        });
    }
    match value.as_str() {
        "" => Err(FilterError::EmptyValue { column: column.name() }),
        "*" if text.starts_with('*') => Ok(Written::Any),
        _ => Ok(Written::Value(value)),
    }
}

/// The text of a filter in its normal form; `None` when only JSON can say it.
pub(super) fn write(filter: &Filter) -> Option<String> {
    let conditions = match filter {
        Filter::All(conditions) => conditions,
        one => std::slice::from_ref(one),
    };
    let conditions: Option<Vec<String>> = conditions.iter().map(write_condition).collect();
    Some(conditions?.join(";"))
}

fn write_condition(filter: &Filter) -> Option<String> {
    let (operator, filter) = match filter {
        Filter::Not(inner) => ("!=", &**inner),
        other => ("=", other),
    };
    let condition = Condition::of(filter)?;
    let values: Vec<String> = condition.texts().map(|value| write_value(&value)).collect();
    Some(format!("{}{operator}{}", condition.column.name(), values.join(",")))
}

fn write_value(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    if value.starts_with(OPERATORS) || value == "*" {
        text.push('\\');
    }
    for c in value.chars() {
        if matches!(c, '\\' | ',' | ';') {
            text.push('\\');
        }
        text.push(c);
    }
    text
}
