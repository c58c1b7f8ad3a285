//! Which issuer an edge belongs to. An edge's name belongs to one issuer for ever. Every key of the
//! issuer that is in force speaks for its edges, so that keys can be rotated freely.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{KeyError, KeyStore};
use crate::name::{EdgeId, IssuerId};
use crate::time::Timestamp;

/// Stands between the name of an edge and the part that tells its shards apart: `NAME--FRA-3` is a
/// shard of `NAME`, and belongs to the issuer of `NAME`.
const SHARD_MARK: &str = "--";

/// The name that is registered for the edge of an outbox: its own, or that of the edge whose shard
/// it is.
#[must_use]
pub fn registered_name(edge: EdgeId) -> EdgeId {
    let text = edge.as_str();
    let name = text.split_once(SHARD_MARK).map_or(text, |(name, _)| name);
    // A name that begins with the mark has nothing before it: it is its own registered name.
    name.parse().unwrap_or(edge)
}

/// A sender that has proved who it is. What a batch says of its origin is compared with this.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sender {
    /// The operator, or the outbox of this very process: speaks for every edge that is registered.
    Operator,
    /// A sender that signed the request with a key of this issuer: speaks for the issuer's edges.
    Issuer(IssuerId),
    /// An edge that NATS has authenticated, by a subject on which nobody else may publish: speaks
    /// for itself and its shards.
    Edge(EdgeId),
}

impl Sender {
    /// Whether the sender speaks for this edge.
    #[must_use]
    pub fn owns(self, edge: EdgeId, edges: &EdgeRegistry) -> bool {
        match self {
            Self::Operator => true,
            Self::Issuer(issuer) => edges.owner(edge) == Some(issuer),
            Self::Edge(sender) => sender == edge || sender == registered_name(edge),
        }
    }

    /// The sender that has to answer for what this one sends: for a registered edge, its issuer.
    #[must_use]
    pub fn accountable(self, edges: &EdgeRegistry) -> Self {
        match self {
            Self::Edge(edge) => edges.owner(edge).map_or(self, Self::Issuer),
            Self::Operator | Self::Issuer(_) => self,
        }
    }
}

impl fmt::Display for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator => f.write_str("operator"),
            Self::Issuer(issuer) => write!(f, "issuer {issuer}"),
            Self::Edge(edge) => write!(f, "edge {edge}"),
        }
    }
}

/// A registered edge.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegisteredEdge {
    /// Whose it is.
    pub issuer: IssuerId,
    /// Since when.
    pub registered_at: Timestamp,
}

/// All registered edges.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EdgeRegistry(BTreeMap<EdgeId, RegisteredEdge>);

impl EdgeRegistry {
    /// The issuer of this edge, or of the edge whose shard it is; `None` when nobody has registered
    /// it.
    #[must_use]
    pub fn owner(&self, edge: EdgeId) -> Option<IssuerId> {
        self.0.get(&registered_name(edge)).map(|edge| edge.issuer)
    }

    /// True when no edge is registered: then nothing can be accepted from anybody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (EdgeId, RegisteredEdge)> {
        self.0.iter().map(|(name, edge)| (*name, *edge))
    }
}

impl KeyStore {
    /// Gives an edge's name to an issuer, for ever. When the issuer has it already, nothing
    /// changes.
    ///
    /// # Errors
    /// When the name belongs to another issuer or is that of a shard, when its shards could be
    /// taken for those of another edge, or when the issuer has no key.
    pub fn register_edge(
        &mut self,
        edge: EdgeId,
        issuer: IssuerId,
        now: Timestamp,
    ) -> Result<RegisteredEdge, KeyError> {
        if registered_name(edge) != edge {
            return Err(KeyError::ShardName { edge, name: registered_name(edge) });
        }
        // A shard of `w-` would be called `w---1`, which belongs to `w`. A name like that which an
        // earlier build has registered stays.
        let text = edge.as_str();
        let is_odd = text.contains(SHARD_MARK) || text.ends_with('-');
        if is_odd && !self.edges.0.contains_key(&edge) {
            return Err(KeyError::EdgeName { edge });
        }
        if self.issuers.iter().all(|key| key.public.issuer != issuer) {
            return Err(KeyError::UnknownIssuer(issuer));
        }
        let first = RegisteredEdge { issuer, registered_at: now };
        let there = *self.edges.0.entry(edge).or_insert(first);
        if there.issuer == issuer { Ok(there) } else { Err(KeyError::EdgeTaken { edge }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Seeded;

    fn id<T: crate::name::Short>(text: &str) -> crate::Id<T> {
        text.parse().unwrap()
    }

    fn store() -> KeyStore {
        let mut random = Seeded::new(1);
        let mut store = KeyStore::generate(&mut random);
        for issuer in ["house", "other"] {
            store.create(id(issuer), Vec::new(), Timestamp(1), &mut random).unwrap();
        }
        store
    }

    #[test]
    fn a_name_is_one_issuer_s_for_ever_and_its_shards_with_it() {
        let mut store = store();
        assert_eq!(store.edges.owner(id("w")), None);
        let first = store.register_edge(id("w"), id("house"), Timestamp(2)).unwrap();
        assert_eq!(store.register_edge(id("w"), id("house"), Timestamp(3)).unwrap(), first);
        let taken = store.register_edge(id("w"), id("other"), Timestamp(3));
        assert_eq!(taken, Err(KeyError::EdgeTaken { edge: id("w") }));
        for mine in ["w", "w--FRA-0", "w--", "w---1"] {
            assert_eq!(store.edges.owner(id(mine)), Some(id("house")), "{mine}");
        }
        for nobody in ["w-", "v--FRA-0", "ww", "--w"] {
            assert_eq!(store.edges.owner(id(nobody)), None, "{nobody}");
        }
        // A key that is rotated changes nothing.
        store.rotate(id("house"), Timestamp(4), 0, &mut Seeded::new(2)).unwrap();
        assert_eq!(store.edges.owner(id("w")), Some(id("house")));
    }

    #[test]
    fn what_cannot_be_owned_is_refused_with_the_remedy() {
        let mut store = store();
        let shard = store.register_edge(id("w--FRA-0"), id("other"), Timestamp(2)).unwrap_err();
        assert!(shard.to_string().contains("register w"), "{shard}");
        let nobody = store.register_edge(id("w"), id("nobody"), Timestamp(2)).unwrap_err();
        assert!(nobody.to_string().contains("keys new --issuer nobody"), "{nobody}");
        // Shards of edges with such names would belong to another edge, or to none.
        for odd in ["w-", "-", "--", "--w", "w--", "w---"] {
            let refused = store.register_edge(id(odd), id("other"), Timestamp(2)).unwrap_err();
            let text = refused.to_string();
            assert!(text.contains("ends in `-`") || text.contains("register w"), "{odd}: {text}");
        }
        assert!(store.edges.is_empty());
        // What an earlier build has registered stays whose it is.
        let there = RegisteredEdge { issuer: id("house"), registered_at: Timestamp(1) };
        store.edges.0.insert(id("w-"), there);
        assert_eq!(store.register_edge(id("w-"), id("house"), Timestamp(2)).unwrap(), there);
    }

    #[test]
    fn a_store_of_an_earlier_build_opens_without_any_edge() {
        let text = serde_json::to_string(&store()).unwrap();
        assert!(!text.contains("\"edges\""), "as an earlier build wrote it: {text}");
        let mut read: KeyStore = serde_json::from_str(&text).unwrap();
        read.check().unwrap();
        assert!(read.edges.is_empty() && read.for_centre().edges.is_empty());
        read.register_edge(id("w"), id("house"), Timestamp(2)).unwrap();
        let text = serde_json::to_string(&read.for_centre()).unwrap();
        let centre: crate::keys::CentreKeys = serde_json::from_str(&text).unwrap();
        assert_eq!(centre.edges, read.edges);
    }
}
