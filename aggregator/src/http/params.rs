//! Parameters of requests. Reading them is strict; every refusal says which parameter is wrong, and
//! what to do.

use std::ops::Range;

use axum::extract::Query;
use axum::http::Uri;
use shared::problem::Problem;
use shared::{AdName, Kind, Minute, PublisherName, SourceId, Timestamp, Validity};

/// The longest range of minutes that a question may ask for: 400 days.
pub const RANGE_MINUTES_MAX: u32 = 400 * 24 * 60;
/// The longest window of `popular_ads`: a day.
pub const WINDOW_MINUTES_MAX: u32 = 24 * 60;
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

    fn get(&self, name: &str) -> Option<&str> {
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

/// Reads the ad in a path.
pub(super) fn ad(text: &str) -> Result<AdName, Problem> {
    text.parse().map_err(|error| refuse("ad_id", error))
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
