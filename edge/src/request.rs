//! An HTTP request as the core sees it.

use std::borrow::Cow;
use std::net::IpAddr;

/// The methods that the edge tells apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// GET.
    Get,
    /// HEAD: answered as GET without a body, and never counted (IAB click measurement).
    Head,
    /// POST.
    Post,
    /// OPTIONS: a CORS preflight.
    Options,
    /// Any other: 405.
    Other,
}

impl Method {
    /// Reads the name of a method.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        match name {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "POST" => Self::Post,
            "OPTIONS" => Self::Options,
            _ => Self::Other,
        }
    }
}

/// One request. Header values are bytes, as they were received; a missing one is empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request<'a> {
    /// The method.
    pub method: Method,
    /// The path as received. It is not percent-decoded, for no path that we issue is encoded.
    pub path: &'a str,
    /// The query without its question mark; empty when there is none.
    pub query: &'a str,
    /// `Content-Type`.
    pub content_type: &'a [u8],
    /// `User-Agent`.
    pub user_agent: &'a [u8],
    /// `Sec-Purpose`, else `Purpose`, else `X-Moz` or `X-Purpose`: whether a browser asks ahead of
    /// the visitor.
    pub purpose: &'a [u8],
    /// `If-None-Match`: the versions that the client has.
    pub if_none_match: &'a [u8],
    /// `Sec-GPC: 1`: the visitor opts out (Global Privacy Control).
    pub opted_out: bool,
    /// The value of the country header that a trusted proxy sets; empty when there is none.
    pub country: &'a [u8],
    /// The client's address, as far as it is known ([`crate::address::client`]).
    pub client: Option<IpAddr>,
    /// The autonomous system of the client's address, where the rim knows it: from a table
    /// (native), or from the platform (Workers: `request.cf.asn`).
    pub asn: Option<u32>,
    /// The body. The rim reads one only for `POST /v1/events`, and at most
    /// [`shared::limits::EDGE_BODY_BYTES_MAX`] bytes of it.
    pub body: Body<'a>,
}

/// What the rim has read of the body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Body<'a> {
    /// All of it.
    Whole(&'a [u8]),
    /// It is longer than the limit.
    TooLarge,
}

impl<'a> Request<'a> {
    /// A request without headers and body.
    #[must_use]
    pub const fn new(method: Method, path: &'a str) -> Self {
        Self {
            method,
            path,
            query: "",
            content_type: b"",
            user_agent: b"",
            purpose: b"",
            if_none_match: b"",
            opted_out: false,
            country: b"",
            client: None,
            asn: None,
            body: Body::Whole(b""),
        }
    }

    /// All values of a query parameter, in order, not percent-decoded. Names are decoded: whatever
    /// reads the query after us takes `%63onsent` for `consent`, so it must mean the same here.
    pub fn parameters(&self, name: &str) -> impl Iterator<Item = &'a str> {
        let pairs = self.query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.filter(move |(key, _)| is_name(key, name)).map(|(_, value)| value)
    }

    /// The value of a query parameter that may stand in the query once; `None` when it is absent.
    ///
    /// # Errors
    /// When it is repeated: it is then unknown which value was meant, and who wrote it.
    pub fn parameter(&self, name: &str) -> Result<Option<&'a str>, Repeated> {
        let mut values = self.parameters(name);
        let first = values.next();
        if values.next().is_some() { Err(Repeated) } else { Ok(first) }
    }
}

/// Whether the key of a query, percent-decoded (RFC 3986, §2.1), is this name.
fn is_name(key: &str, name: &str) -> bool {
    if !key.as_bytes().contains(&b'%') {
        return key == name;
    }
    percent_decoded(key, b'+').eq(name.bytes())
}

/// The text of a query value: percent-decoded, with `+` for a space (WHATWG URL,
/// application/x-www-form-urlencoded). `None` when it is not UTF-8.
#[must_use]
pub fn decoded_text(value: &str) -> Option<Cow<'_, str>> {
    if !value.bytes().any(|byte| matches!(byte, b'%' | b'+')) {
        return Some(Cow::Borrowed(value));
    }
    String::from_utf8(percent_decoded(value, b' ').collect()).ok().map(Cow::Owned)
}

/// Percent-decodes; `plus` is the byte that a `+` stands for. A `%` without two digits stands for
/// itself.
fn percent_decoded(text: &str, plus: u8) -> impl Iterator<Item = u8> {
    let mut left = text.as_bytes();
    std::iter::from_fn(move || {
        let (first, rest) = left.split_first()?;
        if let ([a, b, rest @ ..], b'%') = (rest, *first)
            && let Some((a, b)) = digit(*a).zip(digit(*b))
        {
            left = rest;
            return Some(a << 4 | b);
        }
        left = rest;
        Some(if *first == b'+' { plus } else { *first })
    })
}

fn digit(byte: u8) -> Option<u8> {
    let digit = char::from(byte).to_digit(16)?;
    u8::try_from(digit).ok()
}

/// The error of a query parameter that is repeated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Repeated;

/// Whether `Sec-GPC` opts out. `values` are those of all its fields, or of one field in which they
/// were joined by commas (RFC 9110 §5.3). A single 1 among them is enough.
#[must_use]
pub fn opts_out<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> bool {
    let mut values = values.into_iter().flat_map(|value| value.split(|byte| *byte == b','));
    values.any(|value| value.trim_ascii() == b"1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_same_however_it_is_encoded() {
        let request = Request {
            query: "consent=1&%63onsent=0&%63ons%65n%74=2&consen%7=3&consen%2574=4&\
            co%6Esent&consent%=5&consent%00=6&consent=7",
            ..Request::new(Method::Get, "/")
        };
        let values: Vec<_> = request.parameters("consent").collect();
        assert_eq!(values, ["1", "0", "2", "", "7"]);
        assert_eq!(request.parameter("consent"), Err(Repeated));
        let request = Request { query: "te%73t=1&pla%63ement=%61", ..request };
        assert_eq!(request.parameter("test"), Ok(Some("1")));
        // No value is decoded: nothing that we issue or read needs it.
        assert_eq!(request.parameter("placement"), Ok(Some("%61")));
    }

    #[test]
    fn one_opt_out_among_fields_is_an_opt_out() {
        let cases: [(&[&[u8]], bool); 8] = [
            (&[], false),
            (&[b""], false),
            (&[b"0"], false),
            (&[b"11"], false),
            (&[b"1"], true),
            (&[b"0", b"1"], true),
            (&[b"1", b"0"], true),
            (&[b"0, 1"], true),
        ];
        for (values, expected) in cases {
            assert_eq!(opts_out(values.iter().copied()), expected, "{values:?}");
        }
    }
}
