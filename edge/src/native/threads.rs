//! The threads that serve connections, each with its own runtime: a connection stays on its thread,
//! and what its requests share with others of that thread needs no atomics and wakes no other
//! thread. One more thread accepts connections, so that no visitor waits for that whatever else the
//! process does (say, during a flood of requests to its API).

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::{mpsc, watch};

use super::connection::connection;
use super::doors::{Doors, Permit};
use super::rim::Rim;

/// A connection that was accepted.
pub(super) struct Accepted {
    pub(super) stream: std::net::TcpStream,
    pub(super) peer: IpAddr,
    /// Given back when the connection has ended. Permits bound the number of connections, and so
    /// the length of the channels.
    pub(super) permit: Permit,
}

pub(super) struct Threads {
    door: JoinHandle<()>,
    serving: Vec<JoinHandle<()>>,
}

/// How connections reach one serving thread.
struct ServingThread {
    to: mpsc::UnboundedSender<Accepted>,
    /// Each connection of the thread holds a clone, so the count is that of its connections.
    open: Arc<()>,
}

impl Threads {
    /// Accepts and serves until `closing` becomes true. Then no more connections are accepted, and
    /// those that are open end after the request under way.
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
            // Connections that are left at the end are dropped with the runtime.
            let thread = std::thread::Builder::new()
                .name(format!("edge-{nth}"))
                .spawn(move || runtime.block_on(serve))?;
            Ok((ServingThread { to, open }, thread))
        };
        let started = (0..count).map(start).collect::<io::Result<Vec<_>>>()?;
        let (targets, serving) = started.into_iter().unzip();
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let listener = listener.into_std()?;
        let (doors, closing) = (Arc::clone(doors), closing.clone());
        let door = std::thread::Builder::new()
            .name("edge-door".to_owned())
            .spawn(move || runtime.block_on(accept(listener, doors, targets, closing)))?;
        Ok(Self { door, serving })
    }

    /// Returns when no more connections are accepted, which follows `closing`.
    pub(super) async fn closed(&self) {
        while !self.door.is_finished() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Drops the connections that are left and ends the threads.
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

/// Hands each new connection to the thread that has the fewest.
async fn accept(
    listener: std::net::TcpListener,
    doors: Arc<Doors>,
    targets: Vec<ServingThread>,
    mut closing: watch::Receiver<bool>,
) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "nobody can be let in"),
    };
    let mut told = std::pin::pin!(closing.wait_for(|closing| *closing));
    loop {
        let (stream, peer, permit) = tokio::select! {
            biased;
            _ = told.as_mut() => return,
            next = doors.next(&listener) => next,
        };
        if let Some(target) = targets.iter().min_by_key(|to| Arc::strong_count(&to.open)) {
            // The channel is open: a serving thread ends with the process, or after this one.
            let _ = target.to.send(Accepted { stream, peer, permit });
        }
    }
}

async fn serve(
    mut accepted: mpsc::UnboundedReceiver<Accepted>,
    rim: Arc<Rim>,
    closing: watch::Receiver<bool>,
    open: Arc<()>,
) {
    while let Some(Accepted { stream, peer, permit }) = accepted.recv().await {
        let stream = match TcpStream::from_std(stream) {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be taken over");
                continue;
            }
        };
        let (rim, closing, open) = (Arc::clone(&rim), closing.clone(), Arc::clone(&open));
        let permit = Arc::new(permit);
        let served = tokio::spawn({
            let permit = Arc::clone(&permit);
            async move {
                connection(stream, peer, &permit, &rim, closing).await;
                drop((permit, open));
            }
        });
        permit.ended_by(served.abort_handle());
    }
}
