//! The data set of the engine's benchmark: clicks of one hour as one partition's log has them.
//! Ads by Zipf, some clicks repeated within two minutes, some late by up to ten. Blocks fill as
//! real ones do: an edge issues impressions one after the other, and a part of them is clicked.

use std::collections::VecDeque;

use shared::name::Named;
use shared::wire::{BatchEntry, Judged, MessageBuilder};
use shared::{
    AdId, BatchDigest, BlockId, Codes, Country, Device, Fingerprint, Flags, Id, ImpressionId, Kind,
    Minute, Money, Name, Network, OutboxId, PublisherId, Region, RuleSet, Timestamp,
};

/// The kind and size of a data set.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Clicks, repeats included.
    pub events: u64,
    /// The first minute.
    pub start: Minute,
    /// How many minutes it spans.
    pub minutes: u64,
    /// Distinct ads; the k-th has a weight of `1 / k^1.1`.
    pub ads: usize,
    /// Publishers (100), countries (50) and devices (4) differ; otherwise all are the same, and a
    /// cell is an ad's minute.
    pub full_cells: bool,
    /// Clicks in a message.
    pub message: usize,
}

impl Shape {
    /// 20 million clicks in 60 minutes over 200 000 ads.
    pub const FULL: Self = Self {
        events: 20_000_000,
        start: START,
        minutes: 60,
        ads: 200_000,
        full_cells: false,
        message: 8_192,
    };
}

/// How many of a thousand clicks repeat one of the last two minutes.
const REPEATS: u64 = 20;
/// How many of a thousand clicks are late by up to ten minutes.
const LATE: u64 = 10;
/// How many of a thousand impressions are clicked.
const CLICKED: u64 = 600;
/// Edges that issue at the same time.
const EDGES: usize = 16;
/// How many minutes repeats look back, and how many minutes late clicks come late.
const REPEAT_MINUTES: u64 = 2;
const LATE_MINUTES: u64 = 10;
/// The first minute of the hour: 2026-10-01T04:00Z.
const START: Minute = Minute(29_847_120);

/// A click as it was generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Click {
    /// Its impression.
    pub id: ImpressionId,
    /// Its ad, from 0 for the most popular.
    pub ad: u32,
    /// Its minute.
    pub minute: Minute,
    publisher: u8,
    country: u8,
    device: u8,
}

/// Makes the messages of a shape one after the other: the same for the same seed.
#[derive(Debug)]
pub struct Dataset {
    shape: Shape,
    random: u64,
    made: u64,
    weights: Vec<f64>,
    ads: Vec<AdId>,
    publishers: Vec<PublisherId>,
    countries: Vec<Country>,
    edges: Vec<(BlockId, u32)>,
    recent: VecDeque<Click>,
    blocks: u64,
    issued: u64,
}

fn id<T: Named>(name: &str) -> Id<T> {
    Name::new(name).map_or(Id::literal("none"), Name::id)
}

impl Dataset {
    /// Starts from a seed.
    #[must_use]
    pub fn new(shape: Shape, seed: u64) -> Self {
        let mut sum = 0.0;
        let weight = |rank: usize| {
            sum += (rank as f64 + 1.0).powf(-1.1);
            sum
        };
        let weights = (0..shape.ads).map(weight).collect();
        let mut dataset = Self {
            shape,
            random: seed,
            made: 0,
            weights,
            ads: (0..shape.ads).map(|ad| id(&format!("ad-{ad}"))).collect(),
            publishers: (0..100).map(|publisher| id(&format!("pub-{publisher}"))).collect(),
            countries: (0..50).filter_map(|n| Country::from_index(n * 13)).collect(),
            edges: Vec::new(),
            recent: VecDeque::new(),
            blocks: 0,
            issued: 0,
        };
        dataset.edges = (0..EDGES).map(|_| (dataset.open(), 0)).collect();
        dataset
    }

    /// Impressions issued so far by the edges whose clicks came.
    #[must_use]
    pub fn issued(&self) -> u64 {
        self.issued
    }

    /// The ad's id.
    #[must_use]
    pub fn ad(&self, ad: u32) -> AdId {
        self.ads[ad as usize]
    }

    /// The next message of partition 0; `None` after the last. Its clicks are appended to `clicks`,
    /// if that is given.
    pub fn message(&mut self, mut clicks: Option<&mut Vec<Click>>) -> Option<Vec<u8>> {
        let left = self.shape.events - self.made;
        let count = left.min(self.shape.message as u64);
        if count == 0 {
            return None;
        }
        let watermark = self.now();
        let outbox = OutboxId { edge: Id::literal("edge-1"), epoch: 1 };
        let number = self.made / self.shape.message as u64;
        let mut builder = MessageBuilder::default();
        let made: Vec<Click> = (0..count).map(|_| self.click()).collect();
        let mut minutes: Vec<Minute> = made.iter().map(|click| click.minute).collect();
        minutes.sort_unstable();
        let declared = minutes.chunk_by(|a, b| a == b).map(|same| (same[0], same.len() as u32));
        let declared = declared.collect();
        let entry = builder.batch(BatchEntry {
            outbox,
            number,
            watermark,
            digest: BatchDigest::UNKNOWN,
            declared,
        });
        for click in &made {
            builder.event(entry, &self.judged(click));
        }
        if let Some(clicks) = clicks.as_mut() {
            clicks.extend(made);
        }
        Some(builder.finish(0, self.now()))
    }

    fn now(&self) -> Timestamp {
        self.shape
            .start
            .start()
            .plus_ms(self.made * self.shape.minutes * 60_000 / self.shape.events)
    }

    fn click(&mut self) -> Click {
        let minute = self.now().minute();
        self.made += 1;
        let dice = self.below(1_000);
        let click = if dice < REPEATS && !self.recent.is_empty() {
            let at = self.below(self.recent.len() as u64) as usize;
            Click { minute, ..self.recent[at] }
        } else {
            let late = if dice >= 1_000 - LATE { 1 + self.below(LATE_MINUTES) } else { 0 };
            let minute = Minute(minute.0 - late as u32);
            let ad = self.ranked();
            let [publisher, country, device] = match self.shape.full_cells {
                true => [self.below(100) as u8, self.below(50) as u8, self.below(4) as u8],
                false => [0; 3],
            };
            Click { id: self.impression(), ad, minute, publisher, country, device }
        };
        self.recent.push_back(click);
        let keep = self.shape.events * REPEAT_MINUTES / self.shape.minutes;
        if self.recent.len() as u64 > keep {
            self.recent.pop_front();
        }
        click
    }

    /// The next impression that is clicked, at any edge.
    fn impression(&mut self) -> ImpressionId {
        let edge = self.below(EDGES as u64) as usize;
        loop {
            if self.edges[edge].1 > u32::from(u16::MAX) {
                self.edges[edge] = (self.open(), 0);
            }
            let (block, seq) = self.edges[edge];
            self.edges[edge].1 += 1;
            self.issued += 1;
            if self.below(1_000) < CLICKED {
                return ImpressionId { block, seq: seq as u16 };
            }
        }
    }

    fn open(&mut self) -> BlockId {
        self.blocks += 1;
        let mut block = [0; 10];
        let minute = self.now().minute().0 - Minute::BLOCK_EPOCH.0;
        block[..3].copy_from_slice(&minute.to_be_bytes()[1..]);
        block[3..].copy_from_slice(&self.next().to_le_bytes()[..7]);
        BlockId(block)
    }

    fn ranked(&mut self) -> u32 {
        let total = self.weights.last().copied().unwrap_or(0.0);
        let at = self.next() as f64 / u64::MAX as f64 * total;
        self.weights.partition_point(|sum| *sum < at).min(self.ads.len() - 1) as u32
    }

    fn judged(&self, click: &Click) -> Judged<'static> {
        Judged {
            issuer: Id::literal("demo"),
            id: click.id,
            kind: Kind::Click,
            outcome: Ok(None),
            at: click.minute.start(),
            issued: None,
            ad: self.ads[click.ad as usize],
            campaign: Id::literal("campaign"),
            advertiser: Id::literal("advertiser"),
            publisher: self.publishers[usize::from(click.publisher)],
            placement: Id::literal("placement"),
            names: &[],
            codes: Codes::new(
                self.countries[usize::from(click.country)],
                Device::from_code(click.device).unwrap_or_default(),
            ),
            region: Region::UNKNOWN,
            network: Network::default(),
            visitor: Fingerprint::NONE,
            flags: Flags(0),
            rules: RuleSet::UNKNOWN,
            page: None,
            price: Money::ZERO,
            proof: b"",
        }
    }

    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// SplitMix64, which is good enough here.
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.random;
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ bits >> 31
    }
}
