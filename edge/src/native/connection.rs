//! Serves one connection, within all its time limits.

use std::convert::Infallible;
use std::io::Cursor;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use shared::ambient::Stopwatch;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_io_timeout::TimeoutWriter;

use super::doors::{self, Permit};
use super::plain;
use super::rim::Rim;

/// The most header fields of a request.
pub(super) const FIELDS_MAX: usize = 64;
/// How long the last request may take after the life of its connection has ended; also how long a
/// client may take to receive a reply.
pub(super) const LAST_REQUEST: Duration = Duration::from_secs(30);

/// Serves a connection to its end. Once `closing` becomes true, it ends after the request under
/// way.
pub(super) async fn connection(
    mut stream: TcpStream,
    peer: IpAddr,
    permit: &Permit,
    rim: &Arc<Rim>,
    closing: watch::Receiver<bool>,
) {
    let age = Stopwatch::start();
    if let Some(read) = plain::serve(&mut stream, peer, permit, rim, closing.clone(), age).await {
        let life = rim.settings().connection_life.saturating_sub(age.elapsed());
        serve_any(stream, read, peer, permit, rim, closing, life).await;
    }
}

/// Serves any HTTP/1 that our limits allow. `read` is what was read of the stream before.
async fn serve_any(
    stream: TcpStream,
    read: Vec<u8>,
    peer: IpAddr,
    permit: &Permit,
    rim: &Arc<Rim>,
    closing: watch::Receiver<bool>,
    life: Duration,
) {
    let settings = rim.settings();
    let service = service_fn(|request| async {
        permit.works();
        let reply = rim.reply(request, peer, permit).await;
        // Until the client has taken the reply and sent its next request.
        permit.waits();
        Ok::<_, Infallible>(reply)
    });
    let (rest, to) = stream.into_split();
    let mut to = TimeoutWriter::new(to);
    to.set_timeout(Some(LAST_REQUEST));
    let stream = tokio::io::join(Cursor::new(read).chain(rest), Box::pin(to));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // A client that closes its sending side still wants the answer to what it has sent.
        .half_close(true)
        .header_read_timeout(settings.head_timeout)
        .max_buf_size(settings.head_bytes_max)
        .max_headers(FIELDS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let shut_down = http1::Connection::graceful_shutdown;
    doors::drive(connection, shut_down, permit, closing, life, LAST_REQUEST).await;
}
