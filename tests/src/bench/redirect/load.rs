//! The load tool: one thread, many kept connections with one request under way on each, every token
//! once. It ends when all tokens are used, so that what was answered can be counted exactly.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use shared::ambient::Stopwatch;

/// A server that says nothing for so long has failed.
const PATIENCE: Duration = Duration::from_secs(20);
/// What every answer begins with.
const REDIRECT: &[u8] = b"HTTP/1.1 302 ";

/// The result of a run.
pub(in crate::bench) struct Answered {
    pub(in crate::bench) redirects: usize,
    /// From the first request to the last answer.
    pub(in crate::bench) spent: Duration,
    /// Request to answer, µs, in no order.
    pub(in crate::bench) latencies_us: Vec<u32>,
}

struct Connection {
    stream: TcpStream,
    /// Bytes read of the current answer.
    read: usize,
    /// Bytes of a whole answer: the length of the first one, which all others share.
    whole: Option<usize>,
    sent_at: Duration,
}

/// Sends `GET /v1/c/{link}` for every link.
pub(in crate::bench) fn run(
    server: SocketAddr,
    links: &[String],
    connections: usize,
) -> Result<Answered, String> {
    let mut poll = Poll::new().map_err(|error| error.to_string())?;
    let mut open = connect(server, connections.min(links.len()), &poll)?;
    let mut events = Events::with_capacity(connections);
    let mut links = links.iter();
    let mut request = Vec::with_capacity(4_096);
    let mut reply = vec![0; 64 << 10];
    let mut latencies_us = Vec::with_capacity(links.len());
    let watch = Stopwatch::start();
    for (connection, link) in open.iter_mut().zip(&mut links) {
        connection.send(link, &mut request, watch.elapsed())?;
    }
    let wanted = latencies_us.capacity();
    while latencies_us.len() < wanted {
        poll.poll(&mut events, Some(PATIENCE)).map_err(|error| error.to_string())?;
        if events.is_empty() {
            return Err(format!("no answer within {} s", PATIENCE.as_secs()));
        }
        for event in &events {
            let connection = &mut open[event.token().0];
            if !connection.receive(&mut reply)? {
                continue;
            }
            let now = watch.elapsed();
            let taken = now.saturating_sub(connection.sent_at).as_micros();
            latencies_us.push(u32::try_from(taken).unwrap_or(u32::MAX));
            if let Some(link) = links.next() {
                connection.send(link, &mut request, now)?;
            }
        }
    }
    Ok(Answered { redirects: latencies_us.len(), spent: watch.elapsed(), latencies_us })
}

fn connect(server: SocketAddr, count: usize, poll: &Poll) -> Result<Vec<Connection>, String> {
    let open = |nth: usize| {
        let stream = std::net::TcpStream::connect(server)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        poll.registry().register(&mut stream, Token(nth), Interest::READABLE)?;
        Ok(Connection { stream, read: 0, whole: None, sent_at: Duration::ZERO })
    };
    let all: std::io::Result<_> = (0..count).map(open).collect();
    all.map_err(|error| format!("{count} connections to {server}: {error}"))
}

impl Connection {
    fn send(&mut self, link: &str, buffer: &mut Vec<u8>, now: Duration) -> Result<(), String> {
        buffer.clear();
        buffer.extend_from_slice(b"GET /v1/c/");
        buffer.extend_from_slice(link.as_bytes());
        buffer.extend_from_slice(HEAD_END);
        self.sent_at = now;
        self.read = 0;
        // An idle connection's buffer takes a whole request at once.
        self.stream.write_all(buffer).map_err(|error| format!("cannot send: {error}"))
    }

    /// Reads what is there; true when the answer is whole.
    fn receive(&mut self, buffer: &mut [u8]) -> Result<bool, String> {
        let got = match self.stream.read(buffer) {
            Ok(0) => return Err("the server closed a connection".to_owned()),
            Ok(got) => got,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(format!("cannot receive: {error}")),
        };
        if self.read == 0 && !buffer[..got].starts_with(REDIRECT) {
            let shown = String::from_utf8_lossy(&buffer[..got.min(200)]);
            return Err(format!("no redirect: {shown}"));
        }
        self.read += got;
        let whole = match self.whole {
            Some(whole) => whole,
            None => *self.whole.insert(length(&buffer[..got])?),
        };
        if self.read > whole {
            return Err(format!("an answer of {} bytes, not {whole}", self.read));
        }
        Ok(self.read == whole)
    }
}

/// The length of the answer that begins here, head and body.
fn length(start: &[u8]) -> Result<usize, String> {
    let end = start.windows(4).position(|four| four == b"\r\n\r\n").ok_or("a head in pieces")?;
    let head = String::from_utf8_lossy(&start[..end]).to_ascii_lowercase();
    if !head.contains("\r\nlocation: https://") {
        return Err(format!("a redirect to nowhere: {head}"));
    }
    let body = head.split_once("\r\ncontent-length: ").ok_or("an answer without length")?.1;
    let body = body.split_once("\r\n").map_or(body, |(body, _)| body);
    let body: usize = body.parse().map_err(|error| format!("content-length: {error}"))?;
    Ok(end + 4 + body)
}

/// The rest of a browser's request head.
const HEAD_END: &[u8] = b" HTTP/1.1\r\nHost: edge.example\r\nConnection: keep-alive\r\n\
    User-Agent: Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) \
    Chrome/126.0.0.0 Safari/537.36\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
    Accept-Encoding: gzip, deflate, br\r\nAccept-Language: en-GB,en;q=0.9\r\n\
    Referer: https://news.example/\r\n\r\n";
