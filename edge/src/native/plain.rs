//! The short way for what nearly every request is: a GET without a body, whose head comes in one
//! piece. The head is read in place on the stack and the reply is one write; between two requests
//! no bytes of the connection are kept. For any other request the connection goes to hyper, with
//! the bytes that were read.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use hyper::StatusCode;
use shared::Timestamp;
use shared::ambient::Stopwatch;
use tokio::io::{AsyncRead as _, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::connection::{FIELDS_MAX, LAST_REQUEST};
use super::doors::{Permit, Shut};
use super::head::{Borrowed, Head as _};
use super::patience::Patience;
use super::rim::{Rim, is_own};
use crate::decision::{Decision, Reply};
use crate::metrics::Route;

/// Longer heads go to hyper.
const HEAD_BYTES: usize = 4 << 10;

/// What one read of the stream brought.
enum Read {
    Plain(Asked),
    Other(Vec<u8>),
    End,
}

/// A plain request, decided.
struct Asked {
    decision: Decision,
    /// When it was read, as the connection's age.
    at: Duration,
    now: Timestamp,
    route: Route,
    /// HEAD: the reply has no body.
    head_only: bool,
}

/// Serves plain requests. Returns the bytes of the first one that is not plain; `None` when the
/// connection has ended. Once `closing` becomes true, it ends after the request under way.
pub(super) async fn serve(
    stream: &mut TcpStream,
    peer: IpAddr,
    permit: &Permit,
    rim: &Arc<Rim>,
    closing: watch::Receiver<bool>,
    age: Stopwatch,
) -> Option<Vec<u8>> {
    let settings = rim.settings();
    let mut told = closing.clone();
    let mut told = pin!(told.wait_for(|closing| *closing));
    let mut silence = Patience::new(settings.head_timeout);
    let mut disk = Patience::new(settings.redirect_wait);
    let mut out = Vec::new();
    loop {
        let next = async {
            tokio::select! {
                biased;
                read = read(stream, peer, rim, age) => read,
                _ = told.as_mut() => Read::End,
            }
        };
        let asked = match silence.wait(pin!(next)).await {
            Some(Read::Plain(asked)) => asked,
            Some(Read::Other(bytes)) => return Some(bytes),
            Some(Read::End) => return None,
            None => {
                permit.shut(Shut::TimedOut);
                return None;
            }
        };
        permit.works();
        let Asked { decision, at, now, route, head_only } = asked;
        let reply = rim.perform(decision, now, &mut disk).await;
        let replied = age.elapsed();
        let last = *closing.borrow() || replied > settings.connection_life;
        out.clear();
        write(&mut out, &reply, &rim.date(now), head_only, last);
        rim.metrics().replied(route, reply.status, replied.saturating_sub(at));
        // Until the client has taken the reply and sent its next request.
        permit.waits();
        let sent = send(stream, &out).await;
        if sent.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::TimedOut) {
            permit.shut(Shut::TimedOut);
        }
        sent.ok().filter(|()| !last)?;
    }
}

/// Sends a reply. A client that does not take it in time is an error (`TimedOut`).
async fn send(stream: &mut TcpStream, reply: &[u8]) -> io::Result<()> {
    let sent = match stream.try_write(reply) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
        other => other?,
    };
    if sent == reply.len() {
        return Ok(());
    }
    tokio::time::timeout(LAST_REQUEST, stream.write_all(&reply[sent..])).await?
}

/// Waits for a request and decides it while its bytes lie in the buffer.
async fn read(stream: &mut TcpStream, peer: IpAddr, rim: &Rim, age: Stopwatch) -> Read {
    poll_fn(|context| {
        let mut space = [MaybeUninit::uninit(); HEAD_BYTES];
        let mut buffer = ReadBuf::uninit(&mut space);
        let read = ready!(Pin::new(&mut *stream).poll_read(context, &mut buffer));
        Poll::Ready(match (read, buffer.filled()) {
            (Err(_), _) | (_, []) => Read::End,
            (Ok(()), bytes) => {
                let asked = ask(bytes, peer, rim, age);
                asked.map_or_else(|| Read::Other(bytes.to_vec()), Read::Plain)
            }
        })
    })
    .await
}

fn ask(bytes: &[u8], peer: IpAddr, rim: &Rim, age: Stopwatch) -> Option<Asked> {
    let at = age.elapsed();
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut []);
    let parsed = request.parse_with_uninit_headers(bytes, &mut fields);
    if parsed != Ok(httparse::Status::Complete(bytes.len())) {
        return None;
    }
    let head = Borrowed::plain(&request).filter(|head| !is_own(head.path()))?;
    let (now, route) = (rim.now(), Route::from_path(head.path()));
    let decision = match rim.limited(&head, route, peer) {
        Some(reply) => Decision::reply(reply),
        None => rim.decide(&head, peer, Some(b""), now),
    };
    Some(Asked { decision, at, now, route, head_only: head.method() == "HEAD" })
}

/// Writes a whole reply (RFC 9112).
fn write(out: &mut Vec<u8>, reply: &Reply, date: &[u8], head_only: bool, last: bool) {
    let status = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    let mut field = |name: &str, value: &[u8]| {
        for part in [b"\r\n", name.as_bytes(), b": ", value] {
            out.extend_from_slice(part);
        }
    };
    for (name, value) in reply.fields {
        field(name, value.as_bytes());
    }
    for (name, value) in [("location", &reply.location), ("etag", &reply.etag)] {
        // The core lets only visible ASCII through.
        if let Some(value) = value {
            field(name, value.as_bytes());
        }
    }
    if last {
        field("connection", b"close");
    }
    // As hyper does: no length for the empty body of a HEAD reply, and none for a 304, whose length
    // would have to be that of the 200 (RFC 9110 §8.6).
    let bare = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if !(bare || head_only && reply.body.is_empty()) {
        field("content-length", reply.body.len().to_string().as_bytes());
    }
    field("date", date);
    out.extend_from_slice(b"\r\n\r\n");
    if !head_only {
        out.extend_from_slice(&reply.body);
    }
}
