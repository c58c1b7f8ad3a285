//! Which events a question is about: a filter, as text and as JSON.
//!
//! As text, for a parameter of a URL: `country!=US;device=phone,tablet`. Conditions stand between
//! `;`, and all of them hold. Behind `=` stand the values of which a column has one, behind `!=`
//! those of which it has none, with `,` between them. A backslash takes the next character as it is
//! (`publisher=a\,b`). `*` is any value. Without a condition every event is taken.
//!
//! As JSON: `{"country":["US","CA"],"device":"phone"}` has the columns, and all of them hold;
//! `{"all":[…]}`, `{"any":[…]}` and `{"not":{…}}` put filters together. `"*"` is any value, and a
//! backslash before it makes it the name that is an asterisk. A text that begins with `{` is read as
//! JSON.
//!
//! Here a filter is read, checked and printed. What it takes is found out by those who count.

mod columns;
mod json;
mod text;

pub use columns::verdict;

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde_json::Value;
use shared::{
    AdName, AdvertiserName, CampaignName, Country, Device, Network, PlacementName, PublisherName,
    Region, Verdict,
};

/// The longest text, in bytes.
pub const TEXT_BYTES_MAX: usize = 8_192;
/// The most levels of JSON, the outermost included.
pub const LEVELS_MAX: usize = 8;
/// The most conditions.
pub const CONDITIONS_MAX: usize = 64;
/// The most values, those of all conditions together.
pub const VALUES_MAX: usize = 1_000;

/// Which events a question is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Filter {
    /// All of these; with none of them: every event.
    All(Vec<Filter>),
    /// At least one of these; with none of them: no event.
    Any(Vec<Filter>),
    /// The events that the filter does not take.
    Not(Box<Filter>),
    /// The column has one of the values.
    Is(Values),
}

/// A column, and the values of it that are taken: at least one. A filter that was read has them
/// sorted, each once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Values {
    /// The visitor's country.
    Country(Vec<Country>),
    /// The part of a country.
    Region(Vec<Place>),
    /// The network that the visitor's address belongs to.
    Network(Vec<Network>),
    /// The class of the visitor's device.
    Device(Vec<Device>),
    /// The ad.
    Ad(Vec<AdName>),
    /// The publisher.
    Publisher(Vec<PublisherName>),
    /// The placement.
    Placement(Vec<PlacementName>),
    /// The campaign.
    Campaign(Vec<CampaignName>),
    /// The advertiser.
    Advertiser(Vec<AdvertiserName>),
    /// A verdict; none of the valid events.
    Reason(Vec<Verdict>),
}

/// A part of a country, ISO 3166-2: `US-CA`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Place {
    /// The country.
    pub country: Country,
    /// The part of it. Whether the country has such a part is not checked.
    pub region: Region,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}-{}", self.country, self.region))
    }
}

/// A text that is no part of a country.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a part of a country is written as in ISO 3166-2: `US-CA`")]
pub struct PlaceError;

impl FromStr for Place {
    type Err = PlaceError;
    /// Reads the country's two letters and the part, in capital letters or not.
    fn from_str(text: &str) -> Result<Self, PlaceError> {
        let (country, region) = text.split_once('-').ok_or(PlaceError)?;
        let country = Some(country).filter(|letters| letters.len() == 2);
        let country = country.and_then(Country::from_any).filter(|c| *c != Country::UNKNOWN);
        let region = region.to_ascii_uppercase().parse().map_err(|_| PlaceError)?;
        country.map(|country| Self { country, region }).ok_or(PlaceError)
    }
}

/// Why a filter cannot be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FilterError {
    /// The text has so many bytes.
    #[error("the filter has {0} bytes, and may have {TEXT_BYTES_MAX}: ask in several questions")]
    TooLong(usize),
    /// More than [`LEVELS_MAX`].
    #[error(
        "the filter is more than {LEVELS_MAX} levels deep: write it with fewer `all`, `any` and \
         `not` inside one another"
    )]
    TooDeep,
    /// More than [`CONDITIONS_MAX`].
    #[error(
        "the filter has more than {CONDITIONS_MAX} conditions: one condition may have several \
         values (`country=US,CA`), or ask in several questions"
    )]
    TooManyConditions,
    /// More than [`VALUES_MAX`].
    #[error(
        "the filter has more than {VALUES_MAX} values in all, at {column}: ask in several questions"
    )]
    TooManyValues {
        /// The column at which they are too many.
        column: &'static str,
    },
    /// There is nothing between two `;`, or before or behind one.
    #[error(
        "the filter has a `;` with no condition on one side of it: take it out, or write a \
         condition such as `country=US` there"
    )]
    NoCondition,
    /// The text of a condition without an operator.
    #[error(
        "{0:?} has no `=`: a condition is `column=value` or `column!=value`; a `;` in a value \
         is written `\\;`"
    )]
    NoOperator(String),
    /// An operator that there is not.
    #[error(
        "{piece:?}: there is no operator `{operator}`; there are `=` (one of the values) and \
         `!=` (none of them). A value that begins so is written behind a backslash"
    )]
    UnknownOperator {
        /// The text of the condition.
        piece: String,
        /// The operator.
        operator: String,
    },
    /// A column that there is not.
    #[error(
        "there is no column {0:?}; there are: {list}; and in JSON `all`, `any` and `not`",
        list = columns::list()
    )]
    UnknownColumn(String),
    /// A condition without a value, or with one that is empty.
    #[error("{column}: a value is empty; write one, or `*` for any value")]
    EmptyValue {
        /// The column.
        column: &'static str,
    },
    /// A backslash that nothing follows.
    #[error(
        "{piece:?} ends with a backslash, which takes the next character as it is: write two \
         for a backslash"
    )]
    LoneBackslash {
        /// The text of the value.
        piece: String,
    },
    /// A value that the column does not have.
    #[error("{column}: {value:?} is not taken: {why}")]
    Value {
        /// The column.
        column: &'static str,
        /// The value, or its beginning.
        value: String,
        /// What there is.
        why: String,
    },
    /// A question about one user.
    #[error(
        "user: only `*` can be asked: events are not kept by user id, only the visitor's \
         fingerprint is, which nobody can ask for by the id"
    )]
    User,
    /// JSON of another shape.
    #[error("{at}: {what}")]
    Shape {
        /// The key whose value it is, or `filter`.
        at: String,
        /// What is wanted, and what is there.
        what: String,
    },
    /// Text that begins with `{` and is no JSON, or has a key twice in one object.
    #[error("the filter begins with `{{` and cannot be read as JSON: {0}")]
    Json(String),
}

impl Filter {
    /// Takes every event.
    pub const EVERYTHING: Self = Self::All(Vec::new());

    /// Reads a filter: text, or JSON when it begins with `{`. Empty text takes everything.
    ///
    /// # Errors
    /// [`FilterError`] says what was wrong, and where.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(FilterError::TooLong(text.len()));
        }
        let text = text.trim_start();
        let filter = match text.starts_with('{') {
            true => json::read_text(text)?,
            false => text::read(text)?,
        };
        Ok(filter.normal())
    }

    /// Reads a filter from JSON.
    ///
    /// # Errors
    /// [`FilterError`] says what was wrong, and where.
    pub fn from_json(value: &Value) -> Result<Self, FilterError> {
        json::read(value).map(Self::normal)
    }

    /// Reads a row of a table of filters, such as
    /// `{"filter_id":"0013","region":"usa","user_id":"*"}`: its `filter_id`, if it has one, and the
    /// filter that the other columns are.
    ///
    /// # Errors
    /// [`FilterError`] says what was wrong, and where.
    pub fn from_row(row: &Value) -> Result<(Option<String>, Self), FilterError> {
        let (id, filter) = json::read_row(row)?;
        Ok((id, filter.normal()))
    }

    /// The filter as JSON, with columns and values in their usual names.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json::write(&self.clone().normal())
    }

    /// The networks that are asked for, in their order and each once, those behind a `!=` included.
    /// An answer can so say for which network an address was answered.
    pub fn networks(&self) -> impl Iterator<Item = Network> {
        let mut found = Vec::new();
        self.find_networks(&mut found);
        sorted(found, |a, b| a.0.cmp(&b.0)).into_iter()
    }

    fn find_networks(&self, found: &mut Vec<Network>) {
        match self {
            Self::All(parts) | Self::Any(parts) => {
                parts.iter().for_each(|part| part.find_networks(found));
            }
            Self::Not(part) => part.find_networks(found),
            Self::Is(Values::Network(networks)) => found.extend(networks),
            Self::Is(_) => {}
        }
    }

    /// The same filter in the form in which filters are read: no `All` directly in an `All`, none
    /// of one part, no `Not` of a `Not`, values sorted and each once.
    fn normal(self) -> Self {
        match self {
            Self::All(parts) => {
                let parts = parts.into_iter().flat_map(|part| match part.normal() {
                    Self::All(inner) => inner,
                    other => vec![other],
                });
                one_or(parts.collect(), Self::All)
            }
            Self::Any(parts) => {
                let parts = parts.into_iter().flat_map(|part| match part.normal() {
                    Self::Any(inner) => inner,
                    other => vec![other],
                });
                one_or(parts.collect(), Self::Any)
            }
            Self::Not(part) => match part.normal() {
                Self::Not(inner) => *inner,
                Self::All(parts) if parts.is_empty() => Self::Any(parts),
                Self::Any(parts) if parts.is_empty() => Self::All(parts),
                other => Self::Not(Box::new(other)),
            },
            Self::Is(values) if values.is_empty() => Self::Any(Vec::new()),
            Self::Is(values) => Self::Is(values.normal()),
        }
    }
}

/// Prints the filter as text where text can say it, else as JSON. What is printed is read as the
/// same filter, if it is within the limits.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let filter = self.clone().normal();
        match text::write(&filter) {
            Some(text) => f.pad(&text),
            None => f.pad(&json::write(&filter).to_string()),
        }
    }
}

fn one_or(mut parts: Vec<Filter>, together: impl Fn(Vec<Filter>) -> Filter) -> Filter {
    match parts.pop() {
        Some(only) if parts.is_empty() => only,
        last => {
            parts.extend(last);
            together(parts)
        }
    }
}

/// Sorts values, and keeps each once.
fn sorted<T: PartialEq>(mut values: Vec<T>, order: impl Fn(&T, &T) -> Ordering) -> Vec<T> {
    values.sort_by(order);
    values.dedup();
    values
}

/// The beginning of a text, for a message.
fn shown(text: &str) -> String {
    const CHARS_MAX: usize = 64;
    match text.char_indices().nth(CHARS_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests;
