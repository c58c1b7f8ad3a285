//! Passes whole requests and replies between Rust and JavaScript in one call each, those that the
//! Worker answers and those that it sends.

use std::net::IpAddr;
use std::time::Duration;

use wasm_bindgen::JsValue;
use wasm_bindgen::prelude::wasm_bindgen;
use worker::js_sys::futures::JsFuture;
use worker::js_sys::{Array, Promise, Uint8Array};
use worker::worker_sys::web_sys;

use super::location;
use crate::decision::Reply;
use crate::request::{Body, Method, Request, opts_out};

#[wasm_bindgen(module = "/src/worker/glue.js")]
extern "C" {
    fn head(request: &web_sys::Request) -> String;
    /// Remembers the fields of a sort of reply, and the name of the field that has a value of its
    /// own in each reply.
    fn learn(sort: u32, fields: &str, own: &str);
    /// `None` when this sort of reply has not been learnt.
    fn reply(
        status: u16,
        sort: u32,
        own: &str,
        body: Option<&Uint8Array>,
    ) -> Option<web_sys::Response>;
    #[wasm_bindgen(js_name = wait)]
    fn wait_in(list: &Array, ms: u32, taken: &JsValue, otherwise: &JsValue) -> Promise;
    /// Settles all promises of a list, and empties it.
    pub(super) fn tell(list: &Array, taken: bool);
    /// The stub of a Durable Object.
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
    /// The names of all bindings that are non-empty texts, one a line.
    pub(super) fn names(env: &JsValue) -> String;
    /// A promise of the 64 bytes of a signature.
    pub(super) fn sign(key: u32, secret: &[u8], bytes: &[u8]) -> Promise;
}

/// A promise of `taken` if the list is told so; of `otherwise` if it is told otherwise, or nothing
/// within `most`.
///
/// Each caller gets its own promise, with its own timer: the platform at once ends a request that
/// waits for nothing but another request ("your Worker's code had hung").
pub(super) fn wait(list: &Array, most: Duration, taken: &JsValue, otherwise: &JsValue) -> Promise {
    wait_in(list, u32::try_from(most.as_millis()).unwrap_or(u32::MAX), taken, otherwise)
}

/// An answer to [`ask`].
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) status: u16,
    pub(super) etag: String,
    /// The field `Age`, in seconds; 0 when it is missing.
    pub(super) age: u64,
    pub(super) body: Vec<u8>,
}

impl Answered {
    /// The body as text, for people.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Sends a request to a Durable Object, or, without a target, to the host in the URL. Fields with
/// an empty value are left out.
///
/// # Errors
/// Why there was no answer.
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
    // The promise never fails: an error is an answer with status 0.
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

/// The head of a request.
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
    /// The data centre that the request came to, three letters.
    pub(super) colo: String,
    pub(super) continent: String,
    /// The visitor's longitude in whole degrees.
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
            // The platform sets this field, whatever the client sent.
            client: next().trim().parse().ok(),
            country: next().to_owned(),
            colo: next().to_owned(),
            continent: next().to_owned(),
            longitude: location::whole_degrees(next()),
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

/// The bytes of a field. The platform reads fields as UTF-8, and bytes that are not UTF-8 are lost
/// (U+FFFD). By the Fetch Standard each byte would be one character ("isomorphic decode"), but
/// workerd does not do so.
fn bytes(text: &str) -> Vec<u8> {
    text.as_bytes().to_vec()
}

/// Makes the platform's response of a reply.
pub(super) fn to_response(decided: Reply, method: Method) -> web_sys::Response {
    let (name, value) = match (&decided.location, &decided.etag) {
        (Some(location), _) => ("location", location.as_str()),
        (None, Some(etag)) => ("etag", etag.as_str()),
        (None, None) => ("", ""),
    };
    // The address and number of the fields identify the sort: they are constants of the program.
    let fields = decided.fields.as_ptr().addr() * 32 + decided.fields.len();
    let sort = (fields * 2 + usize::from(!name.is_empty())) as u32;
    let has_body = !decided.body.is_empty() && method != Method::Head;
    let body = has_body.then(|| Uint8Array::from(&*decided.body));
    // The first try fails only for a sort that is not learnt; the second then succeeds.
    loop {
        if let Some(response) = reply(decided.status, sort, value, body.as_ref()) {
            return response;
        }
        let mut fields = String::new();
        // The platform alone decides about the connection.
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
