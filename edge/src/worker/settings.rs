//! The settings of a Worker, from its bindings (`wrangler.toml`, secrets). A value that cannot be
//! used is reported and left out, so that a misconfigured edge still redirects whoever it can.

use shared::EdgeId;
use shared::keys::EdgeKeys;

use crate::outbox::shard::ShardTiming;
use crate::policy::{Keys, PublicUrl};
use crate::settings::{NUMBERS, Number, Reader, TEXTS};
use catalogue::Catalogue;

/// The longest [`Settings::name`]: with a colo and a number it must make an [`EdgeId`].
pub const NAME_BYTES_MAX: usize = 8;
/// The most shards that a colo may have.
pub const SHARDS_MAX: u32 = 100;
/// The smallest [`Settings::outbox_bytes_max`].
pub const OUTBOX_BYTES_LEAST: u64 = 1 << 20;

/// The settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `EDGE_NAME`: shards are named after it, `NAME--COLO-NUMBER`.
    pub name: String,
    /// The settings that the native edge has too.
    pub told: crate::settings::Settings,
    /// `SHARDS`: how many shards a colo has, up to [`SHARDS_MAX`].
    pub shards: u32,
    /// `OUTBOX_BYTES_MAX`: a shard that holds this many bytes takes no more events.
    pub outbox_bytes_max: u64,
    /// The intervals of the shards.
    pub timing: ShardTiming,
    /// Where batches go; `None`: they wait.
    pub centre: Option<Centre>,
    /// `POLICY_URL`: where to ask which keys and ads are in force; the gateway when it is not set.
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

/// A NATS server, and how to log in.
#[derive(Clone, PartialEq, Eq)]
pub struct NatsServer {
    /// Its host.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// `tls://`: the connection is refused when the server has no TLS.
    pub tls: bool,
    /// `NATS_PREFIX`: begins every subject.
    pub prefix: String,
    /// `EDGE_NAME`: the last word of the subject, to which the server lets no other client publish.
    pub edge: String,
    /// How we log in.
    pub credentials: Credentials,
}

impl std::fmt::Debug for NatsServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { host, port, tls, prefix, .. } = self;
        write!(f, "{}://{host}:{port} {prefix:?}", if *tls { "tls" } else { "nats" })
    }
}

/// How to log in to a NATS server.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// It asks for no credentials.
    None,
    /// `NATS_USER`, `NATS_PASSWORD`.
    User(String, String),
    /// `NATS_NKEY_SEED`: the 32 bytes of an Ed25519 key.
    NKey([u8; 32]),
}

/// The settings that only a Worker has.
pub const OWN: [&str; 13] = [
    "EDGE_NAME",
    "EDGE_KEYS",
    "CATALOGUE",
    "POLICY_URL",
    "GATEWAY_URL",
    "NATS_URL",
    "NATS_PREFIX",
    "NATS_USER",
    "NATS_PASSWORD",
    "NATS_NKEY_SEED",
    "SHARDS",
    "OUTBOX_BYTES_MAX",
    "IDLE_MS",
];

/// The settings that only the native edge has, and what a Worker has instead.
const NATIVE: [(&str, &str); 11] = [
    ("NAME", "here it is EDGE_NAME"),
    ("ISSUER", "here EDGE_KEYS says it"),
    ("DISK_BYTES_MAX", "here it is OUTBOX_BYTES_MAX"),
    ("DATA_CENTRES", "here it is the program's own list"),
    ("NETWORKS", PLATFORM),
    ("COUNTRIES", PLATFORM),
    ("COUNTRY_HEADER", PLATFORM),
    ("TRUSTED_PROXIES", PLATFORM),
    ("LISTEN", PLATFORM),
    ("CONNECTIONS_MAX", PLATFORM),
    ("CONNECTIONS_PER_NETWORK_MAX", PLATFORM),
];
const PLATFORM: &str = "here the platform sees to it";

/// Why a binding is refused as a setting; `None` when a Worker has such a setting.
#[must_use]
pub fn refused(name: &str) -> Option<String> {
    if OWN.contains(&name) || TEXTS.contains(&name) || NUMBERS.iter().any(|it| it.name == name) {
        return None;
    }
    let native = NATIVE.iter().find(|(known, _)| *known == name);
    let why = native.map_or("there is no such setting", |(_, why)| why);
    let alone = if native.is_some() { "the native edge alone has it; " } else { "" };
    Some([name, ": ", alone, why].concat())
}

/// Reads the bindings. `get` returns the text of one by name, `None` when it is not set.
pub fn read(get: &dyn Fn(&str) -> Option<String>) -> Settings {
    let get = &|name: &str| given(get, name);
    let mut reader = Reader::new(get);
    let name = name(&mut reader);
    let mut number =
        |name, default, least, most| reader.number(&Number { name, default, least, most });
    let timing = ShardTiming::default();
    let idle_ms = number("IDLE_MS", timing.idle_ms, 1_000, 86_400_000);
    let outbox_bytes_max = number("OUTBOX_BYTES_MAX", 1 << 30, OUTBOX_BYTES_LEAST, 8 << 30);
    let shards = number("SHARDS", 1, 1, SHARDS_MAX.into());
    let centre = centre(&mut reader, &name);
    let gateway = match &centre {
        Some(Centre::Gateway(url)) => Some(url.clone()),
        _ => None,
    };
    Settings {
        name,
        told: crate::settings::Settings::read(&mut reader),
        shards: u32::try_from(shards).unwrap_or(1),
        outbox_bytes_max,
        timing: ShardTiming { idle_ms, ..timing },
        policy_url: reader.parsed("POLICY_URL", str::parse).or(gateway),
        centre,
        trouble: reader.trouble,
    }
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

/// Reads `CATALOGUE`: the ads as JSON, for an edge without a centre that sends them; empty when it
/// is not set.
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

fn name(reader: &mut Reader<'_>) -> String {
    let parse = |text: &str| {
        let fits = text.len() <= NAME_BYTES_MAX && text.parse::<EdgeId>().is_ok();
        let error = || {
            format!("{text:.40} is no name: 1 to {NAME_BYTES_MAX} characters of A-Z a-z 0-9 _ -")
        };
        fits.then(|| text.to_owned()).ok_or_else(error)
    };
    if reader.text("EDGE_NAME").is_none() {
        reader.trouble.push("EDGE_NAME is missing: this edge calls itself `edge`".to_owned());
    }
    reader.parsed("EDGE_NAME", parse).unwrap_or_else(|| "edge".to_owned())
}

fn centre(reader: &mut Reader<'_>, edge: &str) -> Option<Centre> {
    match (reader.text("GATEWAY_URL"), reader.text("NATS_URL")) {
        (Some(_), None) => reader.parsed("GATEWAY_URL", gateway).map(Centre::Gateway),
        (None, Some(_)) => {
            let credentials = credentials(reader)?;
            let prefix = reader.text("NATS_PREFIX").unwrap_or_default();
            let (tls, host, port) = reader.parsed("NATS_URL", nats_address)?;
            let edge = edge.to_owned();
            Some(Centre::Nats(NatsServer { host, port, tls, prefix, edge, credentials }))
        }
        (Some(_), Some(_)) => {
            let why = "GATEWAY_URL and NATS_URL are both set: batches go one way, so remove one";
            reader.trouble.push(why.to_owned());
            None
        }
        (None, None) => {
            let why = "neither GATEWAY_URL nor NATS_URL is set: events wait in the outbox";
            reader.trouble.push(why.to_owned());
            None
        }
    }
}

fn credentials(reader: &mut Reader<'_>) -> Option<Credentials> {
    if reader.text("NATS_NKEY_SEED").is_some() {
        return reader.parsed("NATS_NKEY_SEED", super::nkey::seed).map(Credentials::NKey);
    }
    match (reader.text("NATS_USER"), reader.text("NATS_PASSWORD")) {
        (None, None) => Some(Credentials::None),
        (Some(user), Some(password)) => Some(Credentials::User(user, password)),
        _ => {
            reader.trouble.push("NATS_USER and NATS_PASSWORD belong together".to_owned());
            None
        }
    }
}

/// The address of the collector's API, and not that of the example in `wrangler.toml`.
fn gateway(text: &str) -> Result<PublicUrl, String> {
    if text.contains("//collector.example.com") {
        return Err("it is still the example: write the address of your collector's API, in \
                    wrangler.toml or, for `wrangler dev`, in .dev.vars"
            .to_owned());
    }
    text.parse()
}

/// Whether to use TLS, the host, the port.
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
        assert_eq!(all.shards, 1);
        assert_eq!(all.told, crate::settings::Settings::default());

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
            ("PURPOSES", "1,7,25"),
            ("REQUESTS_PER_S", "1000001"),
            ("CLICKS_BURST", "many"),
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
    fn what_a_worker_has_not_is_refused_with_the_reason() {
        for own in OWN.into_iter().chain(TEXTS).chain(NUMBERS.map(|number| number.name)) {
            assert_eq!(refused(own), None);
        }
        let said = |name| refused(name).unwrap();
        assert_eq!(said("CLICK_MAX"), "CLICK_MAX: there is no such setting");
        assert_eq!(
            said("NETWORKS"),
            "NETWORKS: the native edge alone has it; here the platform sees to it"
        );
        assert!(said("NAME").ends_with("here it is EDGE_NAME"));
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
