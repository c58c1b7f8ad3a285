//! The part of the NATS client protocol that publishing to a stream needs. Pure: bytes in, bytes
//! out.
//!
//! <https://docs.nats.io/reference/reference-protocols/nats-protocol>. async-nats is not used, for
//! it does not compile to Wasm.

use super::nkey;
use super::settings::{Credentials, NatsServer};

/// The longest line of a server that is accepted.
const LINE_BYTES_MAX: usize = 64 << 10;
/// The longest payload of a server that is accepted; acknowledgements are short.
const PAYLOAD_BYTES_MAX: usize = 64 << 10;

/// What a server says about itself when a client connects.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Deserialize)]
#[serde(default)]
pub struct Info {
    /// A client with an nkey must sign this.
    pub nonce: Option<String>,
    /// The server requires TLS.
    pub tls_required: bool,
    /// The server offers TLS.
    pub tls_available: bool,
    /// The largest payload that the server accepts, in bytes.
    pub max_payload: usize,
}

/// A message from a server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ServerMessage {
    /// Its first line.
    Info(Info),
    /// It wants a `PONG`.
    Ping,
    /// The answer to a `PING`.
    Pong,
    /// A message to our inbox: an acknowledgement, or why there is none.
    Answer {
        /// The number that the message was published with, which is the last word of the subject.
        number: u64,
        /// Whether the stream has stored the message.
        stored: Result<(), String>,
    },
    /// An error, after which the server closes the connection.
    Error(String),
}

/// Reads what a server sends, in whatever pieces it arrives.
#[derive(Debug, Default)]
pub struct Reader {
    bytes: Vec<u8>,
}

impl Reader {
    /// Adds bytes that have arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next complete message; `None` until more bytes arrive.
    ///
    /// # Errors
    /// When the bytes are not from a NATS server.
    pub fn read(&mut self) -> Result<Option<ServerMessage>, String> {
        // Each round consumes a line, or a message with its payload, and passes over those that
        // need no attention, so it ends with a message, an error, or not enough bytes.
        loop {
            let Some(end) = self.bytes.windows(2).position(|two| two == b"\r\n") else {
                let long = self.bytes.len() > LINE_BYTES_MAX;
                return if long { Err("a line without end".to_owned()) } else { Ok(None) };
            };
            let line = String::from_utf8_lossy(&self.bytes[..end]).into_owned();
            let mut words = line.split_ascii_whitespace();
            let sent = match words.next().unwrap_or_default().to_ascii_uppercase().as_str() {
                "INFO" => {
                    let text = line.get(5..).unwrap_or_default();
                    let info = serde_json::from_str(text);
                    Some(ServerMessage::Info(info.map_err(|error| format!("INFO: {error}"))?))
                }
                "PING" => Some(ServerMessage::Ping),
                "PONG" => Some(ServerMessage::Pong),
                "+OK" => None,
                "-ERR" => Some(ServerMessage::Error(line.get(5..).unwrap_or_default().to_owned())),
                verb @ ("MSG" | "HMSG") => {
                    let words: Vec<&str> = words.collect();
                    let Some(payload) = self.payload(end + 2, verb == "HMSG", &words)? else {
                        return Ok(None);
                    };
                    let (answer, after) = payload;
                    self.bytes.drain(..after);
                    match answer {
                        Some(answer) => return Ok(Some(answer)),
                        None => continue,
                    }
                }
                other => return Err(format!("not a word of NATS: {other:.40}")),
            };
            self.bytes.drain(..end + 2);
            if sent.is_some() {
                return Ok(sent);
            }
        }
    }

    /// Reads the payload at `at` as an acknowledgement, and tells where it ends. The outer `None`:
    /// it is not complete yet. The inner one: it is not an answer to us.
    fn payload(
        &self,
        at: usize,
        has_headers: bool,
        words: &[&str],
    ) -> Result<Option<(Option<ServerMessage>, usize)>, String> {
        // The words: subject, subscription, perhaps the reply subject, perhaps the size of the
        // headers, the size of all.
        let number = |word: &str| word.parse::<usize>().ok().filter(|n| *n <= PAYLOAD_BYTES_MAX);
        let (least, sizes) = if has_headers { (4, 2) } else { (3, 1) };
        let read: Option<Vec<usize>> =
            words.iter().rev().take(sizes).map(|word| number(word)).collect();
        let fits = read.filter(|read| words.len() >= least && read.len() == sizes);
        let (Some(read), Some(subject)) = (fits, words.first()) else {
            return Err("a message without its size".to_owned());
        };
        let (total, headers) = (read[0], read.get(1).copied().unwrap_or(0));
        let after = at + total + 2;
        if self.bytes.len() < after {
            return Ok(None);
        }
        let whole = &self.bytes[at..at + total];
        let (head, body) = whole.split_at(headers.min(whole.len()));
        let Some(number) = subject.rsplit('.').next().and_then(|word| word.parse().ok()) else {
            return Ok(Some((None, after)));
        };
        Ok(Some((Some(ServerMessage::Answer { number, stored: stored(head, body) }), after)))
    }
}

/// Reads an acknowledgement (`PubAck`), or a status of the server in the headers.
fn stored(head: &[u8], body: &[u8]) -> Result<(), String> {
    #[derive(serde::Deserialize)]
    struct Ack {
        seq: Option<u64>,
        error: Option<serde_json::Value>,
        #[serde(default)]
        duplicate: bool,
    }
    if let Some(status) = head.strip_prefix(b"NATS/1.0 ") {
        let line = status.split(|byte| *byte == b'\r').next().unwrap_or_default();
        if line.starts_with(b"503") {
            return Err("no stream takes this subject (503)".to_owned());
        }
    }
    match serde_json::from_slice(body) {
        Ok(Ack { error: Some(error), .. }) => Err(format!("the stream refused: {error}")),
        Ok(Ack { duplicate: true, .. }) => Err("the stream took it for another's".to_owned()),
        Ok(Ack { seq: Some(_), .. }) => Ok(()),
        _ => Err(format!("no acknowledgement: {:.80}", String::from_utf8_lossy(body))),
    }
}

/// The greeting: our credentials, our inbox, and a ping; the pong means that we were let in.
///
/// # Errors
/// When the server asks for something that we cannot give.
pub fn greeting(server: &NatsServer, info: &Info, inbox: &str) -> Result<Vec<u8>, String> {
    let mut connect = serde_json::json!({
        "verbose": false, "pedantic": false, "tls_required": server.tls, "lang": "rust-worker",
        "version": env!("CARGO_PKG_VERSION"), "protocol": 1, "headers": true, "no_responders": true,
        "name": "countersign edge", "echo": false,
    });
    match &server.credentials {
        Credentials::None => {}
        Credentials::User(user, password) => {
            connect["user"] = user.as_str().into();
            connect["pass"] = password.as_str().into();
        }
        Credentials::NKey(seed) => {
            let nonce = info.nonce.as_deref().ok_or("the server gives no nonce to sign")?;
            let (public, signature) = nkey::sign(seed, nonce.as_bytes());
            connect["nkey"] = public.into();
            connect["sig"] = signature.into();
        }
    }
    Ok(format!("CONNECT {connect}\r\nSUB {inbox}.* 1\r\nPING\r\n").into_bytes())
}

/// Appends a publish whose acknowledgement comes to `{inbox}.{number}`. It has no message id: a
/// stream compares ids whoever wrote them, so another edge could use ours first and our batch would
/// be dropped. A batch that comes twice is recognised by its number.
pub fn publish(out: &mut Vec<u8>, subject: &str, inbox: &str, number: u64, payload: &[u8]) {
    let line = format!("PUB {subject} {inbox}.{number} {}\r\n", payload.len());
    out.extend_from_slice(line.as_bytes());
    out.extend_from_slice(payload);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests;
