//! What the tests of the edge share: keys, a catalogue, tokens of every sort.

use std::sync::Arc;

use catalogue::Catalogue;
use edge::clicks::Pace;
use edge::policy::LINK_DAYS;
use edge::privacy::PrivacyPolicy;
use edge::verdict::Rules;
use edge::{Durability, Keys, Policy};
use serde::Deserialize;
use shared::id::IdAllocator;
use shared::keys::{IssuerKey, KeyStore};
use shared::name::literal;
use shared::random::Seeded;
use shared::token::{Signer, Token};
use shared::{EdgeId, Fingerprint, Id, ImpressionId, IssuerId, Network, Timestamp};

/// 2026-01-10T12:00:00Z.
pub(crate) const NOW: Timestamp = Timestamp(1_768_046_400_000);
pub(crate) const HOUR_MS: u64 = 3_600_000;
pub(crate) const EDGE: EdgeId = Id::literal("edge-1");
/// Who signs its tokens.
pub(crate) const ISSUER: IssuerId = Id::literal("edge-1");

/// The visitor of cases that do not give one.
pub(crate) const BROWSER: &str =
    "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";

pub(crate) const CATALOGUE: &str = r#"{
  "lifetimes": {"impression_s": 3600, "click_s": 86400},
  "links": {"schemes": ["mailto", "shop.acme"]},
  "ads": [
    {"id": "shoes", "campaign": "spring", "advertiser": "acme",
     "image": "https://cdn.example/shoes.png", "width": 300, "height": 250,
     "url": "https://acme.example/shoes?from=ad&n=1", "price_micros": 2500, "currency": "EUR"},
    {"id": "hats", "campaign": "spring", "advertiser": "acme",
     "html": "<b>Hats</b>", "width": 728, "height": 90, "url": "http://acme.example/hats"},
    {"id": "caps", "campaign": "spring", "advertiser": "acme", "html": "Caps", "width": 1, "height": 1,
     "url": "https://acme.example/{ad_id}/{csid}?c={campaign_id}&p={publisher_id}.{placement_id}#{timestamp}",
     "pass_query": true}
  ],
  "placements": [
    {"id": "top", "publisher": "news", "ads": ["shoes"]},
    {"id": "side", "publisher": "news", "ads": ["hats"]},
    {"id": "rack", "publisher": "news", "ads": ["caps"]},
    {"id": "empty", "publisher": "news", "ads": []}
  ]
}"#;

/// All keys of the tests' deployment, by what they stand for.
pub(crate) struct World {
    pub(crate) store: KeyStore,
    /// The edge's key of today.
    pub(crate) live: IssuerKey,
    /// The key before it, retired an hour ago.
    pub(crate) retired: IssuerKey,
    /// The key before that, retired for so long that none of its tokens verifies any more.
    pub(crate) oldest: IssuerKey,
    pub(crate) revoked: IssuerKey,
    /// Signs for the publisher `other` only.
    pub(crate) narrow: IssuerKey,
    /// Of this deployment, but in no keyring.
    pub(crate) unknown: IssuerKey,
    /// Another deployment altogether.
    pub(crate) foreign: KeyStore,
    /// The time by which it was made.
    pub(crate) now: Timestamp,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::at(NOW)
    }

    /// The same at another time.
    pub(crate) fn at(now: Timestamp) -> Self {
        let mut random = Seeded::new(7);
        let mut store = KeyStore::generate(&mut random);
        let long_ago = now.minus_ms(240 * HOUR_MS);
        let revoked = store.create(ISSUER, vec![], long_ago, &mut random).unwrap();
        store.revoke(revoked).unwrap();
        let first = store.create(ISSUER, vec![], long_ago, &mut random).unwrap();
        store.rotate(ISSUER, now.minus_ms(2 * HOUR_MS), HOUR_MS, &mut random).unwrap();
        let publishers = vec![literal("other")];
        let narrow = Id::literal("narrow");
        let narrow = store.create(narrow, publishers, long_ago, &mut random).unwrap();
        let find = |store: &KeyStore, id| {
            store.issuers.iter().find(|key| key.public.id == id).unwrap().clone()
        };
        let mut other = store.clone();
        let unknown = other.create(Id::literal("who"), vec![], long_ago, &mut random).unwrap();
        let mut before = KeyStore::generate(&mut Seeded::new(8));
        let years_ago = now.minus_ms(9_700 * HOUR_MS);
        before.create(ISSUER, vec![], years_ago, &mut Seeded::new(9)).unwrap();
        let mut oldest = before.issuers.remove(0);
        oldest.public.retired_at = Some(long_ago.plus_ms(HOUR_MS));
        store.issuers.insert(0, oldest.clone());
        let mut foreign = KeyStore::generate(&mut random);
        foreign.create(ISSUER, vec![], long_ago, &mut random).unwrap();
        Self {
            live: store.signing(ISSUER, now).unwrap().clone(),
            retired: find(&store, first),
            oldest,
            revoked: find(&store, revoked),
            narrow: find(&store, narrow),
            unknown: find(&other, unknown),
            store,
            foreign,
            now,
        }
    }

    pub(crate) fn keys(&self) -> Keys {
        Keys::of_store(&self.store, ISSUER).unwrap()
    }

    pub(crate) fn policy(&self) -> Policy {
        Policy {
            public_url: "https://edge.example".parse().unwrap(),
            link_days: LINK_DAYS,
            beacons: Durability::Durable,
            clicks: Durability::Durable,
            verdicts: Rules::default(),
            rule_set: Rules::default().set(Pace::default()),
            privacy: PrivacyPolicy::default(),
            keys: Arc::new(self.keys()),
            catalogue: Arc::new(Catalogue::from_json(CATALOGUE).unwrap()),
        }
    }

    /// The bytes of a token.
    pub(crate) fn mint(&self, spec: &TokenSpec) -> Vec<u8> {
        let (key, store) = match spec.key.as_str() {
            "live" => (&self.live, &self.store),
            "retired" => (&self.retired, &self.store),
            "oldest" => (&self.oldest, &self.store),
            "revoked" => (&self.revoked, &self.store),
            "narrow" => (&self.narrow, &self.store),
            "unknown" => (&self.unknown, &self.store),
            "foreign" => (&self.foreign.issuers[0], &self.foreign),
            other => panic!("no key {other}"),
        };
        let issued_at = Timestamp(self.now.0.checked_add_signed(-spec.ago_s * 1000).unwrap());
        let network = Network::from_address(spec.visitor_at.parse().unwrap_or([0, 0, 0, 0].into()));
        let visitor = if spec.visitor_at.is_empty() {
            Fingerprint::NONE
        } else {
            store.visitor_key().of_request(issued_at, network, spec.visitor_agent.as_bytes())
        };
        let id = ids(issued_at.minus_ms(spec.block_ago_s * 1000), u64::try_from(spec.seq).unwrap());
        let token = Token {
            test: false,
            pass_query: spec.pass_query,
            deployment: store.deployment,
            key: key.public.id,
            id,
            issued_at,
            impression_life_s: 3600,
            click_life_s: 86400,
            price: [3; 11],
            visitor,
            ad: literal("shoes"),
            campaign: literal("spring"),
            advertiser: literal("acme"),
            publisher: literal("news"),
            placement: literal("top"),
            url: &spec.url,
        };
        let mut bytes = Signer::new(key).mint(&token).unwrap();
        match spec.damage {
            Damage::None => {}
            Damage::Flip(at) => {
                let at = at.rem_euclid(bytes.len() as i64) as usize;
                bytes[at] ^= 1;
            }
            Damage::Truncate(length) => bytes.truncate(length),
            Damage::Append(count) => bytes.extend(vec![0; count]),
            Damage::Version(version) => bytes[0] = version,
        }
        bytes
    }
}

fn ids(opened: Timestamp, seed: u64) -> ImpressionId {
    IdAllocator::default().next(opened, &mut Seeded::new(seed))
}

#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TokenSpec {
    pub(crate) key: String,
    /// Seconds before [`World::now`]; negative: after.
    pub(crate) ago_s: i64,
    /// The address that it was given to with consent; empty: without.
    pub(crate) visitor_at: String,
    pub(crate) visitor_agent: String,
    pub(crate) url: String,
    pub(crate) pass_query: bool,
    pub(crate) damage: Damage,
    pub(crate) seq: i64,
    /// Seconds before its issue its block was opened.
    pub(crate) block_ago_s: u64,
}

impl Default for TokenSpec {
    fn default() -> Self {
        Self {
            key: "live".to_owned(),
            ago_s: 60,
            visitor_at: String::new(),
            visitor_agent: String::new(),
            url: "https://acme.example/shoes?from=ad&n=1".to_owned(),
            pass_query: false,
            damage: Damage::None,
            seq: 0,
            block_ago_s: 1800,
        }
    }
}

#[derive(Deserialize, Clone)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Damage {
    None,
    /// The lowest bit of this byte, from the end when negative.
    Flip(i64),
    Truncate(usize),
    Append(usize),
    Version(u8),
}
