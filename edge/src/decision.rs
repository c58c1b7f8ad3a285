//! What the core decides: effects as data, and the reply.

use std::borrow::Cow;

use shared::wire::Event;
use shared::{
    Codes, Fingerprint, Flags, Kind, Network, PageSeq, Reason, Region, RuleSet, Timestamp, Verdict,
};

/// Everything that follows from one request. The rim carries it out in this order: the events, the
/// tallies, the reply.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// Events to append to the outbox, all or none.
    pub events: Vec<Draft>,
    /// What is counted and not kept as events. Recorded unless the outbox is full and the request
    /// is refused for it.
    pub tallies: Vec<Loss>,
    /// How durable the events must be before the reply goes out.
    pub durability: Durability,
    /// What to do when the outbox cannot take the events.
    pub when_full: WhenFull,
    /// The reply.
    pub reply: Reply,
}

impl Decision {
    /// A reply without effects.
    #[must_use]
    pub const fn reply(reply: Reply) -> Self {
        Self {
            events: Vec::new(),
            tallies: Vec::new(),
            durability: Durability::Durable,
            when_full: WhenFull::Refuse,
            reply,
        }
    }
}

/// An event that the outbox has not stamped yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Draft {
    /// What happened.
    pub kind: Kind,
    /// Valid, or the reason why no person did it.
    pub verdict: Verdict,
    /// The rules that the verdict follows from.
    pub rules: RuleSet,
    /// Remarks that change no count.
    pub flags: Flags,
    /// Country and device.
    pub codes: Codes,
    /// The part of the country.
    pub region: Region,
    /// The network, as far as it may be kept.
    pub network: Network,
    /// The visitor; [`Fingerprint::NONE`] without consent.
    pub visitor: Fingerprint,
    /// The page view that sent it, with its sequence number; `None` when the page does not number
    /// its events.
    pub page: Option<PageSeq>,
    /// The whole token, as bytes.
    pub token: Vec<u8>,
}

impl Draft {
    /// The event with its timestamp.
    #[must_use]
    pub fn stamped(&self, at: Timestamp) -> Event<'_> {
        Event {
            kind: self.kind,
            at,
            verdict: self.verdict,
            rules: self.rules,
            flags: self.flags,
            codes: self.codes,
            region: self.region,
            network: self.network,
            visitor: self.visitor,
            page: self.page,
            token: &self.token,
        }
    }
}

/// Something that happened `count` times and is not kept as events.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Loss {
    /// The kind that the events would have had.
    pub kind: Kind,
    /// Why it is not counted.
    pub reason: Reason,
    /// How often.
    pub count: u32,
}

impl Loss {
    /// Adds the loss to a list that has one entry for each kind and reason.
    pub fn add_to(self, losses: &mut Vec<Self>) {
        let is_same = |loss: &&mut Self| loss.kind == self.kind && loss.reason == self.reason;
        match losses.iter_mut().find(is_same) {
            Some(loss) => loss.count = loss.count.saturating_add(self.count),
            None => losses.push(self),
        }
    }
}

/// What is counted in place of events that the outbox did not take: one loss for each kind among
/// them.
#[must_use]
pub fn lost(events: &[Draft]) -> Vec<Loss> {
    let of_kind = |kind: &Kind| events.iter().filter(|event| event.kind == *kind).count();
    let losses = Kind::ALL.iter().map(|kind| Loss {
        kind: *kind,
        reason: Reason::OutboxFull,
        count: u32::try_from(of_kind(kind)).unwrap_or(u32::MAX),
    });
    losses.filter(|loss| loss.count > 0).collect()
}

/// When the reply may go out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Durability {
    /// After the events are durable.
    #[default]
    Durable,
    /// As soon as the outbox has queued the events. A setting for beacons and clicks: a crash loses
    /// what is queued, and the reply to a beacon says "queued" instead of "accepted".
    Queued,
}

/// What to do when the outbox cannot take the events.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WhenFull {
    /// Reply 503 with `Retry-After` and record nothing, for the client will come again.
    Refuse,
    /// Send the reply all the same, and count this loss in place of the events: for a redirect.
    Proceed(Loss),
}

/// An HTTP reply.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// Header fields that are the same for every reply of this sort; names in lower case.
    pub fields: &'static [(&'static str, &'static str)],
    /// The `Location` of a redirect: visible ASCII.
    pub location: Option<String>,
    /// The `ETag` of a reply that may be cached: visible ASCII.
    pub etag: Option<String>,
    /// The body; a rim leaves it out for HEAD.
    pub body: Cow<'static, [u8]>,
}
