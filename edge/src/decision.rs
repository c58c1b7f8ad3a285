//! What the core decides: effects as data, and the reply.

use std::borrow::Cow;

use shared::wire::Event;
use shared::{
    Codes, Fingerprint, Flags, Kind, Network, PageSeq, Reason, Region, RuleSet, Timestamp, Verdict,
};

/// Everything that follows from one request. The rim performs it in this order: the events, the
/// tallies, the reply.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// Events to append to the outbox, all or none.
    pub events: Vec<Draft>,
    /// What is only counted; recorded unless the events found the outbox full and the request is
    /// refused.
    pub tallies: Vec<Loss>,
    /// How durable the events must be before the reply goes out.
    pub durability: Durability,
    /// What to do when the outbox cannot take the events.
    pub when_full: WhenFull,
    /// The reply.
    pub reply: Reply,
}

impl Decision {
    /// A reply that has no effect.
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
    /// Valid, or why it is no person's act.
    pub verdict: Verdict,
    /// The rules that it follows from.
    pub rules: RuleSet,
    /// Remarks.
    pub flags: Flags,
    /// From where, and on what.
    pub codes: Codes,
    /// From which part of the country.
    pub region: Region,
    /// From which network.
    pub network: Network,
    /// By whom; none without consent.
    pub visitor: Fingerprint,
    /// The page view that told of it, where it numbers what it tells.
    pub page: Option<PageSeq>,
    /// The whole token, bytes.
    pub token: Vec<u8>,
}

impl Draft {
    /// The event, stamped.
    #[must_use]
    pub fn at(&self, at: Timestamp) -> Event<'_> {
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

/// Something that happened `count` times and is not kept one by one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Loss {
    /// What was asked for.
    pub kind: Kind,
    /// Why it is not counted.
    pub reason: Reason,
    /// How often.
    pub count: u32,
}

impl Loss {
    /// Adds it to others: one entry for each kind and reason.
    pub fn add_to(self, losses: &mut Vec<Self>) {
        let is_same = |loss: &&mut Self| loss.kind == self.kind && loss.reason == self.reason;
        match losses.iter_mut().find(is_same) {
            Some(loss) => loss.count = loss.count.saturating_add(self.count),
            None => losses.push(self),
        }
    }
}

/// What is counted in place of events that the outbox did not take.
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
    /// After the events are on disk.
    #[default]
    Durable,
    /// As soon as the outbox has taken them into its queue: a setting for beacons and clicks. A crash
    /// loses what waits, and the reply to a beacon does not say "accepted" but "queued".
    Queued,
}

/// What to do when the outbox cannot take the events.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WhenFull {
    /// Reply 503 with `Retry-After`; record nothing, for the client comes again.
    Refuse,
    /// Send the reply all the same, and count this in place of the events: a redirect.
    Proceed(Loss),
}

/// An HTTP reply.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// Header fields that are always the same for this sort of reply; names in lower case.
    pub fields: &'static [(&'static str, &'static str)],
    /// The `Location` of a redirect: visible ASCII.
    pub location: Option<String>,
    /// The `ETag`, of what may be kept: visible ASCII.
    pub etag: Option<String>,
    /// The body; a rim leaves it out for HEAD.
    pub body: Cow<'static, [u8]>,
}
