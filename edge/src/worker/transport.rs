//! Sends a shard's batches to the centre: to the collector's gateway, or to the work queue on NATS.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use shared::keys::request;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use worker::{SecureTransport, Socket};

use super::database::Unsent;
use super::glue::{self, Answered};
use super::nats::{self, Info, Reader, ServerMessage};
use super::platform::{now, within};
use super::settings::{Centre, NatsServer};
use crate::policy::{Keys, PublicUrl};
use catalogue::Published;

/// The collector's route for batches.
const BATCHES: &str = "/v1/batches";
const BATCH_CONTENT_TYPE: &str = "application/vnd.countersign.batch";
/// How many batches are on their way to a gateway at once: a Worker may have six connections.
const GATEWAY_AT_ONCE: usize = 4;
/// After this time without an answer a batch is sent again.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a request waits for keys and ads from the centre.
pub(super) const POLICY_PATIENCE: Duration = Duration::from_secs(2);

/// What came of sending a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum BatchOutcome {
    /// The centre has it durably.
    Taken,
    /// Not now; try again.
    Retry(String),
    /// Never in this form: the batch is kept, and tried again slowly.
    Refused(String),
}

/// The way to the centre, and what is kept of it from one call to the next.
#[derive(Debug)]
pub(super) struct Transport {
    centre: Centre,
    keys: Keys,
    /// Stays open as long as the object lives. A socket does not survive its object, and no other
    /// request may use it.
    nats: Option<Connection>,
    /// How far this edge's clock is ahead of the collector's, as the collector last said, ms.
    pub(super) clock_ahead_ms: u64,
}

impl Transport {
    pub(super) const fn new(centre: Centre, keys: Keys) -> Self {
        Self { centre, keys, nats: None, clock_ahead_ms: 0 }
    }

    /// Sends batches. Returns what came of each, in their order. Outcomes at the end may be
    /// missing: those batches stay in the outbox.
    pub(super) async fn send(&mut self, batches: &[Unsent]) -> Vec<BatchOutcome> {
        match &self.centre {
            Centre::Gateway(url) => {
                let mut outcomes = Vec::new();
                for portion in batches.chunks(GATEWAY_AT_ONCE) {
                    let posts = portion.iter().map(|batch| post(url, &self.keys, &batch.bytes));
                    for (outcome, ahead_ms) in join_all(posts).await {
                        self.clock_ahead_ms = ahead_ms.unwrap_or(self.clock_ahead_ms);
                        outcomes.push(outcome);
                    }
                    // A gateway that is away is not sent everything else that waits.
                    if outcomes.iter().any(|outcome| matches!(outcome, BatchOutcome::Retry(_))) {
                        break;
                    }
                }
                outcomes
            }
            Centre::Nats(server) => {
                let server = server.clone();
                let sent = within(PATIENCE, publish(&mut self.nats, &server, batches)).await;
                let outcomes = sent.unwrap_or_else(|| Err("it does not answer".to_owned()));
                outcomes.unwrap_or_else(|why| {
                    self.nats = None;
                    vec![BatchOutcome::Retry(format!("{}:{}: {why}", server.host, server.port))]
                })
            }
        }
    }
}

/// Posts one batch to the gateway, signed. Also returns what the gateway says about our clock.
async fn post(url: &PublicUrl, keys: &Keys, batch: &[u8]) -> (BatchOutcome, Option<u64>) {
    #[derive(serde::Deserialize)]
    struct Taken {
        clock_ahead_ms: u64,
    }
    let now = now();
    let Some(signer) = keys.speaker(now) else {
        return (BatchOutcome::Retry("the edge has no key".to_owned()), None);
    };
    let signature = request::sign(signer, keys.keyring().deployment(), BATCHES, batch, now);
    let hash = request::body_field(batch);
    let fields = [
        ("content-type", BATCH_CONTENT_TYPE),
        (request::FIELD, signature.as_str()),
        (request::BODY_FIELD, &hash),
    ];
    let to = format!("{url}{BATCHES}");
    let asked = glue::ask(None, "POST", &to, &fields, Some(batch));
    let answered = match within(PATIENCE, asked).await {
        Some(Ok(answered)) => answered,
        Some(Err(why)) => return (BatchOutcome::Retry(format!("{url}: {why:.200}")), None),
        None => return (BatchOutcome::Retry(format!("{url} does not answer")), None),
    };
    match answered.status {
        202 => {
            let taken = serde_json::from_slice::<Taken>(&answered.body);
            (BatchOutcome::Taken, taken.ok().map(|taken| taken.clock_ahead_ms))
        }
        400 | 413 | 415 => (BatchOutcome::Refused(unwelcome(url, &answered)), None),
        _ => (BatchOutcome::Retry(unwelcome(url, &answered)), None),
    }
}

/// Describes an unexpected answer, for people.
fn unwelcome(url: &PublicUrl, answered: &Answered) -> String {
    format!("{url} answers {}: {:.200}", answered.status, answered.text())
}

/// Asks the centre which keys and ads are in force. Returns their entity tag and text; `None` when
/// they are the `known` ones.
pub(super) async fn ask_policy(
    url: &PublicUrl,
    keys: &Keys,
    known: &str,
) -> Result<Option<(String, String)>, String> {
    let now = now();
    let signer = keys.speaker(now).ok_or("the edge has no key")?;
    let signature = request::sign(signer, keys.keyring().deployment(), Published::PATH, b"", now);
    let fields = [(request::FIELD, signature.as_str()), ("if-none-match", known)];
    let from = format!("{url}{}", Published::PATH);
    let asked = glue::ask(None, "GET", &from, &fields, None);
    let answered = within(POLICY_PATIENCE, asked).await;
    let answered = answered.ok_or_else(|| format!("{url} does not answer"))?;
    let answered = answered.map_err(|why| format!("{url}: {why:.200}"))?;
    match answered.status {
        200 => Ok(Some((answered.etag.clone(), answered.text()))),
        304 => Ok(None),
        _ => Err(unwelcome(url, &answered)),
    }
}

/// A connection to NATS that was let in.
#[derive(Debug)]
struct Connection {
    socket: Socket,
    reader: Reader,
    inbox: String,
    /// The number of the next publish.
    next: u64,
    max_payload: usize,
}

/// Publishes all batches at once and waits for their acknowledgements. A connection goes back into
/// `kept` only when everything was answered.
async fn publish(
    kept: &mut Option<Connection>,
    server: &NatsServer,
    batches: &[Unsent],
) -> Result<Vec<BatchOutcome>, String> {
    let mut connection = match kept.take() {
        Some(connection) => connection,
        None => Connection::open(server).await?,
    };
    let subject = format!("{}countersign.edge.{}", server.prefix, server.edge);
    let mut outcomes = vec![None; batches.len()];
    let mut waiting = BTreeMap::new();
    let mut bytes = Vec::new();
    for (at, batch) in batches.iter().enumerate() {
        if batch.bytes.len() > connection.max_payload {
            let most = connection.max_payload;
            outcomes[at] = Some(BatchOutcome::Refused(format!("the server takes {most} bytes")));
            continue;
        }
        let number = connection.next;
        nats::publish(&mut bytes, &subject, &connection.inbox, number, &batch.bytes);
        waiting.insert(number, at);
        connection.next += 1;
    }
    connection.write(&bytes).await?;
    // The caller's timeout bounds this wait.
    while !waiting.is_empty() {
        match connection.read().await? {
            ServerMessage::Answer { number, stored } => {
                if let Some(at) = waiting.remove(&number) {
                    let outcome = stored.map_or_else(BatchOutcome::Retry, |()| BatchOutcome::Taken);
                    outcomes[at] = Some(outcome);
                }
            }
            ServerMessage::Ping => connection.write(b"PONG\r\n").await?,
            ServerMessage::Error(why) => return Err(why),
            ServerMessage::Info(_) | ServerMessage::Pong => {}
        }
    }
    *kept = Some(connection);
    Ok(outcomes.into_iter().flatten().collect())
}

impl Connection {
    async fn open(server: &NatsServer) -> Result<Self, String> {
        let secure = if server.tls { SecureTransport::StartTls } else { SecureTransport::Off };
        let socket = Socket::builder().secure_transport(secure);
        let socket = socket.connect(server.host.clone(), server.port).map_err(text)?;
        let mut bytes = [0; 8];
        shared::Random::fill(&mut super::platform::SystemRandom, &mut bytes);
        let inbox = format!("_INBOX.{}", shared::text::hex(&bytes));
        let reader = Reader::default();
        let mut connection = Self { socket, reader, inbox, next: 0, max_payload: 0 };
        let info = connection.greeted().await?;
        if server.tls {
            if !(info.tls_required || info.tls_available) {
                return Err("the server has no TLS, and the address says tls://".to_owned());
            }
            connection.socket = connection.socket.start_tls();
        } else if info.tls_required {
            return Err("the server wants TLS: write tls:// in the address".to_owned());
        }
        connection.max_payload = info.max_payload;
        let greeting = nats::greeting(server, &info, &connection.inbox)?;
        connection.write(&greeting).await?;
        loop {
            match connection.read().await? {
                ServerMessage::Pong => return Ok(connection),
                ServerMessage::Ping => connection.write(b"PONG\r\n").await?,
                ServerMessage::Error(why) => return Err(why),
                ServerMessage::Info(_) | ServerMessage::Answer { .. } => {}
            }
        }
    }

    async fn greeted(&mut self) -> Result<Info, String> {
        match self.read().await? {
            ServerMessage::Info(info) => Ok(info),
            other => Err(format!("no NATS server: it begins with {other:?}")),
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.socket.write_all(bytes).await.map_err(text)?;
        self.socket.flush().await.map_err(text)
    }

    async fn read(&mut self) -> Result<ServerMessage, String> {
        let mut bytes = vec![0; 16 << 10];
        loop {
            if let Some(sent) = self.reader.read()? {
                return Ok(sent);
            }
            match self.socket.read(&mut bytes).await.map_err(text)? {
                0 => return Err("the server has ended the connection".to_owned()),
                count => self.reader.push(&bytes[..count]),
            }
        }
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
