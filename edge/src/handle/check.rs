//! Checks that every event from outside goes through: its token, and who sent the request.

use shared::limits::TOKEN_LIFE_MS_MAX;
use shared::token::{Token, Unverified, check_url};
use shared::{
    Codes, Country, Fingerprint, Flags, Kind, Network, PageSeq, Reason, Region, Timestamp,
};

use super::State;
use crate::decision::Draft;
use crate::policy::{Keys, Policy};
use crate::request::Request;
use crate::{device, verdict};

/// Verifies a token of any age, or says why it is refused: first the seal, then the standing of its
/// key, its whole lifetime, and whether a redirect may go to its URL. Whether an event of it still
/// counts is decided by [`Token::check_time`].
pub(super) fn believe<'a>(
    bytes: &'a [u8],
    policy: &Policy,
    now: Timestamp,
) -> Result<Token<'a>, Reason> {
    let keys = &policy.keys;
    let unverified = Unverified::read(bytes, keys.keyring().deployment())?;
    let sealed = check_seal(&unverified, keys, now)?;
    // A seal stays good, so it is here that the keyring tells whether the key was revoked. A key
    // that is only retired must not break its links, so it is asked about the time at which the
    // token still counted.
    let at = now.min(sealed.issued_at.plus_ms(TOKEN_LIFE_MS_MAX));
    let (token, _) = unverified.verify_again(keys.keyring(), at)?;
    token.check_life()?;
    // Another signer may check URLs less carefully than ours.
    check_url(token.url).map_err(|_| Reason::Malformed)?;
    match policy.catalogue.schemes().allow(token.url) {
        true => Ok(token),
        false => Err(Reason::Malformed),
    }
}

/// Checks that a key of this edge's issuer sealed the token: by the key's tag, which is cheap, so
/// that strangers cannot make an edge check signatures.
fn check_seal<'a>(
    unverified: &Unverified<'a>,
    keys: &Keys,
    now: Timestamp,
) -> Result<Token<'a>, Reason> {
    let keyring = keys.keyring();
    let (key, _) = unverified.claim();
    let (public, _) = keyring.get(key).ok_or(Reason::UnknownKey)?;
    if public.issuer != keys.issuer() {
        return Err(Reason::ForeignIssuer);
    }
    let Some(own) = keys.own(key) else {
        // Another edge of the issuer may already sign with the next key, which this edge has not
        // been given yet.
        return unverified.check_signature(keyring);
    };
    let by_key = unverified.check_tag(own.tags(), now);
    match keys.earlier_tags() {
        // The earlier tag proves only that some issuer of the deployment made the token; the
        // signature proves which.
        Some(earlier) if by_key.is_err() => {
            unverified.check_tag(earlier, now)?;
            unverified.check_signature(keyring)
        }
        _ => by_key,
    }
}

/// What all events of one request have in common.
pub(super) struct Asker<'a> {
    request: &'a Request<'a>,
    pub(super) policy: &'a Policy,
    /// The network of the request, for the visitor's fingerprint. The event keeps only what the
    /// policy allows of it.
    network: Network,
    draft: Draft,
}

impl<'a> Asker<'a> {
    pub(super) fn new(request: &'a Request<'a>, policy: &'a Policy, now: Timestamp) -> Self {
        let network = request.client.map(Network::from_address).unwrap_or_default();
        let kept = policy.privacy.address.keep(request.client, policy.keys.visitor(), now);
        let draft = Draft {
            kind: Kind::Served,
            verdict: verdict::judge(request, &policy.verdicts),
            rules: policy.rule_set,
            flags: Flags::default(),
            codes: Codes {
                country: country(request.country),
                device: device::classify(request.user_agent),
            },
            region: Region::UNKNOWN,
            network: kept,
            visitor: Fingerprint::NONE,
            page: None,
            token: Vec::new(),
        };
        Self { request, policy, network, draft }
    }

    /// Sets the page view that sends the events.
    pub(super) fn with_page(mut self, page: Option<PageSeq>) -> Self {
        self.draft.page = page;
        self
    }

    /// The fingerprint of the visitor on the day of `at`.
    pub(super) fn fingerprint(&self, at: Timestamp) -> Fingerprint {
        self.policy.keys.visitor().of_request(at, self.network, self.request.user_agent)
    }

    /// The event of a token that is about to be issued; the caller adds the token.
    pub(super) fn served(self, visitor: Fingerprint) -> Draft {
        Draft { kind: Kind::Served, visitor, ..self.draft }
    }

    /// The event of a token that came back. `known` says whether this request has brought the event
    /// before.
    pub(super) fn event(
        &self,
        kind: Kind,
        token: &Token<'_>,
        bytes: &[u8],
        known: impl FnOnce(&Draft) -> bool,
        state: &mut dyn State,
        now: Timestamp,
    ) -> Draft {
        let (visitor, flags) = self.visitor(token, now);
        let mut event = Draft { kind, flags, visitor, token: bytes.to_vec(), ..self.draft.clone() };
        if kind == Kind::Click && event.verdict.is_none() {
            // Repeats and tests are never counted again, so they do not use up the visitor's
            // clicks.
            let is_new = !token.test && !known(&event) && !state.is_repeat(&event);
            let Request { client, user_agent, .. } = *self.request;
            let is_too_often = is_new && state.clicks_too_often(client, user_agent);
            let age_ms = now.0.checked_sub(token.issued_at.0).filter(|_| !state.stands_still(now));
            event.verdict = verdict::judge_click(is_too_often, age_ms, &self.policy.verdicts);
        }
        event
    }

    /// The visitor and flags of an event. Nothing is compared or kept unless the token was issued
    /// with consent and this request does not opt out.
    fn visitor(&self, token: &Token<'_>, now: Timestamp) -> (Fingerprint, Flags) {
        if token.visitor == Fingerprint::NONE || self.request.opted_out {
            return (Fingerprint::NONE, Flags::default());
        }
        // A fingerprint is valid for one day, so the token's is that of its day of issue.
        let then = self.fingerprint(token.issued_at);
        let today = token.issued_at.day() == now.day();
        let kept = if today { then } else { self.fingerprint(now) };
        let other = if then == token.visitor { 0 } else { Flags::OTHER_VISITOR };
        (kept, Flags(other))
    }
}

fn country(value: &[u8]) -> Country {
    std::str::from_utf8(value).map_or(Country::UNKNOWN, Country::lenient)
}
