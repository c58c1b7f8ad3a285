//! What every event from outside goes through: its token, and who asked.

use shared::token::{Token, Unverified, check_url};
use shared::{Country, Fingerprint, Flags, Kind, Network, Reason, Timestamp, Verdict};

use crate::bots;
use crate::decision::Draft;
use crate::device;
use crate::policy::Policy;
use crate::request::{Method, Request};

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
pub(super) struct Asker {
    draft: Draft,
}

impl Asker {
    pub(super) fn new(request: &Request<'_>) -> Self {
        Self {
            draft: Draft {
                kind: Kind::Served,
                verdict: verdict(request),
                flags: Flags::default(),
                country: country(request.country),
                device: device::of(request.user_agent),
                network: request.client.map(Network::of).unwrap_or_default(),
                visitor: Fingerprint::NONE,
                token: Vec::new(),
            },
        }
    }

    pub(super) const fn network(&self) -> Network {
        self.draft.network
    }

    /// The event of a token that was just issued.
    pub(super) fn served(self, visitor: Fingerprint, token: Vec<u8>) -> Draft {
        Draft { kind: Kind::Served, visitor, token, ..self.draft }
    }

    /// The visitor, as far as the token and the request allow: nothing is compared or kept unless
    /// the token was given with consent, nor when this request opts out.
    pub(super) fn visitor(
        &self,
        token: &Token<'_>,
        request: &Request<'_>,
        policy: &Policy,
        now: Timestamp,
    ) -> (Fingerprint, Flags) {
        if token.visitor == Fingerprint::NONE || request.opted_out {
            return (Fingerprint::NONE, Flags::default());
        }
        let visitor =
            |day| policy.keys.visitor().of_request(day, self.network(), request.user_agent);
        // Fingerprints hold for a day: the token's is that of its day of issue.
        let then = visitor(token.issued_at);
        let today = token.issued_at.day() == now.day();
        let kept = if today { then } else { visitor(now) };
        let other = if then == token.visitor { 0 } else { Flags::OTHER_VISITOR };
        (kept, Flags(other))
    }

    pub(super) fn event(
        &self,
        kind: Kind,
        (visitor, flags): (Fingerprint, Flags),
        token: Vec<u8>,
    ) -> Draft {
        let Draft { verdict, country, device, network, .. } = self.draft;
        Draft { kind, verdict, flags, country, device, network, visitor, token }
    }
}

/// HEAD requests, prefetches and programs are no person's act (MRC GIVT, IAB click measurement).
fn verdict(request: &Request<'_>) -> Verdict {
    if request.method == Method::Head {
        return Some(Reason::HeadRequest);
    }
    let ahead = ["prefetch", "prerender", "preview"];
    let purpose = request.purpose.to_ascii_lowercase();
    let is_ahead =
        ahead.iter().any(|word| purpose.windows(word.len()).any(|w| w == word.as_bytes()));
    if is_ahead {
        return Some(Reason::Prefetch);
    }
    bots::is_bot(request.user_agent).then_some(Reason::Bot)
}

fn country(value: &[u8]) -> Country {
    let letters = <[u8; 2]>::try_from(value.trim_ascii()).ok();
    letters
        .and_then(|code| Country::from_bytes(code.map(|b| b.to_ascii_uppercase())))
        .unwrap_or_default()
}
