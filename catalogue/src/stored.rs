//! Addresses as operators write them: what a browser would accept is accepted, and stored as the browser
//! would request it.

use url::Url;

use crate::landing::{Schemes, check, encode, macros};

/// The form in which an address is stored. A good address is stored as it is written. Any other is stored as a
/// browser would request it (WHATWG URL), with characters that have no place in a URL percent-encoded
/// (RFC 3986, §2). Macros stay as they are.
///
/// # Errors
/// Says what is wrong with it.
pub fn stored_as(text: &str, schemes: &Schemes) -> Result<String, String> {
    let written = check(text, schemes);
    // Stands for the macros while the address is parsed: letters and digits, which parsing does not change,
    // and which do not occur in the address. The search ends, for no address contains all candidates.
    let apart = (0_u32..).map(|n| format!("macro{n}x")).find(|name| !text.contains(name));
    let apart = apart.unwrap_or_default();
    let marked = macros().zip(0..).fold(text.to_owned(), |text, (name, n): (_, u32)| {
        text.replace(name, &format!("{apart}{n}x"))
    });
    let url = match Url::parse(&marked) {
        Ok(url) => url,
        Err(url::ParseError::RelativeUrlWithoutBase) => return written.map(|()| text.to_owned()),
        Err(error) => return Err(format!("the landing URL {text:?}: {error}")),
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err(format!("the landing URL {text:?} needs a host, and no user name before it"));
    }
    if written.is_ok() {
        return Ok(text.to_owned());
    }
    // Browsers leave some characters as they are that have no place in a URL.
    let mut stored = String::new();
    encode(url.as_str(), &mut stored);
    let stored = macros()
        .zip(0..)
        .fold(stored, |text, (name, n): (_, u32)| text.replace(&format!("{apart}{n}x"), name));
    check(&stored, schemes).map(|()| stored)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_browser_accepts_is_taken_and_what_is_good_is_not_touched() {
        let schemes = Schemes::allowed(vec!["mailto".to_owned(), "my.app".to_owned()]).0;
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
            ("https://e.example/{csid}?a={ad_id}", None),
            (
                "https://e.example/ä/{csid}?a={ad_id}{gclid}&macro0x1x#{timestamp}%7Bcsid%7D",
                Some(
                    "https://e.example/%C3%A4/{csid}?a={ad_id}%7Bgclid%7D&macro0x1x#{timestamp}%7Bcsid%7D",
                ),
            ),
            ("mailto:a@e.example?subject={ad_id}", None),
            (
                "MailTo:a@e.example?subject=Grüße an",
                Some("mailto:a@e.example?subject=Gr%C3%BC%C3%9Fe%20an"),
            ),
            ("my.app://open/x?y=1", None),
        ] {
            let kept = stored_as(text, &schemes);
            assert_eq!(kept.as_deref(), Ok(stored.unwrap_or(text)), "{text}");
        }
    }

    #[test]
    fn what_none_accepts_is_refused() {
        for (text, word) in [
            ("https://e.example:99999/", "invalid port"),
            ("https://user@e.example/", "no user name"),
            ("https://user:pass@e.example/ä", "no user name"),
            ("javascript:alert(1)", "no link leads to javascript:"),
            ("mailto:a@e.example", "may start with https://"),
            ("tel:+49 30", "may start with https://"),
            ("https://{ad_id}.e.example/", "macro in its host"),
            ("https://e.example:{ad_id}/", "invalid port"),
            ("/path", "starts with https://"),
            ("https://", "empty host"),
            ("https://a b.example/", "invalid"),
            ("", "starts with https://"),
        ] {
            let error = stored_as(text, &Schemes::default()).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
        let long = format!("https://e.example/{}", "ä".repeat(1_000));
        assert!(stored_as(&long, &Schemes::default()).unwrap_err().contains("2048 bytes"));
    }
}
