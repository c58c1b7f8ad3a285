#![allow(clippy::unwrap_used)]
use super::super::columns::{AD, PUBLISHER};
use super::*;

const COMBINED: &str = r#"203.0.113.9 - frank [10/Oct/2025:13:55:36 -0700] "GET /click/ad-1?pub=news&x=%20 HTTP/1.1" 302 0 "https://news.example/" "Mozilla/5.0 (iPhone; \"x\")""#;

fn access(patterns: &[&str]) -> Access {
    Access::new(patterns.iter().map(|text| text.parse().unwrap()).collect(), None)
}

#[test]
fn a_line_of_the_combined_form() {
    let mut access = access(&["/click/{ad_id}?pub={publisher}"]);
    let said = access.read(COMBINED.as_bytes()).unwrap().unwrap();
    assert_eq!(said[AD].as_deref(), Some("ad-1"));
    assert_eq!(said[PUBLISHER].as_deref(), Some("news"));
    assert_eq!(said[TIME].as_deref(), Some("10/Oct/2025:13:55:36 -0700"));
    assert_eq!(said[IP].as_deref(), Some("203.0.113.9"));
    assert_eq!(said[AGENT].as_deref(), Some("Mozilla/5.0 (iPhone; \"x\")"));
    assert_eq!(said[EVENT], None);
    let common = COMBINED.split(" \"https").next().unwrap();
    let said = access.read(common.as_bytes()).unwrap().unwrap();
    assert_eq!((said[AD].as_deref(), said[AGENT].as_deref()), (Some("ad-1"), None));
    let vhost = format!("www.example:443 {COMBINED}");
    assert_eq!(access.read(vhost.as_bytes()).unwrap().unwrap()[IP].as_deref(), Some("203.0.113.9"));
}

#[test]
fn a_pattern_that_cannot_be_meant_is_told() {
    for (text, told) in [
        ("/c/{event}/{ad_id}", "it stands before the path"),
        ("/c/{ad_id}?ad={ad_id}", "{ad_id} stands twice"),
        ("/c/{user_agent}", "the log's line says it"),
        ("/c/{advert}", "no column is called so"),
        ("shown=/c/{ad_id}", "shown"),
    ] {
        let error = text.parse::<Pattern>().unwrap_err();
        assert!(error.contains(told), "{text}: {error}");
    }
}

#[test]
fn other_requests_are_none_of_ours_and_what_is_no_line_is_told() {
    let mut access = access(&["/click/{ad_id}?pub={publisher}"]);
    for (from, to) in [
        ("GET", "HEAD"),
        (" 302 ", " 404 "),
        (" 302 ", " 499 "),
        ("/click/", "/other/"),
        ("/click/ad-1", "/click/ad-1/more"),
        ("/click/ad-1", "/click/"),
        ("pub=", "nopub="),
        ("pub=news", "pub="),
        ("GET /click/ad-1?pub=news&x=%20 HTTP/1.1", "\\x16\\x03\\x01"),
        ("GET /click/ad-1?pub=news&x=%20 HTTP/1.1", ""),
    ] {
        let line = COMBINED.replace(from, to);
        assert_eq!(access.read(line.as_bytes()), Ok(None), "{from} → {to}");
    }
    for line in
        ["", "ad_id,timestamp", "a b c", "1 - - [x", "[x] \"GET /click/a\" 200", "\"", "é [é] é"]
    {
        assert!(access.read(line.as_bytes()).is_err(), "{line}");
    }
    assert!(access.read(b"\xff").is_err());
}

#[test]
fn patterns() {
    let read = |pattern: &str, path: &str, query: &str| {
        let said = pattern.parse::<Pattern>().unwrap().read(path, query)?;
        Some((said[AD].clone()?, said[EVENT].clone().unwrap_or_default()))
    };
    let found = |ad: &str, event: &str| Some((ad.to_owned(), event.to_owned()));
    for (pattern, path, query, wanted) in [
        ("/{ad_id}", "/a", "", found("a", "")),
        ("impression=/p/{ad_id}.gif", "/p/a-1.gif", "c=1", found("a-1", "impression")),
        ("impression=/p/{ad_id}.gif", "/p/.gif", "", None),
        ("click=/c?ad={ad_id}", "/c", "x=1&ad=a%2D1", found("a-1", "click")),
        ("/*/c-{ad_id}/", "/x/c-a/", "", found("a", "")),
        ("/*/c-{ad_id}/", "/x/c-a", "", None),
        ("/c?ad={ad_id}&go", "/c", "ad=a&go=1", found("a", "")),
        ("/c?ad={ad_id}&go", "/c", "ad=a", None),
        ("/c?ad={ad_id}&v=2", "/c", "ad=a&v=3", None),
        ("/c?ad={ad_id}", "/c", "ad=a&ad=b", found("a", "")),
        ("/c/{ad_id}", "/c/%C3%A4", "", found("ä", "")),
        // No name may have that character: the row is rejected, not taken for another request.
        ("/c/{ad_id}", "/c/%FF", "", found("\u{fffd}", "")),
        ("/c/{ad_id}", "/c/a/%FF", "", None),
    ] {
        assert_eq!(read(pattern, path, query), wanted, "{pattern} {path} {query}");
    }
    for (text, word) in [
        ("c/{ad_id}", "begins with /"),
        ("/c/{ad}", "no column is called so"),
        ("/c/{ad_id", "without its }"),
        ("/c/{ad_id}{publisher}", "one * or one"),
        ("/c/*{ad_id}", "one * or one"),
        ("clik=/c/{ad_id}", "clik"),
    ] {
        let error = text.parse::<Pattern>().unwrap_err();
        assert!(error.contains(word), "{text}: {error}");
    }
}

#[test]
fn w3c_of_iis_and_of_cloudfront() {
    let pattern = || vec!["/c/{ad_id}?p={publisher}".parse().unwrap()];
    let iis =
        "#Fields: date time s-ip cs-method cs-uri-stem cs-uri-query c-ip cs(User-Agent) sc-status";
    let mut access = Access::new(pattern(), fields(iis).unwrap());
    let line = "2026-01-31 12:00:01 10.0.0.1 GET /c/a1 p=news 203.0.113.9 Mozilla/5.0+(iPhone) 302";
    let said = access.read(line.as_bytes()).unwrap().unwrap();
    assert_eq!(said[TIME].as_deref(), Some("2026-01-31 12:00:01"));
    assert_eq!(said[AGENT].as_deref(), Some("Mozilla/5.0 (iPhone)"));
    assert_eq!((said[AD].as_deref(), said[PUBLISHER].as_deref()), (Some("a1"), Some("news")));
    // The server's configuration changed in the middle of the log.
    assert_eq!(access.read(b"#Date: 2026-01-31 13:00:00"), Ok(None));
    let cloudfront = "#Fields: date time c-ip cs-method cs(Host) cs-uri-stem sc-status cs(User-Agent) cs-uri-query";
    assert_eq!(access.read(cloudfront.as_bytes()), Ok(None));
    let line = "2026-01-31\t13:00:01\t203.0.113.9\tGET\tx.example\t/c/a2\t200\tMozilla/5.0%20(iPhone)\tp=shop";
    let said = access.read(line.as_bytes()).unwrap().unwrap();
    assert_eq!((said[AD].as_deref(), said[PUBLISHER].as_deref()), (Some("a2"), Some("shop")));
    assert_eq!(said[AGENT].as_deref(), Some("Mozilla/5.0 (iPhone)"));
    assert!(access.read(b"2026-01-31 13:00:01 x").unwrap_err().contains("3 fields"));
    assert!(fields("#Fields: date time c-ip").unwrap_err().contains("cs-uri-stem"));
}
