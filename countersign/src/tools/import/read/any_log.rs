//! Logs in any style, made from seeds: each row is counted as it was meant, or rejected.

use std::io::Write as _;

use shared::random::{Seeded, below};
use shared::{AdName, Country, Device, Kind};

use super::super::columns::ColumnNames;
use super::super::open::Seen;
use super::super::times::Times;
use super::tests::{At, NOW};
use super::*;

/// The events that a row was meant to have; `None`: the row is spoilt.
type Meant = Option<Vec<(Kind, u64, &'static str, Country, Device)>>;

fn pick<T: Copy>(random: &mut Seeded, of: &[T]) -> T {
    of[usize::try_from(below(random, of.len() as u64)).unwrap()]
}

/// How a log says what happened.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Says {
    Event,
    Click,
    TwoTimes,
    Nothing,
}

struct Style {
    says: Says,
    delimiter: char,
    newline: &'static str,
    quotes_all: bool,
    ndjson: bool,
    zone_h: i64,
}

/// A time in one of the forms that are read, and what it is.
fn time(random: &mut Seeded, style: &Style) -> (String, u64) {
    let at = 1_600_000_000 + below(random, 90_000_000);
    let utc = jiff::Timestamp::from_second(i64::try_from(at).unwrap()).unwrap();
    let in_zone = |hours: i64| {
        let offset = jiff::tz::Offset::from_hours(i8::try_from(hours).unwrap()).unwrap();
        offset.to_datetime(utc)
    };
    let text = match below(random, 5) {
        0 => at.to_string(),
        1 => format!("{at}.250"),
        2 => utc.to_string(),
        3 => format!("{}+05:00", in_zone(5)),
        _ => in_zone(style.zone_h).to_string().replace('T', " "),
    };
    let ms = if text.ends_with(".250") { 250 } else { 0 };
    (text, at * 1_000 + ms)
}

fn row(random: &mut Seeded, style: &Style) -> (Vec<(&'static str, String)>, Meant) {
    let ad = pick(random, &["a", "ad-2", "X_9"]);
    let (time, at) = time(random, style);
    let (country, code) =
        pick(random, &[("DE", "DE"), ("usa", "US"), ("France", "FR"), ("", "ZZ"), ("Mars", "ZZ")]);
    let (device, class) = pick(
        random,
        &[("phone", Device::Phone), ("PC", Device::Desktop), ("fridge", Device::Unknown)],
    );
    let code: Country = code.parse().unwrap();
    let said = |kind, at| (kind, at, ad, code, class);
    let mut fields = vec![("ad_id", ad.to_owned()), ("timestamp", time)];
    let events = match style.says {
        Says::Nothing => vec![said(Kind::Click, at)],
        Says::Event => {
            let kind = pick(random, &[Kind::Served, Kind::Impression, Kind::Viewable, Kind::Click]);
            let name = kind.to_string();
            fields.push(("event", if below(random, 2) == 0 { name } else { name.to_uppercase() }));
            vec![said(kind, at)]
        }
        Says::Click => {
            let (word, clicked) =
                pick(random, &[("1", true), ("TRUE", true), ("0", false), ("no", false)]);
            fields.push(("click", word.to_owned()));
            let mut events = vec![said(Kind::Impression, at)];
            events.extend(clicked.then(|| said(Kind::Click, at)));
            events
        }
        Says::TwoTimes => {
            let (text, click_at) = self::time(random, style);
            let clicked = below(random, 2) == 0;
            fields.push(("click_timestamp", if clicked { text } else { String::new() }));
            let mut events = vec![said(Kind::Impression, at)];
            events.extend(clicked.then(|| said(Kind::Click, click_at)));
            events
        }
    };
    fields.push(("country", country.to_owned()));
    fields.push(("device", device.to_owned()));
    let note = pick(random, &["", "x", "a \"quoted\" word", "a,b;c|d", "two\nlines", "ümläut \r"]);
    fields.push((
        "note",
        if style.delimiter == '\t' { note.replace('\n', " ") } else { note.to_owned() },
    ));
    // One in eight is spoilt.
    let spoilt = below(random, 24);
    match spoilt {
        0 => fields[0].1 = pick(random, &["", "no\u{7f}name", "null", "\u{200b}"]).to_owned(),
        1 if style.says == Says::TwoTimes => {
            (fields[1].1, fields[2].1) = ("soon".to_owned(), String::new());
        }
        1 => {
            fields[1].1 =
                pick(random, &["", "yesterday", "20210101", "2099-01-01T00:00:00Z"]).to_owned()
        }
        2 if matches!(style.says, Says::Event | Says::Click) => {
            fields[2].1 = pick(random, &["", "2", "clik"]).to_owned();
        }
        _ => return (fields, Some(events)),
    }
    (fields, None)
}

fn write(rows: &[Vec<(&'static str, String)>], style: &Style, random: &mut Seeded) -> String {
    let mut text = if below(random, 3) == 0 { "\u{feff}".to_owned() } else { String::new() };
    let newline = |text: &mut String, random: &mut Seeded| {
        let blank = if below(random, 10) == 0 { style.newline } else { "" };
        *text += style.newline;
        *text += blank;
    };
    if style.ndjson {
        for row in rows {
            let object: serde_json::Map<_, _> = row
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone().into()))
                .collect();
            text += &serde_json::Value::from(object).to_string();
            newline(&mut text, random);
        }
        return text;
    }
    // Columns in any order, the same in all rows.
    let mut order: Vec<usize> = (0..rows[0].len()).collect();
    for at in (1..order.len()).rev() {
        order.swap(at, usize::try_from(below(random, at as u64 + 1)).unwrap());
    }
    let line = |fields: Vec<&str>| {
        let quoted = |field: &&str| {
            let must = field.contains([style.delimiter, '"', '\n', '\r']);
            match style.delimiter != '\t' && (must || style.quotes_all) {
                true => format!("\"{}\"", field.replace('"', "\"\"")),
                false => (*field).to_owned(),
            }
        };
        fields.iter().map(quoted).collect::<Vec<_>>().join(&style.delimiter.to_string())
    };
    let upper = below(random, 2) == 0;
    let names: Vec<String> = order.iter().map(|at| rows[0][*at].0.to_owned()).collect();
    let names: Vec<String> =
        names.iter().map(|name| if upper { name.to_uppercase() } else { name.clone() }).collect();
    text += &line(names.iter().map(String::as_str).collect());
    newline(&mut text, random);
    for row in rows {
        text += &line(order.iter().map(|at| row[*at].1.as_str()).collect());
        newline(&mut text, random);
    }
    text
}

fn pack(text: &str, random: &mut Seeded) -> Vec<u8> {
    match below(random, 3) {
        0 => {
            let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            out.write_all(text.as_bytes()).unwrap();
            out.finish().unwrap()
        }
        1 => zstd::encode_all(text.as_bytes(), 1).unwrap(),
        _ => text.as_bytes().to_vec(),
    }
}

#[test]
fn each_row_of_any_log_is_counted_as_it_was_meant_or_rejected() {
    let dir = tempfile::tempdir().unwrap();
    for seed in 0..600 {
        let random = &mut Seeded::new(seed);
        let style = Style {
            says: pick(random, &[Says::Event, Says::Click, Says::TwoTimes, Says::Nothing]),
            delimiter: pick(random, &[',', ';', '\t', '|']),
            newline: pick(random, &["\n", "\r\n"]),
            quotes_all: below(random, 2) == 0,
            ndjson: below(random, 4) == 0,
            zone_h: pick(random, &[0, 9, -5]),
        };
        let (rows, meant): (Vec<_>, Vec<_>) =
            (0..1 + below(random, 40)).map(|_| row(random, &style)).unzip();
        let text = write(&rows, &style, random);
        let path = dir.path().join("any.log");
        std::fs::write(&path, pack(&text, random)).unwrap();
        let zone = format!("{:+03}:00", style.zone_h);
        let log = Log {
            path: path.clone(),
            format: Some(if style.ndjson { Format::Ndjson } else { Format::Csv }),
            delimiter: None,
            names: ColumnNames::default().with_times(Times::new(None, Some(&zone)).unwrap()),
            requests: Vec::new(),
            is_named: false,
            may_grow: false,
            clock: Arc::new(At(NOW)),
        };
        let reader = Reader::new(log, open::open(&path, Seen::default()).unwrap(), None).unwrap();
        let rejects = Rejects::new(None, reader.format);
        let mut events = Vec::new();
        let source = SourceId([7; 16]);
        let read = reader.run(source, None, rejects, &mut |chunk| {
            chunk.check().unwrap();
            events.extend(chunk.events);
            true
        });
        let read =
            read.unwrap_or_else(|failure| panic!("seed {seed}: {}\n{text}", failure.message));
        let wanted: Vec<_> = (0_u64..)
            .zip(&meant)
            .flat_map(|(row, events)| events.iter().flatten().map(move |event| (row, *event)))
            .map(|(row, (kind, at, ad, country, device))| {
                (row, kind, at, ad.parse::<AdName>().unwrap(), country, device)
            })
            .collect();
        let found: Vec<_> = events
            .iter()
            .map(|event| {
                let device = event.device.unwrap_or(Device::Unknown);
                (event.row, event.kind, event.at.0, event.ad.clone(), event.country, device)
            })
            .collect();
        let bad = meant.iter().filter(|events| events.is_none()).count();
        assert_eq!(found, wanted, "seed {seed}\n{text}");
        assert_eq!(
            (read.rows, read.rejected),
            (rows.len() as u64, bad as u64),
            "seed {seed}\n{text}"
        );
    }
}
