//! A request and a reply in one call each.

use std::net::IpAddr;

use wasm_bindgen::prelude::wasm_bindgen;
use worker::js_sys::Uint8Array;
use worker::worker_sys::web_sys;

use crate::decision::Reply;
use crate::request::{Body, Method, Request};

#[wasm_bindgen(module = "/src/worker/glue.js")]
extern "C" {
    fn head(request: &web_sys::Request) -> String;
    fn reply(status: u16, fields: &str, more: &str, body: Option<Uint8Array>) -> web_sys::Response;
}

/// A request's head.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) method: Method,
    pub(super) path: String,
    query: String,
    /// `scheme://host`.
    pub(super) origin: String,
    user_agent: Vec<u8>,
    purpose: Vec<u8>,
    opted_out: bool,
    pub(super) client: Option<IpAddr>,
    content_type: Vec<u8>,
    if_none_match: Vec<u8>,
    pub(super) content_length: usize,
    country: String,
    /// The data centre that it came to, three letters.
    pub(super) colo: String,
    pub(super) continent: String,
    /// Degrees, of the visitor.
    pub(super) longitude: Option<f32>,
    asn: Option<u32>,
}

impl Head {
    pub(super) fn read(request: &web_sys::Request) -> Self {
        let text = head(request);
        let mut lines = text.split('\n');
        let mut next = || lines.next().unwrap_or_default();
        let method = Method::from_name(next());
        let url = next();
        let host = url.find("://").map_or(0, |at| at + 3);
        let path = url[host..].find('/').map_or(url.len(), |at| host + at);
        let (origin, rest) = url.split_at(path);
        let rest = rest.split('#').next().unwrap_or_default();
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        Self {
            method,
            path: path.to_owned(),
            query: query.to_owned(),
            origin: origin.to_owned(),
            user_agent: bytes(next()),
            purpose: bytes(next()),
            opted_out: next() == "1",
            // The platform writes it, whatever a client says.
            client: next().trim().parse().ok(),
            country: next().to_owned(),
            colo: next().to_owned(),
            continent: next().to_owned(),
            longitude: next().parse().ok(),
            asn: next().parse().ok(),
            content_type: bytes(next()),
            if_none_match: bytes(next()),
            content_length: next().parse().unwrap_or(0),
        }
    }

    pub(super) fn request<'a>(&'a self, body: Body<'a>) -> Request<'a> {
        Request {
            query: &self.query,
            content_type: &self.content_type,
            user_agent: &self.user_agent,
            purpose: &self.purpose,
            if_none_match: &self.if_none_match,
            opted_out: self.opted_out,
            country: self.country.as_bytes(),
            client: self.client,
            asn: self.asn,
            body,
            ..Request::new(self.method, &self.path)
        }
    }
}

/// A field's bytes: the platform reads them as UTF-8, and bytes that are none are lost (U+FFFD). The
/// Fetch Standard has one character for each byte ("isomorphic decode"); workerd has not.
fn bytes(text: &str) -> Vec<u8> {
    text.as_bytes().to_vec()
}

/// The platform's form of a reply.
pub(super) fn to_response(decided: Reply, method: Method) -> web_sys::Response {
    let mut fields = String::new();
    // The platform owns the connection.
    for (name, value) in decided.fields.iter().filter(|(name, _)| *name != "connection") {
        push(&mut fields, name, value);
    }
    let mut more = String::new();
    for (name, value) in [("location", &decided.location), ("etag", &decided.etag)] {
        if let Some(value) = value {
            push(&mut more, name, value);
        }
    }
    let has_body = !decided.body.is_empty() && method != Method::Head;
    reply(decided.status, &fields, &more, has_body.then(|| Uint8Array::from(&*decided.body)))
}

fn push(lines: &mut String, name: &str, value: &str) {
    if !lines.is_empty() {
        lines.push('\n');
    }
    lines.push_str(name);
    lines.push('\n');
    lines.push_str(value);
}
