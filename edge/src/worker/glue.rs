//! A request and a reply in one call each, those that we are asked for and those that we ask for.

use std::net::IpAddr;
use std::time::Duration;

use wasm_bindgen::JsValue;
use wasm_bindgen::prelude::wasm_bindgen;
use worker::js_sys::futures::JsFuture;
use worker::js_sys::{Array, Promise, Uint8Array};
use worker::worker_sys::web_sys;

use super::place;
use crate::decision::Reply;
use crate::request::{Body, Method, Request, opts_out};

#[wasm_bindgen(module = "/src/worker/glue.js")]
extern "C" {
    fn head(request: &web_sys::Request) -> String;
    /// Remembers fields, and the name of the one that each reply has a value of its own for.
    fn learn(sort: u32, fields: &str, own: &str);
    /// `None` when it has not learned that sort of fields.
    fn reply(
        status: u16,
        sort: u32,
        own: &str,
        body: Option<&Uint8Array>,
    ) -> Option<web_sys::Response>;
    #[wasm_bindgen(js_name = wait)]
    fn wait_in(list: &Array, ms: u32, taken: &JsValue, otherwise: &JsValue) -> Promise;
    /// Tells everybody in a list, and empties it.
    pub(super) fn tell(list: &Array, taken: bool);
    /// A Durable Object.
    #[wasm_bindgen(catch)]
    pub(super) fn stub(env: &JsValue, name: &str, hint: &str) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(js_name = ask)]
    fn ask_for(
        target: &JsValue,
        method: &str,
        url: &str,
        fields: &str,
        body: Option<&Uint8Array>,
    ) -> Promise;
    /// The names of all texts that the Worker was given, but for empty ones; one a line.
    pub(super) fn names(env: &JsValue) -> String;
    /// A promise of 64 bytes.
    pub(super) fn sign(key: u32, secret: &[u8], bytes: &[u8]) -> Promise;
}

/// A promise of `taken`, when the list is told so; of `otherwise`, when it is told otherwise or
/// nothing for so long.
///
/// It is the caller's own promise, with a timer of its own. The platform ends a request at once that
/// waits for nothing but another request ("your Worker's code had hung").
pub(super) fn wait(list: &Array, most: Duration, taken: &JsValue, otherwise: &JsValue) -> Promise {
    wait_in(list, u32::try_from(most.as_millis()).unwrap_or(u32::MAX), taken, otherwise)
}

/// What somebody answered.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) status: u16,
    pub(super) etag: String,
    /// Seconds.
    pub(super) age: u64,
    pub(super) body: Vec<u8>,
}

impl Answered {
    /// The body, for people.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Asks a Durable Object, or without a target whoever is at that address. A field without a value is
/// left out.
///
/// # Errors
/// When no answer came, and why.
pub(super) async fn ask(
    target: Option<&JsValue>,
    method: &str,
    url: &str,
    fields: &[(&str, &str)],
    body: Option<&[u8]>,
) -> Result<Answered, String> {
    let mut lines = String::new();
    let given = fields.iter().filter(|(_, value)| !value.is_empty());
    given.for_each(|(name, value)| push(&mut lines, name, value));
    let body = body.map(Uint8Array::from);
    let nobody = JsValue::UNDEFINED;
    let promised = ask_for(target.unwrap_or(&nobody), method, url, &lines, body.as_ref());
    // It comes true in any case: an error is an answer of status 0.
    let parts = JsFuture::from(promised).await.unwrap_or_default();
    let parts = Array::from(&parts);
    let word = |at| parts.get(at).as_string().unwrap_or_default();
    let answered = Answered {
        status: parts.get(0).as_f64().unwrap_or(0.0) as u16,
        etag: word(1),
        age: word(2).parse().unwrap_or(0),
        body: Uint8Array::new(&parts.get(3)).to_vec(),
    };
    if answered.status == 0 { Err(answered.text()) } else { Ok(answered) }
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
    pub(super) longitude: Option<i32>,
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
            opted_out: opts_out([next().as_bytes()]),
            // The platform writes it, whatever a client says.
            client: next().trim().parse().ok(),
            country: next().to_owned(),
            colo: next().to_owned(),
            continent: next().to_owned(),
            longitude: place::whole_degrees(next()),
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
    let (name, value) = match (&decided.location, &decided.etag) {
        (Some(location), _) => ("location", location.as_str()),
        (None, Some(etag)) => ("etag", etag.as_str()),
        (None, None) => ("", ""),
    };
    // Where the fields are, and how many, tells which they are: they are the program's own.
    let fields = decided.fields.as_ptr().addr() * 32 + decided.fields.len();
    let sort = (fields * 2 + usize::from(!name.is_empty())) as u32;
    let has_body = !decided.body.is_empty() && method != Method::Head;
    let body = has_body.then(|| Uint8Array::from(&*decided.body));
    loop {
        if let Some(response) = reply(decided.status, sort, value, body.as_ref()) {
            return response;
        }
        let mut fields = String::new();
        // The platform owns the connection.
        for (name, value) in decided.fields.iter().filter(|(name, _)| *name != "connection") {
            push(&mut fields, name, value);
        }
        learn(sort, &fields, name);
    }
}

fn push(lines: &mut String, name: &str, value: &str) {
    if !lines.is_empty() {
        lines.push('\n');
    }
    lines.push_str(name);
    lines.push('\n');
    lines.push_str(value);
}
