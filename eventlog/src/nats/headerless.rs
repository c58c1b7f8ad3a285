//! A NATS connection without message headers, over which batches are taken from the queue.
//!
//! Edges can write arbitrary bytes into a message's headers, and the server passes them on. Over malformed
//! headers async-nats ends its connection, or its task panics. To a client that says `"headers": false`
//! when it connects, the server sends messages without their headers; so an edge cannot disturb it, and its
//! batch is a batch like any other. async-nats has no such setting. This client speaks the little of the
//! protocol that is needed: connect, subscribe, ask a consumer for a portion, read messages and heartbeats
//! (<https://docs.nats.io/reference/reference-protocols/nats-protocol>, ADR-13).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_nats::ServerAddr;
use async_nats::rustls::crypto::ring;
use async_nats::rustls::pki_types::pem::PemObject as _;
use async_nats::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use async_nats::rustls::{ClientConfig, RootCertStore};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{Buf as _, Bytes, BytesMut};
use nkeys::KeyPair;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use super::connect::JetStreamConfig;

/// Batches in one request to the server; each is at most as large as the server takes, 1 MiB by default.
const PORTION: usize = 64;
/// A request that is not filled is renewed after this.
const EXPIRES: Duration = Duration::from_secs(30);
/// How often the server sends a sign of life while it has no messages …
const HEARTBEAT: Duration = Duration::from_secs(1);
/// … and after how long a silence the connection counts as lost.
const SILENT_MAX: Duration = Duration::from_secs(3);
const CONNECT_MAX: Duration = Duration::from_secs(5);
const WRITE_MAX: Duration = Duration::from_secs(5);
/// The longest line from a server, and the largest message, that are accepted.
const LINE_BYTES_MAX: usize = 64 << 10;
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// A message that a consumer has delivered.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) subject: String,
    /// The subject to which its acknowledgement goes.
    pub(super) reply: String,
    pub(super) payload: Bytes,
}

/// The messages that a consumer delivers, portion by portion, until the connection is lost.
#[derive(Debug)]
pub(super) struct Deliveries {
    given: mpsc::Receiver<Delivery>,
    task: JoinHandle<String>,
}

impl Deliveries {
    /// Connects and begins to ask for messages. The server's own replies come to subjects below `inbox`.
    ///
    /// # Errors
    /// Says why it cannot connect.
    pub(super) async fn start(
        config: &JetStreamConfig,
        inbox: &str,
        stream: &str,
        consumer: &str,
    ) -> Result<Self, String> {
        let connection = Connection::open(config, inbox).await?;
        let (sender, given) = mpsc::channel(PORTION);
        let next = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}");
        let task = tokio::spawn(async move {
            match connection.take(&next, &sender).await {
                Err(why) => why,
                Ok(()) => "nobody wants more".to_owned(),
            }
        });
        Ok(Self { given, task })
    }

    /// Asks for no further portion; messages that have come can still be taken with `next`.
    pub(super) fn close(&mut self) {
        self.given.close();
    }

    /// The next message; waits for one. Cancel-safe.
    ///
    /// # Errors
    /// Why no more messages come.
    pub(super) async fn next(&mut self) -> Result<Delivery, String> {
        match self.given.recv().await {
            Some(given) => Ok(given),
            None => Err((&mut self.task).await.unwrap_or_else(|error| error.to_string())),
        }
    }
}

impl Drop for Deliveries {
    fn drop(&mut self) {
        self.task.abort();
    }
}

trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

struct Connection {
    stream: Box<dyn Duplex>,
    buffer: BytesMut,
    /// The prefix of the subjects to which the server's own replies come.
    inbox: String,
}

/// One protocol message from the server.
#[derive(PartialEq, Eq, Debug)]
enum ServerOp {
    Info(String),
    Ping,
    Pong,
    /// `+OK`, which is not waited for.
    Other,
    Message {
        subject: String,
        reply: Option<String>,
        payload: Bytes,
    },
    Error(String),
}

impl Connection {
    /// Connects to the first of the config's servers that accepts.
    ///
    /// # Errors
    /// Why the last one did not.
    async fn open(config: &JetStreamConfig, inbox: &str) -> Result<Self, String> {
        let mut why = "no server is named".to_owned();
        for server in config.url.split(',').map(str::trim) {
            match timeout(CONNECT_MAX, Self::open_at(config, inbox, server)).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => why = format!("{server}: {error}"),
                Err(_) => why = format!("{server} does not answer"),
            }
        }
        Err(why)
    }

    async fn open_at(config: &JetStreamConfig, inbox: &str, server: &str) -> Result<Self, String> {
        let address: ServerAddr = server.parse().map_err(|error| format!("{error}"))?;
        let tcp = TcpStream::connect((address.host(), address.port())).await;
        let tcp = tcp.map_err(|error| error.to_string())?;
        tcp.set_nodelay(true).map_err(|error| error.to_string())?;
        let (buffer, inbox) = (BytesMut::new(), inbox.to_owned());
        let mut connection = Self { stream: Box::new(tcp), buffer, inbox };
        let ServerOp::Info(info) = connection.read().await? else {
            return Err("it is no NATS server".to_owned());
        };
        let info: serde_json::Value = serde_json::from_str(&info).map_err(|e| e.to_string())?;
        let by_tls = address.tls_required() || info["tls_required"] == true;
        if by_tls {
            let tls = TlsConnector::from(Arc::new(tls(config)?));
            let name = ServerName::try_from(address.host().to_owned());
            let name = name.map_err(|error| format!("TLS: {error}"))?;
            let stream = std::mem::replace(&mut connection.stream, Box::new(tokio::io::empty()));
            let secure = tls.connect(name, stream).await;
            connection.stream = Box::new(secure.map_err(|error| format!("TLS: {error}"))?);
        }
        let mut connect = serde_json::json!({
            "verbose": false, "pedantic": false, "tls_required": by_tls, "protocol": 1,
            "lang": "rust", "version": env!("CARGO_PKG_VERSION"), "name": config.client_name,
            "echo": false, "headers": false, "no_responders": false,
        });
        authenticate(config, &address, &info, &mut connect)?;
        let inbox = &connection.inbox;
        let hello = format!("CONNECT {connect}\r\nSUB {inbox}.* 1\r\nPING\r\n");
        connection.write(&hello).await?;
        // The PONG answers the last line of the greeting: when it comes, everything before it was accepted.
        loop {
            match connection.read().await? {
                ServerOp::Pong => return Ok(connection),
                ServerOp::Ping => connection.write("PONG\r\n").await?,
                ServerOp::Error(why) => return Err(why),
                _ => {}
            }
        }
    }

    /// Asks for portions and hands messages to `to`. A portion is asked for only when the channel has room
    /// for all of it. Returns when the receiver is closed.
    ///
    /// # Errors
    /// Why the connection is lost.
    async fn take(mut self, next: &str, to: &mpsc::Sender<Delivery>) -> Result<(), String> {
        let portion = serde_json::json!({
            "batch": PORTION,
            "expires": u64::try_from(EXPIRES.as_nanos()).unwrap_or(0),
            "idle_heartbeat": u64::try_from(HEARTBEAT.as_nanos()).unwrap_or(0),
        });
        let portion = portion.to_string();
        // Each round asks for one portion. The number names the round's inbox.
        for number in 0_u64.. {
            let mut room = loop {
                tokio::select! {
                    room = to.reserve_many(PORTION) => match room {
                        Ok(room) => break room,
                        Err(_) => return Ok(()),
                    },
                    sent = self.read() => drop(self.handle(sent?).await?),
                }
            };
            let (inbox, length) = (&self.inbox, portion.len());
            let ask = format!("PUB {next} {inbox}.{number} {length}\r\n{portion}\r\n");
            self.write(&ask).await?;
            // The server ends the request itself a little sooner.
            let mut expires = std::pin::pin!(sleep(EXPIRES + HEARTBEAT / 2));
            // Ends when the portion is full or its time is over; silence is an error.
            loop {
                let sent = tokio::select! {
                    sent = timeout(SILENT_MAX, self.read()) => sent,
                    () = &mut expires => break,
                };
                let sent = sent.map_err(|_| "the server says nothing any more".to_owned())??;
                let Some(given) = self.handle(sent).await? else { continue };
                let Some(place) = room.next() else { break };
                place.send(given);
                if room.len() == 0 {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Handles one protocol message; gives the message of a consumer, if it is one.
    ///
    /// # Errors
    /// The server reports an error or is going down.
    async fn handle(&mut self, sent: ServerOp) -> Result<Option<Delivery>, String> {
        match sent {
            ServerOp::Ping => self.write("PONG\r\n").await?,
            ServerOp::Error(why) => return Err(why),
            // "Lame duck mode": the server announces that it will shut down.
            ServerOp::Info(info) if info.contains("\"ldm\":true") => {
                return Err("the server is going down".to_owned());
            }
            // Heartbeats and the ends of portions come to the inbox. They are told by their headers alone,
            // which are left out; so what comes to the inbox is ignored.
            ServerOp::Message { subject, reply: Some(reply), payload }
                if !subject.starts_with(&self.inbox) =>
            {
                return Ok(Some(Delivery { subject, reply, payload }));
            }
            _ => {}
        }
        Ok(None)
    }

    async fn write(&mut self, text: &str) -> Result<(), String> {
        let written = timeout(WRITE_MAX, self.stream.write_all(text.as_bytes())).await;
        written.map_err(|_| "it takes nothing".to_owned())?.map_err(|error| error.to_string())?;
        self.stream.flush().await.map_err(|error| error.to_string())
    }

    /// The next protocol message. Cancel-safe: an incomplete one stays in the buffer.
    async fn read(&mut self) -> Result<ServerOp, String> {
        loop {
            if let Some(sent) = parse(&mut self.buffer)? {
                return Ok(sent);
            }
            let read = self.stream.read_buf(&mut self.buffer).await;
            if read.map_err(|error| error.to_string())? == 0 {
                return Err("the server has closed the connection".to_owned());
            }
        }
    }
}

/// Takes one whole protocol message from the front of the buffer; `None` when more bytes are needed.
fn parse(buffer: &mut BytesMut) -> Result<Option<ServerOp>, String> {
    let Some(end) = buffer.windows(2).position(|two| two == b"\r\n") else {
        let is_long = buffer.len() > LINE_BYTES_MAX;
        return if is_long { Err("a line without end".to_owned()) } else { Ok(None) };
    };
    let line = String::from_utf8_lossy(&buffer[..end]).into_owned();
    let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
    let words: Vec<&str> = rest.split_ascii_whitespace().collect();
    let sent = match verb.to_ascii_uppercase().as_str() {
        "INFO" => ServerOp::Info(rest.to_owned()),
        "PING" => ServerOp::Ping,
        "PONG" => ServerOp::Pong,
        "+OK" => ServerOp::Other,
        "-ERR" => ServerOp::Error(rest.to_owned()),
        "MSG" => {
            let (subject, reply, length) = match words[..] {
                [subject, _, length] => (subject, None, length),
                [subject, _, reply, length] => (subject, Some(reply), length),
                _ => return Err("a message without its length".to_owned()),
            };
            let length = length.parse().ok().filter(|length| *length <= MESSAGE_BYTES_MAX);
            let length: usize = length.ok_or("a message that is too long")?;
            if buffer.len() < end + 2 + length + 2 {
                return Ok(None);
            }
            buffer.advance(end + 2);
            let payload = buffer.split_to(length).freeze();
            buffer.advance(2);
            let (subject, reply) = (subject.to_owned(), reply.map(str::to_owned));
            return Ok(Some(ServerOp::Message { subject, reply, payload }));
        }
        other => return Err(format!("not a word of NATS: {other:.40}")),
    };
    buffer.advance(end + 2);
    Ok(Some(sent))
}

/// Adds the configured credentials to the `connect` message.
fn authenticate(
    config: &JetStreamConfig,
    address: &ServerAddr,
    info: &serde_json::Value,
    connect: &mut serde_json::Value,
) -> Result<(), String> {
    // Signs the server's nonce; gives the signature and the public key.
    let sign = |seed: &str| {
        let pair = KeyPair::from_seed(seed.trim()).map_err(|error| error.to_string())?;
        let nonce = info["nonce"].as_str().ok_or("the server gives no nonce to sign")?;
        let signature = pair.sign(nonce.as_bytes()).map_err(|error| error.to_string())?;
        Ok::<_, String>((URL_SAFE_NO_PAD.encode(signature), pair.public_key()))
    };
    if let Some(path) = &config.credentials {
        let text = read(path)?;
        let (token, seed) = decorated(&text).ok_or("a credentials file has a JWT and a seed")?;
        connect["sig"] = sign(seed)?.0.into();
        connect["jwt"] = token.into();
    }
    if let Some(path) = &config.nkey {
        let (signature, public) = sign(&read(path)?)?;
        connect["sig"] = signature.into();
        connect["nkey"] = public.into();
    }
    let named = address.has_user_pass().then(|| (address.username(), address.password()));
    if let Some((Some(user), password)) = named {
        connect["user"] = user.into();
        connect["pass"] = password.unwrap_or_default().into();
    }
    if let Some((user, path)) = &config.login {
        connect["user"] = user.as_str().into();
        connect["pass"] = read(path)?.trim().into();
    }
    Ok(())
}

/// The JWT and the seed of a credentials file, each of which stands between lines of dashes.
fn decorated(text: &str) -> Option<(&str, &str)> {
    let mut texts = text.split("-----BEGIN ").skip(1).map(|block| block.lines().nth(1));
    Some((texts.next()??.trim(), texts.next()??.trim()))
}

fn tls(config: &JetStreamConfig) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    match &config.ca {
        Some(path) => {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| format!("{}: {error}", path.display()))?;
            }
        }
        None => {
            let native = rustls_native_certs::load_native_certs();
            let _ = roots.add_parsable_certificates(native.certs);
        }
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let Some((certificate, key)) = &config.certificate else {
        return Ok(builder.with_no_client_auth());
    };
    let secret = PrivateKeyDer::from_pem_file(key);
    let secret = secret.map_err(|error| format!("{}: {error}", key.display()))?;
    let with = builder.with_client_auth_cert(certificates(certificate)?, secret);
    with.map_err(|error| format!("{}: {error}", certificate.display()))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    read.map_err(|error| format!("{}: {error}", path.display()))
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8]) -> Result<Vec<ServerOp>, String> {
        let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
        for byte in bytes {
            buffer.extend_from_slice(&[*byte]);
            found.extend(parse(&mut buffer)?);
        }
        assert!(buffer.is_empty(), "{buffer:?}");
        Ok(found)
    }

    #[test]
    fn what_a_server_sends_is_read_in_whatever_pieces_it_comes() {
        let message =
            |subject: &str, reply: Option<&str>, payload: &'static [u8]| ServerOp::Message {
                subject: subject.to_owned(),
                reply: reply.map(str::to_owned),
                payload: Bytes::from_static(payload),
            };
        let sent = b"INFO {\"a\": 1}\r\nPING\r\n+OK\r\npong\r\nMSG a.b 1 r 4\r\n\r\n\r\n\r\nMSG in 1 0\r\n\r\n-ERR 'no'\r\n";
        assert_eq!(
            all(sent).unwrap(),
            [
                ServerOp::Info("{\"a\": 1}".to_owned()),
                ServerOp::Ping,
                ServerOp::Other,
                ServerOp::Pong,
                message("a.b", Some("r"), b"\r\n\r\n"),
                message("in", None, b""),
                ServerOp::Error("'no'".to_owned()),
            ]
        );
        for wrong in
            ["HTTP/1.1 200\r\n", "MSG a 1\r\n", "MSG a 1 x\r\n", "MSG a 1 r 99999999999\r\n"]
        {
            assert!(all(wrong.as_bytes()).is_err(), "{wrong}");
        }
        assert!(all(&vec![b'x'; LINE_BYTES_MAX + 2]).is_err());
    }

    #[test]
    fn who_has_an_nkey_signs_the_server_s_nonce() {
        let pair = KeyPair::new_from_raw(nkeys::KeyPairType::User, [7; 32]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut config = JetStreamConfig::new("nats://user:word@127.0.0.1", 1);
        let write = |name: &str, text: String| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            Some(path)
        };
        let seed = pair.seed().unwrap();
        let says = |config: &JetStreamConfig| {
            let mut connect = serde_json::json!({});
            let info = serde_json::json!({ "nonce": "once" });
            let address = config.url.parse().unwrap();
            authenticate(config, &address, &info, &mut connect).map(|()| connect)
        };
        assert_eq!(says(&config).unwrap(), serde_json::json!({ "user": "user", "pass": "word" }));
        config.nkey = write("nkey", format!("{seed}\n"));
        let said = says(&config).unwrap();
        assert_eq!(said["nkey"], pair.public_key());
        let signature = URL_SAFE_NO_PAD.decode(said["sig"].as_str().unwrap()).unwrap();
        pair.verify(b"once", &signature).unwrap();
        config.nkey = None;
        let text = format!("-----BEGIN NATS USER JWT-----\ne.y.J\n-----BEGIN SEED-----\n{seed}\n");
        config.credentials = write("creds", text);
        let said = says(&config).unwrap();
        assert!(said["jwt"] == "e.y.J" && said["sig"].is_string(), "{said}");
        config.credentials = Some(dir.path().join("none"));
        assert!(says(&config).unwrap_err().contains("none"));
    }

    #[test]
    fn a_credentials_file_has_two_texts() {
        let text = "-----BEGIN NATS USER JWT-----\r\neyJ.x.y\r\n------END NATS USER JWT------\n\n****\n\
                    -----BEGIN USER NKEY SEED-----\nSUABC\n------END USER NKEY SEED------\n";
        assert_eq!(decorated(text), Some(("eyJ.x.y", "SUABC")));
        assert_eq!(decorated("SUABC"), None);
    }
}
