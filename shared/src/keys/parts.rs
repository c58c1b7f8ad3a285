//! The parts of the key store that edges and collectors hold, each with no more than it needs. With
//! what is stolen from an edge one can sign only as its issuer, and decrypt only that issuer's
//! prices; with what is stolen from a collector one can sign nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    DeploymentId, EdgeRegistry, IssuerKey, KeyError, KeyStore, Keyring, PriceKey, PublicKey,
    Secret, TagKeys, VisitorKey,
};
use crate::name::{EdgeId, IssuerId};
use crate::time::Timestamp;

/// An edge's part: the signing keys of one issuer, and what its own checks need.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EdgeKeys {
    pub(super) version: u32,
    /// The deployment.
    pub deployment: DeploymentId,
    /// Whose signing keys they are.
    pub issuer: IssuerId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) edge_secret: Option<Secret>,
    pub(super) visitor_secret: Secret,
    /// The issuer's signing keys, oldest first, each with the key of its prices.
    pub own: Vec<(IssuerKey, PriceKey)>,
    /// The public keys of all issuers; those of others without what they may sign for.
    pub public: Vec<PublicKey>,
}

/// The centre's part: what verifies every token and decrypts every price.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CentreKeys {
    pub(super) version: u32,
    /// The deployment.
    pub deployment: DeploymentId,
    pub(super) price_secret: Secret,
    pub(super) visitor_secret: Secret,
    /// The public keys of all issuers.
    pub public: Vec<PublicKey>,
    /// Edges that were taken out of service, and since when.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub retired_edges: BTreeMap<EdgeId, Timestamp>,
    /// Whose edges are.
    #[serde(default, skip_serializing_if = "EdgeRegistry::is_empty")]
    pub edges: EdgeRegistry,
}

impl EdgeKeys {
    /// The public keys, ready to verify with.
    ///
    /// # Errors
    /// [`KeyError`] when one is wrong, a secret does not belong to its key, or the form is of
    /// another version.
    pub fn keyring(&self) -> Result<Keyring, KeyError> {
        super::store::check_version(self.version)?;
        self.own.iter().try_for_each(|(key, _)| key.check())?;
        Keyring::new(self.deployment, self.public.iter().cloned())
    }

    /// The same secrets with newer public keys, so that a key that was retired or revoked meanwhile
    /// signs no more.
    #[must_use]
    pub fn with_public(mut self, public: Vec<PublicKey>) -> Self {
        for (own, _) in &mut self.own {
            if let Some(newer) = public.iter().find(|key| key.id == own.public.id) {
                own.public = newer.clone();
            }
        }
        self.public = public;
        self
    }

    /// The tag keys of tokens that an earlier build made, if one was here
    /// ([`TagKeys::of_deployment`]).
    #[must_use]
    pub fn earlier_tags(&self) -> Option<TagKeys> {
        self.edge_secret.clone().map(|secret| TagKeys::of_deployment(secret, self.deployment))
    }

    /// The fingerprints' key.
    #[must_use]
    pub fn visitor_key(&self) -> VisitorKey {
        VisitorKey::new(self.visitor_secret.clone())
    }
}

impl CentreKeys {
    /// The public keys, ready to verify with.
    ///
    /// # Errors
    /// [`KeyError`] when one is wrong, or the form is of another version.
    pub fn keyring(&self) -> Result<Keyring, KeyError> {
        super::store::check_version(self.version)?;
        Keyring::new(self.deployment, self.public.iter().cloned())
    }

    /// The key of the prices that go with a signing key.
    #[must_use]
    pub fn price_key(&self, key: super::KeyId) -> PriceKey {
        PriceKey::derive(&self.price_secret, key)
    }

    /// The fingerprints' key.
    #[must_use]
    pub fn visitor_key(&self) -> VisitorKey {
        VisitorKey::new(self.visitor_secret.clone())
    }
}

impl KeyStore {
    /// What an edge of this issuer holds.
    ///
    /// # Errors
    /// [`KeyError::UnknownIssuer`] when the issuer has no key.
    pub fn for_edge(&self, issuer: IssuerId) -> Result<EdgeKeys, KeyError> {
        let own = self.issuers.iter().filter(|key| key.public.issuer == issuer);
        let own: Vec<_> = own.map(|key| (key.clone(), self.price_key(key.public.id))).collect();
        if own.is_empty() {
            return Err(KeyError::UnknownIssuer(issuer));
        }
        Ok(EdgeKeys {
            version: Self::VERSION,
            deployment: self.deployment,
            issuer,
            edge_secret: self.edge_secret.clone(),
            visitor_secret: self.visitor_secret.clone(),
            own,
            public: self.issuers.iter().map(|key| key.public.told_to(issuer)).collect(),
        })
    }

    /// What collectors hold.
    #[must_use]
    pub fn for_centre(&self) -> CentreKeys {
        CentreKeys {
            version: Self::VERSION,
            deployment: self.deployment,
            price_secret: self.price_secret.clone(),
            visitor_secret: self.visitor_secret.clone(),
            public: self.public(),
            retired_edges: self.retired_edges.clone(),
            edges: self.edges.clone(),
        }
    }

    fn public(&self) -> Vec<PublicKey> {
        self.issuers.iter().map(|key| key.public.clone()).collect()
    }
}
