//! Symmetric secrets: for the tags of tokens, the encryption of prices, and the fingerprints of
//! visitors. Each use has a key of its own, derived with BLAKE3 under a context of its own.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{DeploymentId, KeyId};
use crate::event::{Fingerprint, Network};
use crate::id::ImpressionId;
use crate::money::{Currency, Money};
use crate::random::Random;
use crate::text::{hex, unhex};
use crate::time::Timestamp;

/// 32 secret bytes. Never shown by `Debug`; wiped when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; 32]);

impl Secret {
    /// A new one.
    pub fn generate(random: &mut dyn Random) -> Self {
        let mut bytes = [0; 32];
        random.fill(&mut bytes);
        Self(bytes)
    }

    /// Takes bytes that are secret already.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes; mind where they go.
    #[must_use]
    pub const fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    fn derive(&self, context: &'static str, parts: &[&[u8]]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key(context);
        hasher.update(&self.0);
        for part in parts {
            hasher.update(part);
        }
        *hasher.finalize().as_bytes()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&hex(&self.0))
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        unhex(&text).map(Self).ok_or_else(|| {
            serde::de::Error::custom("a secret has 64 lower-case hexadecimal digits")
        })
    }
}

/// The tag keys that go with a signing key, one for each UTC day. Only a holder of the signing key
/// has them, so no issuer can make a tag that another issuer's edges believe.
#[derive(Clone, Debug)]
pub struct TagKeys {
    secret: Secret,
    origin: Origin,
    /// The keys of the last days that were asked for, each at the index of its day modulo
    /// [`DAYS_KEPT`].
    derived: Arc<[RwLock<Option<DayKey>>; DAYS_KEPT]>,
}

/// What a tag key is derived from.
#[derive(Clone, Copy, Debug)]
enum Origin {
    SigningKey,
    Deployment(DeploymentId),
}

#[derive(Debug)]
struct DayKey {
    day: u32,
    key: Secret,
}

/// Yesterday, today and tomorrow are asked for again and again.
const DAYS_KEPT: usize = 3;

impl TagKeys {
    /// From the secret seed of a signing key.
    #[must_use]
    pub fn of_key(seed: Secret) -> Self {
        Self { secret: seed, origin: Origin::SigningKey, derived: Arc::default() }
    }

    /// From the edge secret that all issuers of a deployment shared in earlier builds. Such a tag
    /// proves that an issuer of the deployment made it, but not which: it is worth nothing without
    /// the signature.
    #[must_use]
    pub fn of_deployment(secret: Secret, deployment: DeploymentId) -> Self {
        Self { secret, origin: Origin::Deployment(deployment), derived: Arc::default() }
    }

    /// The key of a UTC day, derived and not kept: one BLAKE3 hash of two blocks.
    #[must_use]
    pub fn derive(&self, day: u32) -> [u8; 32] {
        let day = day.to_be_bytes();
        match self.origin {
            Origin::SigningKey => self.secret.derive("countersign tag key v2", &[&day]),
            Origin::Deployment(id) => {
                self.secret.derive("countersign tag key v1", &[&id.0.to_be_bytes(), &day])
            }
        }
    }

    /// The key of a UTC day, kept for the next time: for days that are asked for again and again.
    #[must_use]
    pub fn of_day(&self, day: u32) -> [u8; 32] {
        let place = &self.derived[day as usize % DAYS_KEPT];
        // A lock that a panic has poisoned may be used: a value is written whole or not at all.
        let kept = place.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = kept.as_ref().filter(|kept| kept.day == day) {
            return kept.key.0;
        }
        drop(kept);
        let key = self.derive(day);
        *place.write().unwrap_or_else(PoisonError::into_inner) =
            Some(DayKey { day, key: Secret(key) });
        key
    }
}

/// Encrypts clearing prices, so that a link does not tell them. Each signing key has a price key of
/// its own, derived from the central secret, and an edge holds those of its issuer only.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PriceKey(Secret);

/// An encrypted price: eight bytes of micros and three of currency, XORed with a key stream of the
/// impression. The token's signature protects it against changes.
pub type SealedPrice = [u8; 11];

impl PriceKey {
    /// The key that goes with a signing key.
    #[must_use]
    pub fn derive(central: &Secret, key: KeyId) -> Self {
        Self(Secret(central.derive("countersign price key v1", &[&key.0.to_be_bytes()])))
    }

    /// Encrypts a price. An impression id is used once, and so is its key stream.
    #[must_use]
    pub fn seal(&self, id: ImpressionId, price: Money) -> SealedPrice {
        let mut bytes = [0; 11];
        bytes[..8].copy_from_slice(&price.micros.to_be_bytes());
        bytes[8..].copy_from_slice(&price.currency.bytes());
        self.cover(id, bytes)
    }

    /// Decrypts a price; `None` when the result is no amount with a currency.
    #[must_use]
    pub fn open(&self, id: ImpressionId, sealed: SealedPrice) -> Option<Money> {
        let [a, b, c, d, e, f, g, h, x, y, z] = self.cover(id, sealed);
        let micros = i64::from_be_bytes([a, b, c, d, e, f, g, h]);
        let price = Money { micros, currency: Currency::from_bytes([x, y, z])? };
        (!price.is_unnamed() && micros >= 0).then_some(price)
    }

    fn cover(&self, id: ImpressionId, mut bytes: SealedPrice) -> SealedPrice {
        let mut stream = SealedPrice::default();
        blake3::Hasher::new_keyed(self.0.expose())
            .update(&id.to_bytes())
            .finalize_xof()
            .fill(&mut stream);
        bytes.iter_mut().zip(stream).for_each(|(byte, key)| *byte ^= key);
        bytes
    }
}

/// Makes fingerprints of visitors: hashes under a key of the day. Without the key nobody can turn
/// one back into an address, and fingerprints of different days cannot be compared.
#[derive(Clone, Debug)]
pub struct VisitorKey(Secret);

impl VisitorKey {
    /// From the deployment's visitor secret.
    #[must_use]
    pub const fn new(secret: Secret) -> Self {
        Self(secret)
    }

    /// The visitor of a request: network prefix and user agent, on the day of `now`. Never
    /// [`Fingerprint::NONE`]. Only with consent.
    #[must_use]
    pub fn of_request(&self, now: Timestamp, network: Network, user_agent: &[u8]) -> Fingerprint {
        self.digest("countersign visitor v1", &[&now.day().to_be_bytes(), &network.0, user_agent])
    }

    /// 48 bits of a keyed hash of an address, the same for the whole day of `now`. An IPv4 address
    /// inside IPv6 (`::ffff:…`) is hashed as IPv4.
    #[must_use]
    pub fn of_address(&self, now: Timestamp, address: IpAddr) -> Network {
        let bytes = match address.to_canonical() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        let day = now.day().to_be_bytes();
        let [a, b, c, d, e, f, ..] = self.0.derive("countersign address v1", &[&day, &bytes]);
        Network([Network::HASHED, a, b, c, d, e, f])
    }

    /// The fingerprint of a visitor that an imported log names: the same on every day, as the name
    /// in the log is.
    #[must_use]
    pub fn of_user(&self, user_id: &str) -> Fingerprint {
        self.digest("countersign logged user v1", &[user_id.as_bytes()])
    }

    fn digest(&self, context: &'static str, parts: &[&[u8]]) -> Fingerprint {
        let [a, b, c, d, e, f, g, h, ..] = self.0.derive(context, parts);
        Fingerprint(u64::from_le_bytes([a, b, c, d, e, f, g, h]).max(1))
    }
}
