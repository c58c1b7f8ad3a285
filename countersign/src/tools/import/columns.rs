//! Finds the fields of a row by their columns' names.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use super::row::{Fields, is_none};
use super::times::Times;

/// The columns that are read, in the order of [`Fields`].
pub(super) const NAMES: [&str; 12] = [
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
    "user_agent",
];
pub(super) const AD: usize = 0;
pub(super) const TIME: usize = 1;
const CLICK_TIME: usize = 2;
pub(super) const EVENT: usize = 3;
const CLICK: usize = 4;
const USER: usize = 5;
pub(super) const IP: usize = 6;
const COUNTRY: usize = 7;
pub(super) const PUBLISHER: usize = 8;
const PLACEMENT: usize = 9;
const DEVICE: usize = 10;
pub(super) const AGENT: usize = 11;

/// The texts of a row, in the order of [`NAMES`]; `None` where there is no text.
pub(super) type Texts = [Option<String>; NAMES.len()];

/// Other names that exports of other servers use.
const ALIASES: [(&str, usize); 4] =
    [("clicked", CLICK), ("is_click", CLICK), ("event_type", EVENT), ("event_name", EVENT)];

/// What a log calls the columns that are read, how it writes its times, and which values hold where
/// it says nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ColumnNames {
    known: Vec<(String, usize)>,
    /// The log's own names, from `--map`.
    mapped: Vec<(String, usize)>,
    defaults: Texts,
    times: Times,
}

impl Default for ColumnNames {
    fn default() -> Self {
        let ours = NAMES.into_iter().zip(0..);
        let known = ours.chain(ALIASES).map(|(name, at)| (name.to_owned(), at)).collect();
        let (mapped, defaults) = (Vec::new(), Texts::default());
        Self { known, mapped, defaults, times: Times::default() }
    }
}

impl ColumnNames {
    /// From `--map` (our name, the log's) and `--default` (our name, a value).
    ///
    /// # Errors
    /// When a name is none of ours or given twice, or a default makes no event.
    pub(super) fn new(
        mapped: &[(String, String)],
        defaults: &[(String, String)],
    ) -> Result<Self, String> {
        let place = |ours: &str| {
            let place = NAMES.iter().position(|name| *name == ours);
            place.ok_or_else(|| {
                format!("{ours}: no column is called so; there are {}", NAMES.join(", "))
            })
        };
        let mut names = Self::default();
        let (mut ours, mut theirs) = (BTreeSet::new(), BTreeSet::new());
        for (our, their) in mapped {
            let at = place(our)?;
            if !ours.insert(at) || !theirs.insert(their.to_ascii_lowercase()) {
                return Err(format!("{our}={their}: each column is mapped once"));
            }
            names.known.retain(|(name, place)| *place != at && !name.eq_ignore_ascii_case(their));
            names.known.push((their.clone(), at));
            names.mapped.push((their.clone(), at));
        }
        for (our, value) in defaults {
            let at = place(our)?;
            if [TIME, CLICK_TIME].contains(&at) {
                return Err(format!("{our}: each row has a time of its own"));
            }
            if names.defaults[at].replace(value.clone()).is_some() {
                return Err(format!("{our}: it is there twice"));
            }
        }
        // Defaults hold for every row, so they are checked once, before any row is read.
        let row = |at: usize| match at {
            AD => Some("ad"),
            TIME => Some("1700000000"),
            _ => None,
        };
        names.fields(row).events(0)?;
        Ok(names)
    }

    /// The same, with times as the log writes them.
    pub(super) fn with_times(self, times: Times) -> Self {
        Self { times, ..self }
    }

    /// The same, with the usual times of the log's form unless `--time-format` gives others.
    pub(super) fn with_usual_times(self, usual: Times) -> Self {
        match self.times.has_format() {
            true => self,
            false => self.with_times(usual),
        }
    }

    /// What `--map` calls a column, if it names any.
    pub(super) fn mapped(&self) -> Option<&str> {
        self.mapped.first().map(|(theirs, _)| theirs.as_str())
    }

    /// A column that `--map` names and the log lacks.
    fn mapped_to_nothing(&self, found: &Found) -> Option<String> {
        let is_there = |at: usize| found.used.iter().any(|(ours, _)| *ours == NAMES[at]);
        let missing = self.mapped.iter().find(|(_, at)| !is_there(*at));
        missing.map(|(theirs, at)| format!("{}={theirs}", NAMES[*at]))
    }

    fn place(&self, name: &str) -> Option<usize> {
        let name = name.trim();
        self.known.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, at)| *at)
    }

    /// The fields of a row. `text` gives the text of a column, `None` where there is no such
    /// column.
    pub(super) fn fields<'a>(&'a self, text: impl Fn(usize) -> Option<&'a str>) -> Fields<'a> {
        let field = |at: usize| {
            // Padding, as logs have it. Anything else that is not seen is judged with the value.
            let text = text(at).map(|text| text.trim_matches([' ', '\t']));
            match &self.defaults[at] {
                // The default holds where the text is empty or a word for nothing.
                Some(default) => {
                    text.filter(|text| !text.is_empty() && !is_none(text)).or(Some(default))
                }
                None => text,
            }
        };
        let or_none = |at: usize| field(at).filter(|text| !text.is_empty());
        // A log with both columns has impressions, and the click's time for those that were
        // clicked.
        let (time, click_time) = match (field(TIME), field(CLICK_TIME)) {
            (Some(""), Some(click_time)) if !click_time.is_empty() => (click_time, None),
            (Some(time), Some(click_time)) => (time, Some(click_time)),
            (one, other) => (one.or(other).unwrap_or_default(), None),
        };
        Fields {
            ad: field(AD).unwrap_or_default(),
            time,
            click_time,
            times: Some(&self.times),
            // An empty cell in these columns is a mistake and is rejected; it does not make the row
            // a click.
            event: field(EVENT),
            click: field(CLICK),
            user: or_none(USER),
            ip: or_none(IP),
            country: or_none(COUNTRY),
            publisher: or_none(PUBLISHER),
            placement: or_none(PLACEMENT),
            device: or_none(DEVICE),
            agent: or_none(AGENT),
        }
    }

    /// Checks a log's columns: which are used, which are unknown, and whether one says what
    /// happened.
    fn look(&self, found: &[String]) -> Result<Found, String> {
        let has = |at: usize| {
            self.defaults[at].is_some() || found.iter().any(|name| self.place(name) == Some(at))
        };
        let missing = match (has(AD), has(TIME) || has(CLICK_TIME)) {
            (true, true) => {
                let known = |name: &String| Some((NAMES[self.place(name)?], name.clone()));
                let used = found.iter().filter_map(known).collect();
                let unknown = found.iter().filter(|name| self.place(name).is_none());
                let has_two_times = has(TIME) && has(CLICK_TIME);
                if has_two_times && (has(EVENT) || has(CLICK)) {
                    return Err(
                        "it has both timestamp and click_timestamp, and a column that says what \
                                happened: give one of the times another meaning (--map)"
                            .to_owned(),
                    );
                }
                let says_what = has(EVENT) || has(CLICK) || has_two_times;
                return Ok(Found { used, unknown: unknown.cloned().collect(), says_what });
            }
            (false, true) => "a column ad_id",
            (true, false) => "a column timestamp or click_timestamp",
            (false, false) => "columns ad_id and timestamp (or click_timestamp)",
        };
        Err(format!(
            "it needs {missing}, and has: {}; `--map ad_id=NAME,timestamp=NAME` says which columns they are",
            found.join(", ")
        ))
    }
}

/// The columns of a CSV or TSV log.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Columns {
    names: ColumnNames,
    delimiter: u8,
    places: [Option<usize>; NAMES.len()],
    count: usize,
    /// Their names.
    pub(super) found: Found,
}

/// The names of a log's columns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Those that are used: our name, the log's.
    pub(super) used: Vec<(&'static str, String)>,
    /// Those that are not known.
    pub(super) unknown: Vec<String>,
    /// Whether one of them says what happened; if none does, each row is a click.
    pub(super) says_what: bool,
}

impl Columns {
    /// Reads the header line.
    ///
    /// # Errors
    /// When a column is missing or there twice; says which were found.
    pub(super) fn read(header: &[u8], delimiter: u8, names: &ColumnNames) -> Result<Self, String> {
        let header = header.strip_prefix(super::records::BOM).unwrap_or(header);
        if header.contains(&b'\r') {
            return Err(
                "its lines end with CR alone, as on old Macs: write them with LF first, as by \
                        `tr '\\r' '\\n' < FILE > NEW.csv`"
                    .to_owned(),
            );
        }
        if header.starts_with(b"[") {
            return Err(
                "it begins with [, as a JSON array does: write one object a line (NDJSON), as by \
                        `jq -c '.[]' FILE > NEW.ndjson`"
                    .to_owned(),
            );
        }
        let mut fields = csv::StringRecord::new();
        split(header, delimiter, &mut fields)?;
        let found: Vec<String> =
            fields.iter().map(|name| unquoted(name.trim(), delimiter).to_owned()).collect();
        let mut places = [None; NAMES.len()];
        for (column, name) in found.iter().enumerate() {
            let Some(at) = names.place(name) else { continue };
            if places[at].replace(column).is_some() {
                return Err(format!("the header has the column {} twice", NAMES[at]));
            }
        }
        let count = found.len();
        let found = names.look(&found)?;
        if let Some(missing) = names.mapped_to_nothing(&found) {
            return Err(format!("--map {missing}: the log has no such column"));
        }
        Ok(Self { names: names.clone(), delimiter, places, count, found })
    }

    /// The fields of a record; `buffer` holds their text.
    ///
    /// # Errors
    /// When there are more or fewer than the header has, or it is not UTF-8.
    pub(super) fn fields<'b>(
        &'b self,
        record: &[u8],
        buffer: &'b mut csv::StringRecord,
    ) -> Result<Fields<'b>, String> {
        split(record, self.delimiter, buffer)?;
        if buffer.len() != self.count {
            return Err(format!("{} columns where the header has {}", buffer.len(), self.count));
        }
        let buffer = &*buffer;
        let text = |at: usize| Some(unquoted(buffer.get(self.places[at]?)?, self.delimiter));
        Ok(self.names.fields(text))
    }
}

/// Takes away quotes around a field between tabs: most programs write none there, some do.
fn unquoted(text: &str, delimiter: u8) -> &str {
    let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    inner.filter(|inner| delimiter == b'\t' && !inner.contains('"')).unwrap_or(text)
}

/// The text of a line.
///
/// # Errors
/// When it is not UTF-8; says at which byte.
pub(super) fn utf8(line: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(line).map_err(|error| {
        let at = error.valid_up_to();
        format!("not UTF-8 at byte {at} (of a log in Latin-1: `iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW`)")
    })
}

fn split(record: &[u8], delimiter: u8, into: &mut csv::StringRecord) -> Result<(), String> {
    let text = utf8(record)?;
    into.clear();
    if !record.contains(&b'"') {
        text.split(char::from(delimiter)).for_each(|field| into.push_field(field));
        return Ok(());
    }
    let mut builder = csv::ReaderBuilder::new();
    // The record's end is known already: a CR does not end it.
    builder.terminator(csv::Terminator::Any(b'\n')).quoting(delimiter != b'\t');
    builder.has_headers(false).flexible(true).delimiter(delimiter).buffer_capacity(record.len());
    match builder.from_reader(record).read_record(into) {
        Ok(true) => Ok(()),
        Ok(false) => Err("an empty row".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// A row of an NDJSON log. Values are strings, numbers or booleans; `null` is no value.
#[derive(Default)]
pub(super) struct JsonRow {
    texts: Texts,
    /// The names of all its fields.
    found: Vec<String>,
}

/// Text as JSON writes it.
struct Text(Option<String>);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Numbers stay as they are written: some logs have ids that are numbers, and through a
        // floating-point number two long ones would become one.
        let raw = Box::<serde_json::value::RawValue>::deserialize(deserializer)?;
        match raw.get().as_bytes().first() {
            Some(b'n') => Ok(Self(None)),
            Some(b'"') => serde_json::from_str(raw.get()).map(Self).map_err(D::Error::custom),
            Some(b'[' | b'{') => {
                Err(D::Error::custom("a list or an object where a text or number belongs"))
            }
            _ => Ok(Self(Some(raw.get().to_owned()))),
        }
    }
}

impl<'de> DeserializeSeed<'de> for &ColumnNames {
    type Value = JsonRow;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<JsonRow, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &ColumnNames {
    type Value = JsonRow;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<JsonRow, A::Error> {
        let mut row = JsonRow::default();
        let mut seen = [false; NAMES.len()];
        while let Some(name) = map.next_key::<String>()? {
            match self.place(&name) {
                Some(at) if std::mem::replace(&mut seen[at], true) => {
                    return Err(A::Error::custom(format!("{} twice", NAMES[at])));
                }
                // `null` in a column that must have a value is like an empty cell.
                Some(at @ (EVENT | CLICK | TIME | CLICK_TIME)) => {
                    row.texts[at] = Some(map.next_value::<Text>()?.0.unwrap_or_default());
                }
                Some(at) => row.texts[at] = map.next_value::<Text>()?.0,
                None => drop(map.next_value::<IgnoredAny>()?),
            }
            row.found.push(name);
        }
        Ok(row)
    }
}

impl JsonRow {
    /// Reads a line.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub(super) fn read(line: &[u8], names: &ColumnNames) -> Result<Self, String> {
        let line = line.strip_prefix(super::records::BOM).unwrap_or(line);
        // serde would read a list as the fields in their order.
        if !line.trim_ascii_start().starts_with(b"{") {
            return Err("not a JSON object".to_owned());
        }
        let wrong = |error| format!("not a JSON object of ours: {error}");
        let mut json = serde_json::Deserializer::from_slice(line);
        let row = names.deserialize(&mut json).map_err(wrong)?;
        json.end().map_err(wrong)?;
        Ok(row)
    }

    /// The fields of the row.
    pub(super) fn fields<'a>(&'a self, names: &'a ColumnNames) -> Fields<'a> {
        names.fields(|at| self.texts[at].as_deref())
    }

    /// The names of its fields that are not known.
    pub(super) fn unknown<'a>(&'a self, names: &'a ColumnNames) -> impl Iterator<Item = &'a str> {
        let unknown = self.found.iter().filter(|name| names.place(name).is_none());
        unknown.map(String::as_str)
    }

    /// Whether the row says what happened: by an event, by a click, or by two times.
    pub(super) fn says_what(&self, names: &ColumnNames) -> bool {
        let has = |at: usize| self.texts[at].is_some() || names.defaults[at].is_some();
        has(EVENT) || has(CLICK) || (has(TIME) && has(CLICK_TIME))
    }

    /// The names of a line's fields, if none is missing that must be there. A line that is no
    /// object has none, and is rejected later.
    ///
    /// # Errors
    /// When one is missing; says which were found.
    pub(super) fn check_names(line: &[u8], names: &ColumnNames) -> Result<Found, String> {
        match Self::read(line, names) {
            Ok(row) => names.look(&row.found),
            Err(_) => Ok(Found { says_what: true, ..Found::default() }),
        }
    }
}

#[cfg(test)]
mod tests;
