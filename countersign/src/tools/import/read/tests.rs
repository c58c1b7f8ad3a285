#![allow(clippy::unwrap_used)]
use super::super::open::Seen;
use super::*;
use std::io::Write as _;
use std::path::Path;

use shared::Country;

/// 2023-11-15T00:00:00Z.
pub(super) const NOW: Timestamp = Timestamp(1_700_006_400_000);
const SOURCE: SourceId = SourceId([7; 16]);

pub(super) struct At(pub(super) Timestamp);

impl Clock for At {
    fn now(&self) -> Timestamp {
        self.0
    }
}

/// A log, and how far it was taken.
struct Case {
    log: Log,
    taken: Option<Taken>,
}

fn log(path: &Path, format: Format, taken: Option<Taken>, may_grow: bool) -> Case {
    let (path, names, format) = (path.to_owned(), ColumnNames::default(), Some(format));
    let (delimiter, requests, clock) = (None, Vec::new(), Arc::new(At(NOW)));
    let log = Log { path, format, delimiter, names, requests, is_named: may_grow, may_grow, clock };
    Case { log, taken }
}

fn run(case: Case) -> Result<(LogSummary, Vec<ImportChunk>), Failure> {
    let (path, mut chunks) = (case.log.path.clone(), Vec::new());
    let reader = Reader::new(case.log, open::open(&path, Seen::default())?, None)?;
    let rejects = Rejects::new(Some(path.with_extension("rejects")), reader.format);
    let read = reader.run(SOURCE, case.taken, rejects, &mut |chunk| {
        chunk.check().unwrap();
        chunks.push(chunk);
        true
    })?;
    Ok((read, chunks))
}

#[test]
fn countries_that_are_not_understood_are_unknown_and_told_with_examples() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.csv");
    let cases: [(&[&str], u64, &str); 3] = [
        (&["USA", "United States", "UK", "XX", ""], 0, ""),
        (&["QQ", "US-CA", "QQ", "DE"], 3, r#""QQ", "US-CA""#),
        (&["A", "B", "C", "D", "E", "E", "F", "G"], 8, r#""A", "B", "C", "D", "E" and others"#),
    ];
    for (countries, unread, examples) in cases {
        let rows = countries.iter().map(|country| format!("a,1700000001,{country}\n"));
        std::fs::write(&path, "ad_id,timestamp,country\n".to_owned() + &rows.collect::<String>())
            .unwrap();
        let (read, chunks) = run(log(&path, Format::Csv, None, false)).unwrap();
        let [_, told, _] = &read.unread;
        assert_eq!((told.rows, told.examples().as_str()), (unread, examples), "{countries:?}");
        let events = &chunks[0].events;
        assert_eq!((events.len(), read.rejected), (countries.len(), 0), "{countries:?}");
        let unknown = events.iter().filter(|event| event.country == Country::UNKNOWN).count();
        let without = countries.iter().filter(|text| matches!(**text, "XX" | "")).count();
        assert_eq!(unknown, usize::try_from(unread).unwrap() + without, "{countries:?}");
    }
}

#[test]
fn the_header_tells_what_separates_its_fields() {
    for (header, row) in [
        ("ad_id;timestamp;country", "a;1700000001;DE"),
        ("ad_id\ttimestamp\tcountry", "a\t1700000001\tDE"),
        ("\u{feff}ad_id|timestamp|country", "a|1700000001|DE"),
        ("ad_id,timestamp,country;x", "a,1700000001,DE"),
        ("\"ad_id\";\"timestamp\";\"a,b\";country", "a;1700000001;\"x;y\";DE"),
    ] {
        let (_dir, path) = file(format!("{header}\r\n{row}\r\n").as_bytes());
        let (read, chunks) = run(log(&path, Format::Csv, None, false)).unwrap();
        assert_eq!((read.rows, read.rejected), (1, 0), "{header}");
        assert_eq!(chunks[0].events[0].ad.as_str(), "a");
    }
    // The delimiter that was asked for is taken, whatever the header looks like.
    let (_dir, path) = file(b"ad_id:timestamp\na:1700000001\n");
    let mut asked = log(&path, Format::Csv, None, false);
    asked.log.delimiter = Some(b':');
    assert_eq!(run(asked).unwrap().0.events, 1);
    let error = run(log(&path, Format::Csv, None, false)).unwrap_err().message;
    assert!(error.contains("and has: ad_id:timestamp"), "{error}");
}

#[test]
fn comments_stand_before_the_header_which_may_come_again() {
    for text in [
        "# made by hand\n\n#\nad_id,timestamp\na,1700000001\nad_id,timestamp\na,1700000002\n",
        "sep=;\r\nad_id;timestamp\r\na;1700000001\r\n\u{feff}ad_id;timestamp\r\na;1700000002\r\n",
        "\u{feff}sep=;\r\nad_id;timestamp\r\na;1700000001\r\nad_id;timestamp\r\na;1700000002\r\n",
        "\u{feff}ad_id,timestamp\na,1700000001\nad_id,timestamp\na,1700000002\n",
    ] {
        let (_dir, path) = file(text.as_bytes());
        let (read, chunks) = run(log(&path, Format::Csv, None, false)).unwrap();
        assert_eq!((read.rows, read.events, read.other, read.rejected), (3, 2, 1, 0), "{text}");
        assert_eq!(chunks[0].events[1].row, 2);
    }
}

#[test]
fn of_a_log_of_which_nothing_is_an_event_nothing_is_left() {
    for text in [
        "ad_id,timestamp\na,oops\nad_id,timestamp\na,oops\n",
        "ad_id,timestamp,user_agent\na,oops,x\na,1700000001,curl/8.0\n",
    ] {
        let (_dir, path) = file(text.as_bytes());
        let (read, chunks) = run(log(&path, Format::Csv, None, false)).unwrap();
        assert!(read.rejected > 0 && read.events == 0 && chunks.is_empty(), "{text}: {read:?}");
        assert!(!path.with_extension("rejects").exists(), "{text}");
    }
}

fn file(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.log");
    std::fs::write(&path, bytes).unwrap();
    (dir, path)
}

fn rows(from: usize, to: usize) -> String {
    (from..to).map(|n| format!("ad-{},{},{}\n", n % 7, 1_574_553_617 + n, n % 2)).collect()
}

const HEADER: &str = "ad_id,timestamp,click\n";

#[test]
fn chunks_cover_all_rows_in_order_and_fit() {
    let text = format!("{HEADER}{}", rows(0, 20_000));
    let (_dir, path) = file(text.as_bytes());
    let (read, chunks) = run(log(&path, Format::Csv, None, false)).unwrap();
    assert_eq!((read.rows, read.events, read.rejected), (20_000, 30_000, 0));
    assert!(chunks.len() > 5);
    let mut next = 0;
    for chunk in &chunks {
        assert_eq!(chunk.first_row, next);
        next = chunk.end_row;
    }
    assert_eq!(next, 20_000);
    let digest = blake3::hash(text.trim_end().as_bytes());
    assert_eq!(chunks.last().unwrap().digest, *digest.as_bytes());
}

#[test]
fn a_resumed_log_makes_the_same_chunks() {
    let text = format!("{HEADER}{}", rows(0, 20_000));
    let (_dir, path) = file(text.as_bytes());
    let (whole, chunks) = run(log(&path, Format::Csv, None, false)).unwrap();
    for (at, chunk) in chunks.iter().enumerate() {
        let taken = Taken { rows: chunk.end_row, digest: chunk.digest };
        let (read, rest) = run(log(&path, Format::Csv, Some(taken), false)).unwrap();
        assert_eq!(rest, chunks[at + 1..]);
        assert_eq!(read.events, whole.events);
        assert_eq!(read.events_new, rest.iter().map(|c| c.events.len() as u64).sum::<u64>());
    }
}

#[test]
fn gzip_and_plain_say_the_same() {
    let text = format!("{HEADER}{}", rows(0, 50));
    let (_dir, path) = file(text.as_bytes());
    let plain = run(log(&path, Format::Csv, None, false)).unwrap();
    // Two members, cut inside a row, as a rotation may leave them.
    let mut zipped = Vec::new();
    for part in [&text.as_bytes()[..301], &text.as_bytes()[301..]] {
        let mut encoder = flate2::write::GzEncoder::new(&mut zipped, flate2::Compression::fast());
        encoder.write_all(part).unwrap();
        encoder.finish().unwrap();
    }
    std::fs::write(&path, &zipped).unwrap();
    assert_eq!(run(log(&path, Format::Csv, None, false)).unwrap(), plain);
    let digest = open::digest(&path, Seen::default()).unwrap();
    assert_eq!(digest, *blake3::hash(text.as_bytes()).as_bytes());

    std::fs::write(&path, &zipped[..zipped.len() - 9]).unwrap();
    let failure = run(log(&path, Format::Csv, None, false)).unwrap_err();
    assert!(failure.message.contains("cannot read"), "{}", failure.message);
}

#[test]
fn bad_rows_are_rows_and_land_in_the_rejects() {
    let text = format!(
        "{HEADER}ad-1,1700000001,0\nbad\u{7f}id,1700000001,0\n\nad-2,\"x\ny\",1\nad-3,1700000002,1\n"
    );
    let (dir, path) = file(text.as_bytes());
    let (read, chunks) = run(log(&path, Format::Csv, None, false)).unwrap();
    assert_eq!((read.rows, read.events, read.rejected), (4, 3, 2));
    assert_eq!(chunks[0].end_row, 4);
    assert_eq!(chunks[0].events.iter().map(|event| event.row).collect::<Vec<_>>(), [0, 3, 3]);
    let mut rejects = csv::Reader::from_path(dir.path().join("a.rejects")).unwrap();
    assert_eq!(rejects.headers().unwrap(), vec!["source", "file", "line", "reason", "row"]);
    let rejects: Vec<_> = rejects.records().map(Result::unwrap).collect();
    let short: Vec<_> = rejects.iter().map(|row| (&row[2], &row[4])).collect();
    let header = HEADER.trim();
    assert_eq!(short, [("1", header), ("3", "bad\u{7f}id,1700000001,0"), ("5", "ad-2,\"x\ny\",1")]);
    assert!(rejects[1][3].contains("ad_id"), "{:?}", rejects[1]);
    assert_eq!(rejects[2][0], SOURCE.to_string());

    std::fs::remove_file(dir.path().join("a.rejects")).unwrap();
    std::fs::write(&path, "{\"ad_id\":1,\"timestamp\":1700000001}\n{\"ad_id\":2}\n").unwrap();
    let (read, _) = run(log(&path, Format::Ndjson, None, false)).unwrap();
    assert_eq!((read.rows, read.events, read.rejected), (2, 1, 1));
    let text = std::fs::read_to_string(dir.path().join("a.rejects")).unwrap();
    let row: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&row["line"], &row["row"]), (&2.into(), &"{\"ad_id\":2}".into()));
}

#[test]
fn a_log_of_bad_rows_only_still_moves_on() {
    let text = format!("{HEADER}{}", "?\n".repeat(70_000));
    let (_dir, path) = file(text.as_bytes());
    let (read, chunks) = run(log(&path, Format::Csv, None, false)).unwrap();
    assert_eq!((read.rows, read.events, read.rejected), (70_000, 0, 70_000));
    assert!(chunks.is_empty(), "it may be read another way next time");
    std::fs::write(&path, format!("{text}a,1700000001,0\n")).unwrap();
    let (read, chunks) = run(log(&path, Format::Csv, None, false)).unwrap();
    assert_eq!((read.rows, read.events, read.rejected), (70_001, 1, 70_000));
    let ends: Vec<_> = chunks.iter().map(|chunk| chunk.end_row).collect();
    assert_eq!(ends, [65_536, 70_001]);
}

#[test]
fn a_grown_log_goes_on_where_it_ended() {
    // The last row is half written at first.
    let first = format!("{HEADER}{}ad-9,15745", rows(0, 10));
    let (_dir, path) = file(first.as_bytes());
    let (read, chunks) = run(log(&path, Format::Csv, None, true)).unwrap();
    assert_eq!((read.rows, read.held_back), (10, Some(12)));
    let taken = Some(Taken { rows: 10, digest: chunks[0].digest });

    let grown = format!("{first}53617,1\n{}", rows(11, 20));
    std::fs::write(&path, &grown).unwrap();
    let (read, chunks) = run(log(&path, Format::Csv, taken, true)).unwrap();
    assert_eq!((read.rows, read.held_back, read.rejected), (20, None, 0));
    assert_eq!((chunks[0].first_row, chunks[0].end_row), (10, 20));
    assert_eq!(chunks[0].events[0].ad.as_str(), "ad-9");
}

#[test]
fn a_changed_or_shrunk_log_is_refused_before_anything_is_sent() {
    let text = format!("{HEADER}{}", rows(0, 10));
    let (_dir, path) = file(text.as_bytes());
    let (_, chunks) = run(log(&path, Format::Csv, None, true)).unwrap();
    let taken = Some(Taken { rows: 10, digest: chunks[0].digest });
    for changed in [text.replace("ad-3", "ad-4"), text.replace("ad_id,", "ad_id ,")] {
        std::fs::write(&path, format!("{changed}{}", rows(10, 20))).unwrap();
        let failure = run(log(&path, Format::Csv, taken, true)).unwrap_err();
        assert_eq!(failure.code, crate::failure::OTHER_LOG);
        assert!(failure.message.contains("first 10 rows"), "{}", failure.message);
    }
    std::fs::write(&path, format!("{HEADER}{}", rows(0, 9))).unwrap();
    let failure = run(log(&path, Format::Csv, taken, true)).unwrap_err();
    assert_eq!(failure.code, crate::failure::OTHER_LOG);
    assert!(failure.message.contains("has 9 rows, but 10"), "{}", failure.message);
}

#[test]
fn a_log_without_known_columns_is_refused() {
    for (format, text) in [(Format::Csv, "a,b\n1,2\n"), (Format::Ndjson, "{\"a\":1}\n")] {
        let (_dir, path) = file(text.as_bytes());
        let failure = run(log(&path, format, None, false)).unwrap_err();
        assert_eq!(failure.code, crate::failure::USAGE);
        assert!(failure.message.contains("and has: a"), "{}", failure.message);
    }
    let (_dir, path) = file(b"");
    assert_eq!(run(log(&path, Format::Csv, None, true)).unwrap().0.rows, 0);
}

#[test]
fn rows_of_the_next_hours_wait_and_rows_of_later_days_are_rejected() {
    // 00:00:30 is near enough to now; 09:00 is from a zone east of here; 2099 is a mistake.
    let (good, soon, never) = (1_700_006_430, 1_700_038_800, 4_070_908_800_u64);
    let text = format!("{HEADER}a,{good},0\nb,{never},0\nc,{good},0\nd,{soon},0\ne,{good},0\n");
    let (_dir, path) = file(text.as_bytes());
    let (read, chunks) = run(log(&path, Format::Csv, None, false)).unwrap();
    assert_eq!((read.rows, read.events, read.rejected), (3, 2, 1));
    assert_eq!(read.early, Some((5, Timestamp(soon * 1_000))));
    let taken = Some(Taken { rows: 3, digest: chunks[0].digest });
    let mut later = log(&path, Format::Csv, taken, false);
    later.log.clock = Arc::new(At(Timestamp(soon * 1_000)));
    let (read, chunks) = run(later).unwrap();
    assert_eq!((read.rows, read.events_new, read.early), (5, 2, None));
    assert_eq!((chunks[0].first_row, chunks[0].end_row), (3, 5));
}
