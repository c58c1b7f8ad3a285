//! Each event's one outcome. Pure: the token was verified before ([`crate::verify`]), the time is
//! an argument.

use shared::import::{self, ImportEvent};
use shared::keys::{PublicKey, VisitorKey};
use shared::limits::{CLOCK_AHEAD_MS_MAX, HORIZON_MS};
use shared::token::Token;
use shared::wire::{Event, Judged};
use shared::{
    BlockId, Codes, Fingerprint, Flags, Id, ImpressionId, IssuerId, Kind, Money, Name, NameBuf,
    Network, Outcome, Reason, Region, RuleSet, SourceId, Timestamp,
};

use crate::keys::CollectorKeys;

/// A token whose signature is good and whose key may be believed.
#[derive(Clone, Copy, Debug)]
pub struct Believed<'a, 'k> {
    /// What it says.
    pub token: Token<'a>,
    /// Who says so.
    pub key: &'k PublicKey,
    /// Body and signature.
    pub proof: &'a [u8],
}

/// A token that may not be believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Doubted {
    /// Why not.
    pub reason: Reason,
    /// The issuer and block that it claims, where its key is known: where it is put, not what it
    /// counts for.
    pub claim: (IssuerId, BlockId),
}

impl Doubted {
    /// A token that claims nothing that can be read.
    #[must_use]
    pub fn unreadable(reason: Reason) -> Self {
        Self { reason, claim: (Id::NONE, BlockId::default()) }
    }
}

/// What there is to know about a batch, besides its events.
#[derive(Clone, Copy, Debug)]
pub struct Context<'k> {
    /// What to believe.
    pub keys: &'k CollectorKeys,
    /// The batch's edge is out of service.
    pub retired: bool,
    /// Whose edge it is: what the tokens of another issuer tell is not believed of it.
    pub owner: IssuerId,
    /// The collector's time.
    pub now: Timestamp,
}

/// An event with its outcome.
#[derive(Clone, Copy, Debug)]
pub struct Ruling<'a> {
    /// The event; its `proof` and `names` are apart, in [`Ruling::proof`] and [`Ruling::names`].
    pub judged: Judged<'static>,
    /// The event's names, as texts.
    pub names: [&'a str; 5],
    /// What the archive shall keep of the token: all of it when the event is rejected, body and
    /// signature when it is the one that tells that the token was issued, else nothing.
    pub proof: &'a [u8],
    /// What decides the partition: the same for the same bytes, believed or not (as long as the
    /// key is known), so that a batch that is judged again after an append that failed half-way
    /// cannot put an event into a second partition.
    pub partition_key: (IssuerId, BlockId),
}

/// Judges one event. The first of these that holds is its reason: the edge is out of service; the
/// token is not believed, or is another issuer's than the edge; the receive time is further ahead of
/// the collector's than clocks may differ, or behind the horizon; no edge could have issued the token
/// as it is (`malformed`); it is outside the token's life; the price cannot be read (`malformed`); the
/// key may not sign for this advertiser or at this price. Otherwise it is accepted: what comes of a test
/// as [`Reason::Test`], whatever the edge thinks of who tried it out, for a test is in no count; all
/// else with the edge's verdict.
#[must_use]
pub fn judge<'a>(
    event: &Event<'a>,
    token: Result<Believed<'a, '_>, Doubted>,
    context: &Context<'_>,
) -> Ruling<'a> {
    let retired = if context.retired { Err(Reason::EdgeRetired) } else { Ok(()) };
    // Whatever its reason is, it is in a minute that is kept.
    let mut judged = blank(event.kind, clamp_time(event.at, context.now).0);
    judged.codes = event.codes;
    judged.region = event.region;
    judged.network = event.network;
    judged.visitor = event.visitor;
    judged.flags = event.flags;
    judged.rules = event.rules;
    judged.page = event.page;
    let believed = match token {
        Ok(believed) => believed,
        Err(doubted) => {
            judged.outcome = Err(retired.err().unwrap_or(doubted.reason));
            let names = Default::default();
            return Ruling { judged, names, proof: event.token, partition_key: doubted.claim };
        }
    };
    let token = &believed.token;
    let cover = context.keys.price_keys.get(&token.key);
    let price = cover.and_then(|cover| cover.open(token.id, token.price));
    judged.issuer = believed.key.issuer;
    judged.id = token.id;
    judged.issued = Some(token.issued_at.minute());
    judged.ad = token.ad.id();
    judged.campaign = token.campaign.id();
    judged.advertiser = token.advertiser.id();
    judged.publisher = token.publisher.id();
    judged.placement = token.placement.id();
    judged.price = price.unwrap_or(Money::ZERO);
    let foreign = believed.key.issuer != context.owner;
    judged.outcome = retired
        .and(if foreign { Err(Reason::ForeignIssuer) } else { Ok(()) })
        .and_then(|()| clamp_time(event.at, context.now).1.map_or(Ok(()), Err))
        .and_then(|()| token.check_life())
        .and_then(|()| token.check_time(event.kind, event.at))
        .and_then(|()| price.ok_or(Reason::Malformed))
        .and_then(|price| match believed.key.sells(token.advertiser, price) {
            true => Ok(()),
            false => Err(Reason::IssuerLimit),
        })
        .map(|()| if token.test { Some(Reason::Test) } else { event.verdict });
    let proof = match (judged.outcome, event.kind) {
        (Err(_), _) => event.token,
        (Ok(_), Kind::Served) => believed.proof,
        (Ok(_), _) => &[],
    };
    Ruling { judged, names: token.names(), proof, partition_key: (judged.issuer, token.id.block) }
}

/// Judges one event of an imported log.
#[must_use]
pub fn judge_row<'a>(
    source: SourceId,
    event: &'a ImportEvent,
    visitor: &VisitorKey,
    now: Timestamp,
) -> Ruling<'a> {
    let ahead = now.plus_ms(CLOCK_AHEAD_MS_MAX);
    let mut judged = blank(event.kind, event.at.min(ahead));
    judged.issuer = import::ISSUER;
    judged.id = import::impression(source, event.row);
    judged.outcome = if event.at > ahead { Err(Reason::ClockAhead) } else { Ok(None) };
    let publisher = event.publisher.as_ref().map_or(Name::NONE, NameBuf::name);
    let placement = event.placement.as_ref().map_or(Name::NONE, NameBuf::name);
    judged.ad = event.ad.id();
    judged.publisher = publisher.id();
    judged.placement = placement.id();
    judged.codes = event.codes();
    judged.network = event.ip.map_or_else(Network::default, Network::from_address);
    let user = event.user.as_deref();
    judged.visitor = user.map_or(Fingerprint::NONE, |user| visitor.of_user(user));
    let names = [event.ad.as_str(), "", "", publisher.as_str(), placement.as_str()];
    Ruling { judged, names, proof: &[], partition_key: (import::ISSUER, judged.id.block) }
}

/// The nearest time that a sender may speak of at `now`, and the reason when it is another: further
/// ahead than clocks may differ, or behind the horizon. So no sender makes anybody keep minutes of any
/// year; what lies outside is named, and counted in the nearest minute inside.
pub(crate) fn clamp_time(at: Timestamp, now: Timestamp) -> (Timestamp, Option<Reason>) {
    let (first, last) = (now.minus_ms(HORIZON_MS), now.plus_ms(CLOCK_AHEAD_MS_MAX));
    match at {
        at if at > last => (last, Some(Reason::ClockAhead)),
        at if at.minute() < first.minute() => (first, Some(Reason::TooLate)),
        at => (at, None),
    }
}

/// An event of which nothing is known but what happened and when.
fn blank(kind: Kind, at: Timestamp) -> Judged<'static> {
    let outcome: Outcome = Ok(None);
    Judged {
        issuer: Id::NONE,
        issued: None,
        id: ImpressionId::default(),
        kind,
        outcome,
        at,
        ad: Id::NONE,
        campaign: Id::NONE,
        advertiser: Id::NONE,
        publisher: Id::NONE,
        placement: Id::NONE,
        names: &[],
        codes: Codes::default(),
        region: Region::UNKNOWN,
        network: Network::default(),
        visitor: Fingerprint::NONE,
        flags: Flags::default(),
        rules: RuleSet::UNKNOWN,
        page: None,
        price: Money::ZERO,
        proof: &[],
    }
}
