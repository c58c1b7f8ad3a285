//! A request's head, read either by hyper or by the loop for plain requests.

use hyper::header::{HeaderName, HeaderValue};
use hyper::http::request::Parts;

pub(super) trait Head {
    fn method(&self) -> &str;
    fn path(&self) -> &str;
    /// Empty when there is none.
    fn query(&self) -> &str;
    /// The first value of a field; empty when it is not there.
    fn field(&self, name: &HeaderName) -> &[u8];
    /// The values of all fields of a name, in their order.
    fn fields(&self, name: &HeaderName) -> impl DoubleEndedIterator<Item = &[u8]>;
}

impl Head for Parts {
    fn method(&self) -> &str {
        self.method.as_str()
    }

    fn path(&self) -> &str {
        self.uri.path()
    }

    fn query(&self) -> &str {
        self.uri.query().unwrap_or_default()
    }

    fn field(&self, name: &HeaderName) -> &[u8] {
        self.headers.get(name).map_or(b"", HeaderValue::as_bytes)
    }

    fn fields(&self, name: &HeaderName) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.headers.get_all(name).iter().map(HeaderValue::as_bytes)
    }
}

/// A head that borrows from the buffer it was read into.
pub(super) struct Borrowed<'a> {
    method: &'a str,
    path: &'a str,
    query: &'a str,
    fields: &'a [httparse::Header<'a>],
}

impl<'a> Borrowed<'a> {
    /// A request that is complete with its head and asks nothing special of its connection: GET or
    /// HEAD of HTTP/1.1, no body. `None` for any other.
    pub(super) fn plain(request: &'a httparse::Request<'a, 'a>) -> Option<Self> {
        let (method, target) = (request.method?, request.path?);
        let is_plain = matches!(method, "GET" | "HEAD")
            && request.version == Some(1)
            && target.starts_with('/')
            // Whether anything else is a URI is for hyper to decide.
            && target.bytes().fold(true, |all, byte| all & byte.is_ascii_graphic() & (byte != b'#'))
            && request.headers.iter().all(leaves_it_plain);
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        is_plain.then_some(Self { method, path, query, fields: request.headers })
    }
}

/// Whether a field changes neither the end of the request nor the fate of the connection (RFC 9112
/// §6, §9; RFC 9110 §7.8, §10.1.1).
fn leaves_it_plain(field: &httparse::Header<'_>) -> bool {
    let is = |name: &str| field.name.eq_ignore_ascii_case(name);
    match field.name.len() {
        6 => !is("expect"),
        7 => !is("upgrade"),
        10 => !is("connection") || field.value.eq_ignore_ascii_case(b"keep-alive"),
        14 => !is("content-length"),
        17 => !is("transfer-encoding"),
        _ => true,
    }
}

impl Head for Borrowed<'_> {
    fn method(&self) -> &str {
        self.method
    }

    fn path(&self) -> &str {
        self.path
    }

    fn query(&self) -> &str {
        self.query
    }

    fn field(&self, name: &HeaderName) -> &[u8] {
        let found = self.fields.iter().find(|field| is_named(field, name));
        found.map_or(b"", |field| field.value)
    }

    fn fields(&self, name: &HeaderName) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.fields.iter().filter(|field| is_named(field, name)).map(|field| field.value)
    }
}

fn is_named(field: &httparse::Header<'_>, name: &HeaderName) -> bool {
    field.name.eq_ignore_ascii_case(name.as_str())
}
