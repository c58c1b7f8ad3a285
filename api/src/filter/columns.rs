//! The columns that a filter can ask about, and how a value of each is read and printed.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use shared::event::VERDICTS;
use shared::{Country, Device, Network, Verdict};

use super::{CONDITIONS_MAX, Filter, FilterError, Place, VALUES_MAX, Values, shown, sorted};

/// A column that can be asked about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Column {
    Country,
    Region,
    Network,
    Device,
    Ad,
    Publisher,
    Placement,
    Campaign,
    Advertiser,
    Reason,
    User,
}

/// Each column, what it is called, and what it may be called too.
const COLUMNS: [(Column, &str, Option<&str>); 11] = [
    (Column::Country, "country", None),
    (Column::Region, "region", None),
    (Column::Network, "network", Some("ip")),
    (Column::Device, "device", None),
    (Column::Ad, "ad", Some("ad_id")),
    (Column::Publisher, "publisher", Some("publisher_id")),
    (Column::Placement, "placement", Some("placement_id")),
    (Column::Campaign, "campaign", Some("campaign_id")),
    (Column::Advertiser, "advertiser", Some("advertiser_id")),
    (Column::Reason, "reason", None),
    (Column::User, "user", Some("user_id")),
];

/// What the events without a verdict are called among the verdicts.
const VALID: &str = "valid";
/// What a network is called that is not known.
const UNKNOWN: &str = "unknown";

const COUNTRIES: &str = "a country is a code of ISO 3166-1 (`US`, `USA`), its name in English \
    (`United States`), or `ZZ` where it is not known; a part of one is asked for by `region=US-CA`";
const REGIONS: &str = "a region is a part of a country, as ISO 3166-2 writes it (`US-CA`), or a \
    whole country (`US`, `usa`, `United States`)";
const NETWORKS: &str = "a network is an address (`123.1.2.3`, which means the network that is kept \
    of it), `123.1.2.0/24`, `2001:db8:1::/48`, the 14 hexadecimal digits that answers have, or \
    `unknown`; others than /24 of IPv4 and /48 of IPv6 are not kept";

/// All columns, for a message.
pub(super) fn list() -> String {
    let columns = COLUMNS.iter().map(|(_, name, other)| match other {
        Some(other) => format!("{name} ({other})"),
        None => (*name).to_owned(),
    });
    columns.collect::<Vec<_>>().join(", ")
}

impl Column {
    /// The column of a name, in capital letters or not.
    pub(super) fn named(text: &str) -> Result<Self, FilterError> {
        let is_it = |name: &str| name.eq_ignore_ascii_case(text);
        let mut columns = COLUMNS.iter();
        let found = columns.find(|(_, name, other)| is_it(name) || other.is_some_and(is_it));
        found.map(|found| found.0).ok_or_else(|| FilterError::UnknownColumn(shown(text)))
    }

    /// What it is called.
    pub(super) fn name(self) -> &'static str {
        let found = COLUMNS.iter().find(|(column, ..)| *column == self);
        found.map_or("", |(_, name, _)| name)
    }
}

/// A value as it is written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Written {
    /// `*`.
    Any,
    /// Another.
    Value(String),
}

/// How much of what a filter may have has been read.
#[derive(Default)]
pub(super) struct Tally {
    conditions: usize,
    values: usize,
}

impl Tally {
    /// One condition more.
    pub(super) fn condition(&mut self) -> Result<(), FilterError> {
        self.conditions += 1;
        match self.conditions > CONDITIONS_MAX {
            true => Err(FilterError::TooManyConditions),
            false => Ok(()),
        }
    }

    /// One value more.
    pub(super) fn value(&mut self, column: Column) -> Result<(), FilterError> {
        self.values += 1;
        match self.values > VALUES_MAX {
            true => Err(FilterError::TooManyValues { column: column.name() }),
            false => Ok(()),
        }
    }

    /// The condition that a column has one of the values. Any value is no condition, but the others
    /// beside it are checked.
    pub(super) fn is(
        &mut self,
        column: Column,
        written: Vec<Written>,
    ) -> Result<Filter, FilterError> {
        self.condition()?;
        let count = written.len();
        let values = written.into_iter().filter_map(|value| match value {
            Written::Any => None,
            Written::Value(text) => Some(text),
        });
        let values: Vec<String> = values.collect();
        let is_any = values.len() < count;
        let filter = match column {
            Column::Region => {
                let filter = region(&values)?;
                if matches!(filter, Filter::Any(_)) {
                    self.condition()?;
                }
                filter
            }
            Column::User if values.is_empty() => Filter::EVERYTHING,
            Column::User => return Err(FilterError::User),
            other => Filter::Is(other.values(&values)?),
        };
        Ok(if is_any { Filter::EVERYTHING } else { filter })
    }
}

impl Column {
    fn values(self, texts: &[String]) -> Result<Values, FilterError> {
        Ok(match self {
            Self::Country => Values::Country(self.each(texts, country)?),
            Self::Region => Values::Region(self.each(texts, |text| text.parse().or(Err(REGIONS)))?),
            Self::Network => Values::Network(self.each(texts, network)?),
            Self::Device => {
                let device = |text: &str| text.to_ascii_lowercase().parse::<Device>();
                Values::Device(self.each(texts, device)?)
            }
            Self::Ad => Values::Ad(self.each(texts, FromStr::from_str)?),
            Self::Publisher => Values::Publisher(self.each(texts, FromStr::from_str)?),
            Self::Placement => Values::Placement(self.each(texts, FromStr::from_str)?),
            Self::Campaign => Values::Campaign(self.each(texts, FromStr::from_str)?),
            Self::Advertiser => Values::Advertiser(self.each(texts, FromStr::from_str)?),
            Self::Reason => Values::Reason(self.each(texts, verdict)?),
            Self::User => return Err(FilterError::User),
        })
    }

    /// Reads each value, or says which one cannot be read and why.
    fn each<T, E: fmt::Display>(
        self,
        texts: &[String],
        read: impl Fn(&str) -> Result<T, E>,
    ) -> Result<Vec<T>, FilterError> {
        let read = |text: &String| {
            read(text).map_err(|why| FilterError::Value {
                column: self.name(),
                value: shown(text),
                why: why.to_string(),
            })
        };
        texts.iter().map(read).collect()
    }
}

/// Parts of countries and whole countries. When there are both, the countries stand first.
fn region(texts: &[String]) -> Result<Filter, FilterError> {
    // `AR-G` is a province, and `USA` no place of three letters.
    let (places, countries): (Vec<_>, Vec<_>) =
        texts.iter().cloned().partition(|text| text.parse::<Place>().is_ok());
    let whole = |text: &str| Country::from_any(text).ok_or(REGIONS);
    let countries = Column::Region.each(&countries, whole)?;
    if places.is_empty() {
        return Ok(Filter::Is(Values::Country(countries)));
    }
    let places = Filter::Is(Column::Region.values(&places)?);
    if countries.is_empty() {
        return Ok(places);
    }
    Ok(Filter::Any(vec![Filter::Is(Values::Country(countries)), places]))
}

fn country(text: &str) -> Result<Country, &'static str> {
    Country::from_any(text).ok_or(COUNTRIES)
}

fn network(text: &str) -> Result<Network, &'static str> {
    if text.eq_ignore_ascii_case(UNKNOWN) {
        return Ok(Network::default());
    }
    if let Ok(network) = text.to_ascii_lowercase().parse() {
        return Ok(network);
    }
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (text, None),
    };
    let address = address.parse::<IpAddr>().map_err(|_| NETWORKS)?.to_canonical();
    let kept = if address.is_ipv4() { "24" } else { "48" };
    match bits.is_none_or(|bits| bits == kept) {
        true => Ok(Network::from_address(address)),
        false => Err(NETWORKS),
    }
}

/// Reads a verdict: `valid`, or the reason for which an event is flagged.
///
/// # Errors
/// Says which there are.
pub fn verdict(text: &str) -> Result<Verdict, String> {
    let text = text.to_ascii_lowercase();
    if text == VALID {
        return Ok(None);
    }
    let found = VERDICTS.iter().find(|reason| reason.name() == text);
    found.map(|reason| Some(*reason)).ok_or_else(|| {
        let names: Vec<_> = VERDICTS.iter().map(|reason| reason.name()).collect();
        format!("a reason is `{VALID}`, or the verdict on an event: {}", names.join(", "))
    })
}

impl Values {
    /// Whether there is none.
    pub(super) const fn is_empty(&self) -> bool {
        match self {
            Self::Country(list) => list.is_empty(),
            Self::Region(list) => list.is_empty(),
            Self::Network(list) => list.is_empty(),
            Self::Device(list) => list.is_empty(),
            Self::Ad(list) => list.is_empty(),
            Self::Publisher(list) => list.is_empty(),
            Self::Placement(list) => list.is_empty(),
            Self::Campaign(list) => list.is_empty(),
            Self::Advertiser(list) => list.is_empty(),
            Self::Reason(list) => list.is_empty(),
        }
    }

    /// Sorted, each once.
    pub(super) fn normal(self) -> Self {
        match self {
            Self::Country(list) => Self::Country(sorted(list, Ord::cmp)),
            Self::Region(list) => Self::Region(sorted(list, Ord::cmp)),
            Self::Network(list) => Self::Network(sorted(list, |a, b| a.0.cmp(&b.0))),
            Self::Device(list) => Self::Device(sorted(list, Ord::cmp)),
            Self::Ad(list) => Self::Ad(sorted(list, Ord::cmp)),
            Self::Publisher(list) => Self::Publisher(sorted(list, Ord::cmp)),
            Self::Placement(list) => Self::Placement(sorted(list, Ord::cmp)),
            Self::Campaign(list) => Self::Campaign(sorted(list, Ord::cmp)),
            Self::Advertiser(list) => Self::Advertiser(sorted(list, Ord::cmp)),
            Self::Reason(list) => Self::Reason(sorted(list, Ord::cmp)),
        }
    }

    /// The column.
    pub(super) const fn column(&self) -> Column {
        match self {
            Self::Country(_) => Column::Country,
            Self::Region(_) => Column::Region,
            Self::Network(_) => Column::Network,
            Self::Device(_) => Column::Device,
            Self::Ad(_) => Column::Ad,
            Self::Publisher(_) => Column::Publisher,
            Self::Placement(_) => Column::Placement,
            Self::Campaign(_) => Column::Campaign,
            Self::Advertiser(_) => Column::Advertiser,
            Self::Reason(_) => Column::Reason,
        }
    }

    /// The values as they are written, in their order.
    pub(super) fn texts(&self) -> Vec<String> {
        let verdict = |verdict: &Verdict| verdict.map_or(VALID, |reason| reason.name()).to_owned();
        match self {
            Self::Country(list) => texts(list),
            Self::Region(list) => texts(list),
            Self::Network(list) => list.iter().copied().map(network_text).collect(),
            Self::Device(list) => texts(list),
            Self::Ad(list) => texts(list),
            Self::Publisher(list) => texts(list),
            Self::Placement(list) => texts(list),
            Self::Campaign(list) => texts(list),
            Self::Advertiser(list) => texts(list),
            Self::Reason(list) => list.iter().map(verdict).collect(),
        }
    }
}

fn texts(values: &[impl fmt::Display]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

/// A network as people write it, or its digits where it is none that they could.
fn network_text(network: Network) -> String {
    match network.0 {
        [4, a, b, c, 0, 0, 0] => format!("{}/24", Ipv4Addr::new(a, b, c, 0)),
        [6, a, b, c, d, e, f] => {
            let group = |high, low| u16::from_be_bytes([high, low]);
            let [a, b, c] = [group(a, b), group(c, d), group(e, f)];
            format!("{}/48", Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0))
        }
        _ if network == Network::default() => UNKNOWN.to_owned(),
        _ => network.to_string(),
    }
}

/// What text and JSON write in one condition.
pub(super) struct Condition<'a> {
    pub(super) column: Column,
    /// Of a region: whole countries too.
    pub(super) values: Vec<&'a Values>,
}

impl<'a> Condition<'a> {
    /// The condition that a filter in its normal form is; `None` when it is none, or several.
    pub(super) fn of(filter: &'a Filter) -> Option<Self> {
        match filter {
            Filter::Is(values) => Some(Self { column: values.column(), values: vec![values] }),
            Filter::Any(parts) => match parts.as_slice() {
                [
                    Filter::Is(countries @ Values::Country(_)),
                    Filter::Is(places @ Values::Region(_)),
                ] => Some(Self { column: Column::Region, values: vec![countries, places] }),
                _ => None,
            },
            _ => None,
        }
    }

    /// The values as they are written.
    pub(super) fn texts(&self) -> impl Iterator<Item = String> {
        self.values.iter().flat_map(|values| values.texts())
    }
}
