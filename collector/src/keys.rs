//! What a collector believes, and with which keys.

use std::collections::BTreeMap;

use shared::keys::{
    CentreKeys, EdgeRegistry, KeyError, KeyId, KeyStore, Keyring, PriceKey, VisitorKey,
    registered_name,
};
use shared::{EdgeId, Timestamp};

/// The keys of a collector: public ones to verify with, and the secrets of the centre. A change is
/// a new value, handed in through a watch; a batch is judged with one value as a whole.
#[derive(Clone, Debug)]
pub struct CollectorKeys {
    /// The issuers' public keys.
    pub keyring: Keyring,
    /// What covers the prices in tokens, by signing key: one for each key of the keyring.
    pub price_keys: BTreeMap<KeyId, PriceKey>,
    /// What makes fingerprints of the users that an imported log names.
    pub visitor: VisitorKey,
    /// Edges that were taken out of service, and since when: what comes from them later is
    /// `edge_retired`, whenever it was received.
    pub retired_edges: BTreeMap<EdgeId, Timestamp>,
    /// Whose edges are: an edge that nobody has registered is not let in.
    pub edges: EdgeRegistry,
}

impl CollectorKeys {
    /// Of the centre's part of a key store.
    ///
    /// # Errors
    /// [`KeyError`] when a key is wrong.
    pub fn new(keys: &CentreKeys) -> Result<Self, KeyError> {
        let keyring = keys.keyring()?;
        let price_keys = keyring.iter().map(|key| (key.id, keys.price_key(key.id))).collect();
        let visitor = keys.visitor_key();
        let (retired_edges, edges) = (keys.retired_edges.clone(), keys.edges.clone());
        Ok(Self { keyring, price_keys, visitor, retired_edges, edges })
    }

    /// Of a key store.
    ///
    /// # Errors
    /// [`KeyError`] when a key of the store is wrong.
    pub fn of_store(store: &KeyStore) -> Result<Self, KeyError> {
        Self::new(&store.for_centre())
    }

    /// Whether an edge, or the one whose shard it is, is out of service at `now`.
    #[must_use]
    pub fn is_retired(&self, edge: EdgeId, now: Timestamp) -> bool {
        let is = |edge| self.retired_edges.get(&edge).is_some_and(|since| *since <= now);
        is(edge) || is(registered_name(edge))
    }
}
