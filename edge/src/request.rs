//! What the core sees of an HTTP request.

use std::net::IpAddr;

/// The methods that mean something here.
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
    /// From its name.
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

/// One request. Header values are bytes as they came; absent ones are empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request<'a> {
    /// The method.
    pub method: Method,
    /// The path, as it came: nothing is percent-decoded, for nothing that we issue is encoded.
    pub path: &'a str,
    /// The query without its question mark; empty when there is none.
    pub query: &'a str,
    /// `Content-Type`.
    pub content_type: &'a [u8],
    /// `User-Agent`.
    pub user_agent: &'a [u8],
    /// `Sec-Purpose`, else `Purpose`, else `X-Moz` or `X-Purpose`: why a browser asks ahead.
    pub purpose: &'a [u8],
    /// `If-None-Match`: what the client has already.
    pub if_none_match: &'a [u8],
    /// `Sec-GPC: 1`: the visitor opts out (Global Privacy Control).
    pub opted_out: bool,
    /// The value of the country header that a trusted proxy sets; empty when there is none.
    pub country: &'a [u8],
    /// Who asks ([`crate::address::client`]).
    pub client: Option<IpAddr>,
    /// The number of the autonomous system that the client's address belongs to, where the rim can
    /// tell: of a table (native), of what the platform says (Workers: `request.cf.asn`).
    pub asn: Option<u32>,
    /// The body; the rim reads one for `POST /v1/events` only, and at most
    /// [`shared::limits::EDGE_BODY_BYTES_MAX`] bytes of it.
    pub body: Body<'a>,
}

/// What the rim got of the body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Body<'a> {
    /// All of it.
    Whole(&'a [u8]),
    /// It is longer than may be.
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

    /// The first value of a query parameter, not percent-decoded; `None` when it is not there.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&'a str> {
        let pairs = self.query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
    }
}
