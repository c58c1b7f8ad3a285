//! What an isolate goes by, and how it hears of what the centre told last.
//!
//! Under traffic news comes by itself: what is older than [`FRESH_MS`] is asked for, and requests do
//! not wait. After a pause, and in an isolate that has just started, they do: a key may have been
//! revoked meanwhile. One asks, everybody waits, each with a timer of its own. When no answer comes
//! the last policy goes on: links for as long as it takes (the centre judges their events itself), ads
//! for [`OLD_MS_MAX`] more.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use shared::Timestamp;
use shared::keys::EdgeKeys;
use worker::console_error;

use super::once::Once;
use super::outbox::POLICY_LIFE_MS;
use super::platform::{age_ms, now, within};
use super::shard::{Shard, ShardError, Told};
use crate::policy::{Keys, Policy};
use crate::ready;
use catalogue::{Catalogue, Published};

/// News is asked for when the last is older.
const FRESH_MS: u64 = POLICY_LIFE_MS;
/// Nothing is decided before an answer when the last one is older: with the shard's own
/// [`POLICY_LIFE_MS`] a change is in force within about ten seconds.
const STALE_MS: u64 = 2 * FRESH_MS;
/// An answer takes no longer, or there is none: the shard gives the centre 2 s.
const ASK_PATIENCE: Duration = Duration::from_millis(2_500);
/// Ads are given out for so long by what the centre told last.
const OLD_MS_MAX: u64 = 86_400_000;

const _: () = assert!(FRESH_MS < STALE_MS, "who asks in time does not wait");

/// The policy in force, and what is known of its age.
#[derive(Debug)]
pub(super) struct News {
    /// None without keys.
    policy: RefCell<Option<Rc<Policy>>>,
    /// The secrets, for the day that the public keys change.
    pub(super) keys: Option<EdgeKeys>,
    /// Whether there is a centre to ask.
    is_told: bool,
    /// The entity tag of what the centre told last; empty when it never told anything.
    tag: RefCell<String>,
    /// When the centre last said that this holds.
    told_at: Cell<Option<Timestamp>>,
    /// When the shard last answered, or was given up.
    heard_at: Cell<Option<Timestamp>>,
    /// Why the last answer was no use; empty when it was.
    trouble: RefCell<String>,
    /// Whether that was the centre's fault: what it told cannot be read.
    is_unusable: Cell<bool>,
    asks: Once,
}

impl News {
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
            asks: Once::default(),
        }
    }

    pub(super) fn policy(&self) -> Option<Rc<Policy>> {
        self.policy.borrow().clone()
    }

    /// Whether the shard should be asked; whoever is told so asks, with [`News::hear`].
    pub(super) fn begin(&self) -> bool {
        self.is_older(FRESH_MS) && self.asks.begin()
    }

    /// Whether an answer must come before anything is decided.
    pub(super) fn is_stale(&self) -> bool {
        self.is_older(STALE_MS)
    }

    /// Until the answer that is asked for is there; not for long.
    pub(super) async fn wait(&self) {
        self.asks.wait(ASK_PATIENCE).await;
    }

    fn is_older(&self, ms: u64) -> bool {
        self.is_told && self.heard_at.get().is_none_or(|heard| age_ms(heard) >= ms)
    }

    /// Asks the shard, and tells everybody who waits.
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

    /// Puts what the centre told in force.
    fn take(&self, told: &Told) -> Result<(), String> {
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

    /// Whether what the centre told is so old that no ad is given out by it. What the settings say
    /// holds until they are put again.
    pub(super) fn is_too_old(&self) -> bool {
        self.is_told && self.told_at.get().is_some_and(|told| told.plus_ms(OLD_MS_MAX) < now())
    }

    /// Why traffic should not be sent here.
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
