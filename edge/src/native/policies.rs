//! The policy in force, and how it is replaced while requests go on.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use catalogue::{Catalogue, CatalogueSource};
use shared::Clock as _;
use shared::ambient::SystemClock;

use super::Metrics;
use crate::policy::{Keys, Policy};

/// The policy in force. A request loads it once and keeps it; a replacement waits for no request.
#[derive(Debug)]
pub struct Policies(ArcSwap<Policy>);

impl Policies {
    /// Starts with this policy.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        let policies = Self(ArcSwap::from_pointee(policy));
        policies.warn_of_unsold();
        policies
    }

    /// The policy in force.
    #[must_use]
    pub fn load(&self) -> Guard<Arc<Policy>> {
        self.0.load()
    }

    /// Replaces the keys: after a rotation, a retirement or a revocation.
    pub fn set_keys(&self, keys: Keys) {
        let keys = Arc::new(keys);
        self.0.rcu(|policy| Policy { keys: Arc::clone(&keys), ..Policy::clone(policy) });
        self.warn_of_unsold();
    }

    /// Replaces the catalogue.
    pub fn set_catalogue(&self, catalogue: Catalogue) {
        let catalogue = Arc::new(catalogue);
        self.0.rcu(|policy| Policy { catalogue: Arc::clone(&catalogue), ..Policy::clone(policy) });
        self.warn_of_unsold();
    }

    /// Logs which ads are never shown because no key of this edge may sign for them.
    fn warn_of_unsold(&self) {
        let policy = self.load();
        // A new key signs only after a few seconds; it should not be warned of.
        let unsold = policy.unsold(SystemClock.now().plus_ms(60_000));
        let Some((placement, ad)) = unsold.first() else { return };
        tracing::warn!(
            %placement, %ad, count = unsold.len(), issuer = %policy.keys.issuer(),
            "ads are left out where the issuer's keys may not sign for the publisher, the advertiser or the \
             price (`countersign keys list`): this one, and as many in all as count says"
        );
    }
}

/// Asks the source every `pause` for a new catalogue and puts it in force. Ends with the runtime.
pub(super) async fn watch(
    mut source: Box<dyn CatalogueSource>,
    policies: Arc<Policies>,
    metrics: Metrics,
    pause: Duration,
) {
    let mut ticks = tokio::time::interval(pause);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let polled = tokio::task::spawn_blocking(move || (source.poll(), source)).await;
        // The runtime is going down.
        let Ok((result, back)) = polled else { return };
        source = back;
        match result {
            Ok(None) => {}
            Ok(Some(catalogue)) => {
                let (ads, placements) = (catalogue.ads().len(), catalogue.placements().count());
                tracing::info!(source = source.name(), ads, placements, "catalogue reloaded");
                policies.set_catalogue(catalogue);
                metrics.catalogue_reloads.inc();
                metrics.catalogue_bad.set(0);
            }
            Err(error) => {
                tracing::error!(%error, "the new catalogue is wrong; the one before stays");
                metrics.catalogue_bad.set(1);
            }
        }
    }
}
