//! A sender with a good key, an edge of its own and bad intentions: its batches can be read, and
//! are otherwise as wrong as they may be.

use shared::event::VERDICTS;
use shared::keys::{KeyStore, PriceKey};
use shared::limits::BATCH_NUMBERS_MAX;
use shared::name::literal;
use shared::random::{Seeded, below};
use shared::token::{Signer, Token, from_text};
use shared::wire::{Batch, Event, Tally};
use shared::{
    BlockId, Codes, EdgeId, Fingerprint, Flags, Id, ImpressionId, IssuerId, Kind, Minute, Money,
    Network, OutboxId, PageSeq, PageView, Random as _, Reason, Region, RuleSet, Timestamp,
};

use super::world::START;

/// The issuer of its key.
pub(super) const ISSUER: IssuerId = Id::literal("mallory");
/// Its edge.
pub(super) const EDGE: EdgeId = Id::literal("m");

const SHARD: EdgeId = Id::literal("m--X-1");
const NOBODY: EdgeId = Id::literal("nobody");
const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
const YEAR_10_000: Timestamp = Timestamp(253_402_300_800_000);

/// What it makes batches with.
pub(super) struct Hostile {
    keys: KeyStore,
    signer: Signer,
    price: PriceKey,
}

/// What it knows when it makes a batch.
pub(super) struct Knows<'a> {
    /// The time.
    pub(super) now: Timestamp,
    /// Tokens of others, as texts.
    pub(super) tokens: &'a [String],
    /// Another's outbox, and the number that it will send next.
    pub(super) victim: (OutboxId, u64),
    /// What it has sent already.
    pub(super) sent: &'a [Vec<u8>],
}

impl Hostile {
    /// With its keys out of the store.
    pub(super) fn new(keys: &KeyStore) -> Self {
        let key = keys.signing(ISSUER, START).expect("it has one");
        let (signer, price) = (Signer::new(key), keys.price_key(key.public.id));
        Self { signer, price, keys: keys.clone() }
    }

    /// Makes a batch: the same for the same `what`, as long as `knows` is the same.
    pub(super) fn batch(&self, what: u64, knows: &Knows<'_>) -> Vec<u8> {
        let random = &mut Seeded::new(what);
        if below(random, 6) == 0 && !knows.sent.is_empty() {
            return pick(random, knows.sent).clone();
        }
        let now = knows.now;
        let (victim, next) = knows.victim;
        let edge = *pick(random, &[EDGE, EDGE, EDGE, EDGE, EDGE, SHARD, victim.edge, NOBODY]);
        // Only a few epochs, so that numbers come again, and with other contents.
        let epochs = [START.0, START.0, START.0 + 1, now.0, 0, now.0 + 2 * DAY_MS, u64::MAX];
        let epoch = if edge == victim.edge { victim.epoch } else { *pick(random, &epochs) };
        let number = match below(random, 12) {
            0 => BATCH_NUMBERS_MAX - 1,
            1 => 1 << 40,
            n if edge == victim.edge => next + n % 2,
            n => n - 2,
        };
        let watermarks =
            [now, now, now.plus_ms(30_000), now.minus_ms(8 * DAY_MS), YEAR_10_000, Timestamp(0)];
        let watermark =
            if below(random, 8) == 0 { Timestamp::MAX } else { *pick(random, &watermarks) };
        let tokens: Vec<_> = (0..below(random, 4)).map(|_| self.token(random, knows)).collect();
        let events = tokens.iter().map(|token| event(random, token, now)).collect();
        let tallies = (0..below(random, 3)).map(|_| tally(random, now)).collect();
        let outbox = OutboxId { edge, epoch };
        Batch { outbox, number, watermark, events, tallies }.to_bytes()
    }

    fn token(&self, random: &mut Seeded, knows: &Knows<'_>) -> Vec<u8> {
        let now = knows.now;
        match below(random, 8) {
            0..=2 if !knows.tokens.is_empty() => {
                from_text(pick(random, knows.tokens).as_bytes()).expect("an edge of ours made it")
            }
            3 => {
                let mut garbage = vec![0; 150];
                random.fill(&mut garbage);
                garbage
            }
            4 => {
                let times = [now, now.minus_ms(8 * DAY_MS), now.plus_ms(DAY_MS), YEAR_10_000];
                let far = BlockId::open(*pick(random, &times), random);
                self.mint(random, far, now)
            }
            5 => {
                let far = now.plus_ms(DAY_MS);
                let block = BlockId::open(far, random);
                self.mint(random, block, far)
            }
            // Only a few blocks, so that they come again.
            n => {
                let mut block = BlockId::open(now, random);
                block.0[3..].fill(n as u8);
                self.mint(random, block, now)
            }
        }
    }

    fn mint(&self, random: &mut Seeded, block: BlockId, issued_at: Timestamp) -> Vec<u8> {
        let id = ImpressionId { block, seq: below(random, 3) as u16 };
        let price = Money { micros: 5, currency: "EUR".parse().expect("a currency") };
        let token = Token {
            test: below(random, 6) == 0,
            pass_query: id.seq == 1,
            deployment: self.keys.deployment,
            key: self.signer.id(),
            id,
            issued_at,
            impression_life_s: 3_600,
            click_life_s: 86_400,
            price: self.price.seal(id, price),
            visitor: Fingerprint::NONE,
            ad: literal("mallory"),
            campaign: literal("mallory"),
            advertiser: literal("mallory"),
            publisher: literal("mallory"),
            placement: literal("mallory"),
            url: "https://mallory.example/",
        };
        self.signer.mint(&token).expect("a token that can be")
    }
}

fn event<'a>(random: &mut Seeded, token: &'a [u8], now: Timestamp) -> Event<'a> {
    let times = [
        now,
        now,
        now,
        now.minus_ms(HOUR_MS),
        now.plus_ms(30_000),
        now.plus_ms(2 * HOUR_MS),
        now.minus_ms(8 * DAY_MS),
        YEAR_10_000,
        Timestamp(0),
        Timestamp::MAX,
    ];
    let page = PageSeq { page: PageView(below(random, 3)), seq: 1 + below(random, 4_096) as u16 };
    Event {
        kind: *pick(random, Kind::ALL),
        at: *pick(random, &times),
        verdict: (below(random, 4) == 0).then(|| *pick(random, VERDICTS)),
        rules: RuleSet::UNKNOWN,
        flags: Flags::default(),
        codes: Codes::default(),
        region: Region::UNKNOWN,
        network: Network::default(),
        visitor: Fingerprint::NONE,
        page: (below(random, 2) == 0).then_some(page),
        token,
    }
}

fn tally(random: &mut Seeded, now: Timestamp) -> Tally {
    let minutes = [now.minute(), YEAR_10_000.minute(), Minute(0), Minute(u32::MAX)];
    Tally {
        minute: *pick(random, &minutes),
        kind: *pick(random, Kind::ALL),
        reason: *pick(random, Reason::ALL),
        count: below(random, 4) as u32,
    }
}

fn pick<'a, T>(random: &mut Seeded, from: &'a [T]) -> &'a T {
    &from[below(random, from.len() as u64) as usize]
}
