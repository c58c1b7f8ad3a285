//! What a Worker is told by its bindings (`wrangler.toml`, secrets). A value that cannot be used is
//! reported and left out: a misconfigured edge still redirects whom it can.

use shared::EdgeId;
use shared::keys::EdgeKeys;

use crate::clicks;
use crate::decision::Durability;
use crate::limit::Rates;
use crate::outbox::shard::Pace;
use crate::policy::{Keys, LINK_DAYS, LINK_DAYS_MAX, PublicUrl};
use crate::privacy::PrivacyPolicy;
use crate::verdict::{CLICK_TOO_SOON_MS, Rules};
use catalogue::Catalogue;

/// The longest [`Settings::name`]: with a colo and a number it is an [`EdgeId`].
pub const NAME_BYTES_MAX: usize = 8;
/// The most shards of a colo.
pub const SHARDS_MAX: u32 = 100;
/// The least [`Settings::outbox_bytes_max`].
pub const OUTBOX_BYTES_LEAST: u64 = 1 << 20;

/// The settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `EDGE_NAME`: shards are called after it, `NAME--COLO-NUMBER`.
    pub name: String,
    /// `PUBLIC_URL`; none: where the request came to.
    pub public_url: Option<PublicUrl>,
    /// `LINK_DAYS`: how long a link leads somewhere, up to [`LINK_DAYS_MAX`].
    pub link_days: u32,
    /// `BEACONS`: `durable` (the default) or `queued`.
    pub beacons: Durability,
    /// `CLICKS`: `durable` (the default): the redirect waits for the shard, as long as
    /// `REDIRECT_WAIT_MS` says; `queued`: it does not, and an isolate that is killed in the
    /// milliseconds after it loses the click.
    pub clicks: Durability,
    /// `REDIRECT_WAIT_MS`: a redirect goes out after so long even when the shard has not answered.
    pub redirect_wait_ms: u64,
    /// `SHARDS`: how many a colo has, up to [`SHARDS_MAX`].
    pub shards: u32,
    /// `OUTBOX_BYTES_MAX`: a shard that holds more takes no further events.
    pub outbox_bytes_max: u64,
    /// How often one network may ask an isolate.
    pub rates: Rates,
    /// How shards pass their time.
    pub pace: Pace,
    /// `CLICK_TOO_SOON_MS`: a click sooner after its ad was given out is no person's; 0: none.
    pub verdicts: Rules,
    /// `CLICKS_MAX` in `CLICKS_WINDOW_S`: how often one visitor may click, by one isolate's count.
    pub clicks_pace: clicks::Pace,
    /// `ADDRESS` (`truncated`, the default, `hashed` or `dropped`) and `VENDOR`, the operator's
    /// number in the Global Vendor List.
    pub privacy: PrivacyPolicy,
    /// Where batches go; none: they wait.
    pub centre: Option<Centre>,
    /// `POLICY_URL`: who tells which keys and ads are in force; where nothing is set, the gateway.
    pub policy_url: Option<PublicUrl>,
    /// What cannot be used, and why.
    pub trouble: Vec<String>,
}

/// Where batches go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Centre {
    /// `GATEWAY_URL`: the collector's HTTP gateway; batches are signed with the edge's key.
    Gateway(PublicUrl),
    /// `NATS_URL`: the work queue.
    Nats(NatsServer),
}

/// A NATS server, and how to get in.
#[derive(Clone, PartialEq, Eq)]
pub struct NatsServer {
    /// Its host.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// `tls://`: the connection is refused when the server has no TLS.
    pub tls: bool,
    /// `NATS_PREFIX`: stands before every subject.
    pub prefix: String,
    /// `EDGE_NAME`: the last word of the subject, to which the server lets nobody else publish.
    pub edge: String,
    /// How it lets us in.
    pub credentials: Credentials,
}

impl std::fmt::Debug for NatsServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { host, port, tls, prefix, .. } = self;
        write!(f, "{}://{host}:{port} {prefix:?}", if *tls { "tls" } else { "nats" })
    }
}

/// How a NATS server lets us in.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// It asks for nothing.
    None,
    /// `NATS_USER`, `NATS_PASSWORD`.
    User(String, String),
    /// `NATS_NKEY_SEED`: the 32 bytes of an Ed25519 key.
    NKey([u8; 32]),
}

/// Reads the bindings: `get` gives a text by its name, when it is there.
pub fn read(get: &dyn Fn(&str) -> Option<String>) -> Settings {
    let mut reader = Reader { get, trouble: Vec::new() };
    let name = reader.name();
    let mut settings = Settings {
        name,
        public_url: reader.parsed("PUBLIC_URL", str::parse),
        beacons: reader.durability("BEACONS"),
        clicks: reader.durability("CLICKS"),
        redirect_wait_ms: reader.number("REDIRECT_WAIT_MS", 500, 1, 10_000),
        shards: reader.small("SHARDS", 1, 1, SHARDS_MAX),
        outbox_bytes_max: reader.number("OUTBOX_BYTES_MAX", 1 << 30, OUTBOX_BYTES_LEAST, 8 << 30),
        rates: Rates::default(),
        pace: Pace::default(),
        verdicts: reader.verdicts(),
        clicks_pace: reader.clicks_pace(),
        link_days: reader.link_days(),
        privacy: reader.privacy(),
        centre: None,
        policy_url: reader.parsed("POLICY_URL", str::parse),
        trouble: Vec::new(),
    };
    settings.centre = reader.centre(&settings.name);
    if let (None, Some(Centre::Gateway(url))) = (&settings.policy_url, &settings.centre) {
        settings.policy_url = Some(url.clone());
    }
    settings.pace.idle_ms = reader.number("IDLE_MS", settings.pace.idle_ms, 1_000, 86_400_000);
    settings.trouble = reader.trouble;
    settings
}

/// Reads `EDGE_KEYS`: the edge's part of the key store.
///
/// # Errors
/// What is wrong with it.
pub fn keys(get: &dyn Fn(&str) -> Option<String>) -> Result<(Keys, EdgeKeys), String> {
    let text = given(get, "EDGE_KEYS").ok_or(
        "EDGE_KEYS is missing: put what `countersign keys edge` prints there (`wrangler secret put \
         EDGE_KEYS`; for `wrangler dev` a line of `.dev.vars`); until then no ad is served and no \
         link is known",
    )?;
    let parts: EdgeKeys =
        serde_json::from_str(&text).map_err(|error| format!("EDGE_KEYS: {error}"))?;
    let keys = Keys::new(&parts).map_err(|error| format!("EDGE_KEYS: {error}"))?;
    Ok((keys, parts))
}

/// Reads `CATALOGUE`: the ads, JSON, for an edge that nobody tells of them; empty when it is not set.
///
/// # Errors
/// What is wrong with it.
pub fn catalogue(get: &dyn Fn(&str) -> Option<String>) -> Result<Catalogue, String> {
    let text = given(get, "CATALOGUE").unwrap_or_else(|| "{}".to_owned());
    Catalogue::from_json(&text).map_err(|error| format!("CATALOGUE: {error}"))
}

fn given(get: &dyn Fn(&str) -> Option<String>, name: &str) -> Option<String> {
    get(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

struct Reader<'a> {
    get: &'a dyn Fn(&str) -> Option<String>,
    trouble: Vec<String>,
}

impl Reader<'_> {
    fn text(&self, name: &str) -> Option<String> {
        given(self.get, name)
    }

    fn parsed<T, E: std::fmt::Display>(
        &mut self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<T> {
        match parse(&self.text(name)?) {
            Ok(value) => Some(value),
            Err(error) => {
                self.trouble.push(format!("{name}: {error}"));
                None
            }
        }
    }

    fn number(&mut self, name: &str, default: u64, least: u64, most: u64) -> u64 {
        let parse = |text: &str| {
            let number = text.parse::<u64>().ok().filter(|n| (least..=most).contains(n));
            number.ok_or_else(|| format!("{text:.20} is no number from {least} to {most}"))
        };
        self.parsed(name, parse).unwrap_or(default)
    }

    fn durability(&mut self, name: &str) -> Durability {
        let parse = |text: &str| match text {
            "durable" => Ok(Durability::Durable),
            "queued" => Ok(Durability::Queued),
            other => Err(format!("{other:.20} is neither `durable` nor `queued`")),
        };
        self.parsed(name, parse).unwrap_or_default()
    }

    fn link_days(&mut self) -> u32 {
        self.small("LINK_DAYS", LINK_DAYS, 1, LINK_DAYS_MAX)
    }

    fn verdicts(&mut self) -> Rules {
        let too_soon = self.number("CLICK_TOO_SOON_MS", CLICK_TOO_SOON_MS, 0, 60_000);
        Rules { click_too_soon_ms: too_soon, ..Rules::default() }
    }

    fn clicks_pace(&mut self) -> clicks::Pace {
        let clicks::Pace { clicks, window_s } = clicks::Pace::default();
        clicks::Pace {
            clicks: self.small("CLICKS_MAX", clicks, 0, u32::MAX),
            window_s: self.small("CLICKS_WINDOW_S", window_s, 1, clicks::WINDOW_S_MAX),
        }
    }

    fn privacy(&mut self) -> PrivacyPolicy {
        let vendor = self.small("VENDOR", 0, 0, u16::MAX.into());
        PrivacyPolicy {
            address: self.parsed("ADDRESS", str::parse).unwrap_or_default(),
            vendor: u16::try_from(vendor).ok().filter(|vendor| *vendor != 0),
            ..PrivacyPolicy::default()
        }
    }

    fn small(&mut self, name: &str, default: u32, least: u32, most: u32) -> u32 {
        let number = self.number(name, default.into(), least.into(), most.into());
        u32::try_from(number).unwrap_or(default)
    }

    fn name(&mut self) -> String {
        let parse = |text: &str| {
            let fits = text.len() <= NAME_BYTES_MAX && text.parse::<EdgeId>().is_ok();
            let error = || {
                format!(
                    "{text:.40} is no name: 1 to {NAME_BYTES_MAX} characters of A-Z a-z 0-9 _ -"
                )
            };
            fits.then(|| text.to_owned()).ok_or_else(error)
        };
        if self.text("EDGE_NAME").is_none() {
            self.trouble.push("EDGE_NAME is missing: this edge calls itself `edge`".to_owned());
        }
        self.parsed("EDGE_NAME", parse).unwrap_or_else(|| "edge".to_owned())
    }

    fn centre(&mut self, edge: &str) -> Option<Centre> {
        match (self.text("GATEWAY_URL"), self.text("NATS_URL")) {
            (Some(_), None) => self.parsed("GATEWAY_URL", gateway).map(Centre::Gateway),
            (None, Some(_)) => {
                let credentials = self.credentials()?;
                let prefix = self.text("NATS_PREFIX").unwrap_or_default();
                let (tls, host, port) = self.parsed("NATS_URL", nats_address)?;
                let edge = edge.to_owned();
                Some(Centre::Nats(NatsServer { host, port, tls, prefix, edge, credentials }))
            }
            (Some(_), Some(_)) => {
                let why =
                    "GATEWAY_URL and NATS_URL are both set: batches go one way, so remove one";
                self.trouble.push(why.to_owned());
                None
            }
            (None, None) => {
                let why = "neither GATEWAY_URL nor NATS_URL is set: events wait in the outbox";
                self.trouble.push(why.to_owned());
                None
            }
        }
    }

    fn credentials(&mut self) -> Option<Credentials> {
        if self.text("NATS_NKEY_SEED").is_some() {
            return self.parsed("NATS_NKEY_SEED", super::nkey::seed).map(Credentials::NKey);
        }
        match (self.text("NATS_USER"), self.text("NATS_PASSWORD")) {
            (None, None) => Some(Credentials::None),
            (Some(user), Some(password)) => Some(Credentials::User(user, password)),
            _ => {
                self.trouble.push("NATS_USER and NATS_PASSWORD belong together".to_owned());
                None
            }
        }
    }
}

/// The collector's API; not the example of `wrangler.toml`.
fn gateway(text: &str) -> Result<PublicUrl, String> {
    if text.contains("//collector.example.com") {
        return Err("it is still the example: write the address of your collector's API, in \
                    wrangler.toml or, for `wrangler dev`, in .dev.vars"
            .to_owned());
    }
    text.parse()
}

/// Whether it speaks TLS, its host, its port.
fn nats_address(text: &str) -> Result<(bool, String, u16), &'static str> {
    const WHAT: &str = "a NATS server's address is nats://HOST:PORT or tls://HOST:PORT";
    let (tls, rest) = match text.split_once("://") {
        Some(("nats", rest)) => (false, rest),
        Some(("tls", rest)) => (true, rest),
        _ => return Err(WHAT),
    };
    let rest = rest.trim_end_matches('/');
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().map_err(|_| WHAT)?),
        _ => (rest, 4_222),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() || host.contains(['/', '@', ' ']) {
        return Err(WHAT);
    }
    Ok((tls, host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(bindings: &[(&str, &str)]) -> Settings {
        read(&|name| {
            let found = bindings.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn what_is_not_set_has_a_default_and_what_is_wrong_is_named() {
        let all = settings(&[("EDGE_NAME", "w"), ("GATEWAY_URL", "https://collector.example/")]);
        assert!(all.trouble.is_empty(), "{:?}", all.trouble);
        assert_eq!(all.centre, Some(Centre::Gateway("https://collector.example".parse().unwrap())));
        assert_eq!((all.shards, all.beacons), (1, Durability::Durable));

        let none = settings(&[]);
        assert_eq!(none.trouble.len(), 2, "{:?}", none.trouble);
        for (name, value) in [
            ("EDGE_NAME", "a name"),
            ("EDGE_NAME", "012345678"),
            ("PUBLIC_URL", "ftp://x"),
            ("BEACONS", "fast"),
            ("CLICKS", ""),
            ("SHARDS", "0"),
            ("SHARDS", "101"),
            ("OUTBOX_BYTES_MAX", "5"),
            ("REDIRECT_WAIT_MS", "-1"),
            ("LINK_DAYS", "0"),
            ("LINK_DAYS", "732"),
            ("CLICKS_WINDOW_S", "0"),
            ("ADDRESS", "whole"),
            ("VENDOR", "70000"),
            ("NATS_URL", "nats://b"),
            ("GATEWAY_URL", "collector"),
            ("GATEWAY_URL", "https://collector.example.com"),
        ] {
            let base = [("EDGE_NAME", "w"), ("GATEWAY_URL", "https://c.example"), (name, value)];
            let mut bindings: Vec<_> = base.into_iter().filter(|(key, _)| *key != name).collect();
            bindings.push((name, value));
            let trouble = settings(&bindings).trouble;
            // An empty binding is one that is not set.
            let expected = usize::from(!value.is_empty());
            assert_eq!(trouble.len(), expected, "{name} {value}: {trouble:?}");
            assert!(trouble.iter().all(|why| why.contains(name)), "{trouble:?}");
        }
    }

    #[test]
    fn nats_addresses() {
        let read = nats_address;
        assert_eq!(read("tls://nats.example:4443/"), Ok((true, "nats.example".to_owned(), 4_443)));
        assert_eq!(read("nats://10.0.0.1"), Ok((false, "10.0.0.1".to_owned(), 4_222)));
        assert_eq!(read("nats://[::1]:7"), Ok((false, "::1".to_owned(), 7)));
        for wrong in ["", "nats://", "http://a", "nats://a:b", "nats://u@a", "a:1"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
