//! A row's fields as events.

use std::net::IpAddr;
use std::str::FromStr;

use shared::import::ImportEvent;
use shared::{Country, Device, Id, Kind, TimeError, Timestamp};

/// The longest `user_id`, in bytes; only a keyed hash of it is kept.
const USER_BYTES_MAX: usize = 256;

/// The text of a row's fields. `None`: there is no such column, or nothing in it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Fields<'a> {
    pub(super) ad: &'a str,
    pub(super) time: &'a str,
    pub(super) event: Option<&'a str>,
    pub(super) click: Option<&'a str>,
    pub(super) user: Option<&'a str>,
    pub(super) ip: Option<&'a str>,
    pub(super) country: Option<&'a str>,
    pub(super) publisher: Option<&'a str>,
    pub(super) placement: Option<&'a str>,
    pub(super) device: Option<&'a str>,
}

impl Fields<'_> {
    /// The events of the row: one, or an impression with its click.
    ///
    /// # Errors
    /// Says which field is wrong.
    pub(super) fn events(&self, row: u64) -> Result<Events, String> {
        let kinds = self.kinds()?;
        let user = self.user.filter(|user| !user.is_empty());
        if user.is_some_and(|user| user.len() > USER_BYTES_MAX) {
            return Err(format!("user_id: longer than {USER_BYTES_MAX} bytes"));
        }
        let event = ImportEvent {
            row,
            kind: kinds.0,
            at: self.at()?,
            ad: named("ad_id", Some(self.ad))?.unwrap_or(Id::NONE),
            publisher: named("publisher", self.publisher)?,
            placement: named("placement", self.placement)?,
            country: self.country.map(Country::lenient).unwrap_or_default(),
            device: named::<Device>("device", self.device)?,
            ip: named::<IpAddr>("ip", self.ip)?,
            user: user.map(str::to_owned),
        };
        let second = kinds.1.map(|kind| ImportEvent { kind, ..event.clone() });
        Ok(Events(event, second))
    }

    fn at(&self) -> Result<Timestamp, String> {
        Timestamp::parse(self.time).map_err(|error| match error {
            TimeError::TooLate(text) => format!(
                "timestamp: {text:?} is after the year 9999: write Unix seconds, not milliseconds"
            ),
            error @ TimeError::NoTime(_) => format!("timestamp: {error}"),
        })
    }

    /// What happened: a row with neither column is a click; one with `click` is an impression, and
    /// a click too when it is 1.
    fn kinds(&self) -> Result<(Kind, Option<Kind>), String> {
        let said = match (self.event, self.click) {
            (Some(""), Some(_)) => (None, self.click),
            (Some(_), Some("")) => (self.event, None),
            both => both,
        };
        match said {
            (None, None) => Ok((Kind::Click, None)),
            (Some(event), None) => {
                Ok((event.parse().map_err(|error| format!("event: {error}"))?, None))
            }
            (None, Some("0" | "false")) => Ok((Kind::Impression, None)),
            (None, Some("1" | "true")) => Ok((Kind::Impression, Some(Kind::Click))),
            (None, Some(other)) => Err(format!(
                "click: 0 or 1, and not {:?}",
                other.chars().take(32).collect::<String>()
            )),
            (Some(_), Some(_)) => {
                Err("both event and click: a row says what happened in one of them".to_owned())
            }
        }
    }
}

/// One event, or an impression with its click.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Events(pub(super) ImportEvent, pub(super) Option<ImportEvent>);

impl Events {
    /// How many they are.
    pub(super) fn count(&self) -> u64 {
        1 + u64::from(self.1.is_some())
    }
}

fn named<T: FromStr<Err: std::fmt::Display>>(
    name: &str,
    text: Option<&str>,
) -> Result<Option<T>, String> {
    text.map(|text| text.parse().map_err(|error| format!("{name}: {error}"))).transpose()
}
