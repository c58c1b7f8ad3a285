//! Connecting to NATS, and checking that the server is fit.

use std::path::PathBuf;
use std::time::Duration;

use async_nats::jetstream::context::{
    AccountErrorKind, ContextBuilder, CreateStreamError, CreateStreamErrorKind, GetStreamErrorKind,
};
use async_nats::jetstream::stream::{Info, Stream};
use async_nats::jetstream::{Context, ErrorCode};
use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event};
use tokio::sync::watch;

/// Bytes that a message costs on the wire besides its payload.
pub(crate) const HEADROOM_BYTES: usize = 1 << 10;
/// The oldest version of nats-server that is accepted: major, minor.
const SERVER_LEAST: (i64, i64) = (2, 14);
const CONNECT_MAX: Duration = Duration::from_secs(5);
// Requests that are under way when a stream's leader is lost are never answered. The timeouts are short,
// for the same request sent again reaches the next leader.
const REQUEST_MAX: Duration = Duration::from_secs(3);
const ACK_MAX: Duration = Duration::from_secs(4);
/// A connection on which two of these pings get no answer is given up.
const PING_EVERY: Duration = Duration::from_secs(3);

/// How to connect to NATS, and with which settings streams are created there.
#[derive(Clone, Debug)]
pub struct JetStreamConfig {
    /// `nats://HOST:PORT` or `tls://HOST:PORT`; several are separated by commas.
    pub url: String,
    /// A file with a user's JWT and seed (`.creds`).
    pub credentials: Option<PathBuf>,
    /// A user's name, and a file with the password.
    pub login: Option<(String, PathBuf)>,
    /// A file with a user's nkey seed (`SU…`), where the server knows the public key.
    pub nkey: Option<PathBuf>,
    /// The client's certificate and its key (PEM).
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// A file with the root certificates (PEM) to trust instead of the system's.
    pub ca: Option<PathBuf>,
    /// This client's name at the server. Replies to it come to `_INBOX_NAME.>`, so that the server's
    /// permissions can keep others from reading them. Letters, digits, `_` and `-`.
    pub client_name: String,
    /// Stands before the name of every stream and every subject. Empty, unless several deployments share
    /// an account.
    pub prefix: String,
    /// Number of partitions; fixed for the life of the log.
    pub partitions: u16,
    /// Number of copies of streams that are created from now on.
    pub replicas: usize,
    /// The most bytes of each stream that is created from now on; a full stream refuses messages.
    /// `None`: as much as the server has room for.
    pub stream_bytes_max: Option<i64>,
    /// The largest message that will be appended, in bytes; the server must accept it.
    pub message_bytes_max: usize,
}

impl JetStreamConfig {
    /// The defaults for a server and a number of partitions.
    #[must_use]
    pub fn new(url: impl Into<String>, partitions: u16) -> Self {
        Self {
            url: url.into(),
            credentials: None,
            login: None,
            nkey: None,
            certificate: None,
            ca: None,
            client_name: "countersign".to_owned(),
            prefix: String::new(),
            partitions,
            replicas: 1,
            stream_bytes_max: None,
            message_bytes_max: (1 << 20) - HEADROOM_BYTES,
        }
    }
}

/// Why something on NATS cannot be opened; each text says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// No server answers; the same call may succeed later.
    #[error("no NATS server answers at {url}: {why}")]
    Away {
        /// The servers' addresses.
        url: String,
        /// The error of the system or of the server.
        why: String,
    },
    /// A server answers, but its JetStream does not yet; the same call may succeed within seconds.
    #[error(
        "{url}: JetStream does not answer yet ({why}): nodes that have just met have no leader for some \
         seconds; if it lasts, see that most nodes run, and that this user may use JetStream"
    )]
    NotYet {
        /// The servers' addresses.
        url: String,
        /// The error of NATS.
        why: String,
    },
    /// A setting or the server is not as it must be; waiting does not help.
    #[error("{0}")]
    Unfit(String),
    /// The streams are missing, incomplete, or not those of this deployment.
    #[error("{0}")]
    Foreign(String),
}

impl OpenError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Away { .. } | Self::NotYet { .. })
    }
}

/// Error codes of a cluster that has no leader yet or does not know all of its nodes.
const NOT_YET: [ErrorCode; 2] = [ErrorCode::CLUSTER_NOT_AVAILABLE, ErrorCode::CLUSTER_NO_PEERS];

/// The error to return when a stream, or the stream of a bucket, cannot be created.
pub(crate) fn cannot_make(
    config: &JetStreamConfig,
    what: &str,
    error: &CreateStreamError,
) -> OpenError {
    let is_early = match error.kind() {
        CreateStreamErrorKind::TimedOut => true,
        CreateStreamErrorKind::JetStream(why) => NOT_YET.contains(&why.error_code()),
        _ => false,
    };
    let why = format!("{what} cannot be made: {error}");
    if is_early {
        OpenError::NotYet { url: config.url.clone(), why }
    } else {
        OpenError::Unfit(why)
    }
}

/// Connects and checks the server. The receiver counts how often the client has connected.
pub(crate) async fn context(
    config: &JetStreamConfig,
) -> Result<(Context, watch::Receiver<u64>), OpenError> {
    let (client, connected) = connect(config).await?;
    check_server(config, &client)?;
    let context = ContextBuilder::new().timeout(REQUEST_MAX).ack_timeout(ACK_MAX).build(client);
    if let Err(error) = context.query_account().await {
        let is_early = match error.kind() {
            AccountErrorKind::TimedOut => true,
            AccountErrorKind::JetStream(why) => NOT_YET.contains(&why.error_code()),
            _ => false,
        };
        if is_early {
            return Err(OpenError::NotYet { url: config.url.clone(), why: error.to_string() });
        }
        // Without JetStream nobody answers the request, or the account has no permission for it.
        return Err(OpenError::Unfit(format!(
            "{}: JetStream does not answer ({error}): enable it in the server's config \
             (`jetstream {{}}`) and for this account",
            config.url
        )));
    }
    Ok((context, connected))
}

async fn connect(config: &JetStreamConfig) -> Result<(Client, watch::Receiver<u64>), OpenError> {
    let (sender, connected) = watch::channel(0);
    let mut options = ConnectOptions::new()
        .name(&config.client_name)
        .custom_inbox_prefix(format!("_INBOX_{}", config.client_name))
        .connection_timeout(CONNECT_MAX)
        .ping_interval(PING_EVERY)
        .max_reconnects(None)
        .event_callback(move |event| {
            match &event {
                Event::Connected => sender.send_modify(|times| *times += 1),
                // `ClientError` comes once for each request that was under way on a lost connection.
                Event::ClientError(_) | Event::Closed => tracing::debug!(%event, "nats"),
                other => tracing::warn!(event = %other, "nats"),
            }
            std::future::ready(())
        });
    if let Some(path) = &config.credentials {
        options = options.credentials_file(path).await.map_err(|error| {
            OpenError::Unfit(format!("credentials {}: {error}", path.display()))
        })?;
    }
    let secret = |what: &str, path: &PathBuf| match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(error) => Err(OpenError::Unfit(format!("{what} {}: {error}", path.display()))),
    };
    if let Some((user, path)) = &config.login {
        options = options.user_and_password(user.clone(), secret("password file", path)?);
    }
    if let Some(path) = &config.nkey {
        options = options.nkey(secret("nkey", path)?);
    }
    if let Some((certificate, key)) = &config.certificate {
        options = options.add_client_certificate(certificate.clone(), key.clone());
    }
    if let Some(path) = &config.ca {
        options = options.add_root_certificates(path.clone());
    }
    let servers: Vec<&str> = config.url.split(',').map(str::trim).collect();
    match options.connect(servers).await {
        Ok(client) => Ok((client, connected)),
        Err(error) => Err(match error.kind() {
            ConnectErrorKind::ServerParse => OpenError::Unfit(format!(
                "{:?} is no address of a NATS server: nats://HOST:4222 is",
                config.url
            )),
            ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
                OpenError::Unfit(format!(
                    "{} refuses the credentials: check the credentials file and the account's users",
                    config.url
                ))
            }
            ConnectErrorKind::Tls => OpenError::Unfit(format!(
                "{}: TLS: {error}; name the authority's certificate, or use nats:// where the \
                 server has no TLS",
                config.url
            )),
            _ => OpenError::Away { url: config.url.clone(), why: error.to_string() },
        }),
    }
}

/// Checks that the server is new enough and takes messages as large as ours.
fn check_server(config: &JetStreamConfig, client: &Client) -> Result<(), OpenError> {
    let (major, minor) = SERVER_LEAST;
    let server = client.server_info();
    if !client.is_server_compatible(major, minor, 0) {
        return Err(OpenError::Unfit(format!(
            "{} is nats-server {}: at least {major}.{minor} is needed",
            config.url, server.version
        )));
    }
    let needed = config.message_bytes_max + HEADROOM_BYTES;
    if server.max_payload < needed {
        return Err(OpenError::Unfit(format!(
            "{} takes messages of at most {} bytes: set max_payload to at least {needed}",
            config.url, server.max_payload
        )));
    }
    Ok(())
}

/// Warns of a stream with fewer copies than set: their number is fixed when the stream is created, and a
/// setting that is raised later does not change it.
pub(crate) fn warn_of_few_copies(config: &JetStreamConfig, info: &Info) {
    let (has, wanted) = (info.config.num_replicas, config.replicas);
    if has < wanted {
        tracing::warn!(
            stream = info.config.name,
            "FEWER COPIES THAN SET: {has}, not {wanted}; with the loss of a node what it holds is \
             away or lost. `nats stream edit {} --replicas {wanted}` makes more",
            info.config.name
        );
    }
}

/// The stream of this name, if there is one.
pub(crate) async fn find_stream(
    context: &Context,
    name: &str,
) -> Result<Option<Stream<Info>>, String> {
    match context.get_stream(name).await {
        Ok(stream) => Ok(Some(stream)),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(why)
                if why.error_code() == ErrorCode::STREAM_NOT_FOUND =>
            {
                Ok(None)
            }
            _ => Err(format!("stream {name}: {error}")),
        },
    }
}
