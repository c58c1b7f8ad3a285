//! What every event from outside goes through: its token, and who asked.

use shared::token::{Token, Unverified, check_url};
use shared::{Country, Fingerprint, Flags, Kind, Network, PageSeq, Reason, Timestamp};

use super::State;
use crate::decision::Draft;
use crate::policy::Policy;
use crate::request::Request;
use crate::{device, verdict};

/// Believes a token, or says why not: the tag when it can tell, else the signature; then the key's
/// standing, the expiry of this kind, and that a redirect could go to its URL.
pub(super) fn check<'a>(
    bytes: &'a [u8],
    kind: Kind,
    policy: &Policy,
    now: Timestamp,
) -> Result<Token<'a>, Reason> {
    let keys = &policy.keys;
    let unverified = Unverified::read(bytes, keys.keyring().deployment())?;
    let (token, _) = match unverified.check_tag(keys.tags(), now)? {
        // The tag says that an edge of ours sealed it; revocation is told by the keyring.
        Some(_) => unverified.verify_again(keys.keyring(), now)?,
        None => unverified.verify(keys.keyring(), now)?,
    };
    token.check_time(kind, now)?;
    // Another issuer's signer may be less careful than ours.
    check_url(token.url).map_err(|_| Reason::Malformed)?;
    Ok(token)
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
        let network = request.client.map(Network::of).unwrap_or_default();
        let kept = policy.privacy.address.keep(request.client, policy.keys.visitor(), now);
        let draft = Draft {
            kind: Kind::Served,
            verdict: verdict::of(request, &policy.verdicts),
            rules: policy.rule_set,
            flags: Flags::default(),
            country: country(request.country),
            device: device::of(request.user_agent),
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

    /// The event of a token that was just issued.
    pub(super) fn served(self, visitor: Fingerprint, token: Vec<u8>) -> Draft {
        Draft { kind: Kind::Served, visitor, token, ..self.draft }
    }

    /// The event of a token that came back.
    pub(super) fn event(
        &self,
        kind: Kind,
        token: &Token<'_>,
        bytes: &[u8],
        state: &mut dyn State,
        now: Timestamp,
    ) -> Draft {
        let Draft { verdict, rules, country, device, network, page, .. } = self.draft;
        let verdict = match kind {
            Kind::Click => {
                let rules = &self.policy.verdicts;
                verdict::of_click(verdict, token, self.request, rules, state, now)
            }
            _ => verdict,
        };
        let (visitor, flags) = self.visitor(token, now);
        let token = bytes.to_vec();
        Draft { kind, verdict, rules, flags, country, device, network, visitor, page, token }
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
    let letters = <[u8; 2]>::try_from(value.trim_ascii()).ok();
    letters
        .and_then(|code| Country::from_bytes(code.map(|b| b.to_ascii_uppercase())))
        .unwrap_or_default()
}
