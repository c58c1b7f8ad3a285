//! Where clicks lead, as operators write it: what a browser would ask for is taken.

use shared::token::check_url;
use url::Url;

/// An address as it is kept: as it is written where it may go into a token; else as a browser would ask for
/// it (WHATWG URL), with what has no place in a URL percent-encoded (RFC 3986, §2).
///
/// # Errors
/// Says what is wrong with it.
pub fn stored_as(text: &str) -> Result<String, String> {
    let url = match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => url,
        Ok(_) | Err(url::ParseError::RelativeUrlWithoutBase) => {
            return check_url(text).map(|()| text.to_owned());
        }
        Err(error) => return Err(format!("the landing URL {text:?}: {error}")),
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err(format!("the landing URL {text:?} needs a host, and no user name before it"));
    }
    if check_url(text).is_ok() {
        return Ok(text.to_owned());
    }
    // What browsers leave as it is though it has no place in a URL.
    let encoded: String = url.as_str().chars().fold(String::new(), |mut out, c| {
        match c {
            '"' | '<' | '>' | '\\' | '^' | '`' | '{' | '|' | '}' | '\u{80}'.. | '\0'..=' ' => {
                let mut buffer = [0; 4];
                out.extend(c.encode_utf8(&mut buffer).bytes().map(|byte| format!("%{byte:02X}")));
            }
            c => out.push(c),
        }
        out
    });
    check_url(&encoded).map(|()| encoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_browser_accepts_is_taken_and_what_is_good_is_not_touched() {
        for (text, stored) in [
            ("https://e.example/a?x=1&y=%7b#f", None),
            ("HTTPS://e.example", Some("https://e.example/")),
            ("https://E.Example:443/A?b", None),
            (
                "https://e.example/a b?q=a|b&g={gclid}",
                Some("https://e.example/a%20b?q=a%7Cb&g=%7Bgclid%7D"),
            ),
            ("https://e.example/päge/日本", Some("https://e.example/p%C3%A4ge/%E6%97%A5%E6%9C%AC")),
            ("https://bücher.example/", Some("https://xn--bcher-kva.example/")),
            (" https://e.example/x \n", Some("https://e.example/x")),
            ("https:\\\\e.example\\a", Some("https://e.example/a")),
            ("http://[2001:db8::1]:8080/", None),
        ] {
            assert_eq!(stored_as(text).as_deref(), Ok(stored.unwrap_or(text)), "{text}");
        }
    }

    #[test]
    fn what_none_accepts_is_refused() {
        for (text, word) in [
            ("https://e.example:99999/", "invalid port"),
            ("https://user@e.example/", "no user name"),
            ("https://user:pass@e.example/ä", "no user name"),
            ("javascript:alert(1)", "starts with https://"),
            ("mailto:a@e.example", "starts with https://"),
            ("/path", "starts with https://"),
            ("https://", "empty host"),
            ("https://a b.example/", "invalid"),
            ("", "starts with https://"),
        ] {
            let error = stored_as(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
        let long = format!("https://e.example/{}", "ä".repeat(1_000));
        assert!(stored_as(&long).unwrap_err().contains("2048 bytes"));
    }
}
