//! The key store: all secrets of a small deployment in one file, and what can be done with them.
//! Pure: whoever calls it reads and writes the file.

use std::collections::BTreeMap;

use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};

use super::edges::registered_name;
use super::{
    DeploymentId, EdgeRegistry, IssuerLimits, KeyId, Keyring, PriceKey, PublicKey, Secret,
    VisitorKey,
};
use crate::name::{EdgeId, IssuerId, PublisherName};
use crate::random::Random;
use crate::time::Timestamp;

/// What can be wrong with keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not a usable Ed25519 public key.
    #[error("{0} is no Ed25519 public key that may be trusted")]
    Invalid(String),
    /// The id is not that of the public key.
    #[error("key {0}: the id does not belong to the public key; was the file edited?")]
    WrongId(KeyId),
    /// Two keys with one id.
    #[error("key {0} is there twice")]
    Twice(KeyId),
    /// No such key.
    #[error("there is no key {0}; `countersign keys list` shows those there are")]
    Unknown(KeyId),
    /// No such issuer.
    #[error("issuer {0} has no key that signs; `countersign keys new --issuer {0}` makes one")]
    UnknownIssuer(IssuerId),
    /// The issuer has a key already.
    #[error("issuer {0} has a key that signs; `countersign keys rotate` replaces it")]
    HasKey(IssuerId),
    /// The name is reserved.
    #[error("no key can be made for the issuer {0}: the name is kept for imported logs")]
    Reserved(IssuerId),
    /// The key is revoked already, and stays so.
    #[error("key {0} is revoked already")]
    Revoked(KeyId),
    /// The edge's name belongs to somebody else.
    #[error("the edge {edge} belongs to another issuer, for ever: take another name")]
    EdgeTaken {
        /// Its name.
        edge: EdgeId,
    },
    /// The name is that of a shard, which belongs to the edge that it is called after.
    #[error("{edge} is the name of a shard of the edge {name}: register {name}")]
    ShardName {
        /// The name.
        edge: EdgeId,
        /// What it is called after.
        name: EdgeId,
    },
    /// The name of a shard of this edge could be that of another edge's shard.
    #[error(
        "an edge's name neither contains `--`, which stands before a shard's own part, nor ends in `-`: \
         {edge} does; take another name"
    )]
    EdgeName {
        /// The name.
        edge: EdgeId,
    },
    /// Nobody has registered the edge.
    #[error(
        "no edge {0} is registered; `countersign edges registered` shows those that are, and `countersign edges register` \
         makes it one of them"
    )]
    UnregisteredEdge(EdgeId),
    /// A file of another version.
    #[error("the key file has version {0}; this build reads version {v}", v = KeyStore::VERSION)]
    Version(u32),
}

/// A signing key with its public half.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct IssuerKey {
    /// What others may know.
    pub public: PublicKey,
    /// RFC 8032 secret seed.
    pub secret: Secret,
}

impl IssuerKey {
    /// That the two halves belong together.
    pub(super) fn check(&self) -> Result<(), KeyError> {
        let derived = SigningKey::from_bytes(self.secret.expose()).verifying_key().to_bytes();
        if derived == self.public.public { Ok(()) } else { Err(KeyError::WrongId(self.public.id)) }
    }
}

pub(super) fn check_version(version: u32) -> Result<(), KeyError> {
    if version == KeyStore::VERSION { Ok(()) } else { Err(KeyError::Version(version)) }
}

/// Everything secret of a deployment on one machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyStore {
    version: u32,
    /// The deployment.
    pub deployment: DeploymentId,
    /// The secret from which earlier builds derived the tags of all issuers' tokens. Only in stores
    /// that such a build made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) edge_secret: Option<Secret>,
    pub(super) price_secret: Secret,
    pub(super) visitor_secret: Secret,
    /// Signing keys, oldest first.
    pub issuers: Vec<IssuerKey>,
    /// Edges that were taken out of service, and since when.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub retired_edges: BTreeMap<EdgeId, Timestamp>,
    /// Whose edges are.
    #[serde(default, skip_serializing_if = "EdgeRegistry::is_empty")]
    pub edges: EdgeRegistry,
}

impl KeyStore {
    /// The version of the file's form.
    pub const VERSION: u32 = 1;

    /// A new deployment, without any signing key yet.
    pub fn generate(random: &mut dyn Random) -> Self {
        let mut id = [0; 4];
        random.fill(&mut id);
        Self {
            version: Self::VERSION,
            deployment: DeploymentId(u32::from_be_bytes(id)),
            edge_secret: None,
            price_secret: Secret::generate(random),
            visitor_secret: Secret::generate(random),
            issuers: Vec::new(),
            retired_edges: BTreeMap::new(),
            edges: EdgeRegistry::default(),
        }
    }

    /// Checks a store that was read from a file.
    ///
    /// # Errors
    /// [`KeyError`] when it is of another version or a key in it is wrong.
    pub fn check(&self) -> Result<(), KeyError> {
        check_version(self.version)?;
        self.issuers.iter().try_for_each(IssuerKey::check)?;
        self.keyring().map(drop)
    }

    /// Makes the first key of an issuer; `publishers` empty: it signs for all.
    ///
    /// # Errors
    /// When the issuer has a key that signs, or the name is reserved.
    pub fn create(
        &mut self,
        issuer: IssuerId,
        publishers: Vec<PublisherName>,
        now: Timestamp,
        random: &mut dyn Random,
    ) -> Result<KeyId, KeyError> {
        self.create_limited(issuer, IssuerLimits { publishers, ..Default::default() }, now, random)
    }

    /// Makes the first key of an issuer, which signs for what the limits say. When all keys of the
    /// issuer are retired or revoked and no limits are given, the new key has the limits of the
    /// last one.
    ///
    /// # Errors
    /// As [`KeyStore::create`].
    pub fn create_limited(
        &mut self,
        issuer: IssuerId,
        limits: IssuerLimits,
        now: Timestamp,
        random: &mut dyn Random,
    ) -> Result<KeyId, KeyError> {
        if issuer == super::IMPORT_ISSUER {
            return Err(KeyError::Reserved(issuer));
        }
        if self.signing(issuer, now).is_ok() {
            return Err(KeyError::HasKey(issuer));
        }
        // Limits outlive the keys that had them: revoking an issuer's keys must not lift its
        // limits.
        let before = self.issuers.iter().rev().find(|key| key.public.issuer == issuer);
        let limits = match before {
            Some(key) if limits == IssuerLimits::default() => key.public.limits(),
            _ => limits,
        };
        Ok(self.add(issuer, limits, now, random))
    }

    /// Gives an issuer a new key that signs from `now`, and retires the one before it `overlap_ms`
    /// later: until then edges that have not heard of the new key go on with the old.
    ///
    /// # Errors
    /// When the issuer has no key that signs.
    pub fn rotate(
        &mut self,
        issuer: IssuerId,
        now: Timestamp,
        overlap_ms: u64,
        random: &mut dyn Random,
    ) -> Result<KeyId, KeyError> {
        let limits = self.signing(issuer, now)?.public.limits();
        let end = now.plus_ms(overlap_ms);
        for key in self.issuers.iter_mut().map(|key| &mut key.public) {
            if key.issuer == issuer && key.signs_at(now) {
                key.retired_at = Some(key.retired_at.map_or(end, |earlier| earlier.min(end)));
            }
        }
        Ok(self.add(issuer, limits, now, random))
    }

    /// The key signs no more; what it signed verifies for the horizon.
    ///
    /// # Errors
    /// When there is no such key, or it is revoked: then nothing that it signed verifies.
    pub fn retire(&mut self, id: KeyId, now: Timestamp) -> Result<(), KeyError> {
        let key = self.find(id)?;
        if key.revoked {
            return Err(KeyError::Revoked(id));
        }
        key.retired_at = Some(key.retired_at.map_or(now, |earlier| earlier.min(now)));
        Ok(())
    }

    /// Nothing that the key signed is believed any more.
    ///
    /// # Errors
    /// When there is no such key, or it is revoked.
    pub fn revoke(&mut self, id: KeyId) -> Result<(), KeyError> {
        let key = self.find(id)?;
        if key.revoked {
            return Err(KeyError::Revoked(id));
        }
        key.revoked = true;
        Ok(())
    }

    /// Takes an edge out of service, for ever: what collectors get from it after `now` is rejected.
    /// Returns since when it is out of service: for an edge that is already, the first time stands.
    ///
    /// # Errors
    /// When neither this edge nor the one whose shard it is was registered: the name must be
    /// mistyped.
    pub fn retire_edge(&mut self, edge: EdgeId, now: Timestamp) -> Result<Timestamp, KeyError> {
        self.edges.owner(edge).ok_or(KeyError::UnregisteredEdge(edge))?;
        Ok(*self.retired_edges.entry(edge).or_insert(now))
    }

    /// Since when an edge, or the one whose shard it is, is out of service.
    #[must_use]
    pub fn retired_since(&self, edge: EdgeId) -> Option<Timestamp> {
        let since = |edge| self.retired_edges.get(&edge);
        since(edge).or_else(|| since(registered_name(edge))).copied()
    }

    /// The newest key with which the issuer signs at `now`.
    ///
    /// # Errors
    /// [`KeyError::UnknownIssuer`] when there is none.
    pub fn signing(&self, issuer: IssuerId, now: Timestamp) -> Result<&IssuerKey, KeyError> {
        let mut keys = self.issuers.iter().rev();
        keys.find(|key| key.public.issuer == issuer && key.public.signs_at(now))
            .ok_or(KeyError::UnknownIssuer(issuer))
    }

    /// The public halves.
    ///
    /// # Errors
    /// [`KeyError`] when one is wrong.
    pub fn keyring(&self) -> Result<Keyring, KeyError> {
        Keyring::new(self.deployment, self.issuers.iter().map(|key| key.public.clone()))
    }

    /// The key of the prices that go with a signing key.
    #[must_use]
    pub fn price_key(&self, key: KeyId) -> PriceKey {
        PriceKey::derive(&self.price_secret, key)
    }

    /// The fingerprints' key.
    #[must_use]
    pub fn visitor_key(&self) -> VisitorKey {
        VisitorKey::new(self.visitor_secret.clone())
    }

    fn find(&mut self, id: KeyId) -> Result<&mut PublicKey, KeyError> {
        let mut keys = self.issuers.iter_mut().map(|key| &mut key.public);
        keys.find(|key| key.id == id).ok_or(KeyError::Unknown(id))
    }

    fn add(
        &mut self,
        issuer: IssuerId,
        limits: IssuerLimits,
        now: Timestamp,
        random: &mut dyn Random,
    ) -> KeyId {
        let IssuerLimits { publishers, advertisers, price_max } = limits;
        // Ends with the first key whose id no other key has. Ids have four bytes, so two keys may
        // have one.
        loop {
            let secret = Secret::generate(random);
            let public = SigningKey::from_bytes(secret.expose()).verifying_key().to_bytes();
            let id = PublicKey::id_of(&public);
            if self.issuers.iter().any(|key| key.public.id == id) {
                continue;
            }
            let public = PublicKey {
                id,
                issuer,
                public,
                not_before: now,
                retired_at: None,
                revoked: false,
                publishers,
                advertisers,
                price_max,
            };
            self.issuers.push(IssuerKey { public, secret });
            return id;
        }
    }
}
