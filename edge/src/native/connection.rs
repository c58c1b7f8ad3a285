//! One connection, with all the patience that it gets.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::rim::Rim;

/// What the service is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// It takes requests.
    Serving,
    /// It finishes those that it has.
    Closing,
    /// It has waited long enough.
    Cut,
}

/// The most header fields of a request.
const FIELDS_MAX: usize = 64;
/// How long a request may go on after its connection's life has ended.
const LAST_REQUEST: Duration = Duration::from_secs(30);

/// Serves a connection to its end.
pub(super) async fn connection(
    stream: TcpStream,
    peer: IpAddr,
    rim: Arc<Rim>,
    mut phases: watch::Receiver<Phase>,
) {
    let settings = rim.settings();
    let service =
        service_fn(|request| async { Ok::<_, Infallible>(rim.reply(request, peer).await) });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.head_timeout)
        .max_buf_size(settings.head_bytes_max)
        .max_headers(FIELDS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let mut life = std::pin::pin!(tokio::time::sleep(settings.connection_life));
    let mut closing = *phases.borrow_and_update() != Phase::Serving;
    if closing {
        connection.as_mut().graceful_shutdown();
    }
    rim.metrics().connections.inc();
    loop {
        tokio::select! {
            // Clients that go away or send what is no HTTP are no news.
            _ = connection.as_mut() => break,
            Ok(()) = phases.changed() => match *phases.borrow_and_update() {
                Phase::Cut => break,
                Phase::Closing => connection.as_mut().graceful_shutdown(),
                Phase::Serving => {}
            },
            () = life.as_mut() => {
                if closing {
                    break;
                }
                closing = true;
                connection.as_mut().graceful_shutdown();
                life.set(tokio::time::sleep(LAST_REQUEST));
            }
        }
    }
    rim.metrics().connections.dec();
}
