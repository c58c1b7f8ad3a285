#![allow(clippy::unwrap_used)]
use std::sync::Arc;

use shared::ambient::SystemClock;

use super::super::columns::ColumnNames;
use super::super::read::Reader;
use super::*;

const SOURCE: SourceId = SourceId([7; 16]);

fn log(path: &Path) -> Log {
    Log {
        path: path.to_owned(),
        format: None,
        delimiter: None,
        names: ColumnNames::default(),
        requests: vec!["/c/{ad_id}".parse().unwrap()],
        is_named: false,
        may_grow: false,
        clock: Arc::new(SystemClock),
    }
}

/// The file of a log's rejected rows.
fn rejected(log: Log) -> PathBuf {
    let path = log.path.clone();
    let reader = Reader::new(log, open::open(&path, Seen::default()).unwrap(), None).unwrap();
    let rejects = path.with_extension("rejects");
    let out = Rejects::new(Some(rejects.clone()), reader.format);
    let read = reader.run(SOURCE, None, out, &mut |_| true).unwrap();
    assert!(read.rejected > 0);
    rejects
}

fn mend(log: &Log) -> (MendedSummary, Vec<ImportChunk>) {
    let format = detect(&log.path).unwrap().unwrap();
    let (mut chunks, again) = (Vec::new(), log.path.with_extension("again"));
    let _ = std::fs::remove_file(&again);
    let rejects = Rejects::new(Some(again), format);
    let read = read(log, format, Seen::default(), rejects, &mut |chunk| {
        chunk.check().unwrap();
        chunks.push(chunk);
        true
    });
    (read.unwrap(), chunks)
}

#[test]
fn a_row_that_says_nothing_of_what_happened_is_no_click_unmended() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = Log { requests: Vec::new(), ..log(&dir.path().join("a.ndjson")) };
    let rows = [
        r#"{"ad_id":"a","timestamp":1700000001,"event":"impression"}"#,
        r#"{"ad_id":"a","timestamp":1700000002}"#,
    ];
    std::fs::write(&file.path, rows.join("\n") + "\n").unwrap();
    file.path = rejected(file.clone());
    let (read, chunks) = mend(&file);
    assert_eq!((read.rows, read.rejected, chunks.len()), (1, 1, 0));
}

#[test]
fn what_is_not_understood_in_mended_rows_is_told_of_all_logs_together() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = Log { requests: Vec::new(), ..log(&dir.path().join("a.csv")) };
    let rows = "b\u{7f}b,1700000001,Atlantis\nc\u{7f}c,1700000002,US\nd\u{7f}d,1700000003,Oz\n\
                e,1700000004,US\n";
    std::fs::write(&file.path, format!("ad_id,timestamp,country\n{rows}")).unwrap();
    file.path = rejected(file.clone());
    let text = std::fs::read_to_string(&file.path).unwrap().replace('\u{7f}', "");
    // The log was imported again, so that its header and its rows are there again.
    let again = text.split_once('\n').unwrap().1.replace("Atlantis", "Utopia");
    std::fs::write(&file.path, format!("{text}{again}")).unwrap();
    let (read, _) = mend(&file);
    let [_, country, _] = &read.unread;
    let told = (read.rows, read.rejected, country.rows, country.examples());
    assert_eq!(told, (6, 0, 4, r#""Atlantis", "Oz", "Utopia""#.to_owned()));
}

#[test]
fn a_spreadsheet_may_have_written_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = Log { requests: Vec::new(), ..log(&dir.path().join("a.csv")) };
    std::fs::write(&file.path, "ad_id,timestamp\nb\u{7f}b,1700000001\nc,1700000002\n").unwrap();
    file.path = rejected(file.clone());
    let text = std::fs::read_to_string(&file.path).unwrap().replace("b\u{7f}b", "b");
    for delimiter in [",", ";", "\t"] {
        let mut rows = csv::ReaderBuilder::new().has_headers(false).from_reader(text.as_bytes());
        let mut out = csv::WriterBuilder::new()
            .delimiter(delimiter.as_bytes()[0])
            .terminator(csv::Terminator::CRLF)
            .quote_style(csv::QuoteStyle::Always)
            .from_writer(format!("\u{feff}sep={delimiter}\r\n").into_bytes());
        rows.records().for_each(|row| out.write_record(&row.unwrap()).unwrap());
        std::fs::write(&file.path, out.into_inner().unwrap()).unwrap();
        let (read, chunks) = mend(&file);
        assert_eq!((read.rows, read.rejected, chunks[0].first_row), (1, 0, 2), "{delimiter:?}");
    }
}

#[test]
fn what_is_mended_is_known_by_its_line() {
    let forms: [(&str, &str, &str, &str); 4] = [
        (
            "a.csv",
            "ad_id;timestamp;country\nb\u{7f}b;1700000001;DE\nc;1700000002;DE\nd;oops;\"D;E\"\n",
            "b\u{7f}b;",
            "b;",
        ),
        (
            "a.ndjson",
            "\n{\"ad_id\":\"b\u{7f}b\",\"timestamp\":1700000001}\n{\"ad_id\":\"c\",\"timestamp\":1700000002}\n{\"ad_id\":\"d\"}\n",
            "b\u{7f}b",
            "b",
        ),
        (
            "access.log",
            "\n1.2.3.4 - - [10/Oct/2025:13:55:36 +0000] \"GET /c/b%7Fb HTTP/1.1\" 200 1\n\
             1.2.3.4 - - [10/Oct/2025:13:55:36 +0000] \"GET /c/c HTTP/1.1\" 200 1\noops\n",
            "b%7Fb",
            "b",
        ),
        (
            "iis.log",
            "#Fields: date time c-ip cs-method cs-uri-stem sc-status\n\
             2025-10-10 13:55:36 1.2.3.4 GET /c/b%7Fb 200\n\
             2025-10-10 13:55:36 1.2.3.4 GET /c/c 200\noops\n",
            "b%7Fb",
            "b",
        ),
    ];
    for (name, text, bad, good) in forms {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        let own = |path: &Path| {
            let mut log = log(path);
            if name.starts_with("a.") {
                log.requests.clear();
            }
            log
        };
        let rejects = rejected(own(&path));
        let (read, chunks) = mend(&own(&rejects));
        assert_eq!((read.rows, read.rejected, chunks.len()), (2, 2, 0), "{name}");
        let mended = std::fs::read_to_string(&rejects).unwrap().replace(bad, good);
        std::fs::write(&rejects, mended).unwrap();
        let (read, chunks) = mend(&own(&rejects));
        assert_eq!((read.rows, read.rejected), (2, 1), "{name}");
        let source = import::mended_source(SOURCE);
        assert_eq!(sources(&rejects, detect(&rejects).unwrap().unwrap()).unwrap(), [source].into());
        assert_eq!(read.events, [(source, 1)].into(), "{name}");
        let [chunk] = &chunks[..] else { panic!("{name}: {chunks:?}") };
        assert_eq!((chunk.source, chunk.first_row, chunk.end_row), (source, 2, 3), "{name}");
        assert_eq!(chunk.events[0].ad.as_str(), "b");
        // The rows that are still wrong can be mended in the new file of rejected rows.
        let again = rejects.with_extension("left");
        std::fs::rename(rejects.with_extension("again"), &again).unwrap();
        let (read, _) = mend(&own(&again));
        assert_eq!((read.rows, read.rejected), (1, 1), "{name}");
    }
}

#[test]
fn rows_of_several_logs_far_apart_and_out_of_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mended.csv");
    let (a, b) = (SourceId([1; 16]), SourceId([2; 16]));
    let mut text = format!(
        "{}\n{a},a.csv,1,header,\"ad_id,timestamp\"\n{b},b.csv,1,header,timestamp|ad_id\n",
        rejects::COLUMNS.join(",")
    );
    for (source, line) in [(a, 5), (a, 9), (a, 70_000), (b, 7), (a, 6), (a, 6)] {
        let row = if source == a { "x,1700000001" } else { "1700000001|x" };
        text += &format!("{source},f,{line},why,\"{row}\"\n");
    }
    std::fs::write(&path, &text).unwrap();
    let mut own = log(&path);
    own.requests.clear();
    let (read, chunks) = mend(&own);
    assert_eq!((read.rows, read.rejected), (6, 0));
    let rows = chunks.iter().map(|chunk| {
        (chunk.source, chunk.events.iter().map(|event| event.row).collect::<Vec<_>>())
    });
    let (a, b) = (import::mended_source(a), import::mended_source(b));
    let wanted = [(a, vec![5, 9]), (a, vec![70_000]), (b, vec![7]), (a, vec![6]), (a, vec![6])];
    assert_eq!(rows.collect::<Vec<_>>(), wanted);
    for (from, to) in
        [(",5,why", ",0,why"), (",5,why", ",x,why"), (",5,why", ",18446744073709551615,why")]
    {
        std::fs::write(&path, text.replace(from, to)).unwrap();
        let rejects = Rejects::new(None, Format::Csv);
        let told = super::read(&own, Format::Csv, Seen::default(), rejects, &mut |_| true);
        let told = told.unwrap_err();
        assert!(told.message.contains("row 3 is none of a file of rejected rows"), "{told:?}");
    }
    std::fs::write(&path, "ad_id,timestamp\n").unwrap();
    assert_eq!(detect(&path).unwrap(), None);
}
