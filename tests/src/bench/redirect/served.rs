//! Our own servers under test, each in a process of its own (`served edge DIR`, `served axum`), so
//! that it can be ended with -9.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{StatusCode, header};
use axum::serve::ListenerExt as _;
use bytes::Bytes;
use edge::native::{Metrics, Parts, Policies, RimSettings};
use edge::outbox::{BatchSink, DrainSettings, Outbox, OutboxSettings, SinkError};
use edge::policy::LINK_DAYS;
use edge::privacy::PrivacyPolicy;
use edge::verdict::Rules;
use edge::{Durability, Keys, Policy};
use shared::ambient::{SystemClock, SystemRandom};
use shared::{Id, RuleSet};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use super::super::tokens::{Mint, URL};

/// A sink that takes every batch at once: the edge reads back and hands over all that it writes,
/// but no collector uses its core.
struct Taken;

impl BatchSink for Taken {
    async fn submit(&self, batch: Bytes) -> Result<(), SinkError> {
        drop(batch);
        Ok(())
    }
}

/// The edge, with its outbox in a directory; nothing that it has written is deleted.
///
/// # Errors
/// Says why it could not start or go on.
pub fn edge(outbox: &Path) -> Result<(), String> {
    let runtime = Runtime::new().map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let mint = Mint::new()?;
        let keys = Keys::of_store(&mint.store, Id::literal("bench")).map_err(|e| e.to_string())?;
        let policy = Policy {
            public_url: "https://edge.example".parse()?,
            link_days: LINK_DAYS,
            beacons: Durability::Durable,
            clicks: Durability::Durable,
            // The load tool sends tokens that were issued a moment ago.
            verdicts: Rules { click_too_soon_ms: 0, ..Rules::default() },
            rule_set: RuleSet::UNKNOWN,
            privacy: PrivacyPolicy::default(),
            keys: Arc::new(keys),
            catalogue: Arc::default(),
        };
        let clock = Arc::new(SystemClock);
        let metrics = Metrics::default();
        let settings = OutboxSettings {
            disk_bytes_max: 16 << 30,
            ..OutboxSettings::new(outbox, Id::literal("bench"))
        };
        let opened = Outbox::open(&settings, clock.clone(), &mut SystemRandom, metrics.clone());
        let (outbox, _) = opened.map_err(|error| error.to_string())?;
        let parts = Parts {
            policies: Arc::new(Policies::new(policy)),
            catalogue: None,
            outbox,
            sink: Arc::new(Taken),
            drain: DrainSettings { trim_pause: Duration::from_hours(1), ..Default::default() },
            clock,
            random: Box::new(SystemRandom),
            metrics,
            registry: None,
            // No redirect goes out before its event is durable, however slow the disk.
            settings: RimSettings { redirect_wait: Duration::from_hours(1), ..Default::default() },
        };
        let listener = listen().await?;
        let ended = edge::native::run(listener, parts, std::future::pending()).await;
        Err(format!("the edge has ended: {ended:?}"))
    })
}

/// An axum server whose only route answers 302.
///
/// # Errors
/// Says why it could not start or go on.
pub fn axum() -> Result<(), String> {
    let runtime = Runtime::new().map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let redirect = || async { (StatusCode::FOUND, [(header::LOCATION, URL)]) };
        let router = axum::Router::new().route("/v1/c/{token}", axum::routing::get(redirect));
        let listener = listen().await?;
        axum::serve(listener.tap_io(nodelay), router).await.map_err(|error| error.to_string())
    })
}

/// Sets TCP_NODELAY, as the edge does on its connections.
fn nodelay(stream: &mut TcpStream) {
    let _ = stream.set_nodelay(true);
}

/// Takes a free port and tells it.
async fn listen() -> Result<TcpListener, String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(|error| error.to_string())?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    writeln!(std::io::stdout(), "listening on {address}").map_err(|error| error.to_string())?;
    Ok(listener)
}
