//! The keys and registers that a collector judges with.

use std::collections::BTreeMap;

use shared::keys::{
    CentreKeys, EdgeRegistry, KeyError, KeyId, KeyStore, Keyring, PriceKey, VisitorKey,
    registered_name,
};
use shared::{EdgeId, Timestamp};

/// The keys of a collector: public keys to verify with, and the secrets of the centre. A change is a new
/// value, handed in through a watch; each batch is judged with one value throughout.
#[derive(Clone, Debug)]
pub struct CollectorKeys {
    /// The issuers' public keys.
    pub keyring: Keyring,
    /// The key that prices in tokens are encrypted with, by signing key: one for each key of the keyring.
    pub price_keys: BTreeMap<KeyId, PriceKey>,
    /// Makes fingerprints of the users that an imported log names.
    pub visitor: VisitorKey,
    /// Edges that are out of service, and since when. Events in batches that arrive later are rejected as
    /// `edge_retired`, whenever the edge received them.
    pub retired_edges: BTreeMap<EdgeId, Timestamp>,
    /// The issuer that owns each edge. Batches of an edge that is not in it are refused.
    pub edges: EdgeRegistry,
}

impl CollectorKeys {
    /// Takes them from the centre's part of a key store.
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

    /// Takes them from a whole key store.
    ///
    /// # Errors
    /// [`KeyError`] when a key of the store is wrong.
    pub fn of_store(store: &KeyStore) -> Result<Self, KeyError> {
        Self::new(&store.for_centre())
    }

    /// Whether an edge is out of service at `now`, or, when it is a shard, the edge that it belongs to.
    #[must_use]
    pub fn is_retired(&self, edge: EdgeId, now: Timestamp) -> bool {
        let is = |edge| self.retired_edges.get(&edge).is_some_and(|since| *since <= now);
        is(edge) || is(registered_name(edge))
    }
}
