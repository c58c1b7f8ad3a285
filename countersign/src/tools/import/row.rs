//! A row's fields as events.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use shared::import::ImportEvent;
use shared::{Country, Device, Kind, Timestamp};

use super::times::Times;

/// The longest `user_id`, in bytes; only a keyed hash of it is kept.
const USER_BYTES_MAX: usize = 256;

/// No log of ads is older than the first ad on the web (October 1994). A smaller number is no time in Unix
/// seconds but a date, a number of days or minutes, or a sum: `20210101`, `44197.5`, `26824320`, `Total,6`.
const EARLIEST: Timestamp = Timestamp(757_382_400_000);

/// The text of a row's fields. `None`: there is no such column, or nothing in it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Fields<'a> {
    pub(super) ad: &'a str,
    pub(super) time: &'a str,
    /// When an impression was clicked, if the log has a second time for that; empty when it was
    /// not.
    pub(super) click_time: Option<&'a str>,
    /// How times are written; `None`: in the usual forms.
    pub(super) times: Option<&'a Times>,
    pub(super) event: Option<&'a str>,
    pub(super) click: Option<&'a str>,
    pub(super) user: Option<&'a str>,
    pub(super) ip: Option<&'a str>,
    pub(super) country: Option<&'a str>,
    pub(super) publisher: Option<&'a str>,
    pub(super) placement: Option<&'a str>,
    pub(super) device: Option<&'a str>,
    pub(super) agent: Option<&'a str>,
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
            at: self.at(self.time)?,
            ad: named("ad_id", Some(self.ad))?
                .filter(|_| !is_none(self.ad))
                .ok_or_else(|| format!("ad_id: {:?} names no ad", self.ad))?,
            publisher: named("publisher", self.publisher.filter(|id| !is_none(id)))?,
            placement: named("placement", self.placement.filter(|id| !is_none(id)))?,
            country: self.country.and_then(Country::from_any).unwrap_or_default(),
            device: self
                .device()
                .or_else(|| self.agent.map(|agent| edge::device::classify(agent.as_bytes()))),
            ip: self.ip.and_then(address),
            user: user.map(str::to_owned),
        };
        let click_at = match self.click_time {
            Some(text) if !text.is_empty() => Some(self.at(text)?),
            _ => None,
        };
        let second = kinds.1.or(click_at.map(|_| Kind::Click));
        let at = click_at.unwrap_or(event.at);
        let second = second.map(|kind| ImportEvent { kind, at, ..event.clone() });
        Ok(Events(event, second))
    }

    fn device(&self) -> Option<Device> {
        self.device.and_then(device)
    }

    /// Whether the row comes from a program that says so: a crawler, a link preview, a monitor. A
    /// word for nothing does not say so, nor does a browser's name alone (`Chrome 118`), as exports
    /// have it, nor the opening of a mail through its service's proxy.
    pub(super) fn is_of_bot(&self, kind: Kind) -> bool {
        self.agent.is_some_and(|agent| {
            let is_whole = agent.contains('/') && agent != "Mozilla/5.0";
            let is_opened = kind == Kind::Impression && edge::verdict::is_mail(agent.as_bytes());
            is_whole && !is_opened && edge::bots::is_bot(agent.as_bytes())
        })
    }

    /// A text for the address that is none: hidden in parts (`207.xxx.xx.22`), or a list.
    pub(super) fn unread_ip(&self) -> Option<&str> {
        self.ip.filter(|ip| !matches!(*ip, "" | "-") && address(ip).is_none())
    }

    /// A text for the country that names none.
    pub(super) fn unread_country(&self) -> Option<&str> {
        self.country.filter(|text| Country::from_any(text).is_none())
    }

    /// A text for the device that names no class.
    pub(super) fn unread_device(&self) -> Option<&str> {
        self.device.filter(|_| self.device().is_none())
    }

    fn at(&self, text: &str) -> Result<Timestamp, String> {
        let at = match self.times {
            Some(times) => times.read(text),
            None => Times::default().read(text),
        };
        let at = at.map_err(|error| format!("timestamp: {error}"))?;
        if at < EARLIEST {
            let said: String = text.chars().take(64).collect();
            return Err(format!(
                "timestamp: {said:?} would be {at}, before there were ads on the web: Unix seconds and \
                 RFC 3339 such as 2026-01-31T12:00:00Z are read, another form by --time-format"
            ));
        }
        Ok(at)
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
            (None, None) if self.click_time.is_some() => Ok((Kind::Impression, None)),
            (None, None) => Ok((Kind::Click, None)),
            (Some(event), None) => {
                let kind = event.to_ascii_lowercase().parse();
                Ok((kind.map_err(|error| format!("event: {error}"))?, None))
            }
            (None, Some(no)) if is_any(no, &["0", "false", "no"]) => Ok((Kind::Impression, None)),
            (None, Some(yes)) if is_any(yes, &["1", "true", "yes"]) => {
                Ok((Kind::Impression, Some(Kind::Click)))
            }
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
    /// How many events there are.
    pub(super) fn count(&self) -> u64 {
        1 + u64::from(self.1.is_some())
    }
}

/// Words for nothing.
pub(super) fn is_none(text: &str) -> bool {
    is_any(text, &["-", "null", "none", "nan", "n/a", "undefined", "(not set)", "\\n"])
}

fn is_any(text: &str, words: &[&str]) -> bool {
    words.iter().any(|word| text.eq_ignore_ascii_case(word))
}

/// An address as logs write it: alone, with a port, in brackets.
fn address(text: &str) -> Option<IpAddr> {
    let bare = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let with_port = || text.parse::<SocketAddr>().map(|address| address.ip()).ok();
    text.parse().ok().or_else(with_port).or_else(bare)
}

/// A class of devices as logs write it; `None`: it cannot be read. (OpenRTB's numbers are other classes in
/// each of its versions, and are not guessed.)
fn device(text: &str) -> Option<Device> {
    const WORDS: [(&[&str], Device); 5] = [
        (&["desktop", "pc", "computer", "laptop", "personal computer", "web"], Device::Desktop),
        (&["phone", "mobile", "smartphone", "mobile phone", "handset"], Device::Phone),
        (&["tablet", "ipad"], Device::Tablet),
        (
            &[
                "tv",
                "ctv",
                "ott",
                "connected tv",
                "smart tv",
                "connected_tv",
                "set-top box",
                "console",
            ],
            Device::Tv,
        ),
        (&["", "-", "unknown", "other", "null", "none", "n/a", "(not set)"], Device::Unknown),
    ];
    let words = WORDS.iter().find(|(words, _)| is_any(text.trim(), words));
    words.map(|(_, device)| *device)
}

fn named<T: FromStr<Err: std::fmt::Display>>(
    name: &str,
    text: Option<&str>,
) -> Result<Option<T>, String> {
    text.map(|text| text.parse().map_err(|error| format!("{name}: {error}"))).transpose()
}
