//! Turns an HTTP request into the core's form, and the core's decision into effects and an HTTP
//! reply.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Response, StatusCode};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use shared::ambient::Stopwatch;
use shared::id::IdAllocator;
use shared::{Clock, Country, ImpressionId, Network, Random, Ready, Timestamp};
use tokio::runtime::Handle;

use super::bodies::{Bodies, Unread, Whole};
use super::doors::{Permit, Shut};
use super::head::Head;
use super::networks::Tables;
use super::patience::Patience;
use super::{Policies, RimSettings};
use crate::clicks::Clicks;
use crate::decision::{Decision, Draft, Durability, Loss, Reply, WhenFull};
use crate::handle::{self, State, handle};
use crate::limit::{Class, Limits};
use crate::metrics::{Metrics, Route};
use crate::outbox::{AppendError, News, Outbox, Pending};
use crate::ready;
use crate::request::{Body, Method, Request, opts_out};

/// An edge is not ready for this long after its outbox was seen full.
const FULL_LASTS: Duration = Duration::from_secs(3);
const DATE_BYTES: usize = 29;
/// The last second of the year 9999, in seconds since 1970: the date format has four digits for the
/// year.
const DATE_MAX: u64 = 253_402_300_799;

/// What a [`Rim`] is made of.
pub(super) struct RimParts {
    pub(super) policies: Arc<Policies>,
    pub(super) outbox: Outbox,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) random: Box<dyn Random>,
    pub(super) metrics: Metrics,
    pub(super) registry: Option<Arc<Registry>>,
    pub(super) country_header: Option<HeaderName>,
    pub(super) tables: Tables,
    pub(super) settings: RimSettings,
    /// What the sink has learnt about this edge.
    pub(super) news: Box<dyn Fn() -> News + Send + Sync>,
}

/// The state that all connections share.
pub(super) struct Rim {
    policies: Arc<Policies>,
    outbox: Outbox,
    clock: Arc<dyn Clock>,
    ids: Mutex<IdAllocator>,
    random: Mutex<Box<dyn Random>>,
    metrics: Metrics,
    registry: Option<Arc<Registry>>,
    country_header: Option<HeaderName>,
    tables: Tables,
    settings: RimSettings,
    news: Box<dyn Fn() -> News + Send + Sync>,
    limits: Limits,
    clicks: Clicks,
    bodies: Bodies,
    /// The limits' clock: it never goes back.
    started: Stopwatch,
    /// When the outbox was last seen full, on the clock `started`.
    last_full: Mutex<Option<Duration>>,
    told_of_proxy: AtomicBool,
    /// Runs what must outlive a connection and its thread.
    runtime: Handle,
    /// The last second whose `Date` was written, and that text.
    date: Mutex<(u64, [u8; DATE_BYTES])>,
}

/// The random source, locked for one draw and not for a whole request.
struct LockPerDraw<'a>(&'a Mutex<Box<dyn Random>>);

impl Random for LockPerDraw<'_> {
    fn fill(&mut self, bytes: &mut [u8]) {
        self.0.lock().fill(bytes);
    }
}

/// What the core may ask of the rim while it decides.
struct RimState<'a>(&'a Rim);

impl State for RimState<'_> {
    fn next_id(&mut self, now: Timestamp, random: &mut dyn Random) -> Option<ImpressionId> {
        Some(self.0.ids.lock().next(now, random))
    }

    fn clicks_too_often(&mut self, client: Option<IpAddr>, user_agent: &[u8]) -> bool {
        self.0.clicks.too_often(client, user_agent, self.0.started.elapsed())
    }

    fn is_repeat(&mut self, event: &Draft) -> bool {
        self.0.outbox.has(event)
    }

    fn stands_still(&self, now: Timestamp) -> bool {
        self.0.clock.now() < now
    }

    fn admit_more(&mut self, client: Option<IpAddr>, more: u32) -> bool {
        let admitted = self.0.limits.admit_more(client, more, self.0.started.elapsed());
        if !admitted {
            self.0.metrics.limited(Class::Request);
        }
        admitted
    }
}

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const GPC: HeaderName = HeaderName::from_static("sec-gpc");
const PURPOSES: [HeaderName; 4] = [
    HeaderName::from_static("sec-purpose"),
    HeaderName::from_static("purpose"),
    HeaderName::from_static("x-moz"),
    HeaderName::from_static("x-purpose"),
];

/// Whether a proxy's header names a country. Cloudflare writes `XX` when it does not know, and `T1`
/// for Tor.
fn says_a_country(said: &[u8]) -> bool {
    std::str::from_utf8(said).is_ok_and(|said| Country::lenient(said) != Country::UNKNOWN)
}

impl Rim {
    pub(super) fn new(parts: RimParts) -> Self {
        let RimParts { policies, outbox, clock, mut random, metrics, .. } = parts;
        let RimParts { registry, country_header, tables, settings, news, .. } = parts;
        Self {
            policies,
            outbox,
            clock,
            ids: Mutex::new(IdAllocator::default()),
            limits: Limits::new(settings.rates, &mut *random),
            clicks: Clicks::new(settings.pace, &mut *random),
            bodies: Bodies::default(),
            started: Stopwatch::start(),
            random: Mutex::new(random),
            metrics,
            registry,
            country_header,
            tables,
            settings,
            news,
            last_full: Mutex::new(None),
            told_of_proxy: AtomicBool::new(false),
            runtime: Handle::current(),
            date: Mutex::new((u64::MAX, [0; DATE_BYTES])),
        }
    }

    /// The time of a request, as [`Outbox::time`] gives it.
    pub(super) fn now(&self) -> Timestamp {
        self.outbox.time(self.clock.now())
    }

    /// The field `Date` (RFC 9110 §5.6.7) for this time; written once a second.
    pub(super) fn date(&self, now: Timestamp) -> [u8; DATE_BYTES] {
        let second = now.seconds().min(DATE_MAX);
        let mut date = self.date.lock();
        if date.0 != second {
            let text = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(second));
            date.1.copy_from_slice(text.as_bytes());
            date.0 = second;
        }
        date.1
    }

    pub(super) const fn settings(&self) -> &RimSettings {
        &self.settings
    }

    pub(super) const fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(super) const fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// Answers one request.
    pub(super) async fn reply(
        self: &Arc<Self>,
        request: hyper::Request<Incoming>,
        peer: IpAddr,
        permit: &Permit,
    ) -> Response<Full<Bytes>> {
        let watch = Stopwatch::start();
        let (head, body) = request.into_parts();
        let path = head.uri.path();
        let route = Route::from_path(path);
        let response = match path {
            path if is_own(path) && head.method.is_safe() => self.own(path),
            _ if let Some(reply) = self.limited(&head, route, peer) => to_response(reply),
            _ => {
                let now = self.now();
                permit.waits();
                let body = self.body(&head, route, body, peer).await;
                permit.works();
                let decision = match body {
                    Ok(body) => self.decide(&head, peer, Some(body.as_deref().unwrap_or(b"")), now),
                    Err(Unread::TooLarge) => self.decide(&head, peer, None, now),
                    Err(Unread::Broken) => Decision::reply(handle::body_broken()),
                    Err(Unread::Busy) => Decision::reply(handle::busy()),
                    Err(Unread::TimedOut) => {
                        permit.shut(Shut::TimedOut);
                        Decision::reply(handle::body_timeout())
                    }
                };
                let mut disk = Patience::new(self.settings.redirect_wait);
                to_response(self.perform(decision, now, &mut disk).await)
            }
        };
        self.metrics.replied(route, response.status().as_u16(), watch.elapsed());
        response
    }

    /// The refusal when the network has asked too often. The body of such a request is not read and
    /// nothing is counted as an event: the sender is told that it was refused.
    pub(super) fn limited(&self, head: &impl Head, route: Route, peer: IpAddr) -> Option<Reply> {
        let class = if route == Route::Click { Class::Click } else { Class::Request };
        let client = self.client(head, peer);
        if self.limits.admit(class, client, self.started.elapsed()) {
            return None;
        }
        self.metrics.limited(class);
        Some(handle::too_many(class))
    }

    /// The body; `None` on a route that takes none.
    async fn body(
        &self,
        head: &Parts,
        route: Route,
        body: Incoming,
        peer: IpAddr,
    ) -> Result<Option<Whole<'_>>, Unread> {
        if route != Route::Events || head.method != hyper::Method::POST {
            return Ok(None);
        }
        let network = self.client(head, peer).map(Network::from_address);
        self.bodies.read(network, body, self.settings.body_timeout).await.map(Some)
    }

    fn client(&self, head: &impl Head, peer: IpAddr) -> Option<IpAddr> {
        self.warn_of_proxy(head, peer);
        crate::address::client(peer, head.fields(&FORWARDED_FOR), &self.settings.trusted_proxies)
    }

    /// Logs, once, that visitors come through a proxy on this machine which the settings do not
    /// name: all of them are then taken for the proxy, to which no limits apply.
    fn warn_of_proxy(&self, head: &impl Head, peer: IpAddr) {
        if !peer.is_loopback() || self.told_of_proxy.load(Ordering::Relaxed) {
            return;
        }
        let is_trusted = || self.settings.trusted_proxies.iter().any(|range| range.contains(peer));
        if head.fields(&FORWARDED_FOR).next().is_some()
            && !is_trusted()
            && !self.told_of_proxy.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(
                "requests come with X-Forwarded-For by a proxy on this machine that edge.trusted_proxies does \
                 not name: all visitors are taken for it (country, network, limits)"
            );
        }
    }

    /// Asks the core for its decision. `body` is `None` when it is too large.
    pub(super) fn decide(
        &self,
        head: &impl Head,
        peer: IpAddr,
        body: Option<&[u8]>,
        now: Timestamp,
    ) -> Decision {
        let trusted = &self.settings.trusted_proxies;
        let by_proxy = trusted.iter().any(|range| range.contains(peer));
        let client = self.client(head, peer);
        let header = self.country_header.as_ref().filter(|_| by_proxy);
        // The proxy knows better than a table: it has seen the visitor.
        let said = header.map_or(b"".as_slice(), |name| head.field(name));
        let country = || client.and_then(|client| self.tables.country(client)).unwrap_or_default();
        let request = Request {
            method: Method::from_name(head.method()),
            path: head.path(),
            query: head.query(),
            content_type: head.field(&header::CONTENT_TYPE),
            user_agent: head.field(&header::USER_AGENT),
            purpose: PURPOSES
                .iter()
                .map(|name| head.field(name))
                .find(|purpose| !purpose.is_empty())
                .unwrap_or_default(),
            if_none_match: head.field(&header::IF_NONE_MATCH),
            opted_out: opts_out(head.fields(&GPC)),
            country: if says_a_country(said) { said } else { country() },
            client,
            asn: client.and_then(|client| self.tables.asn(client)),
            body: body.map_or(Body::TooLarge, Body::Whole),
        };
        let (mut state, mut random) = (RimState(self), LockPerDraw(&self.random));
        handle(&request, &self.policies.load(), &mut state, now, &mut random)
    }

    /// Carries out the decision, in its order: events, tallies, reply.
    pub(super) async fn perform(
        self: &Arc<Self>,
        decision: Decision,
        now: Timestamp,
        disk: &mut Patience,
    ) -> Reply {
        let Decision { events, tallies, durability, when_full, reply } = decision;
        if !events.is_empty() {
            let taken = match (durability, when_full) {
                (Durability::Queued, WhenFull::Refuse) => self.queue(events, now),
                (Durability::Durable, WhenFull::Refuse) => match self.outbox.append(events) {
                    Ok(pending) => pending.await,
                    Err(error) => Err(error),
                },
                (Durability::Queued, WhenFull::Proceed(lost)) => {
                    match self.outbox.append(events) {
                        Ok(pending) => self.tally_if_refused(pending, vec![lost], now),
                        Err(_) => self.tally(now, lost),
                    }
                    Ok(())
                }
                (Durability::Durable, WhenFull::Proceed(lost)) => {
                    self.wait_a_while(events, lost, now, disk).await;
                    Ok(())
                }
            };
            if taken.is_err() {
                return handle::outbox_full();
            }
        }
        for lost in tallies {
            self.tally(now, lost);
        }
        reply
    }

    /// Appends events whose reply does not wait for the disk. Should the outbox refuse them later,
    /// they are tallied.
    fn queue(self: &Arc<Self>, events: Vec<Draft>, now: Timestamp) -> Result<(), AppendError> {
        let lost = crate::decision::lost(&events);
        let pending = self.outbox.append(events)?;
        self.tally_if_refused(pending, lost, now);
        Ok(())
    }

    /// Appends the event of a redirect and waits for the disk for as long as a visitor may wait. An
    /// event that the outbox refuses is tallied, even when that shows only after the redirect is
    /// out.
    async fn wait_a_while(
        self: &Arc<Self>,
        events: Vec<Draft>,
        lost: Loss,
        now: Timestamp,
        disk: &mut Patience,
    ) {
        let mut pending = match self.outbox.append(events) {
            Ok(pending) => pending,
            Err(_) => return self.tally(now, lost),
        };
        match disk.wait(Pin::new(&mut pending)).await {
            // After a failed write the event may be on disk or not; the next process finds out. So
            // it is not tallied here.
            Some(Ok(()) | Err(AppendError::Failed)) => {}
            Some(Err(AppendError::Full | AppendError::Closed)) => self.tally(now, lost),
            None => self.tally_if_refused(pending, vec![lost], now),
        }
    }

    /// Waits for the disk after the reply has gone out, which may take longer than the connection
    /// and its thread live; tallies what was refused.
    fn tally_if_refused(self: &Arc<Self>, pending: Pending, lost: Vec<Loss>, now: Timestamp) {
        let rim = Arc::clone(self);
        self.runtime.spawn(async move {
            if let Err(AppendError::Full | AppendError::Closed) = pending.await {
                lost.into_iter().for_each(|lost| rim.tally(now, lost));
            }
        });
    }

    fn tally(&self, now: Timestamp, lost: Loss) {
        self.outbox.tally(now, lost.kind, lost.reason, lost.count);
    }

    /// The routes for the operator: health, readiness, metrics.
    fn own(&self, path: &str) -> Response<Full<Bytes>> {
        match (path, &self.registry) {
            ("/healthz", _) => text(StatusCode::OK, "text/plain", "ok\n".to_owned()),
            (Ready::PATH, _) => {
                let ready = Ready::unless(self.unready());
                let status = StatusCode::from_u16(ready.code());
                let body = serde_json::to_string(&ready).unwrap_or_default();
                text(status.unwrap_or(StatusCode::SERVICE_UNAVAILABLE), "application/json", body)
            }
            (_, Some(registry)) => {
                let mut body = String::new();
                let encoded = prometheus_client::encoding::text::encode(&mut body, registry);
                let status = match encoded {
                    Ok(()) => StatusCode::OK,
                    Err(_) => StatusCode::INTERNAL_SERVER_ERROR,
                };
                let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                text(status, kind, body)
            }
            (_, None) => to_response(handle::not_found()),
        }
    }

    /// Why this edge should get no traffic; empty when it is ready.
    fn unready(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.is_full_of_late() {
            reasons.push(ready::outbox_full());
        }
        let now = self.outbox.time(self.clock.now());
        if !self.policies.load().keys.can_sign(now) {
            reasons.push(ready::no_signing_key(now));
        }
        let news = (self.news)();
        if news.is_out_of_service {
            reasons.push(ready::edge_retired());
        }
        reasons.extend(news.clock_ahead_ms.map(ready::clock_ahead));
        reasons.extend(self.clock.trouble().map(|why| ready::clock_set(&why)));
        reasons
    }

    /// Whether the outbox is full or was so a moment ago. On a full disk there is room now and then
    /// for a heartbeat, which must not make the edge look ready.
    fn is_full_of_late(&self) -> bool {
        let now = self.started.elapsed();
        let mut last = self.last_full.lock();
        if self.outbox.is_full() {
            *last = Some(now);
        }
        last.is_some_and(|last| now.saturating_sub(last) < FULL_LASTS)
    }

    /// Updates the gauges every second, for ever.
    pub(super) async fn sample(&self) {
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let depth = self.outbox.depth();
            let lag_ms = depth.oldest.map_or(0, |at| self.clock.now().0.saturating_sub(at.0));
            self.metrics.unacked.set(depth.unacked.try_into().unwrap_or(i64::MAX));
            self.metrics.disk_bytes.set(depth.disk_bytes.try_into().unwrap_or(i64::MAX));
            self.metrics.held.set(depth.held.try_into().unwrap_or(i64::MAX));
            self.metrics.lag_seconds.set(lag_ms as f64 / 1000.0);
            self.metrics.ready.set(i64::from(self.unready().is_empty()));
        }
    }
}

/// Whether a path is one of the routes for the operator.
pub(super) fn is_own(path: &str) -> bool {
    matches!(path, "/healthz" | Ready::PATH | "/metrics")
}

fn to_response(reply: Reply) -> Response<Full<Bytes>> {
    let body = match reply.body {
        std::borrow::Cow::Borrowed(body) => Bytes::from_static(body),
        std::borrow::Cow::Owned(body) => Bytes::from(body),
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() =
        StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    for (name, value) in reply.fields {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    for (name, value) in [(header::LOCATION, reply.location), (header::ETAG, reply.etag)] {
        // The core lets only visible ASCII through.
        if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
            headers.insert(name, value);
        }
    }
    response
}

fn text(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
