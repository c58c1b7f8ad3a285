//! Where a click leads: which addresses an operator allows, what of an address is filled in when an ad is
//! given out, and what of a click's own query goes along.

use std::borrow::Cow;
use std::fmt::Write as _;

use shared::limits::URL_BYTES_MAX;
use shared::text::hex;
use shared::token::{Token, check_scheme, check_url, scheme_of};

/// Schemes besides http and https to which links may lead.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Schemes(Vec<String>);

impl Schemes {
    /// Of an operator's list.
    ///
    /// # Errors
    /// Says which of them nobody may allow.
    pub fn new(list: Vec<String>) -> Result<Self, String> {
        list.iter().try_for_each(|scheme| check_scheme(scheme))?;
        Ok(Self(list))
    }

    /// Whether an address is http, https or of one of them.
    #[must_use]
    pub fn allow(&self, url: &str) -> bool {
        let scheme = scheme_of(url).unwrap_or_default();
        matches!(scheme, "http" | "https") || self.0.iter().any(|allowed| allowed == scheme)
    }
}

/// What may stand in an ad's address for what is known only when the ad is given out: its name, the longest
/// text that comes in its place, and that text.
type Macro = (&'static str, usize, fn(&Token<'_>) -> String);

const MACROS: [Macro; 6] = [
    ("{csid}", 24, |token| hex(&token.id.to_bytes())),
    ("{ad_id}", 16, |token| token.ad.to_string()),
    ("{campaign_id}", 16, |token| token.campaign.to_string()),
    ("{publisher_id}", 16, |token| token.publisher.to_string()),
    ("{placement_id}", 16, |token| token.placement.to_string()),
    // Seconds of 48 bits of milliseconds.
    ("{timestamp}", 12, |token| (token.issued_at.0 / 1000).to_string()),
];

/// The names of all macros.
pub fn macros() -> impl Iterator<Item = &'static str> {
    MACROS.iter().map(|(name, ..)| *name)
}

/// The address of a token that is about to be sealed, without macros.
#[must_use]
pub fn filled<'u>(url: &'u str, token: &Token<'_>) -> Cow<'u, str> {
    replaced(url, |(_, _, text)| text(token))
}

fn replaced(url: &str, text: impl Fn(&Macro) -> String) -> Cow<'_, str> {
    let (mut out, mut rest) = (String::new(), url);
    while let Some(at) = rest.find('{') {
        let found = MACROS.iter().find(|(name, ..)| rest[at..].starts_with(name));
        let (until, from) = found.map_or((at + 1, at + 1), |(name, ..)| (at, at + name.len()));
        out.push_str(&rest[..until]);
        out.extend(found.map(&text));
        rest = &rest[from..];
    }
    if out.is_empty() {
        return Cow::Borrowed(rest);
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// Said of links alone.
pub(crate) const OR_SCHEMES: &str = " or what `schemes` in [links] allows";

/// Whether an address may stand in a catalogue whose links may have these schemes: whatever its macros
/// become, it can go into a token.
///
/// # Errors
/// Says what is wrong with it.
pub fn check(url: &str, schemes: &Schemes) -> Result<(), String> {
    let longest = replaced(url, |(_, length, _)| "0".repeat(*length));
    check_url(&longest).map_err(|why| match longest.len() > URL_BYTES_MAX {
        true => format!("{why}, with its macros filled in"),
        false => why.replace(longest.as_ref(), url),
    })?;
    if !schemes.allow(url) {
        let scheme = scheme_of(url).unwrap_or_default();
        return Err(format!(
            "the landing URL {url:?} starts with {scheme}:, and may start with https://, http://{OR_SCHEMES}"
        ));
    }
    let authority = url.split_once("://").map_or("", |(_, rest)| rest);
    if authority.split(['/', '?', '#']).next().is_some_and(|host| host.contains('{')) {
        return Err(format!("the landing URL {url:?} has a macro in its host"));
    }
    Ok(())
}

/// Whether it is an http or https address as it stands.
///
/// # Errors
/// Says what is wrong with it.
pub fn check_web(url: &str) -> Result<(), String> {
    check_url(url)?;
    check(url, &Schemes::default())
}

/// An address with the parameters of a click's query whose names it has not yet, before its fragment.
/// Nothing of the address itself is changed.
#[must_use]
pub fn with_query(url: &str, query: &str) -> String {
    let (page, fragment) = url.split_at(url.find('#').unwrap_or(url.len()));
    let name = |pair: &str| pair.split('=').next().unwrap_or_default().to_owned();
    let own = page.split_once('?').map(|(_, own)| own);
    let has = |pair: &&str| own.is_some_and(|own| own.split('&').any(|o| name(o) == name(pair)));
    let more = query.split('&').filter(|pair| !pair.is_empty()).filter(|pair| !has(pair));
    let mut out = page.to_owned();
    let mut between = if own.is_some() { '&' } else { '?' };
    for pair in more {
        // Behind `?` and `&` none is needed.
        if !out.ends_with(['?', '&']) {
            out.push(between);
        }
        encode(pair, &mut out);
        between = '&';
    }
    out + fragment
}

/// Appends a text with what has no place in a URL percent-encoded (RFC 3986, §2).
pub(crate) fn encode(text: &str, out: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | 0x7f.. | ..=b' ' => {
                let _ = write!(out, "%{byte:02X}");
            }
            byte => out.push(char::from(byte)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_goes_along_and_nothing_of_the_address_is_changed() {
        for (url, query, wanted) in [
            ("https://a/x", "b=1&c", "https://a/x?b=1&c"),
            ("https://a/x?b=0", "b=1&c=2&&b=3", "https://a/x?b=0&c=2"),
            ("https://a/x?", "b=1&c=2", "https://a/x?b=1&c=2"),
            ("https://a/x?y&#f?b=4", "b=1#", "https://a/x?y&b=1##f?b=4"),
            ("https://a/x#f", "b=\" <é>\r\n{}", "https://a/x?b=%22%20%3C%C3%A9%3E%0D%0A%7B%7D#f"),
            ("https://a/x#f", "", "https://a/x#f"),
            ("https://a?b", "&", "https://a?b"),
        ] {
            assert_eq!(with_query(url, query), wanted, "{url} {query}");
        }
    }

    #[test]
    fn an_address_is_good_whatever_its_macros_become() {
        let schemes = Schemes::new(vec!["mailto".to_owned(), "my.app".to_owned()]).unwrap();
        for good in [
            "https://a/{csid}/{ad_id}?p={publisher_id}&p={publisher_id}#{timestamp}",
            "mailto:a@e.example?subject={campaign_id}",
            "my.app://open?{placement_id}",
        ] {
            assert_eq!(check(good, &schemes), Ok(()), "{good}");
        }
        let long = format!("https://a/{}{{csid}}", "x".repeat(2_030));
        for (bad, word) in [
            ("https://{ad_id}.example/", "macro in its host"),
            ("https://a/{ad}", "0x7b"),
            ("https://a/{{ad_id}", "0x7b"),
            ("{csid}://a", "is no scheme"),
            ("tel:+49", "starts with tel:"),
            (long.as_str(), "with its macros filled in"),
        ] {
            let error = check(bad, &schemes).unwrap_err();
            assert!(error.contains(word), "{bad}: {error}");
        }
        for bad in ["javascript", "data", "Mailto", "", "a b", "1a", "file"] {
            assert!(Schemes::new(vec![bad.to_owned()]).is_err(), "{bad}");
        }
    }
}
