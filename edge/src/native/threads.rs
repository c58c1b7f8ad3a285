//! The threads that serve connections, each with a runtime of its own: a connection stays where it
//! is, and what its requests share with others of its thread needs no atomics and wakes nobody.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};

use super::connection::connection;
use super::rim::Rim;

/// A connection that was accepted.
pub(super) struct Accepted {
    pub(super) stream: std::net::TcpStream,
    pub(super) peer: IpAddr,
    /// Given back when it has ended: how many there are is bounded, and so are the channels.
    pub(super) permit: OwnedSemaphorePermit,
}

pub(super) struct Threads(Vec<Thread>);

struct Thread {
    to: mpsc::UnboundedSender<Accepted>,
    /// Held by every connection of the thread.
    open: Arc<()>,
    thread: JoinHandle<()>,
}

impl Threads {
    /// `closing` tells them to end their connections after the requests under way.
    pub(super) fn start(
        count: usize,
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
            Ok(Thread { to, open, thread })
        };
        (0..count).map(start).collect::<io::Result<_>>().map(Self)
    }

    /// Hands a connection to the thread that has the fewest.
    pub(super) fn serve(&self, accepted: Accepted) {
        if let Some(thread) = self.0.iter().min_by_key(|thread| Arc::strong_count(&thread.open)) {
            // A thread ends only with the process or in `end`.
            let _ = thread.to.send(accepted);
        }
    }

    /// Drops the connections that are left, and ends the threads.
    pub(super) async fn end(self) {
        let join = move || {
            for Thread { to, thread, .. } in self.0 {
                drop(to);
                if thread.join().is_err() {
                    tracing::error!("a thread that serves connections has panicked");
                }
            }
        };
        let _ = tokio::task::spawn_blocking(join).await;
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
        tokio::spawn(async move {
            connection(stream, peer, &rim, closing).await;
            drop((permit, open));
        });
    }
}
