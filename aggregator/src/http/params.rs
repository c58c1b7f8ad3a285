//! Parameters of requests. Reading them is strict; every refusal says which parameter is wrong, and
//! what to do.

use std::ops::Range;

use api::filter::Filter;
use api::reports::{Metrics, Of};
use api::routes::reports::STEPS;
use axum::extract::Query;
use axum::http::Uri;
use serde_json::Value;
use shared::name::Any;
use shared::problem::Problem;
use shared::{AdName, Kind, Minute, NameBuf, PublisherName, SourceId, Timestamp, Validity};

use super::table::Format;
use crate::facts::{BY_MAX, Name};
use crate::filters::VERSIONS_MAX;
use crate::query::{Step, Steps, Zone};

/// The most points that a series has.
const POINTS_MAX: usize = 20_000;
/// The longest range of minutes that a question may ask for: 400 days.
pub const RANGE_MINUTES_MAX: u32 = 400 * 24 * 60;
/// The most ads that `popular_ads` lists.
pub const COUNT_MAX: u32 = 10_000;

fn refuse(name: &str, what: impl std::fmt::Display) -> Problem {
    Problem::new(400, "invalid_parameter", format!("{name}: {what}"))
}

/// The query of a request. Each name is there at most once, and is one that the question knows.
#[derive(Debug)]
pub(super) struct Params(Vec<(String, String)>);

impl Params {
    pub(super) fn read(uri: &Uri, known: &[&str]) -> Result<Self, Problem> {
        let Ok(Query(given)) = Query::<Vec<(String, String)>>::try_from_uri(uri) else {
            return Err(refuse("query", "it cannot be read; write it as name=value&name=value"));
        };
        for (at, (name, _)) in given.iter().enumerate() {
            let shown: String = name.chars().take(64).collect();
            if !known.contains(&name.as_str()) {
                let there_are = match known {
                    [] => "this question takes none".to_owned(),
                    known => format!("there are: {}", known.join(", ")),
                };
                return Err(refuse(&shown, format!("unknown parameter; {there_are}")));
            }
            if given[..at].iter().any(|(before, _)| before == name) {
                return Err(refuse(&shown, "it is there twice; give it once"));
            }
        }
        Ok(Self(given))
    }

    /// The fields of an object in JSON, read like parameters. A filter may be an object too.
    pub(super) fn from_body(body: &[u8], known: &[&str]) -> Result<Self, Problem> {
        let there_are = || format!("give an object with: {}", known.join(", "));
        let fields: serde_json::Map<String, Value> = serde_json::from_slice(body)
            .map_err(|error| refuse("body", format!("{error}; {}", there_are())))?;
        let field = |(name, value): (String, Value)| {
            if !known.contains(&name.as_str()) {
                let shown: String = name.chars().take(64).collect();
                return Err(refuse(&shown, format!("unknown field; {}", there_are())));
            }
            match value {
                Value::String(text) => Ok((name, text)),
                Value::Number(number) => Ok((name, number.to_string())),
                Value::Object(_) if name == "where" => Ok((name, value.to_string())),
                _ => Err(refuse(&name, "give text or a number")),
            }
        };
        fields.into_iter().map(field).collect::<Result<_, Problem>>().map(Self)
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    /// `from` (inclusive) and `to` (exclusive).
    pub(super) fn range(&self) -> Result<Range<Minute>, Problem> {
        let required = |name| {
            let what = "it is missing; give a whole minute, as Unix seconds or RFC 3339";
            self.minute(name)?.ok_or_else(|| refuse(name, what))
        };
        let (from, to) = (required("from")?, required("to")?);
        if from >= to {
            let (from, to) = (from.start(), to.start());
            return Err(refuse(
                "to",
                format!("{to} is not after from, which is {from}; `to` is exclusive"),
            ));
        }
        if to.0 - from.0 > RANGE_MINUTES_MAX {
            let days = RANGE_MINUTES_MAX / 24 / 60;
            return Err(refuse("to", format!("more than {days} days after from; ask in parts")));
        }
        Ok(from..to)
    }

    /// A whole minute, if it is given.
    pub(super) fn minute(&self, name: &str) -> Result<Option<Minute>, Problem> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let time = Timestamp::parse(text).map_err(|error| refuse(name, error))?;
        let minute = time.minute();
        if minute.start() != time || minute.0 == u32::MAX {
            let below = minute.start();
            let what = format!(
                "{time} is not a whole minute; {below} is one, {} seconds",
                below.seconds()
            );
            return Err(refuse(name, what));
        }
        Ok(Some(minute))
    }

    /// The kind of event; [`Kind::Click`] when it is not given.
    pub(super) fn event(&self) -> Result<Kind, Problem> {
        match self.get("event") {
            None => Ok(Kind::Click),
            Some("conversion") => Err(refuse(
                "event",
                "conversions are not counted yet; ask for served, impression, viewable or click",
            )),
            Some(text) => text.parse().map_err(|error| refuse("event", error)),
        }
    }

    /// Which events are asked for, by their validity; [`Validity::Valid`] when it is not given.
    pub(super) fn validity(&self) -> Result<Validity, Problem> {
        let read = |text: &str| text.parse().map_err(|error| refuse("validity", error));
        self.get("validity").map_or(Ok(Validity::Valid), read)
    }

    /// The publisher, if one is asked for.
    pub(super) fn publisher(&self) -> Result<Option<PublisherName>, Problem> {
        let read = |text: &str| text.parse().map_err(|error| refuse("publisher", error));
        self.get("publisher").map(read).transpose()
    }

    /// The filter, if one is given.
    pub(super) fn filter(&self) -> Result<Filtering, Problem> {
        let read = |text: &str| Filter::parse(text).map_err(|error| refuse("where", error));
        let filter = self.get("where").map(read).transpose()?;
        let filter = filter.filter(|filter| *filter != Filter::EVERYTHING);
        let stored = self.get("filter").map(|text| filter_id("filter", text)).transpose()?;
        Ok(Filtering { stored, filter })
    }

    /// The version of a stored filter, if one is asked for.
    pub(super) fn version(&self) -> Result<Option<usize>, Problem> {
        let most = u32::try_from(VERSIONS_MAX).unwrap_or(u32::MAX);
        let version = self.number("version", 0, most)?;
        Ok(usize::try_from(version).ok().filter(|version| *version > 0))
    }

    /// The words of a list with commas, each of them one of those that are known, and there once;
    /// `None` when the list is not given.
    fn words<'a>(&self, name: &str, known: &[&'a str]) -> Result<Option<Vec<&'a str>>, Problem> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let mut words = Vec::new();
        for given in text.split(',').map(str::trim) {
            let Some(word) = known.iter().find(|known| **known == given) else {
                let (given, known) = (given.escape_debug(), known.join(", "));
                return Err(refuse(name, format!("there is no {given:.64}; there are: {known}")));
            };
            if words.contains(word) {
                return Err(refuse(name, format!("{word} is there twice; give it once")));
            }
            words.push(*word);
        }
        Ok(Some(words))
    }

    /// The metrics that are asked for: all but unique visitors when none is named.
    pub(super) fn metrics(&self) -> Result<Vec<&'static str>, Problem> {
        let all = || Metrics::NAMES.iter().copied().filter(|name| *name != "uniques").collect();
        Ok(self.words("metrics", Metrics::NAMES)?.unwrap_or_else(all))
    }

    /// The columns of a break-down: at least one.
    pub(super) fn by(&self) -> Result<Vec<By>, Problem> {
        let known: Vec<&str> = By::ALL.iter().map(|by| by.label).collect();
        let Some(words) = self.words("by", &known)? else {
            let known = known.join(", ");
            return Err(refuse("by", format!("it is missing; give columns, of {known}")));
        };
        let by = By::ALL.iter().filter(|by| words.contains(&by.label)).copied();
        let mut by: Vec<By> = by.collect();
        by.sort_by_key(|by| words.iter().position(|word| *word == by.label));
        let columns: usize = by.iter().map(|by| by.columns().len()).sum();
        if columns > BY_MAX {
            let what = format!("at most {BY_MAX} columns; a region counts as two");
            return Err(refuse("by", what));
        }
        Ok(by)
    }

    /// The steps of a series, and the time zone.
    pub(super) fn steps(&self, range: &Range<Minute>) -> Result<(Steps, Step, Zone), Problem> {
        let step = self.get("step").ok_or_else(|| {
            refuse("step", format!("it is missing; give one of {}", STEPS.join(", ")))
        })?;
        let step: Step = step.parse().map_err(|error| refuse("step", error))?;
        let zone = Zone::parse(self.get("tz").unwrap_or("UTC"));
        let zone = zone.map_err(|error| refuse("tz", error))?;
        let steps = Steps::new(range, step, &zone, POINTS_MAX);
        let steps = steps.map_err(|error| refuse("step", error))?;
        Ok((steps, step, zone))
    }

    /// How a table is to be written.
    pub(super) fn format(&self) -> Result<Format, Problem> {
        match self.get("format") {
            None | Some("json") => Ok(Format::Json),
            Some("csv") => Ok(Format::Csv),
            Some(_) => Err(refuse("format", "give json or csv")),
        }
    }

    /// The sketch that is asked for, if there is one.
    pub(super) fn sketch(&self) -> Result<Option<Sketch>, Problem> {
        match self.get("sketch") {
            None => Ok(None),
            Some("cpc") => Ok(Some(Sketch::Cpc)),
            Some("hll") => Ok(Some(Sketch::Hll)),
            Some(_) => Err(refuse("sketch", "give cpc or hll")),
        }
    }

    /// What a top list is of.
    pub(super) fn of(&self) -> Result<Of, Problem> {
        let known = Of::ALL.map(|(.., several)| several).join(", ");
        let text = self.get("of").unwrap_or_default();
        Of::from_several(text).ok_or_else(|| refuse("of", format!("give one of {known}")))
    }

    /// Whether this is `true`; false when it is not given.
    pub(super) fn is_true(&self, name: &str) -> Result<bool, Problem> {
        match self.get(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(refuse(name, "give true or false")),
        }
    }

    /// A number from 1 to `most`; `default` when it is not given.
    pub(super) fn number(&self, name: &str, default: u32, most: u32) -> Result<u32, Problem> {
        let Some(text) = self.get(name) else { return Ok(default) };
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = if digits { text.parse().ok() } else { None };
        number
            .filter(|number| (1..=most).contains(number))
            .ok_or_else(|| refuse(name, format!("give a whole number from 1 to {most}")))
    }
}

/// A form in which different visitors can be merged elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sketch {
    Cpc,
    Hll,
}

/// The filters that a question names.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Filtering {
    /// The number of a stored one.
    pub(super) stored: Option<u32>,
    /// One that it brings.
    pub(super) filter: Option<Filter>,
}

/// Reads the number of a stored filter; zeros before it do not matter.
pub(super) fn filter_id(name: &str, text: &str) -> Result<u32, Problem> {
    let digits = (1..=20).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    let id = if digits { text.parse().ok() } else { None };
    id.filter(|id| *id > 0).ok_or_else(|| {
        let what =
            "give the number of a stored filter, such as 12 or 0012; GET /v1/filters lists them";
        refuse(name, what)
    })
}

/// A column of a break-down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct By {
    /// What it is called.
    pub(super) label: &'static str,
    column: Option<Name>,
}

impl By {
    const ALL: &'static [Self] = &[
        Self::new("ad", Some(Name::Ad)),
        Self::new("publisher", Some(Name::Publisher)),
        Self::new("placement", Some(Name::Placement)),
        Self::new("campaign", Some(Name::Campaign)),
        Self::new("advertiser", Some(Name::Advertiser)),
        Self::new("event", Some(Name::Kind)),
        Self::new("reason", Some(Name::Reason)),
        Self::new("network", Some(Name::Network)),
        Self::new("region", Some(Name::Region)),
        Self::new("country", None),
        Self::new("device", None),
    ];

    const fn new(label: &'static str, column: Option<Name>) -> Self {
        Self { label, column }
    }

    /// The columns of facts that it is made of: a region is one of a country.
    pub(super) fn columns(self) -> Vec<Name> {
        match self.column {
            Some(Name::Region) => Name::code("country").into_iter().chain(self.column).collect(),
            Some(column) => vec![column],
            None => Name::code(self.label).into_iter().collect(),
        }
    }
}

/// Reads the ad in a path.
pub(super) fn ad(text: &str) -> Result<AdName, Problem> {
    text.parse().map_err(|error| refuse("ad_id", error))
}

/// Reads a name in a path.
pub(super) fn name(parameter: &str, text: &str) -> Result<NameBuf<Any>, Problem> {
    text.parse().map_err(|error| refuse(parameter, error))
}

/// Reads the imported log in a path.
pub(super) fn source(text: &str) -> Result<SourceId, Problem> {
    text.parse().map_err(|_| {
        refuse("source", "an imported log is named by 32 lower-case hexadecimal digits")
    })
}

/// Reads the partition in a path; it must be below `count`.
pub(super) fn partition(text: &str, count: usize) -> Result<u16, Problem> {
    let number = text.parse::<u16>().ok().filter(|number| usize::from(*number) < count);
    let last = count.saturating_sub(1);
    number.ok_or_else(|| refuse("partition", format!("give a number from 0 to {last}")))
}
