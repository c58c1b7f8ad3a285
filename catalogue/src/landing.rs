//! Where a click leads: which addresses are allowed, the macros that are filled in when an ad is served, and
//! the parameters that a click's own query adds.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt::Write as _;

use shared::keys::{DeploymentId, KeyId};
use shared::limits::URL_BYTES_MAX;
use shared::text::{escaped, hex};
use shared::token::{Token, check_scheme, check_url, scheme_of};
use shared::{Fingerprint, ImpressionId, PlacementName, PublisherName, Timestamp};

use crate::Ad;

/// Schemes besides http and https to which links may lead.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Schemes(Vec<String>);

impl Schemes {
    /// The schemes of an operator's list that may be allowed at all; and what is wrong with the others.
    #[must_use]
    pub fn allowed(mut list: Vec<String>) -> (Self, Vec<String>) {
        let mut wrong = Vec::new();
        list.retain(|scheme| check_scheme(scheme).map_err(|why| wrong.push(why)).is_ok());
        (Self(list), wrong)
    }

    /// Whether an address has the scheme http or https, or one of these.
    #[must_use]
    pub fn allow(&self, url: &str) -> bool {
        let scheme = scheme_of(url).unwrap_or_default();
        matches!(scheme, "http" | "https") || self.0.iter().any(|allowed| allowed == scheme)
    }
}

/// A macro, which stands in an ad's address for something that is known only when the ad is served: its name;
/// the length of the longest text that replaces it (as long as names are short enough to be their own ids);
/// and the text.
type Macro = (&'static str, usize, fn(&Token<'_>) -> String);

const MACROS: [Macro; 6] = [
    ("{csid}", 24, |token| hex(&token.id.to_bytes())),
    ("{ad_id}", 16, |token| escaped(token.ad.as_str())),
    ("{campaign_id}", 16, |token| escaped(token.campaign.as_str())),
    ("{publisher_id}", 16, |token| escaped(token.publisher.as_str())),
    ("{placement_id}", 16, |token| escaped(token.placement.as_str())),
    // Seconds, until the year 2286.
    ("{timestamp}", 10, |token| (token.issued_at.0 / 1000).to_string()),
];

/// The names of all macros.
pub fn macros() -> impl Iterator<Item = &'static str> {
    MACROS.iter().map(|(name, ..)| *name)
}

/// The address for a token that is about to be sealed, with its macros replaced.
#[must_use]
pub fn filled<'u>(url: &'u str, token: &Token<'_>) -> Cow<'u, str> {
    replaced(url, |(_, _, text)| text(token))
}

fn replaced(url: &str, text: impl Fn(&Macro) -> String) -> Cow<'_, str> {
    let (mut out, mut rest) = (String::new(), url);
    // Each round goes past one `{`: past the whole macro where one begins there. So texts that were put in
    // are not looked at again.
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

/// The end of an error text that applies to links only, not to images.
pub(crate) const OR_SCHEMES: &str = " or what `schemes` in [links] allows";

/// Checks an address for a catalogue whose links may have these schemes: it must be good and fit into a
/// token whatever its macros are replaced with, as long as names are short enough to be their own ids.
///
/// # Errors
/// Says what is wrong with it.
pub fn check(url: &str, schemes: &Schemes) -> Result<(), String> {
    let longest = replaced(url, |(_, length, _)| "0".repeat(*length));
    if url.contains('{') && longest.len() > URL_BYTES_MAX {
        let longest = longest.len();
        return Err(format!(
            "a landing URL has at most {URL_BYTES_MAX} bytes, and this may have {longest} with its macros filled in"
        ));
    }
    check_url(&longest).map_err(|why| why.replace(longest.as_ref(), url))?;
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
    // In `%{csid}` the first two digits of the id would become an escape.
    let is_escape = |before: &str| {
        let hex = |c: char| c.is_ascii_hexdigit();
        before.ends_with('%')
            || before.strip_suffix(hex).is_some_and(|before| before.ends_with('%'))
    };
    if url.match_indices('{').any(|(at, _)| is_escape(&url[..at])) {
        return Err(format!("the landing URL {url:?} has a macro in an escape (%XX)"));
    }
    Ok(())
}

/// Checks that an ad's address fits into a token when the ad is shown in this placement. Its macros may be
/// replaced with names that are longer than [`check`] assumes.
pub(crate) fn check_filled(
    ad: &Ad,
    placement: &PlacementName,
    publisher: &PublisherName,
) -> Result<(), String> {
    let token = Token {
        test: false,
        pass_query: false,
        deployment: DeploymentId(0),
        key: KeyId(0),
        id: ImpressionId::default(),
        // The last second that has ten digits.
        issued_at: Timestamp(9_999_999_999_000),
        impression_life_s: 0,
        click_life_s: 0,
        price: [0; 11],
        visitor: Fingerprint::NONE,
        ad: ad.id.name(),
        campaign: ad.campaign.name(),
        advertiser: ad.advertiser.name(),
        publisher: publisher.name(),
        placement: placement.name(),
        url: "",
    };
    match filled(&ad.url, &token).len() {
        0..=URL_BYTES_MAX => Ok(()),
        length => Err(format!(
            "a landing URL has at most {URL_BYTES_MAX} bytes, and that of the ad {} has {length} \
             here with its macros filled in",
            ad.id
        )),
    }
}

/// Checks that an address is http or https and has no macros.
///
/// # Errors
/// Says what is wrong with it.
pub fn check_web(url: &str) -> Result<(), String> {
    if let Some(name) = macros().find(|name| url.contains(name)) {
        return Err(format!("{name} is filled in in the landing URL alone"));
    }
    check_url(url)?;
    check(url, &Schemes::default())
}

/// Adds parameters of a click's query to an address, before its fragment: those whose names the address does
/// not have yet. Nothing of the address itself is changed.
#[must_use]
pub fn with_query(url: &str, query: &str) -> String {
    let (page, fragment) = url.split_at(url.find('#').unwrap_or(url.len()));
    let name = |pair: &str| canonical_name(pair.split('=').next().unwrap_or_default());
    let is_one = |pair: &&str| !pair.is_empty();
    let own = page.split_once('?').map(|(_, own)| own);
    // The names are collected once, for a query may be as long as a request's head.
    let taken = own.into_iter().flat_map(|own| own.split('&')).filter(is_one);
    let taken: HashSet<_> = taken.map(name).collect();
    let more = query.split('&').filter(is_one).filter(|pair| !taken.contains(&name(pair)));
    let mut out = page.to_owned();
    let mut between = if own.is_some() { '&' } else { '?' };
    for pair in more {
        // Behind `?` and `&` no separator is needed.
        if !out.ends_with(['?', '&']) {
            out.push(between);
        }
        encode(pair, &mut out);
        between = '&';
    }
    out + fragment
}

/// The canonical form of a parameter's name: names that some server may take for the same have the same one.
/// So a click's parameter is never read in place of the address's own. `%66rom` is `from` to all servers
/// (WHATWG URL), and `From` is to some. To PHP (`parse_str`), ` from`, `from%00x` and `from[x]` are `from`,
/// and `a.b` and `a b` are `a_b`.
fn canonical_name(name: &str) -> Vec<u8> {
    let mut name = decoded(name);
    name.truncate(name.iter().position(|byte| *byte == 0).unwrap_or(name.len()));
    name.drain(..name.iter().take_while(|byte| **byte == b' ').count());
    let open = name.iter().skip(1).position(|byte| *byte == b'[').map(|at| at + 1);
    if let Some(open) = open
        && name[open..].contains(&b']')
    {
        name.truncate(open);
    }
    name.make_ascii_lowercase();
    name.iter_mut().filter(|byte| matches!(byte, b' ' | b'.' | b'[')).for_each(|byte| *byte = b'_');
    name
}

/// The bytes that a name of a query stands for (WHATWG URL, `application/x-www-form-urlencoded`).
fn decoded(name: &str) -> Vec<u8> {
    let bytes = name.as_bytes();
    let digit = |at: usize| char::from(*bytes.get(at)?).to_digit(16);
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(byte) = bytes.get(at) {
        let escaped = (*byte == b'%').then(|| Some(digit(at + 1)? << 4 | digit(at + 2)?)).flatten();
        let escaped = escaped.and_then(|byte| u8::try_from(byte).ok());
        at += if escaped.is_some() { 3 } else { 1 };
        out.push(match byte {
            b'+' => b' ',
            byte => escaped.unwrap_or(*byte),
        });
    }
    out
}

/// Appends a text, with characters percent-encoded that have no place in a URL (RFC 3986, §2).
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
            (
                "https://a?from=ad&a%20b=1",
                "%66rom=x&fro%6d&a+b=2&%=3&%6=4&",
                "https://a?from=ad&a%20b=1&%=3&%6=4",
            ),
            // Names that PHP (`parse_str`), or a server that ignores case, takes for the page's own.
            (
                "https://a?from=ad",
                "%20from=1&+from=2&from%00=3&from%00x=4&from[]=5&from[x]=6&From=7&from%5B%5D=8&from_=9",
                "https://a?from=ad&from_=9",
            ),
            (
                "https://a?click_id=ad",
                "click.id=1&click%20id=2&click[id=3&+click_id=4&click-id=5&click[id]=6",
                "https://a?click_id=ad&click-id=5&click[id]=6",
            ),
            // An empty part of the address's query does not count as a parameter with an empty name.
            ("https://a?", "=9", "https://a?=9"),
            ("https://a?b=1&", "=9", "https://a?b=1&=9"),
        ] {
            assert_eq!(with_query(url, query), wanted, "{url} {query}");
        }
    }

    #[test]
    fn an_address_is_good_whatever_its_macros_become() {
        let schemes = Schemes::allowed(vec!["mailto".to_owned(), "my.app".to_owned()]).0;
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
            (long.as_str(), "may have 2064 with its macros"),
            ("https://a/?q=%{csid}", "in an escape"),
            ("https://a/%7{ad_id}", "in an escape"),
        ] {
            let error = check(bad, &schemes).unwrap_err();
            assert!(error.contains(word), "{bad}: {error}");
        }
        let bad = ["javascript", "data", "Mailto", "", "a b", "1a", "file"];
        let mixed = bad.iter().chain(&["tel"]).map(|scheme| (*scheme).to_owned()).collect();
        let (schemes, wrong) = Schemes::allowed(mixed);
        assert_eq!(wrong.len(), bad.len(), "{wrong:?}");
        assert!(schemes.allow("tel:+49") && !schemes.allow("data:x"));
    }
}
