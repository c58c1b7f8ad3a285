//! `GET /v1/serve?placement=…`: chooses an ad and signs the token of its impression. With `test=1`
//! nothing of the impression is ever counted. What the query says about consent: [`Signals`].

use serde::Serialize;
use shared::text::hex;
use shared::token::{SIGNATURE_BYTES, Signer, Token, Unsealed, to_text};
use shared::{BlockId, Fingerprint, ImpressionId, Name, Random, Timestamp};

use super::check::Asker;
use super::{Effect, Outcome, State, Step, reply};
use crate::decision::{Decision, Draft, Durability, Reply, WhenFull};
use crate::policy::Policy;
use crate::privacy::{self, Signals};
use crate::request::{Request, decoded_text};
use catalogue::landing;
use catalogue::{Ad, Creative, Placement};

/// The reply's body.
#[derive(Serialize)]
struct Served<'a> {
    ad: &'a str,
    campaign: &'a str,
    advertiser: &'a str,
    publisher: &'a str,
    placement: &'a str,
    creative: Shown<'a>,
    impression_id: String,
    token: &'a str,
    click_url: String,
    beacon_url: String,
    events_url: String,
}

#[derive(Serialize)]
struct Shown<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    html: Option<&'a str>,
    width: u16,
    height: u16,
}

/// The first step; `Err` is the reply when no ad is served.
pub(super) fn serve<'p>(
    request: &Request<'_>,
    policy: &'p Policy,
    state: &mut dyn State,
    now: Timestamp,
    random: &mut dyn Random,
) -> Result<Step<'p>, Reply> {
    let (Ok(placement), Ok(test)) = (request.parameter("placement"), request.parameter("test"))
    else {
        let detail = "`placement` and `test` may stand in the query once each";
        return Err(reply::problem(400, "parameter_repeated", detail));
    };
    let Some(name) = placement else {
        let detail = "the query needs `placement`, the id of a placement";
        return Err(reply::problem(400, "placement_missing", detail));
    };
    let name = decoded_text(name).unwrap_or_default();
    let name = Name::new(&name).map_err(|why| {
        let detail = format!("`placement` is no name: {why}");
        reply::problem(400, "placement_malformed", detail)
    })?;
    let signals = Signals::from_request(request)
        .map_err(|detail| reply::problem(400, "consent_malformed", detail))?;
    let test = match test {
        None => false,
        Some("1") => true,
        Some(_) => {
            let detail = "`test` is 1 or left out: what comes of a test is never counted";
            return Err(reply::problem(400, "test_malformed", detail));
        }
    };
    if !BlockId::opens_at(now) {
        let detail = "this edge's clock says a time of which no ids can be made";
        return Err(reply::problem(503, "clock_wrong", detail));
    }
    // This comes before the placement is looked up: the centre tells an edge whose keys are revoked
    // of no placements, and "no such placement" would hide the reason.
    if !policy.keys.can_sign(now) {
        let detail = "this edge has no key that signs now";
        return Err(reply::problem(503, "no_signing_key", detail));
    }
    let Some(placement) = policy.catalogue.placement(name) else {
        let detail = format!("there is no placement {name}");
        return Err(reply::problem(404, "unknown_placement", detail));
    };
    // An empty reply, no error, as a bidder declines (OpenRTB 2.6, §4.2.1).
    let Some(ad) = policy.catalogue.choose(placement, random) else {
        return Err(reply::no_content());
    };
    // When no key may sign for the chosen ad, choose among those that a key may sign for. When
    // there is none, `issue` says so.
    let sells = |ad: &Ad| policy.keys.signer(placement.publisher.name(), ad, now).is_some();
    let ad = match sells(ad) {
        true => ad,
        false => policy.catalogue.choose_among(placement, random, sells).unwrap_or(ad),
    };
    let asker = Asker::new(request, policy, now);
    let kept = privacy::decide(&signals, &policy.privacy);
    let visitor = if kept.visitor { asker.fingerprint(now) } else { Fingerprint::NONE };
    let chosen = Chosen { placement, ad, test, draft: asker.served(visitor) };
    issue(chosen, policy, state, now, random)
}

/// An ad for a request, before it has an impression id.
struct Chosen<'p> {
    placement: &'p Placement,
    ad: &'p Ad,
    /// Nothing of the impression is counted.
    test: bool,
    /// The event, without its token.
    draft: Draft,
}

/// Gives the impression its id and its token, which then lacks only the signature.
fn issue<'p>(
    chosen: Chosen<'p>,
    policy: &'p Policy,
    state: &mut dyn State,
    now: Timestamp,
    random: &mut dyn Random,
) -> Result<Step<'p>, Reply> {
    let Chosen { placement, ad, test, draft } = chosen;
    let Some((signer, price_key)) = policy.keys.signer(placement.publisher.name(), ad, now) else {
        let detail = "this edge has no key that signs for this publisher and ad now";
        return Err(reply::problem(503, "no_signing_key", detail));
    };
    let Some(id) = state.next_id(now, random) else {
        let detail = "this edge has no impression ids left at the moment; ask again later";
        return Err(reply::problem(503, "no_ids", detail));
    };
    let token = Token {
        test,
        pass_query: ad.pass_query,
        deployment: policy.keys.keyring().deployment(),
        key: signer.id(),
        id,
        issued_at: now,
        impression_life_s: policy.catalogue.impression_life_s(),
        click_life_s: policy.catalogue.click_life_s(),
        price: price_key.seal(id, ad.price),
        visitor: draft.visitor,
        ad: ad.id.name(),
        campaign: ad.campaign.name(),
        advertiser: ad.advertiser.name(),
        publisher: placement.publisher.name(),
        placement: placement.id.name(),
        url: &ad.url,
    };
    let url = landing::filled(&ad.url, &token);
    // The catalogue was checked, so only a clock beyond the year 10889 makes this fail.
    let unsealed = Signer::unsealed(&Token { url: &url, ..token })
        .map_err(|why| reply::problem(503, "not_signable", why))?;
    let effect = Effect::Sign { key: signer.id(), bytes: unsealed.signed().to_vec() };
    let issued = Issued { policy, placement, ad, signer, id, unsealed, draft };
    Ok(Step::Need(effect, Resume(Box::new(issued))))
}

/// A decision that waits for an effect, with everything decided so far. It borrows the policy that
/// it began with, so it also ends by that one.
#[derive(Debug)]
pub struct Resume<'p>(Box<Issued<'p>>);

/// An issued ad whose token still lacks its signature.
#[derive(Debug)]
struct Issued<'p> {
    policy: &'p Policy,
    placement: &'p Placement,
    ad: &'p Ad,
    signer: &'p Signer,
    id: ImpressionId,
    unsealed: Unsealed,
    /// The event, without its token.
    draft: Draft,
}

impl<'p> Resume<'p> {
    /// The next step, given the outcome of the effect.
    #[must_use]
    pub fn with(self, outcome: Outcome) -> Step<'p> {
        let signature = match outcome {
            Outcome::Signature(signature) => Some(signature),
            Outcome::None => None,
        };
        Step::Done(self.0.signed(signature))
    }
}

impl Issued<'_> {
    fn signed(self, signature: Option<[u8; SIGNATURE_BYTES]>) -> Decision {
        let Self { policy, placement, ad, signer, id, unsealed, draft } = self;
        let bytes = signer.seal(unsealed, signature);
        let token_text = to_text(&bytes);
        let (image, html) = match &ad.creative {
            Creative::Image(url) => (Some(url.as_str()), None),
            Creative::Html(html) => (None, Some(html.as_str())),
        };
        let url = policy.public_url.as_str();
        let served = Served {
            ad: ad.id.as_str(),
            campaign: ad.campaign.as_str(),
            advertiser: ad.advertiser.as_str(),
            publisher: placement.publisher.as_str(),
            placement: placement.id.as_str(),
            creative: Shown { image, html, width: ad.width, height: ad.height },
            impression_id: hex(&id.to_bytes()),
            token: &token_text,
            click_url: format!("{url}/v1/c/{token_text}"),
            beacon_url: format!("{url}/v1/i/{token_text}"),
            events_url: format!("{url}/v1/events"),
        };
        let body = serde_json::to_vec(&served).expect("strings and numbers always serialize");
        Decision {
            events: vec![Draft { token: bytes, ..draft }],
            tallies: Vec::new(),
            // An issued token must be known to the log, whatever the settings say.
            durability: Durability::Durable,
            when_full: WhenFull::Refuse,
            reply: reply::json(200, body),
        }
    }
}
