//! Puts the same requests to both shells and to the core alone. What the visitor sees is the same
//! byte for byte, and so is what the centre is told. The Worker runs on a real workerd.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use edge::Policy;
use edge::worker::settings;
use serde_json::json;
use shared::Clock as _;
use shared::ambient::SystemClock;
use shared::limits::EDGE_BODY_BYTES_MAX;
use shared::token::to_text;

use crate::cases::{self, Case, PolicySpec};
use crate::harness::Reply;
use crate::networks::{NUMBER, table};
use crate::shells::{Shells, Told, reply_of, seen, send};
use crate::support::{TokenSpec, World};

/// The methods that both platforms leave to us.
const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"];

/// The cases of one policy, which one pair of shells answers.
struct Group {
    policy: PolicySpec,
    bindings: Vec<(&'static str, String)>,
    cases: Vec<Case>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_shells_answer_as_the_core_does_and_tell_the_centre_the_same() {
    let (mut groups, mut not_asked): (Vec<Group>, Vec<String>) = (Vec::new(), Vec::new());
    for (number, (list, case)) in cases::all().into_iter().enumerate() {
        // The shells remember what other cases brought.
        let case = case.apart(number);
        let bindings = match expressible(&case).and_then(|()| bindings(&case.policy)) {
            Ok(bindings) => bindings,
            Err(why) => {
                not_asked.push(format!("{list}: {}: {why}", case.about));
                continue;
            }
        };
        match groups.iter_mut().find(|group| group.policy == case.policy) {
            Some(group) => group.cases.push(case),
            None => {
                let policy = case.policy.clone();
                groups.push(Group { policy, bindings, cases: vec![case] });
            }
        }
    }
    let compared: usize = groups.iter().map(|group| group.cases.len()).sum();
    let mut differ = Vec::new();
    for group in &groups {
        differ.extend(group.compare().await);
    }
    eprintln!("{compared} cases, {} policies; not asked:\n{}", groups.len(), not_asked.join("\n"));
    assert!(differ.is_empty(), "{}", differ.join("\n"));
    assert!(compared >= 164, "only {compared} cases were compared");
    assert_eq!(not_asked.len(), 10, "what cannot be asked has changed");
}

/// Why a case cannot be put to a shell; `None` when it can.
fn expressible(case: &Case) -> Result<(), &'static str> {
    if case.clock_stands {
        return Err("an edge's clock goes on");
    }
    if !case.filled(&BTreeMap::new()).0.starts_with('/') {
        return Err("this is no request target (RFC 9112 §3.2)");
    }
    let agent = case.request.user_agent();
    if agent != agent.trim() {
        return Err("HTTP takes blanks off both ends of a field (RFC 9110 §5.5)");
    }
    if !METHODS.contains(&case.request.method()) {
        return Err("workerd answers methods that it does not know by itself");
    }
    Ok(())
}

/// The bindings by which a Worker gets this policy; its issuer comes with its keys.
fn bindings(policy: &PolicySpec) -> Result<Vec<(&'static str, String)>, &'static str> {
    if policy.data_centres.is_some() {
        return Err("a Worker has no setting for another list of data centres");
    }
    let mut bindings = Vec::new();
    if policy.beacons_queued {
        bindings.push(("BEACONS", "queued".to_owned()));
    }
    if policy.clicks_queued {
        bindings.push(("CLICKS", "queued".to_owned()));
    }
    if let Some(purposes) = &policy.purposes {
        bindings.push(("PURPOSES", purposes.clone()));
    }
    if let Some(ms) = policy.click_too_soon_ms {
        bindings.push(("CLICK_TOO_SOON_MS", ms.to_string()));
    }
    if let Some(vendor) = policy.vendor {
        bindings.push(("VENDOR", vendor.to_string()));
    }
    if let Some(address) = &policy.address {
        bindings.push(("ADDRESS", address.clone()));
    }
    if let Some(days) = policy.link_days {
        bindings.push(("LINK_DAYS", days.to_string()));
    }
    if let Some((clicks, window_s)) = policy.pace {
        bindings.push(("CLICKS_MAX", clicks.to_string()));
        bindings.push(("CLICKS_WINDOW_S", window_s.to_string()));
    }
    Ok(bindings)
}

impl Group {
    /// What differs.
    async fn compare(&self) -> Vec<String> {
        let (shells, policy) = self.start().await;
        let (mut decided, mut differ) = (Told::default(), Vec::new());
        for (at, case) in self.cases.iter().enumerate() {
            for (_, address) in shells.both() {
                click_before(address, case, &shells.world, 1_000 * at as i64).await;
            }
            for decision in case.decide(&shells.world, &policy) {
                decided.add_decided(&decision);
                let expected = seen(&reply_of(&decision, case.request.method()));
                for (name, address) in shells.both() {
                    let answered = seen(&ask(address, case, &shells.world).await);
                    if answered != expected {
                        let about = &case.about;
                        differ.push(format!("{about}\n  core {expected}\n  {name} {answered}"));
                    }
                }
            }
        }
        let native = || shells.told_by_native().without(BEFORE);
        let worker = || shells.centre.told().without(BEFORE);
        eventually_alike(&decided, "native", native, &mut differ).await;
        eventually_alike(&decided, "worker", worker, &mut differ).await;
        differ
    }

    /// A pair of shells with this policy, which knows the networks of the cases.
    async fn start(&self) -> (Shells, Policy) {
        let world = World::at(SystemClock.now());
        let policy = self.policy.policy(&world);
        let keys = world.store.for_edge(self.policy.issuer()).unwrap();
        let bindings: Vec<_> =
            self.bindings.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let told = settings::read(&|name| {
            let found = bindings.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        });
        for (name, _) in &bindings {
            let refused = told.trouble.iter().find(|why| why.contains(name));
            assert!(refused.is_none(), "{refused:?}");
        }
        let mut networks = BTreeMap::new();
        for request in self.cases.iter().map(|case| &case.request) {
            if let (Some(client), Some(asn)) = (&request.client, request.asn) {
                let IpAddr::V4(client) = client.parse().unwrap() else { panic!("{client}") };
                let before = networks.insert(client.octets(), asn);
                assert!(before.is_none_or(|before| before == asn), "{client} is in two networks");
            }
        }
        let networks: Vec<_> = networks.into_iter().collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), table(&networks, NUMBER)).unwrap();
        let pace = self.policy.pace();
        let shells = Shells::start_with(world, policy.clone(), &keys, &bindings, |parts| {
            parts.settings.pace = pace;
            parts.settings.networks = (!networks.is_empty()).then(|| file.path().to_owned());
        })
        .await;
        // The native edge has read its table by the time it answers.
        crate::shells::get(shells.native.address, "/healthz").await;
        (shells, policy)
    }
}

/// Notes a difference when the centre is not told in time what the core decided.
async fn eventually_alike(
    decided: &Told,
    name: &str,
    told: impl Fn() -> Told,
    differ: &mut Vec<String>,
) {
    let watch = shared::ambient::Stopwatch::start();
    while told() != *decided {
        if watch.elapsed().as_secs() >= 5 {
            differ.push(decided.difference(&told(), name));
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// The URL of tokens that only this test uses.
const BEFORE: &str = "https://before.example/";

/// The earlier clicks of the same visitor, each with a token of its own, in one beacon.
async fn click_before(address: SocketAddr, case: &Case, world: &World, first: i64) {
    let clicks = i64::from(case.request.clicks_before);
    if clicks == 0 {
        return;
    }
    let click = |n| {
        let spec = TokenSpec { seq: first + n, url: BEFORE.to_owned(), ..TokenSpec::default() };
        json!({ "token": to_text(&world.mint(&spec)), "kind": "click" })
    };
    let body = json!({ "events": (0..clicks).map(click).collect::<Vec<_>>() }).to_string();
    let mut head = head("POST", "/v1/events", case);
    head.push_str("Content-Type: application/json\r\n");
    head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    let reply = send(address, head.as_bytes(), body.as_bytes()).await;
    assert_eq!(reply.status, 202, "{reply:?}");
}

async fn ask(address: SocketAddr, case: &Case, world: &World) -> Reply {
    let (url, body) = case.filled(&case.tokens(world));
    let (spec, method) = (&case.request, case.request.method());
    let mut head = head(method, &url, case);
    for (name, value) in
        [("Content-Type", &spec.content_type), ("If-None-Match", &spec.if_none_match)]
    {
        if !value.is_empty() {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    let body = match spec.too_large {
        true => vec![b' '; EDGE_BODY_BYTES_MAX + 1],
        false if matches!(method, "GET" | "HEAD") => Vec::new(),
        false => body.into_bytes(),
    };
    if !matches!(method, "GET" | "HEAD") {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    send(address, head.as_bytes(), &body).await
}

/// A head with the fields that any request may have; the caller adds those of the body.
fn head(method: &str, url: &str, case: &Case) -> String {
    let spec = &case.request;
    let mut head = format!("{method} {url} HTTP/1.1\r\nHost: edge\r\nConnection: close\r\n");
    let mut field = |name: &str, value: &str| {
        if !value.is_empty() {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
    };
    field("User-Agent", spec.user_agent());
    field("Sec-Purpose", &spec.purpose);
    field("Sec-GPC", if spec.opted_out { "1" } else { "" });
    // Each shell learns in its own way where a request comes from.
    let client = spec.client.as_deref().unwrap_or_default();
    field("X-Forwarded-For", client);
    field("CF-Connecting-IP", client);
    field("CF-IPCountry", &spec.country);
    field("CF-Blob", &json!({ "country": spec.country, "asn": spec.asn }).to_string());
    head
}
