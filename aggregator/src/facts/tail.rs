//! The newest facts: those that no checkpoint has written yet.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use foldhash::fast::FixedState;
use hashbrown::{HashMap, HashSet};
use shared::name::Any;
use shared::wire::{KeptRows, MessageView, Row};
use shared::{AnyId, Kind, Minute, Money, NameBuf};

use super::block::{Block, Fact};

/// For so many facts of a message there is room at once; for more it grows.
const RESERVED_MAX: usize = 4_096;
/// How many ids are remembered whose names are saved.
const NAMED_MAX: usize = 1 << 16;

/// The counted rows of one message. They are turned into columns when a question or a checkpoint
/// wants them, without the partition's lock.
#[derive(Clone, Debug)]
pub struct Part {
    rows: KeptRows,
    minutes: Vec<Minute>,
    ids: Vec<AnyId>,
    prices: Vec<Money>,
    block: OnceLock<Block>,
}

impl PartialEq for Part {
    fn eq(&self, other: &Self) -> bool {
        let of = |part: &Self| (part.minutes.clone(), part.ids.clone(), part.prices.clone());
        self.rows == other.rows && of(self) == of(other)
    }
}
impl Eq for Part {}

impl Part {
    /// The facts in columns, in the order of the message.
    pub fn block(&self) -> &Block {
        self.block.get_or_init(|| {
            let facts: Vec<_> = self.facts().collect();
            Block::new(&facts, self.ids.clone(), self.prices.clone(), false)
        })
    }

    /// Whether one of its facts can be of the range.
    #[must_use]
    pub fn meets(&self, range: &Range<Minute>) -> bool {
        self.minutes.iter().any(|minute| range.contains(minute))
    }

    /// How many facts.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    fn facts(&self) -> impl Iterator<Item = Fact<u16>> {
        self.rows.rows().map(|(row, payers)| fact(&self.minutes, &row, payers))
    }

    fn bytes(&self) -> usize {
        size_of::<Self>()
            + self.rows.bytes()
            + self.minutes.capacity() * size_of::<Minute>()
            + self.ids.capacity() * size_of::<AnyId>()
            + self.prices.capacity() * size_of::<Money>()
    }
}

/// The names of ids that are digests.
type Names = Vec<(AnyId, NameBuf<Any>)>;

/// The facts since the last checkpoint, and the names of their ids that are digests.
#[derive(Clone, Debug, Default)]
pub struct Tail {
    parts: Vec<Arc<Part>>,
    /// Names that no checkpoint has brought yet.
    names: HashMap<AnyId, NameBuf<Any>, FixedState>,
    /// Some of the ids whose names a checkpoint has brought.
    saved: HashSet<AnyId, FixedState>,
}

impl Tail {
    /// Takes the counted rows of a message, by their places in it.
    pub(crate) fn take(&mut self, message: &MessageView<'_>, counted: &[u16]) {
        if counted.is_empty() {
            return;
        }
        let rows = message.kept(counted);
        if message.ids.iter().any(AnyId::is_digest) {
            self.take_names(message, &rows);
        }
        let (minutes, ids) = (message.minutes.clone(), message.ids.clone());
        let prices = message.prices.clone();
        self.parts.push(Arc::new(Part { rows, minutes, ids, prices, block: OnceLock::new() }));
    }

    /// Keeps the names of the ids of these rows that are digests.
    fn take_names(&mut self, message: &MessageView<'_>, rows: &KeptRows) {
        let mut used = vec![false; message.ids.len()];
        for (row, payers) in rows.rows() {
            let ids = names_of(&row, payers);
            ids.iter().for_each(|id| used[usize::from(*id)] = true);
        }
        for (number, id) in (0_u16..).zip(&message.ids) {
            if id.is_digest() && used[usize::from(number)] && !self.saved.contains(id) {
                let name = || message.name(number).to_buf();
                self.names.entry(*id).or_insert_with(name);
            }
        }
    }

    /// The parts that can have facts of the range.
    pub(crate) fn parts(&self, range: &Range<Minute>) -> Vec<Arc<Part>> {
        self.parts.iter().filter(|part| part.meets(range)).cloned().collect()
    }

    /// The name of an id that is a digest, if it is here.
    pub(crate) fn name(&self, id: AnyId) -> Option<&NameBuf<Any>> {
        self.names.get(&id)
    }

    /// Hands everything out, and begins anew.
    pub(crate) fn checkpoint(&mut self) -> (Vec<Arc<Part>>, Names) {
        if self.saved.len() + self.names.len() > NAMED_MAX {
            self.saved.clear();
        }
        self.saved.extend(self.names.keys().copied());
        (std::mem::take(&mut self.parts), self.names.drain().collect())
    }

    /// How many facts.
    pub(crate) fn rows(&self) -> usize {
        self.parts.iter().map(|part| part.rows()).sum()
    }

    /// Bytes on the heap, without what questions have turned into columns.
    pub(crate) fn bytes(&self) -> usize {
        self.parts.iter().map(|part| part.bytes()).sum()
    }
}

/// [`Name::IDS`] of a row.
fn names_of(row: &Row, [campaign, advertiser]: [u16; 2]) -> [u16; 5] {
    [row.ad, row.publisher, row.placement, campaign, advertiser]
}

fn fact(minutes: &[Minute], row: &Row, payers: [u16; 2]) -> Fact<u16> {
    let verdict = row.outcome.ok().flatten();
    let costs = verdict.is_none() && row.kind() == Kind::Impression;
    Fact {
        minute: minutes[usize::from(row.minute)],
        second: u8::try_from(row.ms / 1_000).unwrap_or(59),
        kind: row.kind().code(),
        reason: verdict.map_or(0, shared::Reason::code),
        ids: names_of(row, payers),
        codes: row.codes(),
        region: row.region.bytes(),
        network: row.network.0,
        visitor: row.visitor.0,
        price: if costs { row.price } else { 0 },
        age: row.age(),
    }
}

/// Facts of one part, in its numbers.
struct Group<'a> {
    part: &'a Part,
    facts: Vec<Fact<u16>>,
}

/// The facts of a checkpoint: for each hour since 1970 a block.
#[must_use]
pub fn blocks(parts: &[Arc<Part>]) -> Vec<(u32, Block)> {
    let mut hours: BTreeMap<u32, Vec<Group<'_>>> = BTreeMap::new();
    for part in parts {
        let mut left = part.rows();
        // Most facts of a message are of one hour.
        let mut last: Option<(u32, &mut Vec<Fact<u16>>)> = None;
        for fact in part.facts() {
            let hour = fact.minute.0 / 60;
            match &mut last {
                Some((same, facts)) if *same == hour => facts.push(fact),
                _ => {
                    let groups = hours.entry(hour).or_default();
                    let begun =
                        groups.last().is_some_and(|group| std::ptr::eq(group.part, &**part));
                    if !begun {
                        groups.push(Group { part, facts: Vec::new() });
                    }
                    last = groups.last_mut().map(|group| (hour, &mut group.facts));
                    if let Some((_, facts)) = &mut last {
                        facts.reserve(left.min(RESERVED_MAX));
                        facts.push(fact);
                    }
                }
            }
            left -= 1;
        }
    }
    hours.into_iter().map(|(hour, groups)| (hour, sorted(&groups))).collect()
}

/// The block of the facts of an hour, with the ids and prices that they have.
fn sorted(groups: &[Group<'_>]) -> Block {
    let (mut ids, mut prices) = (Numbers::default(), Numbers::default());
    prices.number(Money::ZERO);
    let numbers: Vec<_> = groups.iter().map(|group| group.number(&mut ids, &mut prices)).collect();
    let (ids, ranks) = ids.ranked();
    let rows = groups.iter().map(|group| group.facts.len()).sum();
    let mut facts = Vec::with_capacity(rows);
    for (group, (ids, costs)) in groups.iter().zip(&numbers) {
        let ids: Vec<u32> = ids.iter().map(|number| ranks[*number as usize]).collect();
        facts.extend(group.facts.iter().map(|fact| renumbered(fact, &ids, costs)));
    }
    // By number, so that facts of one second stay in the order in which they came.
    let numbered = (0_u32..).zip(&facts).map(|(number, fact)| (order(fact), number));
    let mut order: Vec<(u64, u32)> = numbered.collect();
    order.sort_unstable();
    let facts: Vec<_> = order.into_iter().map(|(_, number)| facts[number as usize]).collect();
    Block::new(&facts, ids, prices.values, true)
}

/// What facts of an hour are sorted by: ad, minute, second.
fn order(fact: &Fact<u32>) -> u64 {
    u64::from(fact.ids[0]) << 32 | u64::from(fact.minute.0 % 60) << 8 | u64::from(fact.second)
}

impl Group<'_> {
    /// By their numbers in the part, the numbers that its ids and prices get, as far as its facts
    /// have them; else 0.
    fn number(
        &self,
        ids: &mut Numbers<AnyId>,
        prices: &mut Numbers<Money>,
    ) -> (Vec<u32>, Vec<u32>) {
        let mut used = vec![false; self.part.ids.len()];
        let mut used_prices = vec![false; self.part.prices.len()];
        for fact in &self.facts {
            fact.ids.iter().for_each(|id| used[usize::from(*id)] = true);
            used_prices[usize::from(fact.price)] = true;
        }
        (
            ids.number_used(&self.part.ids, &used),
            prices.number_used(&self.part.prices, &used_prices),
        )
    }
}

/// Gives values numbers, in the order in which they come.
struct Numbers<T> {
    numbers: HashMap<T, u32, FixedState>,
    values: Vec<T>,
}

impl<T> Default for Numbers<T> {
    fn default() -> Self {
        Self { numbers: HashMap::default(), values: Vec::new() }
    }
}

impl<T: Copy + Eq + std::hash::Hash> Numbers<T> {
    fn number(&mut self, value: T) -> u32 {
        let next = u32::try_from(self.values.len()).unwrap_or(u32::MAX);
        let values = &mut self.values;
        *self.numbers.entry(value).or_insert_with(|| {
            values.push(value);
            next
        })
    }

    fn number_used(&mut self, values: &[T], used: &[bool]) -> Vec<u32> {
        let numbers = values.iter().zip(used);
        numbers.map(|(value, used)| if *used { self.number(*value) } else { 0 }).collect()
    }
}

impl Numbers<AnyId> {
    /// The ids in their order, and by number the place of each.
    fn ranked(self) -> (Vec<AnyId>, Vec<u32>) {
        let mut all: Vec<(AnyId, u32)> = self.values.into_iter().zip(0..).collect();
        all.sort_unstable();
        let mut ranks = vec![0; all.len()];
        for (rank, (_, number)) in (0..).zip(&all) {
            ranks[*number as usize] = rank;
        }
        (all.into_iter().map(|(id, _)| id).collect(), ranks)
    }
}

fn renumbered(fact: &Fact<u16>, ids: &[u32], prices: &[u32]) -> Fact<u32> {
    let Fact { minute, second, kind, reason, codes, region, network, visitor, age, .. } = *fact;
    let ids = fact.ids.map(|id| ids[usize::from(id)]);
    let price = prices[usize::from(fact.price)];
    Fact { minute, second, kind, reason, ids, codes, region, network, visitor, price, age }
}
