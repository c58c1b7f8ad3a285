//! One connection, with all the patience that it gets.

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

use super::doors::{self, Place};
use super::plain;
use super::rim::Rim;

/// The most header fields of a request.
pub(super) const FIELDS_MAX: usize = 64;
/// How long a request may go on after its connection's life has ended, and how long a client may
/// take to take a reply.
pub(super) const LAST_REQUEST: Duration = Duration::from_secs(30);

/// Serves a connection to its end. `closing` becomes true when it is to end after the request under
/// way.
pub(super) async fn connection(
    mut stream: TcpStream,
    peer: IpAddr,
    place: &Place,
    rim: &Arc<Rim>,
    closing: watch::Receiver<bool>,
) {
    let age = Stopwatch::start();
    if let Some(read) = plain::serve(&mut stream, peer, place, rim, closing.clone(), age).await {
        let life = rim.settings().connection_life.saturating_sub(age.elapsed());
        serve_any(stream, read, peer, place, rim, closing, life).await;
    }
}

/// Serves whatever HTTP/1 allows, within our limits; `read` is what was read already.
async fn serve_any(
    stream: TcpStream,
    read: Vec<u8>,
    peer: IpAddr,
    place: &Place,
    rim: &Arc<Rim>,
    closing: watch::Receiver<bool>,
    life: Duration,
) {
    let settings = rim.settings();
    let service = service_fn(|request| async {
        place.works();
        let reply = rim.reply(request, peer, place).await;
        // Until it is taken, and the next request is here.
        place.waits();
        Ok::<_, Infallible>(reply)
    });
    let (rest, to) = stream.into_split();
    let mut to = TimeoutWriter::new(to);
    to.set_timeout(Some(LAST_REQUEST));
    let stream = tokio::io::join(Cursor::new(read).chain(rest), Box::pin(to));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // Who has sent its last request may say so, and still wants the answer.
        .half_close(true)
        .header_read_timeout(settings.head_timeout)
        .max_buf_size(settings.head_bytes_max)
        .max_headers(FIELDS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let shut_down = http1::Connection::graceful_shutdown;
    doors::drive(connection, shut_down, place, closing, life, LAST_REQUEST).await;
}
