//! The threads that serve connections, each with a runtime of its own: a connection stays where it
//! is, and what its requests share with others of its thread needs no atomics and wakes nobody. One
//! more accepts them, so that whatever else the process does, a flood of requests to its API too, keeps
//! no visitor at the door.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::{mpsc, watch};

use super::connection::connection;
use super::doors::{Doors, Place};
use super::rim::Rim;

/// A connection that was accepted.
pub(super) struct Accepted {
    pub(super) stream: std::net::TcpStream,
    pub(super) peer: IpAddr,
    /// Given back when it has ended: how many there are is bounded, and so are the channels.
    pub(super) place: Place,
}

pub(super) struct Threads {
    door: JoinHandle<()>,
    serving: Vec<JoinHandle<()>>,
}

/// The way to a thread that serves.
struct Hand {
    to: mpsc::UnboundedSender<Accepted>,
    /// Held by every connection of the thread.
    open: Arc<()>,
}

impl Threads {
    /// Accepts and serves until `closing` tells to end connections after the requests under way, and
    /// to accept no more.
    pub(super) fn start(
        count: usize,
        listener: TcpListener,
        doors: &Arc<Doors>,
        rim: &Arc<Rim>,
        closing: &watch::Receiver<bool>,
    ) -> io::Result<Self> {
        let start = |nth| {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let (to, accepted) = mpsc::unbounded_channel();
            let open = Arc::new(());
            let serve = serve(accepted, Arc::clone(rim), closing.clone(), Arc::clone(&open));
            // What is left when it ends is dropped with the runtime.
            let thread = std::thread::Builder::new()
                .name(format!("edge-{nth}"))
                .spawn(move || runtime.block_on(serve))?;
            Ok((Hand { to, open }, thread))
        };
        let started = (0..count).map(start).collect::<io::Result<Vec<_>>>()?;
        let (hands, serving) = started.into_iter().unzip();
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let listener = listener.into_std()?;
        let (doors, closing) = (Arc::clone(doors), closing.clone());
        let door = std::thread::Builder::new()
            .name("edge-door".to_owned())
            .spawn(move || runtime.block_on(accept(listener, doors, hands, closing)))?;
        Ok(Self { door, serving })
    }

    /// Returns when no more is accepted, which `closing` has told.
    pub(super) async fn closed(&self) {
        while !self.door.is_finished() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Drops the connections that are left, and ends the threads.
    pub(super) async fn end(self) {
        let join = move || {
            for thread in std::iter::once(self.door).chain(self.serving) {
                if thread.join().is_err() {
                    tracing::error!("a thread that serves connections has panicked");
                }
            }
        };
        let _ = tokio::task::spawn_blocking(join).await;
    }
}

/// Hands each connection to the thread that has the fewest.
async fn accept(
    listener: std::net::TcpListener,
    doors: Arc<Doors>,
    hands: Vec<Hand>,
    mut closing: watch::Receiver<bool>,
) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "nobody can be let in"),
    };
    let mut told = std::pin::pin!(closing.wait_for(|closing| *closing));
    loop {
        let (stream, peer, place) = tokio::select! {
            biased;
            _ = told.as_mut() => return,
            next = doors.next(&listener) => next,
        };
        if let Some(hand) = hands.iter().min_by_key(|hand| Arc::strong_count(&hand.open)) {
            // A thread ends only with the process, or after this one.
            let _ = hand.to.send(Accepted { stream, peer, place });
        }
    }
}

async fn serve(
    mut accepted: mpsc::UnboundedReceiver<Accepted>,
    rim: Arc<Rim>,
    closing: watch::Receiver<bool>,
    open: Arc<()>,
) {
    while let Some(Accepted { stream, peer, place }) = accepted.recv().await {
        let stream = match TcpStream::from_std(stream) {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be taken over");
                continue;
            }
        };
        let (rim, closing, open) = (Arc::clone(&rim), closing.clone(), Arc::clone(&open));
        let place = Arc::new(place);
        let served = tokio::spawn({
            let place = Arc::clone(&place);
            async move {
                connection(stream, peer, &place, &rim, closing).await;
                drop((place, open));
            }
        });
        place.ended_by(served.abort_handle());
    }
}
