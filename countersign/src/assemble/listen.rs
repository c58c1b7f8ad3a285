//! The API's server. Every wait for a client is bounded: for a request's head, between two
//! requests, and until a reply is taken; how long a body may take, [`collector::gateway`] decides.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use bytes::Bytes;
use edge::native::doors::{self, DoorMetrics, Doors, Permit};
use futures::StreamExt as _;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_io_timeout::TimeoutWriter;
use tower::ServiceExt as _;

use crate::assemble::descriptors::ConnectionLimits;
use crate::settings::Settings;

/// The longest head, bytes.
const HEAD_BYTES_MAX: usize = 32 << 10;
/// How long the last requests may take after `stop`.
const CLOSE_MAX: Duration = Duration::from_secs(10);

/// How long the server waits for a client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientTimeouts {
    /// For a request's head, and between two requests.
    head: Duration,
    /// Until the client takes more of a reply.
    stall: Duration,
    /// A connection that is older than this takes no further request.
    life: Duration,
    /// After this time more it is closed, whatever it does.
    last: Duration,
}

impl Default for ClientTimeouts {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(20),
            stall: Duration::from_secs(30),
            life: Duration::from_secs(600),
            // The export of a whole partition takes long.
            last: Duration::from_secs(600),
        }
    }
}

/// Admits the API's connections, as many as the process has descriptors for.
pub(crate) fn api_doors(settings: &Settings) -> Arc<Doors> {
    let limits = ConnectionLimits::from_settings(settings);
    limits.tell(settings);
    Doors::new(limits.api_doors(), DoorMetrics::default())
}

/// Registers the metrics of the API's connections.
pub(crate) fn register(doors: &Doors, registry: &mut Registry) {
    doors.metrics().register(registry.sub_registry_with_prefix("countersign_api"));
}

/// Serves the API until `stop`, and then finishes its last requests for at most [`CLOSE_MAX`].
pub(crate) async fn serve_api(
    listener: TcpListener,
    router: Router,
    doors: Arc<Doors>,
    timeouts: ClientTimeouts,
    stop: impl Future<Output = ()>,
) {
    let (closing, told) = watch::channel(false);
    let mut stop = std::pin::pin!(stop);
    loop {
        let (stream, peer, permit) = tokio::select! {
            biased;
            () = stop.as_mut() => break,
            (stream, _, permit) = doors.next(&listener) => match stream.peer_addr() {
                Ok(peer) => (TcpStream::from_std(stream), peer, permit),
                // The client has gone already.
                Err(_) => continue,
            },
        };
        let stream = match stream {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection to the API could not be taken over");
                continue;
            }
        };
        let permit = Arc::new(permit);
        let serve =
            connection(stream, peer, Arc::clone(&permit), router.clone(), told.clone(), timeouts);
        permit.ended_by(tokio::spawn(serve).abort_handle());
    }
    drop(listener);
    closing.send_replace(true);
    if tokio::time::timeout(CLOSE_MAX, doors.emptied()).await.is_err() {
        tracing::warn!("requests to the API were cut off: they took too long to end");
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    permit: Arc<Permit>,
    router: Router,
    closing: watch::Receiver<bool>,
    timeouts: ClientTimeouts,
) {
    let ends = closing.clone();
    let service = service_fn(|request: Request<Incoming>| {
        let waits = WaitsOnDrop(Arc::clone(&permit));
        let mut request =
            request.map(|body| Body::new(RequestBody::new(body, Arc::clone(&permit))));
        request.extensions_mut().insert(ConnectInfo(peer));
        let answer = router.clone().oneshot(request);
        let ends = ends.clone();
        async move {
            let mut response = answer.await?;
            let kind = response.headers().get(header::CONTENT_TYPE);
            if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream")) {
                response = response.map(|body| until(body, ends));
            }
            Ok::<Response<ReplyBody>, Infallible>(
                response.map(|body| ReplyBody { body, _waits: waits }),
            )
        }
    });
    let (from, to) = stream.into_split();
    let mut to = TimeoutWriter::new(to);
    to.set_timeout(Some(timeouts.stall));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .half_close(true)
        .header_read_timeout(timeouts.head)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(tokio::io::join(from, Box::pin(to))), service);
    let shut_down = http1::Connection::graceful_shutdown;
    doors::drive(connection, shut_down, &permit, closing, timeouts.life, timeouts.last).await;
}

/// A stream that would go on for as long as its client listens ends when the API does.
fn until(body: Body, mut closing: watch::Receiver<bool>) -> Body {
    let closing = async move {
        let _ = closing.wait_for(|closing| *closing).await;
    };
    Body::from_stream(body.into_data_stream().take_until(Box::pin(closing)))
}

/// A request's body. Until all of it has arrived the connection counts as waiting for its client,
/// so that it may be closed when others need its permit: sending a head alone does not hold a permit.
struct RequestBody {
    body: Incoming,
    permit: Arc<Permit>,
}

impl RequestBody {
    fn new(body: Incoming, permit: Arc<Permit>) -> Self {
        permit.waits();
        let body = Self { body, permit };
        body.note();
        body
    }

    fn note(&self) {
        if self.body.is_end_stream() {
            self.permit.works();
        }
    }
}

impl hyper::body::Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match &polled {
            Poll::Ready(None | Some(Err(_))) => self.permit.works(),
            Poll::Ready(Some(Ok(_))) => self.note(),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Marks the connection, when dropped, as waiting for its client again.
struct WaitsOnDrop(Arc<Permit>);

impl Drop for WaitsOnDrop {
    fn drop(&mut self) {
        self.0.waits();
    }
}

/// A reply's body. It is dropped when the system has taken all of it, and then the connection waits
/// for its client again.
struct ReplyBody {
    body: Body,
    _waits: WaitsOnDrop,
}

impl hyper::body::Body for ReplyBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests;
