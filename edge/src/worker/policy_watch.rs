//! The policy that an isolate decides by, and how it learns of a newer one from the centre, by way
//! of the shard.
//!
//! Under traffic it stays fresh by itself: when the last answer is older than [`FRESH_MS`] the
//! shard is asked again, and requests do not wait for that. After a pause, and in a new isolate,
//! they do wait, for a key may have been revoked meanwhile: one request asks for all, and each
//! waits with a timer of its own. When no answer comes, the last policy stays in force: for links
//! without limit (the centre judges their events itself), for ads for [`OLD_MS_MAX`] more.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use shared::Timestamp;
use shared::keys::EdgeKeys;
use worker::console_error;

use super::outbox::POLICY_LIFE_MS;
use super::platform::{age_ms, now, within};
use super::shard::{PolicyAnswer, Shard, ShardError};
use super::single_flight::SingleFlight;
use crate::policy::{Keys, Policy};
use crate::ready;
use catalogue::{Catalogue, Published};

/// The shard is asked again when its last answer is older than this.
const FRESH_MS: u64 = POLICY_LIFE_MS;
/// No request is decided before the next answer when the last one is older than this. Together with
/// the shard's own [`POLICY_LIFE_MS`], a change is in force within about ten seconds.
const STALE_MS: u64 = 2 * FRESH_MS;
/// How long an answer is waited for. The shard gives the centre 2 s.
const ASK_PATIENCE: Duration = Duration::from_millis(2_500);
/// How long ads are served by a policy that the centre has not confirmed.
const OLD_MS_MAX: u64 = 86_400_000;

const _: () = assert!(FRESH_MS < STALE_MS, "who asks in time does not wait");

/// The policy in force, and what is known of its age.
#[derive(Debug)]
pub(super) struct PolicyWatch {
    /// `None` without keys.
    policy: RefCell<Option<Rc<Policy>>>,
    /// The secret keys, which are needed again when the public keys change.
    pub(super) keys: Option<EdgeKeys>,
    /// Whether this edge has keys and a centre to ask.
    is_told: bool,
    /// The entity tag of the policy in force; empty while the centre has sent none.
    tag: RefCell<String>,
    /// When the centre last confirmed the policy.
    told_at: Cell<Option<Timestamp>>,
    /// When the shard last answered, or was given up on.
    heard_at: Cell<Option<Timestamp>>,
    /// Why the last answer was of no use; empty when it was of use.
    trouble: RefCell<String>,
    /// Whether that is the centre's fault: what it sent cannot be read.
    is_unusable: Cell<bool>,
    asks: SingleFlight,
}

impl PolicyWatch {
    pub(super) fn new(known: Option<(Policy, EdgeKeys)>, has_centre: bool) -> Self {
        let (policy, keys) = known.unzip();
        Self {
            policy: RefCell::new(policy.map(Rc::new)),
            is_told: keys.is_some() && has_centre,
            keys,
            tag: RefCell::default(),
            told_at: Cell::new(None),
            heard_at: Cell::new(None),
            trouble: RefCell::default(),
            is_unusable: Cell::new(false),
            asks: SingleFlight::default(),
        }
    }

    pub(super) fn policy(&self) -> Option<Rc<Policy>> {
        self.policy.borrow().clone()
    }

    /// Whether the shard should be asked. A caller that gets true must ask, with
    /// [`PolicyWatch::hear`].
    pub(super) fn begin(&self) -> bool {
        self.is_older(FRESH_MS) && self.asks.begin()
    }

    /// Whether an answer must come before a request is decided.
    pub(super) fn is_stale(&self) -> bool {
        self.is_older(STALE_MS)
    }

    /// Waits for the answer that is under way, for [`ASK_PATIENCE`] at most.
    pub(super) async fn wait(&self) {
        self.asks.wait(ASK_PATIENCE).await;
    }

    fn is_older(&self, ms: u64) -> bool {
        self.is_told && self.heard_at.get().is_none_or(|heard| age_ms(heard) >= ms)
    }

    /// Asks the shard, puts its answer in force, and wakes everybody who waits.
    pub(super) async fn hear(&self, shard: Result<Shard, ShardError>) {
        let known = self.tag.borrow().clone();
        let answer = match shard {
            Ok(shard) => within(ASK_PATIENCE, shard.policy(&known)).await,
            Err(error) => Some(Err(error)),
        };
        let answer =
            answer.unwrap_or_else(|| Err(ShardError::Away("it does not answer".to_owned())));
        let trouble = match answer {
            Ok(told) => {
                let taken = self.take(&told);
                self.is_unusable.set(taken.is_err());
                taken.err().unwrap_or_default()
            }
            Err(ShardError::Away(why)) => why,
            Err(ShardError::Full) => "the outbox is full".to_owned(),
        };
        if !trouble.is_empty() {
            console_error!("keys and ads stay as they are: {trouble}");
        }
        self.trouble.replace(trouble);
        self.heard_at.set(Some(now()));
        self.asks.end();
    }

    /// Puts the answer in force.
    fn take(&self, told: &PolicyAnswer) -> Result<(), String> {
        if let Some(text) = &told.text {
            self.publish(text)?;
            self.tag.replace(told.tag.clone());
        }
        self.told_at.set(Some(told.at));
        Ok(())
    }

    fn publish(&self, text: &str) -> Result<(), String> {
        let told: Published = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let (Some(keys), Some(before)) = (self.keys.clone(), self.policy()) else {
            return Ok(());
        };
        let keys = Keys::new(&keys.with_public(told.public)).map_err(|error| error.to_string())?;
        let catalogue = match told.catalogue {
            Some(catalogue) => {
                let read = Catalogue::from_json(catalogue.get());
                Arc::new(read.map_err(|error| error.to_string())?)
            }
            None => Arc::clone(&before.catalogue),
        };
        let policy = Policy { keys: Arc::new(keys), catalogue, ..Policy::clone(&before) };
        self.policy.replace(Some(Rc::new(policy)));
        Ok(())
    }

    /// Whether the policy is so old that no ad is served by it. A policy from the settings holds
    /// until they are changed.
    pub(super) fn is_too_old(&self) -> bool {
        self.is_told && self.told_at.get().is_some_and(|told| told.plus_ms(OLD_MS_MAX) < now())
    }

    /// Adds the reasons why this edge should get no traffic.
    pub(super) fn reasons(&self, reasons: &mut Vec<String>) {
        if self.policy().is_some_and(|policy| !policy.keys.can_sign(now())) {
            reasons.push(ready::no_signing_key_put());
        }
        if !self.is_told {
            return;
        }
        let trouble = self.trouble.borrow();
        if self.told_at.get().is_none() {
            reasons.push(ready::no_policy(&trouble));
        } else if self.is_too_old() {
            reasons.push(ready::policy_too_old(&trouble));
        } else if self.is_unusable.get() {
            reasons.push(ready::policy_unusable(&trouble));
        }
    }
}
