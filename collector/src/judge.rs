//! Gives each event its one outcome. Pure: tokens are verified before ([`crate::verify`]), and the time is
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
    /// What the token says.
    pub token: Token<'a>,
    /// The key that signed it.
    pub key: &'k PublicKey,
    /// The token's body and signature.
    pub proof: &'a [u8],
}

/// A token that may not be believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Doubted {
    /// Why not.
    pub reason: Reason,
    /// The issuer and block that the token claims, where its key is known. They decide into which
    /// partition the rejected event goes, and nothing else.
    pub claim: (IssuerId, BlockId),
}

impl Doubted {
    /// A token of which not even the claim can be read.
    #[must_use]
    pub fn unreadable(reason: Reason) -> Self {
        Self { reason, claim: (Id::NONE, BlockId::default()) }
    }
}

/// What is the same for all events of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Context<'k> {
    /// The keys that the whole batch is judged with.
    pub keys: &'k CollectorKeys,
    /// The batch's edge is out of service.
    pub retired: bool,
    /// The issuer that owns the batch's edge: an event with a token of another issuer is rejected.
    pub owner: IssuerId,
    /// The collector's time.
    pub now: Timestamp,
}

/// An event with its outcome.
#[derive(Clone, Copy, Debug)]
pub struct Ruling<'a> {
    /// The event. Its `proof` and `names` are empty; they are in [`Ruling::proof`] and [`Ruling::names`].
    pub judged: Judged<'static>,
    /// The event's names as texts: ad, campaign, advertiser, publisher, placement.
    pub names: [&'a str; 5],
    /// What the archive shall keep of the token: the whole token when the event is rejected, its body and
    /// signature when the event is the one that says that the ad was served, else nothing.
    pub proof: &'a [u8],
    /// Decides the partition. The same bytes have the same key whether the token is believed or not, as
    /// long as its signing key is known. So an event stays in one partition when its batch is judged again
    /// after an append that failed half-way.
    pub partition_key: (IssuerId, BlockId),
}

/// Judges one event. It is rejected for the first of these that holds:
///
/// 1. the edge is out of service;
/// 2. the token is not believed, or another issuer than the edge's has signed it;
/// 3. the receive time is further ahead of the collector's than clocks may differ, or behind the horizon;
/// 4. no edge could have issued such a token: it lives too long, or its block was not open when it was
///    issued (`malformed`);
/// 5. the event is outside the token's life;
/// 6. the price cannot be read (`malformed`);
/// 7. the key may not sign for this advertiser or at this price.
///
/// Otherwise it is accepted: with [`Reason::Test`] as its verdict when the token is a test's, for a test
/// is in no count whatever the edge's verdict on its sender; else with the edge's verdict.
#[must_use]
pub fn judge<'a>(
    event: &Event<'a>,
    token: Result<Believed<'a, '_>, Doubted>,
    context: &Context<'_>,
) -> Ruling<'a> {
    let retired = if context.retired { Err(Reason::EdgeRetired) } else { Ok(()) };
    // A rejected event, too, is put into a minute that the engine keeps.
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

/// The time that is nearest to `at` within what a sender may report at `now`; and, when that is another
/// time, the reason: `at` is further ahead than clocks may differ, or behind the horizon. Events outside
/// are rejected for this reason and counted in the nearest minute inside, so that no sender can make
/// the engine keep minutes of arbitrary years.
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
