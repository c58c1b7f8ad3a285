//! What an edge decides by: settings, keys, catalogue. A policy is a value that is replaced as a
//! whole, so that each request is decided under a single one.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use catalogue::{Ad, Catalogue, Placement};
use shared::keys::{EdgeKeys, KeyError, KeyId, KeyStore, Keyring, PriceKey, TagKeys, VisitorKey};
use shared::name::Publisher;
use shared::token::Signer;
use shared::{AdName, IssuerId, Name, PlacementName, RuleSet, Timestamp};

use crate::decision::Durability;
use crate::privacy::PrivacyPolicy;
use crate::verdict::Rules;

/// How long links redirect, in days, unless the operator says otherwise.
pub const LINK_DAYS: u32 = 400;
/// The longest that the operator may set: two years.
pub const LINK_DAYS_MAX: u32 = 731;

/// What requests are decided by.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The edge's address as seen from outside; the links that it issues begin with it.
    pub public_url: PublicUrl,
    /// The days after its issue during which a link redirects, from 1 to [`LINK_DAYS_MAX`];
    /// afterwards it shows a page that says so. Whether a click still counts depends on the token's
    /// own life.
    pub link_days: u32,
    /// When a beacon is answered. Serving an ad always waits for the disk.
    pub beacons: Durability,
    /// When a click is redirected. A click waits for the disk only for a bounded time.
    pub clicks: Durability,
    /// The settings of the rules for verdicts.
    pub verdicts: Rules,
    /// Identifies these rules on events; from [`Rules::set`].
    pub rule_set: RuleSet,
    /// What may be kept of visitors.
    pub privacy: PrivacyPolicy,
    /// The keys.
    pub keys: Arc<Keys>,
    /// The ads and placements.
    pub catalogue: Arc<Catalogue>,
}

impl Policy {
    /// The ads that a placement never shows, because none of the keys that sign at `now` may sign
    /// for them. Empty when no key signs at all.
    #[must_use]
    pub fn unsold(&self, now: Timestamp) -> Vec<(PlacementName, AdName)> {
        if !self.keys.can_sign(now) {
            return Vec::new();
        }
        let of_placement = |placement: &Placement| {
            let publisher = placement.publisher.name();
            let ads = self.catalogue.ads_of(placement);
            let unsold = ads.filter(move |ad| self.keys.signer(publisher, ad, now).is_none());
            unsold.map(|ad| (placement.id.clone(), ad.id.clone())).collect::<Vec<_>>()
        };
        let mut unsold: Vec<_> = self.catalogue.placements().flat_map(of_placement).collect();
        unsold.sort_unstable();
        unsold
    }
}

/// An absolute http or https URL without a query and without a slash at its end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PublicUrl(String);

impl PublicUrl {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for PublicUrl {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        catalogue::landing::check_web(text).map_err(|why| why.replace("landing", "public"))?;
        if text.contains(['?', '#']) {
            return Err(format!("the public URL {text:?} has no place for a query or fragment"));
        }
        Ok(Self(text.trim_end_matches('/').to_owned()))
    }
}

/// The keys of an edge.
#[derive(Clone, Debug)]
pub struct Keys {
    issuer: IssuerId,
    /// The issuer's keys, newest first, each with the key that seals its prices.
    signers: Vec<(Signer, PriceKey)>,
    keyring: Keyring,
    earlier_tags: Option<TagKeys>,
    visitor: VisitorKey,
}

impl Keys {
    /// From an edge's part of a key store.
    ///
    /// # Errors
    /// [`KeyError`] when a key is wrong.
    pub fn new(keys: &EdgeKeys) -> Result<Self, KeyError> {
        let keyring = keys.keyring()?;
        let own = keys.own.iter().rev();
        let signers = own.map(|(key, price)| (Signer::new(key), price.clone())).collect();
        let (earlier_tags, visitor) = (keys.earlier_tags(), keys.visitor_key());
        Ok(Self { issuer: keys.issuer, signers, keyring, earlier_tags, visitor })
    }

    /// From a key store, for an edge of this issuer.
    ///
    /// # Errors
    /// [`KeyError`] when a key is wrong, or the issuer has none.
    pub fn of_store(store: &KeyStore, issuer: IssuerId) -> Result<Self, KeyError> {
        Self::new(&store.for_edge(issuer)?)
    }

    /// The issuer whose keys these are, and whose tokens the edge accepts.
    #[must_use]
    pub const fn issuer(&self) -> IssuerId {
        self.issuer
    }

    /// The newest key that at `now` signs for the ad on the publisher's pages, with the key that
    /// seals its prices. `None` when every key is retired, revoked, not yet in force, or not for
    /// this publisher, advertiser or price.
    #[must_use]
    pub fn signer(
        &self,
        publisher: Name<'_, Publisher>,
        ad: &Ad,
        now: Timestamp,
    ) -> Option<(&Signer, &PriceKey)> {
        let fits = |Signer { public, .. }: &Signer| {
            public.signs_at(now)
                && public.signs_for(publisher)
                && public.sells(ad.advertiser.name(), ad.price)
        };
        self.signers.iter().find(|(signer, _)| fits(signer)).map(|(signer, price)| (signer, price))
    }

    /// The key that signs this edge's requests to the centre: the newest that signs at `now`, or
    /// else the newest of all.
    #[must_use]
    pub fn speaker(&self, now: Timestamp) -> Option<&Signer> {
        let mut signers = self.signers.iter().map(|(signer, _)| signer);
        let newest = signers.next();
        let signs = |signer: &&Signer| signer.public.signs_at(now);
        newest.filter(signs).or_else(|| signers.find(signs)).or(newest)
    }

    /// Whether any key signs at `now`.
    #[must_use]
    pub fn can_sign(&self, now: Timestamp) -> bool {
        self.signers.iter().any(|(signer, _)| signer.public.signs_at(now))
    }

    /// All public keys of the deployment.
    #[must_use]
    pub const fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// The issuer's key with this id, and its tag keys.
    #[must_use]
    pub fn own(&self, id: KeyId) -> Option<&Signer> {
        self.signers.iter().map(|(signer, _)| signer).find(|signer| signer.id() == id)
    }

    /// The tag keys of tokens that an earlier build made. Any issuer of the deployment can make
    /// such tags.
    #[must_use]
    pub const fn earlier_tags(&self) -> Option<&TagKeys> {
        self.earlier_tags.as_ref()
    }

    /// The key that fingerprints are made with.
    #[must_use]
    pub const fn visitor(&self) -> &VisitorKey {
        &self.visitor
    }
}
