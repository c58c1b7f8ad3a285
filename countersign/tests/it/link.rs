//! A link between two processes that can be cut: a proxy of the test's own.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What becomes of the link's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// They get through.
    Whole,
    /// They wait, in both directions, as on a broken cable: nobody is told.
    Cut,
    /// Connections are closed, and new ones at once.
    Torn,
}

/// The link. It lives on the runtime that it was made on.
pub(crate) struct Link {
    pub(crate) address: SocketAddr,
    state: watch::Sender<State>,
}

impl Link {
    /// Makes a link to a server, `nats://127.0.0.1:PORT`.
    pub(crate) async fn to(server: &str) -> Self {
        let server: SocketAddr = server.trim_start_matches("nats://").parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (state, states) = watch::channel(State::Whole);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(join(client, server, states.clone()));
            }
        });
        Self { address, state }
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    pub(crate) fn set(&self, state: State) {
        self.state.send_replace(state);
    }
}

async fn join(client: TcpStream, server: SocketAddr, mut states: watch::Receiver<State>) {
    let whole = states.wait_for(|state| *state != State::Cut).await;
    if whole.is_ok_and(|state| *state == State::Torn) {
        return;
    }
    let Ok(server) = TcpStream::connect(server).await else { return };
    let ((from_client, to_client), (from_server, to_server)) =
        (client.into_split(), server.into_split());
    let torn = {
        let mut states = states.clone();
        async move {
            let _ = states.wait_for(|state| *state == State::Torn).await;
        }
    };
    tokio::select! {
        () = carry(from_client, to_server, states.clone()) => {}
        () = carry(from_server, to_client, states) => {}
        () = torn => {}
    }
}

async fn carry(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut states: watch::Receiver<State>,
) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if states.wait_for(|state| *state == State::Whole).await.is_err()
            || to.write_all(&buffer[..read]).await.is_err()
        {
            return;
        }
    }
}
