//! Replies, with the header fields that each kind of reply always has.

use std::borrow::Cow;

use shared::keys::jwks;
use shared::problem::Problem;

use crate::decision::Reply;

type Fields = &'static [(&'static str, &'static str)];

/// No cache may store the reply (IAB click measurement: a cached redirect or pixel is a lost
/// count).
const NO_STORE: &str = "no-store, no-cache, must-revalidate, max-age=0";

/// Pages of any origin may read the reply, without credentials.
macro_rules! public {
    ($($field:expr),* $(,)?) => {
        &[("access-control-allow-origin", "*"), ("cache-control", NO_STORE), $($field),*]
    };
}

const EMPTY: Fields = public![];
const JSON: Fields = public![("content-type", "application/json")];
const PROBLEM: Fields = public![("content-type", "application/problem+json")];
/// Lets a page of another origin read when to come back (Fetch Standard, CORS-exposed fields).
const PROBLEM_LATER: Fields = public![
    ("content-type", "application/problem+json"),
    ("retry-after", "5"),
    ("access-control-expose-headers", "retry-after"),
];
const PROBLEM_CLOSE: Fields =
    public![("content-type", "application/problem+json"), ("connection", "close")];
const PAGE_LATER: Fields = public![
    ("content-type", "text/plain; charset=utf-8"),
    ("x-content-type-options", "nosniff"),
    ("retry-after", "5"),
];
const GIF: Fields = public![
    ("content-type", "image/gif"),
    ("pragma", "no-cache"),
    ("expires", "Thu, 01 Jan 1970 00:00:00 GMT"),
];
const JWKS: Fields = &[
    ("access-control-allow-origin", "*"),
    ("cache-control", jwks::CACHE_CONTROL),
    ("content-type", jwks::CONTENT_TYPE),
];
/// The advertiser is told only the origin of the page that the visitor comes from.
const REDIRECT: Fields = public![
    ("pragma", "no-cache"),
    ("expires", "Thu, 01 Jan 1970 00:00:00 GMT"),
    ("referrer-policy", "strict-origin-when-cross-origin"),
];
const PAGE: Fields =
    public![("content-type", "text/plain; charset=utf-8"), ("x-content-type-options", "nosniff"),];

/// A transparent GIF of one pixel, 43 bytes (GIF89a).
const PIXEL: &[u8; 43] = b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\x00\x00\x00!\xf9\x04\x01\
    \x00\x00\x00\x00,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;";

const fn fixed(status: u16, fields: Fields, body: &'static [u8]) -> Reply {
    Reply { status, fields, location: None, etag: None, body: Cow::Borrowed(body) }
}

pub(super) fn problem(status: u16, kind: &str, detail: impl Into<String>) -> Reply {
    let fields = match status {
        429 | 503 => PROBLEM_LATER,
        // The rest of the body is not read, so the connection cannot be used again.
        408 | 413 => PROBLEM_CLOSE,
        _ => PROBLEM,
    };
    let body = Cow::Owned(Problem::new(status, kind, detail).to_json().into_bytes());
    Reply { status, fields, location: None, etag: None, body }
}

pub(super) fn json(status: u16, body: Vec<u8>) -> Reply {
    Reply { status, fields: JSON, location: None, etag: None, body: Cow::Owned(body) }
}

/// The deployment's public keys; a 304 for a client that has them.
pub(super) fn jwks(set: jwks::Jwks, is_known: bool) -> Reply {
    let (status, body) = if is_known { (304, Vec::new()) } else { (200, set.body.into_bytes()) };
    Reply { status, fields: JWKS, location: None, etag: Some(set.etag), body: Cow::Owned(body) }
}

pub(super) const fn no_content() -> Reply {
    fixed(204, EMPTY, b"")
}

pub(super) const fn pixel() -> Reply {
    fixed(200, GIF, PIXEL)
}

pub(super) const fn redirect(url: String) -> Reply {
    Reply {
        status: 302,
        fields: REDIRECT,
        location: Some(url),
        etag: None,
        body: Cow::Borrowed(b""),
    }
}

/// To a browser that asks ahead of a click; no visitor sees it.
pub(super) const fn ahead() -> Reply {
    page(503, "Ask again when a person has clicked.\n")
}

/// The page for a visitor whose link leads nowhere.
pub(super) const fn page(status: u16, text: &'static str) -> Reply {
    fixed(status, PAGE, text.as_bytes())
}

pub(super) fn not_found() -> Reply {
    problem(404, "not_found", "there is nothing at this path")
}

pub(super) fn outbox_full() -> Reply {
    let detail = "this edge cannot keep more events at the moment; send the request again later";
    problem(503, "outbox_full", detail)
}

pub(super) fn policy_too_old() -> Reply {
    let detail = "the centre has not confirmed for a day which keys and ads are in force";
    problem(503, "policy_too_old", detail)
}

pub(super) fn too_many() -> Reply {
    let detail =
        "your network sends more requests than this edge allows one; send this again later";
    problem(429, "too_many_requests", detail)
}

/// The page for a visitor whose network has followed too many links.
pub(super) const fn too_many_clicks() -> Reply {
    let text = b"Too many requests come from your network. Try again in a few seconds.\n";
    fixed(429, PAGE_LATER, text)
}

pub(super) fn body_timeout() -> Reply {
    problem(408, "body_timeout", "the request's body did not come in time")
}

pub(super) fn body_broken() -> Reply {
    problem(400, "body_unreadable", "the request's body broke off, or is framed wrongly")
}

pub(super) fn busy() -> Reply {
    let detail = "too many large bodies come at the same time; send this again later, or in parts";
    problem(503, "busy", detail)
}

/// The methods of a route.
pub(super) struct Methods {
    refused: Fields,
    preflight: Fields,
}

macro_rules! methods {
    ($methods:literal) => {
        Methods {
            refused: public![("content-type", "application/problem+json"), ("allow", $methods)],
            preflight: &[
                ("access-control-allow-origin", "*"),
                ("access-control-allow-methods", $methods),
                ("access-control-allow-headers", "content-type"),
                ("access-control-max-age", "86400"),
            ],
        }
    };
}

pub(super) const SERVE_METHODS: Methods = methods!("GET, OPTIONS");
pub(super) const EVENTS_METHODS: Methods = methods!("POST, OPTIONS");
pub(super) const LINK_METHODS: Methods = methods!("GET, HEAD, OPTIONS");

impl Methods {
    /// The answer to a CORS preflight (Fetch Standard, §3.2).
    pub(super) const fn preflight(&self) -> Reply {
        fixed(204, self.preflight, b"")
    }

    pub(super) fn not_allowed(&self) -> Reply {
        let reply = problem(405, "method_not_allowed", "this path has other methods: see `Allow`");
        Reply { fields: self.refused, ..reply }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pixel_is_a_gif_of_one_transparent_pixel() {
        assert_eq!(&PIXEL[..6], b"GIF89a");
        assert_eq!(PIXEL[6..10], [1, 0, 1, 0], "1 x 1");
        assert_eq!(PIXEL[19..24], [0x21, 0xf9, 4, 1, 0], "the first colour is transparent");
        assert_eq!(PIXEL[42], 0x3b, "trailer");
    }
}
