//! The policy in force, and how it changes while requests go on.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use crate::catalogue::Catalogue;
use crate::policy::{Keys, Policy};

/// The policy in force. A request reads it once; a change never waits for one.
#[derive(Debug)]
pub struct Policies(ArcSwap<Policy>);

impl Policies {
    /// Begins with this one.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self(ArcSwap::from_pointee(policy))
    }

    /// The one in force.
    #[must_use]
    pub fn load(&self) -> Guard<Arc<Policy>> {
        self.0.load()
    }

    /// Replaces the keys: after a rotation, a retirement or a revocation.
    pub fn set_keys(&self, keys: Keys) {
        let keys = Arc::new(keys);
        self.0.rcu(|policy| Policy { keys: Arc::clone(&keys), ..Policy::clone(policy) });
    }

    /// Replaces the catalogue.
    pub fn set_catalogue(&self, catalogue: Catalogue) {
        let catalogue = Arc::new(catalogue);
        self.0.rcu(|policy| Policy { catalogue: Arc::clone(&catalogue), ..Policy::clone(policy) });
    }
}
