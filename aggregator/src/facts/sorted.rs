//! Makes the blocks that the store keeps: of one hour each, sorted, with a dictionary.

use std::collections::BTreeMap;
use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use shared::{AnyId, Money};

use super::block::{Block, Fact, Order};
use super::tail::Part;

/// For so many facts of a message there is room at once; for more it grows.
const RESERVED_MAX: usize = 4_096;

/// Facts of one hour that come from one place, in the numbers of its tables.
struct Group<'a> {
    ids: &'a [AnyId],
    prices: &'a [Money],
    facts: Vec<Fact>,
}

/// The facts of a checkpoint: for each hour since 1970 a block.
#[must_use]
pub fn blocks(parts: &[Arc<Part>]) -> Vec<(u32, Block)> {
    let mut hours: BTreeMap<u32, Vec<Group<'_>>> = BTreeMap::new();
    for part in parts {
        let (ids, prices) = part.tables();
        let mut left = part.rows();
        // Most facts of a message are of one hour.
        let mut last: Option<(u32, &mut Vec<Fact>)> = None;
        for fact in part.facts() {
            let hour = fact.minute.0 / 60;
            match &mut last {
                Some((same, facts)) if *same == hour => facts.push(fact),
                _ => {
                    let groups = hours.entry(hour).or_default();
                    let begun = groups.last().is_some_and(|group| std::ptr::eq(group.ids, ids));
                    if !begun {
                        groups.push(Group { ids, prices, facts: Vec::new() });
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

/// Several blocks of an hour as one.
#[must_use]
pub fn merged(blocks: &[Block]) -> Block {
    let group = |block: &'_ Block| -> Vec<Fact> { block.facts().collect() };
    let groups: Vec<_> = blocks
        .iter()
        .map(|block| Group { ids: block.ids(), prices: block.prices(), facts: group(block) })
        .collect();
    sorted(&groups)
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
    let mut facts: Vec<_> = order.into_iter().map(|(_, number)| facts[number as usize]).collect();
    // Nearly every ad is of one campaign: those that are not are sorted once more.
    let payers = |fact: &Fact| (fact.ids[3], fact.ids[4]);
    for of_ad in facts.chunk_by_mut(|one, other| one.ids[0] == other.ids[0]) {
        if !of_ad.is_sorted_by_key(payers) {
            of_ad.sort_by_key(payers);
        }
    }
    Block::new(&facts, ids, prices.values, Order::Runs)
}

/// What facts of an hour are sorted by: ad, minute, second.
fn order(fact: &Fact) -> u64 {
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
        let mut used = vec![false; self.ids.len()];
        let mut used_prices = vec![false; self.prices.len()];
        for fact in &self.facts {
            fact.ids.iter().for_each(|id| used[*id as usize] = true);
            used_prices[fact.price as usize] = true;
        }
        (ids.number_used(self.ids, &used), prices.number_used(self.prices, &used_prices))
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

/// A fact with the numbers of other tables: by number in its own, the ones that these are.
pub(super) fn renumbered(fact: &Fact, ids: &[u32], prices: &[u32]) -> Fact {
    let Fact { minute, second, kind, reason, codes, region, network, visitor, age, .. } = *fact;
    let ids = fact.ids.map(|id| ids[id as usize]);
    let price = prices[fact.price as usize];
    Fact { minute, second, kind, reason, ids, codes, region, network, visitor, price, age }
}
