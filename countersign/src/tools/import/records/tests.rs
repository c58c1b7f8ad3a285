#![allow(clippy::unwrap_used)]
use super::*;

/// Gives at most `step` bytes a read.
struct Dribble<'a>(&'a [u8], usize);

impl Read for Dribble<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.0.len().min(self.1).min(buffer.len());
        let (now, later) = self.0.split_at(length);
        buffer[..length].copy_from_slice(now);
        self.0 = later;
        Ok(length)
    }
}

type Seen = Vec<(String, u64, Option<&'static str>, Digests)>;

fn all(text: &[u8], delimiter: Option<u8>, hold_back: bool) -> (Seen, Option<u64>) {
    let mut records = Records::new(Dribble(text, 3), delimiter, hold_back);
    let mut seen = Seen::new();
    while let Some(record) = records.next().unwrap() {
        let (bytes, line, fault) = (record.bytes.to_vec(), record.line, record.fault);
        seen.push((String::from_utf8(bytes).unwrap(), line, fault, records.digests()));
    }
    (seen, records.held_back())
}

fn check(text: &str, expected: &[(&str, u64)]) {
    let (seen, _) = all(text.as_bytes(), Some(b','), false);
    let short: Vec<_> = seen.iter().map(|(text, line, ..)| (text.as_str(), *line)).collect();
    assert_eq!(short, expected, "{text:?}");
    let mut from = 0;
    for (record, _, _, digest) in &seen {
        from += text[from..].find(record.as_str()).unwrap() + record.len();
        let of_bytes = blake3::hash(&text.as_bytes()[..from]);
        assert_eq!(digest.bytes, *of_bytes.as_bytes(), "{text:?} {record}");
    }
}

#[test]
fn records_end_where_rfc_4180_says() {
    check("", &[]);
    check("\n\r\n", &[]);
    check("a,b\nc,d\n", &[("a,b", 1), ("c,d", 2)]);
    check("a,b\r\nc,d\r\n\r\n", &[("a,b", 1), ("c,d", 2)]);
    check("\n\na\n\nb", &[("a", 3), ("b", 5)]);
    check("a,\"b\nc\"\nd\n", &[("a,\"b\nc\"", 1), ("d", 3)]);
    check("\"a\"\"\n\"\"b\"\nc", &[("\"a\"\"\n\"\"b\"", 1), ("c", 3)]);
    check("5\" disk\nb\n", &[("5\" disk", 1), ("b", 2)]);
    check("\"\"\nb\n", &[("\"\"", 1), ("b", 2)]);
    check("a,\"b\r\nc\",d\r\ne", &[("a,\"b\r\nc\",d", 1), ("e", 3)]);
}

#[test]
fn quotes_mean_nothing_in_ndjson() {
    let (seen, _) = all(b"{\"a\":\"\n\"\n", None, false);
    assert_eq!(seen.iter().map(|row| row.0.as_str()).collect::<Vec<_>>(), ["{\"a\":\"", "\""]);
}

#[test]
fn a_quote_that_is_never_closed_spoils_one_line() {
    let (seen, _) = all(b"a,b\n\"c,d\ne,f\n", Some(b','), false);
    let short: Vec<_> = seen.iter().map(|r| (r.0.as_str(), r.1, r.2.is_some())).collect();
    assert_eq!(short, [("a,b", 1, false), ("\"c,d", 2, true), ("e,f", 3, false)]);

    // Closed by a quote that opens the field of another row.
    let (seen, _) = all(b"a,b\n\"c,d\ne,f\n\"g,h\ni,j\n", Some(b','), false);
    let short: Vec<_> = seen.iter().map(|r| (r.0.as_str(), r.1, r.2.is_some())).collect();
    let wanted = [("a,b", 1, false), ("\"c,d", 2, true), ("e,f", 3, false)];
    assert_eq!(short[..3], wanted);
    assert_eq!(short[3..], [("\"g,h", 4, true), ("i,j", 5, false)]);

    let mut long = b"\"open\n".to_vec();
    long.extend("x,y\n".repeat(RECORD_BYTES_MAX / 2).bytes());
    let mut records = Records::new(&long[..], Some(b','), false);
    assert!(records.next().unwrap().unwrap().fault.is_some());
    let next = records.next().unwrap().unwrap();
    assert_eq!((next.bytes, next.line, next.fault), (&b"x,y"[..], 2, None));
}

#[test]
fn a_line_that_is_too_long_is_one_bad_row() {
    let mut text = b"a\n".to_vec();
    text.resize(RECORD_BYTES_MAX * 2, b'x');
    let end = text.len();
    text.extend(b"\nb\n");
    let mut records = Records::new(&text[..], None, false);
    assert_eq!(records.next().unwrap().unwrap().bytes, b"a");
    let long = records.next().unwrap().unwrap();
    assert_eq!((long.bytes.len(), long.line, long.fault.is_some()), (SHOWN_BYTES, 2, true));
    assert_eq!(records.digests().bytes, *blake3::hash(&text[..end]).as_bytes());
    let next = records.next().unwrap().unwrap();
    assert_eq!((next.bytes, next.line), (&b"b"[..], 3));
    assert_eq!(records.digests().bytes, *blake3::hash(&text[..end + 2]).as_bytes());
    assert!(records.next().unwrap().is_none());
}

#[test]
fn a_half_written_last_line_waits() {
    for (text, rows, waits) in [
        ("a,b\nc,d", 1, Some(2)),
        ("a,b\nc,d\n", 2, None),
        ("a,b\n\"c\nd\n", 1, Some(2)),
        ("a,b\n\n", 1, None),
        ("", 0, None),
    ] {
        let (seen, held_back) = all(text.as_bytes(), Some(b','), true);
        assert_eq!((seen.len(), held_back), (rows, waits), "{text:?}");
    }
}

#[test]
fn a_row_has_one_digest_before_and_after_its_newline_was_written() {
    let digests = |text: &str| {
        let (seen, _) = all(text.as_bytes(), Some(b','), false);
        seen.into_iter().map(|row| (row.3.bytes, row.3.text)).collect::<Vec<_>>()
    };
    let short = digests("a\nb");
    for grown in ["a\nb\n", "a\nb\r\n", "a\nb\nc", "a\nb\n\nc\n"] {
        assert_eq!(digests(grown)[..2], short, "{grown:?}");
    }
    assert_ne!(digests("a\nbb\n")[1], short[1]);
}

#[test]
fn how_lines_end_is_not_what_the_log_says() {
    let digests = |text: &str| {
        let (seen, _) = all(text.as_bytes(), Some(b','), false);
        seen.into_iter().map(|row| row.3.text).collect::<Vec<_>>()
    };
    let plain = digests("a,b\nc,\"d\ne\"\nf,g\n");
    assert_eq!(plain.len(), 3);
    for same in [
        "\u{feff}a,b\nc,\"d\ne\"\nf,g\n",
        "a,b\r\nc,\"d\ne\"\r\nf,g\r\n",
        "\n\na,b\n\n\nc,\"d\ne\"\n\r\nf,g",
    ] {
        assert_eq!(digests(same), plain, "{same:?}");
    }
    // In a log without carriage returns, marks or empty lines both digests are the same.
    let (seen, _) = all(b"a,b\nc,d\n", Some(b','), false);
    assert!(seen.iter().all(|row| row.3.text == row.3.bytes));
    for other in ["a,b\nc,\"de\"\nf,g\n", "a,bc,\"d\ne\"\nf,g\n", "a,b\nc,\"d\ne\"f,g\n"] {
        assert_ne!(digests(other).last(), plain.last(), "{other:?}");
    }
    let mut long = vec![b'x'; RECORD_BYTES_MAX * 2];
    long.extend(b"\r\nb\r\n");
    let (seen, _) = all(&long, None, false);
    let whole = [vec![b'x'; RECORD_BYTES_MAX * 2], b"\nb".to_vec()].concat();
    assert_eq!(seen[1].3.text, *blake3::hash(&whole).as_bytes());
}
