//! Keys: who may sign, since when and until when; and the secrets that edges and the centre hold.

mod edges;
pub mod jwks;
mod parts;
pub mod request;
mod secrets;
mod signer;
mod store;

pub use edges::{EdgeRegistry, RegisteredEdge, Sender, registered_name};
pub use jwks::Jwks;
pub use parts::{CentreKeys, EdgeKeys};
pub use secrets::{PriceKey, SealedPrice, Secret, TagKeys, VisitorKey};
pub use signer::Signer;
pub use store::{IssuerKey, KeyError, KeyStore};

use std::collections::BTreeMap;

use ed25519_dalek::VerifyingKey;
use serde::{Deserialize, Serialize};

use crate::event::Reason;
use crate::limits::{CLOCK_AHEAD_MS_MAX, HORIZON_MS};
use crate::money::Money;
use crate::name::{Advertiser, AdvertiserName, IssuerId, Name, Publisher, PublisherName};
use crate::text::{hex, hex_text};
use crate::time::Timestamp;

/// The issuer of every row of an imported log. No key can be made under this name.
pub const IMPORT_ISSUER: IssuerId = IssuerId::literal("import");

/// One installation of Countersign: a random number, made with the installation. Tokens of one are
/// refused in another.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DeploymentId(pub u32);

/// Names a signing key: the first four bytes of the BLAKE3 hash of its public key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct KeyId(pub u32);

hex_text!(DeploymentId, 4, u32::to_be_bytes, u32::from_be_bytes);
hex_text!(KeyId, 4, u32::to_be_bytes, u32::from_be_bytes);

/// The public half of a signing key, and what it may be believed for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublicKey {
    /// Its name.
    pub id: KeyId,
    /// Whose it is.
    pub issuer: IssuerId,
    /// RFC 8032 public key.
    #[serde(with = "hex_key")]
    pub public: [u8; 32],
    /// The key signs from this time on.
    pub not_before: Timestamp,
    /// The key signs until this time. What it signed before is believed for the horizon after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retired_at: Option<Timestamp>,
    /// Nothing that the key signed is believed, whenever that was.
    #[serde(default)]
    pub revoked: bool,
    /// The publishers that it may sign for; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publishers: Vec<PublisherName>,
    /// The advertisers that it may sign for; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub advertisers: Vec<AdvertiserName>,
    /// The highest price that it may sign for, and the only currency; none: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price_max: Option<Money>,
}

/// What an issuer's keys may sign for, as the operator sets it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct IssuerLimits {
    /// Publishers; empty: all.
    pub publishers: Vec<PublisherName>,
    /// Advertisers; empty: all.
    pub advertisers: Vec<AdvertiserName>,
    /// The highest price, and the only currency; none: any. What costs nothing has no currency.
    pub price_max: Option<Money>,
}

impl PublicKey {
    /// The id that belongs to a public key.
    #[must_use]
    pub fn id_of(public: &[u8; 32]) -> KeyId {
        let [a, b, c, d, ..] = *blake3::hash(public).as_bytes();
        KeyId(u32::from_be_bytes([a, b, c, d]))
    }

    /// What it may sign for.
    #[must_use]
    pub fn limits(&self) -> IssuerLimits {
        IssuerLimits {
            publishers: self.publishers.clone(),
            advertisers: self.advertisers.clone(),
            price_max: self.price_max,
        }
    }

    /// The key as an edge of this issuer is told of it: of another issuer's key without what that
    /// may sign for.
    #[must_use]
    pub fn told_to(&self, issuer: IssuerId) -> Self {
        if self.issuer == issuer {
            return self.clone();
        }
        Self { publishers: Vec::new(), advertisers: Vec::new(), price_max: None, ..self.clone() }
    }

    /// Whether it may sign for this publisher.
    #[must_use]
    pub fn signs_for(&self, publisher: Name<'_, Publisher>) -> bool {
        self.publishers.is_empty() || self.publishers.iter().any(|own| own.name() == publisher)
    }

    /// Whether it may sign for this advertiser, and at this price.
    #[must_use]
    pub fn sells(&self, advertiser: Name<'_, Advertiser>, price: Money) -> bool {
        let is_cheap = |most: Money| {
            price.micros == 0 || (price.currency == most.currency && price.micros <= most.micros)
        };
        (self.advertisers.is_empty() || self.advertisers.iter().any(|own| own.name() == advertiser))
            && self.price_max.is_none_or(is_cheap)
    }

    /// Whether it signs new tokens at `now`.
    #[must_use]
    pub fn signs_at(&self, now: Timestamp) -> bool {
        !self.revoked && self.not_before <= now && self.retired_at.is_none_or(|end| now < end)
    }

    /// Whether a token of this key that says it was issued at `issued_at` is believed when it is
    /// received at `received_at`.
    ///
    /// # Errors
    /// [`Reason::RevokedKey`]; [`Reason::RetiredKey`] also when the key was not in force yet.
    pub fn check(&self, issued_at: Timestamp, received_at: Timestamp) -> Result<(), Reason> {
        if self.revoked {
            return Err(Reason::RevokedKey);
        }
        let early = issued_at.plus_ms(CLOCK_AHEAD_MS_MAX) < self.not_before;
        let late = self.retired_at.is_some_and(|end| {
            issued_at > end.plus_ms(CLOCK_AHEAD_MS_MAX) || received_at > end.plus_ms(HORIZON_MS)
        });
        if early || late { Err(Reason::RetiredKey) } else { Ok(()) }
    }
}

/// The public keys of a deployment, ready to verify with.
#[derive(Clone, Debug)]
pub struct Keyring {
    deployment: DeploymentId,
    keys: BTreeMap<KeyId, (PublicKey, VerifyingKey)>,
}

impl Keyring {
    /// Takes the keys in.
    ///
    /// # Errors
    /// [`KeyError`] when a key is no point of the curve or a weak one, its id does not belong to
    /// it, or two keys have one id.
    pub fn new(
        deployment: DeploymentId,
        keys: impl IntoIterator<Item = PublicKey>,
    ) -> Result<Self, KeyError> {
        let mut ring = BTreeMap::new();
        for key in keys {
            let verifying = VerifyingKey::from_bytes(&key.public)
                .ok()
                .filter(|point| !point.is_weak())
                .ok_or_else(|| KeyError::Invalid(hex(&key.public)))?;
            if PublicKey::id_of(&key.public) != key.id {
                return Err(KeyError::WrongId(key.id));
            }
            let id = key.id;
            if ring.insert(id, (key, verifying)).is_some() {
                return Err(KeyError::Twice(id));
            }
        }
        Ok(Self { deployment, keys: ring })
    }

    /// The deployment to which the keys belong.
    #[must_use]
    pub const fn deployment(&self) -> DeploymentId {
        self.deployment
    }

    /// The key of that name, with its verifier.
    #[must_use]
    pub fn get(&self, id: KeyId) -> Option<(&PublicKey, &VerifyingKey)> {
        self.keys.get(&id).map(|(key, verifying)| (key, verifying))
    }

    /// All keys, by id.
    pub fn iter(&self) -> impl Iterator<Item = &PublicKey> {
        self.keys.values().map(|(key, _)| key)
    }
}

mod hex_key {
    use crate::text::{hex, unhex};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8; 32], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&hex(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<[u8; 32], D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        unhex(&text).ok_or_else(|| D::Error::custom("a key has 64 lower-case hexadecimal digits"))
    }
}
