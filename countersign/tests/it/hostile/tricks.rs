//! The tricks that a sender with a good key and an edge of its own may try, and their outcomes.

use ed25519_dalek::SigningKey;
use serde_json::{Value, json};
use shared::ambient::SystemRandom;
use shared::keys::EdgeKeys;
use shared::limits::{BATCH_NUMBERS_MAX, BLOCK_LIFE_MS, PAGE_SEQ_MAX};
use shared::name::literal;
use shared::token::{self, SIGNATURE_BYTES, Signer, TAG_BYTES, Token};
use shared::wire::{Batch, Event, Tally, bundle};
use shared::{
    BlockId, EdgeId, Fingerprint, ImpressionId, Kind, Minute, Money, Name, OutboxId, PageSeq,
    PageView, Random as _, Reason, Timestamp,
};

use super::target::EDGE;
use crate::sender::event;

/// The publisher that the sender claims to be.
pub(super) const PRESS: &str = "mallory-press";
/// One more run than an engine keeps beyond gaps of an edge, and some.
pub(super) const TOO_MANY_GAPS: u64 = (1 << 14) + 600;
/// Ten minutes before the year 10 000, the last time that can be asked for.
const YEAR_10_000: Timestamp = Timestamp(253_402_300_200_000);
const DAY_MS: u64 = 86_400_000;

/// One trick.
pub(super) struct Trick {
    pub(super) name: &'static str,
    /// What is sent, and in which order.
    pub(super) says: fn(&Scene<'_>) -> Vec<Said>,
    /// The answer to each part of it.
    pub(super) answer: Door,
    /// How many more events the account has afterwards, by outcome.
    pub(super) more: &'static [(&'static str, u64)],
}

/// Something that the sender sends.
#[derive(Clone)]
pub(super) enum Said {
    /// A batch, to the collector.
    Batch(Vec<u8>),
    /// A request, to the honest edge: what follows its address.
    Ask(String),
    /// Events, to the honest edge, as a page sends them.
    Tell(Value),
}

/// An answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Door {
    /// 202.
    Taken,
    /// This status, and the name of the refusal. Over NATS the batch becomes a dead letter.
    Refused(u16, &'static str),
    /// The edge answers with this status.
    Edge(u16),
}

/// What a trick can be made of.
pub(super) struct Scene<'a> {
    pub(super) keys: &'a EdgeKeys,
    /// A new outbox of the sender's own.
    pub(super) own: OutboxId,
    /// The outbox of the honest edge, and about its next number.
    pub(super) victim: OutboxId,
    pub(super) next: u64,
    /// The token of a visitor who will click in a moment.
    pub(super) token: &'a [u8],
    pub(super) now: Timestamp,
    /// A number of bytes that is too large for one batch.
    pub(super) large: usize,
}

/// A good batch in a bundle.
fn bundle_of(scene: &Scene<'_>, number: u64) -> Vec<u8> {
    let events = [scene.own_token()];
    let events = events.iter().map(|token| event(Kind::Click, token)).collect();
    let Said::Batch(batch) = batch(scene.own, number, scene.now, events, vec![]) else {
        unreachable!("it is one")
    };
    bundle::join(&[batch])
}

impl Scene<'_> {
    fn signer(&self) -> Signer {
        Signer::new(&self.keys.own[0].0)
    }

    /// A good token of the sender's own, of a block that it opens.
    fn own_token(&self) -> Vec<u8> {
        self.token_of(BlockId::open(self.now, &mut SystemRandom), self.now)
    }

    /// The same for any block and any time of issue.
    fn token_of(&self, block: BlockId, issued_at: Timestamp) -> Vec<u8> {
        let (key, price) = &self.keys.own[0];
        let id = ImpressionId { block, seq: 7 };
        let token = Token {
            test: false,
            pass_query: false,
            deployment: self.keys.deployment,
            key: key.public.id,
            id,
            issued_at,
            impression_life_s: 3_600,
            click_life_s: 3_600,
            price: price.seal(id, Money { micros: 1, currency: "EUR".parse().unwrap() }),
            visitor: Fingerprint::NONE,
            ad: literal("mallory"),
            campaign: literal("mallory"),
            advertiser: literal("mallory"),
            publisher: Name::literal(PRESS),
            placement: literal("mallory"),
            url: "https://mallory.example/",
        };
        self.signer().mint(&token).unwrap()
    }

    /// A token that lives for 194 days, which no signer of ours makes.
    fn long_token(&self) -> Vec<u8> {
        const LIVES: std::ops::Range<usize> = 27..33;
        let mut bytes = self.own_token();
        bytes.truncate(bytes.len() - SIGNATURE_BYTES - TAG_BYTES);
        bytes[LIVES].copy_from_slice(&[0xff; 6]);
        token::sign(&mut bytes, &SigningKey::from_bytes(self.keys.own[0].0.secret.expose()));
        token::tag(&mut bytes, self.signer().tags(), self.now.day());
        bytes
    }

    /// A token that names the key of the edge that is asked, with any tag.
    fn with_any_tag(&self, issued_at: Timestamp, number: u64) -> String {
        let mut bytes = self.as_the_victim(issued_at);
        let tag = bytes.len() - 8;
        bytes[tag..].copy_from_slice(&number.to_le_bytes());
        token::to_text(&bytes)
    }

    /// The same with a good tag, made with the sender's own key.
    fn with_own_tag(&self) -> String {
        let mut bytes = self.as_the_victim(self.now);
        bytes.truncate(bytes.len() - TAG_BYTES);
        token::tag(&mut bytes, self.signer().tags(), self.now.day());
        token::to_text(&bytes)
    }

    fn as_the_victim(&self, issued_at: Timestamp) -> Vec<u8> {
        const KEY_ID: std::ops::Range<usize> = 5..9;
        let mut bytes = self.token_of(BlockId::open(issued_at, &mut SystemRandom), issued_at);
        bytes[KEY_ID].copy_from_slice(&self.token[KEY_ID]);
        bytes
    }

    fn tally(&self) -> Tally {
        let minute = self.now.minute();
        Tally { minute, kind: Kind::Click, reason: Reason::Bot, count: 1 }
    }

    /// Batches with one tally each, so that it shows if one is taken.
    fn of_outbox(&self, edge: &str, epoch: u64) -> Vec<Said> {
        let outbox = OutboxId { edge: edge.parse().unwrap(), epoch };
        let numbers = self.next..self.next + 10;
        numbers.map(|number| batch(outbox, number, self.now, vec![], vec![self.tally()])).collect()
    }
}

fn batch(
    outbox: OutboxId,
    number: u64,
    watermark: Timestamp,
    events: Vec<Event<'_>>,
    tallies: Vec<Tally>,
) -> Said {
    Said::Batch(Batch { outbox, number, watermark, events, tallies }.to_bytes())
}

/// A block opened at this time, which need not be now.
fn opened(at: Timestamp) -> BlockId {
    BlockId::open(at, &mut SystemRandom)
}

fn garbage(bytes: usize) -> Vec<u8> {
    let mut garbage = vec![0; bytes];
    SystemRandom.fill(&mut garbage);
    garbage
}

/// All tricks but [`TOO_MANY`].
pub(super) const TRICKS: &[Trick] = &[
    Trick {
        name: "the next batches of another's edge",
        says: |scene| scene.of_outbox("edge", scene.victim.epoch),
        answer: Door::Refused(403, "foreign_edge"),
        more: &[],
    },
    Trick {
        name: "batches of another's shard",
        says: |scene| scene.of_outbox("edge--FRA-1", scene.now.0),
        answer: Door::Refused(403, "foreign_edge"),
        more: &[],
    },
    Trick {
        name: "another's epoch far ahead",
        says: |scene| scene.of_outbox("edge", u64::MAX),
        answer: Door::Refused(403, "foreign_edge"),
        more: &[],
    },
    Trick {
        name: "an edge that nobody has registered",
        says: |scene| scene.of_outbox("nobody", scene.now.0),
        answer: Door::Refused(403, "unregistered_edge"),
        more: &[],
    },
    Trick {
        name: "an epoch of its own far ahead",
        says: |scene| scene.of_outbox("m", scene.now.0 + 2 * DAY_MS),
        answer: Door::Refused(403, "epoch_ahead"),
        more: &[],
    },
    Trick {
        name: "what another's visitor is about to do",
        says: |scene| {
            let events = [Kind::Impression, Kind::Click].map(|kind| event(kind, scene.token));
            vec![batch(scene.own, 0, scene.now, events.into(), vec![])]
        },
        answer: Door::Taken,
        more: &[("foreign_issuer", 2)],
    },
    Trick {
        name: "empty batches with even numbers",
        says: |scene| {
            let numbers = (1..=2_000).map(|n| 2 * n);
            numbers.map(|number| batch(scene.own, number, scene.now, vec![], vec![])).collect()
        },
        answer: Door::Taken,
        more: &[],
    },
    Trick {
        name: "numbers that no outbox reaches",
        says: |scene| {
            let numbers = [BATCH_NUMBERS_MAX, BATCH_NUMBERS_MAX + 1, u64::MAX];
            let one = |number| batch(scene.own, number, scene.now, vec![], vec![scene.tally()]);
            numbers.map(one).into()
        },
        answer: Door::Refused(400, "malformed"),
        more: &[],
    },
    Trick {
        name: "the last number that an outbox reaches",
        says: |scene| {
            let number = BATCH_NUMBERS_MAX - 1;
            vec![batch(scene.own, number, scene.now, vec![], vec![scene.tally()])]
        },
        answer: Door::Taken,
        more: &[("bot", 1)],
    },
    Trick {
        name: "tallies of far minutes",
        says: |scene| {
            let far = |minute, count| Tally { minute, count, ..scene.tally() };
            let tallies = [
                far(YEAR_10_000.minute(), 5),
                far(Minute(u32::MAX), 1),
                far(Minute(0), 3),
                far(Minute(scene.now.minute().0 - 8 * 1_440), 1),
            ];
            vec![batch(scene.own, 0, scene.now, vec![], tallies.into())]
        },
        answer: Door::Taken,
        more: &[("clock_ahead", 6), ("too_late", 4)],
    },
    Trick {
        name: "events of far minutes",
        says: |scene| {
            let token = scene.own_token();
            let far = |at| Event { at, ..event(Kind::Click, &token) };
            let events = [YEAR_10_000, Timestamp::MAX, Timestamp(0)].map(far);
            vec![batch(scene.own, 0, scene.now, events.into(), vec![])]
        },
        answer: Door::Taken,
        more: &[("clock_ahead", 2), ("too_late", 1)],
    },
    Trick {
        name: "a watermark far ahead, and an event behind it",
        says: |scene| {
            let token = scene.own_token();
            let events = vec![event(Kind::Click, &token)];
            vec![
                batch(scene.own, 0, YEAR_10_000, vec![], vec![]),
                batch(scene.own, 1, scene.now, events, vec![]),
            ]
        },
        answer: Door::Taken,
        more: &[("counted", 1)],
    },
    Trick {
        name: "blocks of far minutes",
        says: |scene| {
            let now = scene.now;
            let at = [
                // A block is open for an hour, and has a minute of 24 bits.
                (Timestamp(2_577_836_800_000), now),
                (Minute::BLOCK_EPOCH.start(), now),
                (now.minus_ms(2 * BLOCK_LIFE_MS), now),
                // The key did not exist then, or the time has not come yet.
                (now.minus_ms(60 * DAY_MS), now.minus_ms(60 * DAY_MS)),
                (now.plus_ms(60 * DAY_MS), now.plus_ms(60 * DAY_MS)),
            ];
            let tokens = at.iter().flat_map(|of| std::iter::repeat_n(of, 40));
            let tokens = tokens.map(|(block, issued)| scene.token_of(opened(*block), *issued));
            let tokens: Vec<_> = tokens.collect();
            let events = tokens.iter().map(|token| event(Kind::Click, token)).collect();
            vec![batch(scene.own, 0, now, events, vec![])]
        },
        answer: Door::Taken,
        more: &[("malformed", 120), ("retired_key", 40), ("not_yet_valid", 40)],
    },
    Trick {
        name: "a block for each event",
        says: |scene| {
            let tokens: Vec<_> = (0..1_000).map(|_| scene.own_token()).collect();
            let events = tokens.iter().map(|token| event(Kind::Click, token)).collect();
            vec![batch(scene.own, 0, scene.now, events, vec![])]
        },
        answer: Door::Taken,
        more: &[("counted", 1_000)],
    },
    Trick {
        name: "outboxes and epochs by the hundred",
        says: |scene| {
            let now = scene.now;
            let name = |shard: u64| if shard == 0 { EDGE } else { shard_name(shard) };
            let outbox = |n: u64| OutboxId { edge: name(n % 20), epoch: scene.own.epoch + n };
            let one = |n| batch(outbox(n), 0, now, vec![], vec![scene.tally()]);
            (0..400).map(one).collect()
        },
        answer: Door::Taken,
        more: &[("bot", 400)],
    },
    Trick {
        name: "garbage that says that it is another's batch",
        says: |scene| {
            let Said::Batch(head) = batch(scene.victim, scene.next, scene.now, vec![], vec![])
            else {
                unreachable!("it is one")
            };
            let body = || Said::Batch([head.clone(), garbage(scene.large / 4)].concat());
            (0..12).map(|_| body()).collect()
        },
        answer: Door::Refused(400, "malformed"),
        more: &[],
    },
    Trick {
        // The events in it are the sender's own, and good.
        name: "bundles that are none, are cut, are too many, or are in a bundle",
        says: |scene| {
            let mut number = 0;
            let mut one = || {
                number += 1;
                bundle_of(scene, number)
            };
            let (mut none, mut cut, mut longer) = (one(), one(), one());
            none[4..6].fill(0);
            cut.pop();
            longer.push(0);
            let many = [b"CSU1\x01\x01".to_vec(), vec![0; 257 * 4]].concat();
            let within = bundle::join(&[one()]);
            [none, cut, longer, many, within].map(Said::Batch).into()
        },
        answer: Door::Refused(400, "malformed"),
        more: &[],
    },
    Trick {
        name: "a batch that is larger than any",
        says: |scene| {
            let token = garbage(2_000);
            let events = vec![event(Kind::Click, &token); scene.large / 2_100];
            vec![batch(scene.own, 0, scene.now, events, vec![])]
        },
        answer: Door::Refused(413, "batch_too_large"),
        more: &[],
    },
    Trick {
        name: "the same batch again and again",
        says: |scene| {
            let token = scene.own_token();
            let events = vec![event(Kind::Click, &token)];
            vec![batch(scene.own, 0, scene.now, events, vec![scene.tally()]); 20]
        },
        answer: Door::Taken,
        more: &[("counted", 1), ("bot", 1)],
    },
    Trick {
        // One of the two contents is counted, the other nowhere.
        name: "a number again, with other content",
        says: |scene| {
            let tokens = [scene.own_token(), scene.own_token()];
            let one =
                |token| batch(scene.own, 0, scene.now, vec![event(Kind::Click, token)], vec![]);
            tokens.each_ref().map(|token| one(token)).into()
        },
        answer: Door::Taken,
        more: &[("counted", 1)],
    },
    Trick {
        name: "one token of page after page",
        says: |scene| {
            let token = scene.own_token();
            let of_page = |page| Event {
                page: Some(PageSeq { page: PageView(page), seq: PAGE_SEQ_MAX }),
                ..event(Kind::Impression, &token)
            };
            let events = (1..=50).map(of_page).collect();
            vec![batch(scene.own, 0, scene.now, events, vec![])]
        },
        answer: Door::Taken,
        more: &[("counted", 1), ("duplicate", 49)],
    },
    Trick {
        name: "a token of 194 days",
        says: |scene| {
            let token = scene.long_token();
            vec![batch(scene.own, 0, scene.now, vec![event(Kind::Click, &token)], vec![])]
        },
        answer: Door::Taken,
        more: &[("malformed", 1)],
    },
    Trick {
        name: "a link of 194 days at another's edge",
        says: |scene| vec![Said::Ask(format!("/v1/c/{}", token::to_text(&scene.long_token())))],
        answer: Door::Edge(403),
        more: &[("foreign_issuer", 1)],
    },
    Trick {
        name: "a link with any tag at another's edge",
        says: |scene| vec![Said::Ask(format!("/v1/c/{}", scene.with_any_tag(scene.now, 1)))],
        answer: Door::Edge(403),
        more: &[("bad_seal", 1)],
    },
    Trick {
        name: "a link in another's name with a tag of one's own, at the other's edge",
        says: |scene| vec![Said::Ask(format!("/v1/c/{}", scene.with_own_tag()))],
        answer: Door::Edge(403),
        more: &[("bad_seal", 1)],
    },
    Trick {
        name: "tokens of older days that skip no tag",
        says: |scene| {
            let element = |n| {
                let token = scene.with_any_tag(scene.now.minus_ms(3 * DAY_MS), n);
                json!({ "token": token, "kind": "click" })
            };
            vec![Said::Tell((0..100).map(element).collect())]
        },
        answer: Door::Edge(202),
        more: &[("bad_seal", 100)],
    },
    Trick {
        name: "a body of 500 elements of one token",
        says: |scene| {
            let token = token::to_text(scene.token);
            let element = json!({ "token": token, "kind": "viewable" });
            vec![Said::Tell(std::iter::repeat_n(element, 500).collect())]
        },
        answer: Door::Edge(202),
        more: &[("counted", 1), ("repeated", 499)],
    },
    Trick {
        // No request here gives consent in the end; the test checks that in the token.
        name: "consent that is taken back and given",
        says: |_| {
            let ask = |rest: &str| Said::Ask(format!("/v1/serve?placement=demo-top{rest}"));
            vec![ask("&consent=0&consent=1"), ask("&consent=1&consent=0")]
        },
        answer: Door::Edge(200),
        more: &[("counted", 2)],
    },
    Trick {
        name: "consent in the name of a place",
        says: |_| {
            let ask = "placement=demo-top%26consent%3D1";
            vec![Said::Ask(format!("/v1/serve?{ask}"))]
        },
        // A placement may have this name, but none has.
        answer: Door::Edge(404),
        more: &[],
    },
    Trick {
        name: "two places, and one that nobody can see",
        says: |_| {
            let asks = ["placement=demo-top&placement=x", "placement=demo-top%00"];
            asks.map(|ask| Said::Ask(format!("/v1/serve?{ask}"))).into()
        },
        answer: Door::Edge(400),
        more: &[],
    },
];

/// This takes a while, so it is played only once, where it goes fastest.
pub(super) const TOO_MANY: Trick = Trick {
    name: "more gaps than are kept of one edge",
    says: |scene| {
        let numbers = (1..=TOO_MANY_GAPS).map(|n| 2 * n);
        let one = |number| batch(scene.own, number, scene.now, vec![], vec![scene.tally()]);
        numbers.map(one).collect()
    },
    answer: Door::Taken,
    // How many of its events count depends on how many gaps other tricks have left.
    more: &[],
};

fn shard_name(number: u64) -> EdgeId {
    format!("{EDGE}--X-{number}").parse().unwrap()
}
