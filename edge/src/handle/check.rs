//! What every event from outside goes through: its token, and who asked.

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

/// Believes a token, however old it is, or says why not: the seal; then the standing of its key, its
/// life as a whole, and that a redirect could go to its URL. Whether an event of it may still be
/// counted is [`Token::check_time`]'s to say.
pub(super) fn believe<'a>(
    bytes: &'a [u8],
    policy: &Policy,
    now: Timestamp,
) -> Result<Token<'a>, Reason> {
    let keys = &policy.keys;
    let unverified = Unverified::read(bytes, keys.keyring().deployment())?;
    let sealed = check_seal(&unverified, keys, now)?;
    // The seal stays good; revocation is told by the keyring. A link lives on when its key is retired:
    // what is asked is whether it was good while it counted.
    let at = now.min(sealed.issued_at.plus_ms(TOKEN_LIFE_MS_MAX));
    let (token, _) = unverified.verify_again(keys.keyring(), at)?;
    token.check_life()?;
    // Another signer may be less careful than ours.
    check_url(token.url).map_err(|_| Reason::Malformed)?;
    match policy.catalogue.schemes().allow(token.url) {
        true => Ok(token),
        false => Err(Reason::Malformed),
    }
}

/// That a key of this edge's issuer sealed a token: by the key's tag, which is cheap, so that nobody
/// else makes an edge check signatures.
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
        // Another edge of the issuer has its next key already, and this one has not been given it.
        return unverified.check_signature(keyring);
    };
    let by_key = unverified.check_tag(own.tags(), now);
    match keys.earlier_tags() {
        // The tag says that some issuer of the deployment made it; whose it is says the signature.
        Some(earlier) if by_key.is_err() => {
            unverified.check_tag(earlier, now)?;
            unverified.check_signature(keyring)
        }
        _ => by_key,
    }
}

/// What is the same for all events of a request.
pub(super) struct Asker<'a> {
    request: &'a Request<'a>,
    pub(super) policy: &'a Policy,
    /// Where it comes from, for the visitor's fingerprint; the event has what may be kept of it.
    network: Network,
    draft: Draft,
}

impl<'a> Asker<'a> {
    pub(super) fn new(request: &'a Request<'a>, policy: &'a Policy, now: Timestamp) -> Self {
        let network = request.client.map(Network::from_address).unwrap_or_default();
        let kept = policy.privacy.address.keep(request.client, policy.keys.visitor(), now);
        let draft = Draft {
            kind: Kind::Served,
            verdict: verdict::of(request, &policy.verdicts),
            rules: policy.rule_set,
            flags: Flags::default(),
            codes: Codes {
                country: country(request.country),
                device: device::of(request.user_agent),
            },
            region: Region::UNKNOWN,
            network: kept,
            visitor: Fingerprint::NONE,
            page: None,
            token: Vec::new(),
        };
        Self { request, policy, network, draft }
    }

    /// The same for events that a page view numbers.
    pub(super) fn told_by(mut self, page: Option<PageSeq>) -> Self {
        self.draft.page = page;
        self
    }

    /// Who asks, on the day of `at`.
    pub(super) fn fingerprint(&self, at: Timestamp) -> Fingerprint {
        self.policy.keys.visitor().of_request(at, self.network, self.request.user_agent)
    }

    /// The event of a token that is about to be issued, without it.
    pub(super) fn served(self, visitor: Fingerprint) -> Draft {
        Draft { kind: Kind::Served, visitor, ..self.draft }
    }

    /// The event of a token that came back. `known`: what this request has brought already.
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
            // What was counted before takes no place in the visitor's pace, and neither does a test.
            let is_new = !token.test && !known(&event) && !state.is_repeat(&event);
            let Request { client, user_agent, .. } = *self.request;
            let is_too_often = is_new && state.clicks_too_often(client, user_agent);
            let age_ms = now.0.checked_sub(token.issued_at.0).filter(|_| !state.stands_still(now));
            event.verdict = verdict::of_click(is_too_often, age_ms, &self.policy.verdicts);
        }
        event
    }

    /// The visitor, as far as the token and the request allow: nothing is compared or kept unless
    /// the token was given with consent, nor when this request opts out.
    fn visitor(&self, token: &Token<'_>, now: Timestamp) -> (Fingerprint, Flags) {
        if token.visitor == Fingerprint::NONE || self.request.opted_out {
            return (Fingerprint::NONE, Flags::default());
        }
        // Fingerprints hold for a day: the token's is that of its day of issue.
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
