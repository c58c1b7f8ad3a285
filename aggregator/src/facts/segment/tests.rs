#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use shared::name::Any;
use shared::{AnyId, Codes, Currency, Minute, Money, NameBuf};

mod rebuild;

use super::totals::Totals;
use super::*;
use crate::facts::block::{Block, Fact, Order};
use crate::facts::runs::{Runs, Scope};
use crate::facts::tests::values;
use crate::facts::{Name, merged};

/// The first minute of an hour.
const HOUR: u32 = 29_663_040;
const LONG: &str = "a name that is longer than an id";

fn names() -> Vec<NameBuf<Any>> {
    ["", "ad-1", "ad-2", "ad-3", "camp-1", "pub", LONG]
        .map(|name| match name {
            "" => NameBuf::default(),
            name => name.parse().unwrap(),
        })
        .into()
}

fn name_of(id: AnyId) -> Option<NameBuf<Any>> {
    names().into_iter().find(|name| name.id() == id)
}

fn fact() -> impl Strategy<Value = Fact> {
    let ids = [0_u32..7, 0..7, 0..7, 0..7, 0..7];
    let event = (HOUR..HOUR + 60, 0_u8..60, 0_u8..4, 0_u8..3);
    let rest = (any::<u32>(), 0_u8..3, any::<u64>(), 0_u32..3, any::<Option<i16>>());
    (ids, event, rest).prop_map(|(ids, event, rest)| {
        let ((minute, second, kind, reason), (code, place, visitor, price, age)) = (event, rest);
        Fact {
            minute: Minute(minute),
            second,
            kind,
            reason,
            ids,
            codes: Codes::nth(code % 500),
            region: [*b"CA\0", *b"75\0", [0; 3]][usize::from(place)],
            network: [[4, 10, 1, place, 0, 0, 0], [6, 32, 1, 13, 184, 0, 7], [0; 7]]
                [usize::from(place)],
            visitor: [0, visitor][usize::from(place.min(1))],
            price,
            age,
        }
    })
}

fn block(facts: &[Fact]) -> Block {
    let euro = Currency::from_bytes(*b"EUR").unwrap();
    let prices = vec![
        Money::ZERO,
        Money { micros: 1_500, currency: euro },
        Money { micros: -7, currency: Currency::from_bytes(*b"USD").unwrap() },
    ];
    let ids: Vec<AnyId> = names().iter().map(NameBuf::id).collect();
    merged(&[Block::new(facts, ids, prices, Order::Arrival)])
}

/// A finished segment, in memory.
struct Written {
    file: Bytes,
    directory: Directory,
    sketches: Vec<u8>,
    totals: Bytes,
}

impl Written {
    fn new(sources: Vec<Vec<Block>>) -> Self {
        let tables = sources.iter().flatten().map(|block| (block.ids(), block.prices()));
        let tables = Tables::of(tables);
        let first = |blocks: &Vec<Block>| {
            let empty = (&[][..], &[][..]);
            let (ids, prices) = blocks.first().map_or(empty, |one| (one.ids(), one.prices()));
            tables.input(ids, prices)
        };
        let inputs = sources.iter().map(first).collect();
        let mut left: Vec<_> = sources.into_iter().map(Vec::into_iter).collect();
        let mut writer = tables.writer(&name_of).unwrap();
        let next = |number: usize| Ok::<_, SegmentError>(left[number].next());
        let mut file = Vec::new();
        merge(inputs, &mut writer, next, |writer| {
            file.extend(writer.take());
            Ok(())
        })
        .unwrap();
        let (last, made) = writer.finish().unwrap();
        file.extend(last);
        assert_eq!(made.bytes, file.len() as u64);
        let directory = Directory::read(&made.directory.to_bytes()).unwrap();
        assert_eq!(directory, made.directory);
        let (sketches, totals) = (made.sketches, made.totals.into());
        Self { file: file.into(), directory, sketches, totals }
    }

    fn ranges(&self) -> Ranges {
        Ranges::new(self.file.len() as u64, vec![(0, self.file.clone())])
    }

    fn footer(&self) -> Result<Footer, SegmentError> {
        let range = self.directory.footer();
        let at = usize::try_from(range).unwrap();
        Footer::read(self.file.slice(at..), self.file.len() as u64, &self.directory)
    }

    fn read_all(&self) -> Result<Vec<crate::facts::Column>, SegmentError> {
        let all: Vec<Name> = Name::all().collect();
        self.footer()?.columns(0, &all, &self.ranges(), &self.directory)
    }

    fn group(&self, group: usize) -> Block {
        let footer = self.footer().unwrap();
        let (expand, names): (Vec<_>, Vec<_>) = Name::all().partition(|name| Runs::has(*name));
        let columns = footer.columns(group, &names, &self.ranges(), &self.directory).unwrap();
        // The columns that a directory makes are those that the file has.
        let stored = footer.columns(group, &expand, &self.ranges(), &self.directory).unwrap();
        let columns = names.into_iter().zip(columns).collect();
        let block = self.directory.block(group, columns, &expand);
        for (name, column) in expand.iter().zip(stored) {
            assert_eq!(block.column(*name), &column, "{name:?}");
        }
        block
    }

    /// The totals of a run, if it has some: by row, how many facts it stands for.
    fn totals(&self, run: usize) -> Option<Vec<([u64; 7], u64)>> {
        let place = self.directory.totals.find(run)?;
        let at = |byte: u64| usize::try_from(byte).unwrap();
        let bytes = self.totals.slice(at(place.bytes().start)..at(place.bytes().end));
        let totals = Totals::read(&bytes, &place, self.directory.prices.len()).unwrap();
        let block = self.directory.totals(run, &totals);
        let row = |row| (of_totals(&block, row), totals.facts.get(row));
        // A byte that is another one is seen.
        let mut wrong = bytes.to_vec();
        *wrong.last_mut().unwrap() ^= 1;
        Totals::read(&wrong.into(), &place, self.directory.prices.len()).unwrap_err();
        Some((0..block.rows()).map(row).collect())
    }

    fn values(&self) -> Vec<String> {
        let mut all: Vec<_> =
            (0..self.directory.groups()).flat_map(|group| values(&self.group(group))).collect();
        all.sort();
        all
    }
}

/// What totals have of a row.
fn of_totals(block: &Block, row: usize) -> [u64; 7] {
    [
        Name::Minute,
        Name::Kind,
        Name::Reason,
        Name::Price,
        Name::Ad,
        Name::Campaign,
        Name::Advertiser,
    ]
    .map(|name| block.column(name).get(row))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn segments_have_the_facts_that_they_were_made_of(
        parts in proptest::collection::vec(
            (0_u32..3, proptest::collection::vec(fact(), 1..60)),
            1..5,
        ),
    ) {
        let later = |(hours, facts): (u32, Vec<Fact>)| -> Vec<Fact> {
            let later = |fact: Fact| Fact { minute: Minute(fact.minute.0 + 60 * hours), ..fact };
            facts.into_iter().map(later).collect()
        };
        let blocks: Vec<Block> = parts.into_iter().map(|part| block(&later(part))).collect();
        let mut expected: Vec<String> = blocks.iter().flat_map(values).collect();
        expected.sort();
        let one_by_one = |blocks: Vec<Block>| blocks.into_iter().map(|block| vec![block]).collect();
        let written = Written::new(one_by_one(blocks.clone()));
        prop_assert_eq!(written.values(), expected.clone());
        // Segments become one again, and the order is that of a segment's rows.
        let segments: Vec<Written> =
            blocks.into_iter().map(|block| Written::new(vec![vec![block]])).collect();
        let merged = Written::new(segments.iter().map(|one| vec![one.group(0)]).collect());
        prop_assert_eq!(merged.values(), expected);
        prop_assert_eq!(&merged.directory, &written.directory);
        let all = written.group(0);
        let keys = |row: usize| {
            let number = |name: Name| all.column(name).get(row);
            let [ad, campaign, advertiser, minute, second] =
                [Name::Ad, Name::Campaign, Name::Advertiser, Name::Minute, Name::Second].map(number);
            (ad, campaign, advertiser, minute, second)
        };
        prop_assert!((0..all.rows()).map(keys).is_sorted());
        // Totals are the facts of their run, counted.
        for run in 0..written.directory.runs.len() {
            let rows = written.directory.runs.span(run);
            let mut expected: BTreeMap<[u64; 7], u64> = BTreeMap::new();
            rows.clone().for_each(|row| *expected.entry(of_totals(&all, row)).or_default() += 1);
            match written.totals(run) {
                None => prop_assert!(rows.len() <= 4),
                Some(found) => {
                    prop_assert!(found.is_sorted_by_key(|(row, _)| row[0]));
                    prop_assert_eq!(found.into_iter().collect::<BTreeMap<_, _>>(), expected);
                }
            }
        }
        // Every thing is found where its rows are, and nowhere else.
        for (name, id) in Name::all().filter(|name| Runs::has(*name)).flat_map(|name| {
            names().into_iter().map(move |text| (name, text.id()))
        }) {
            let scope = Scope::new(name, vec![id]).unwrap();
            let minutes = Minute(HOUR + 10)..Minute(HOUR + 100);
            let runs = written.directory.runs_of(&scope).into_iter();
            let spans = runs.map(|run| all.within(written.directory.runs.span(run), &minutes));
            let found: Vec<usize> = spans.flatten().collect();
            let is_meant = |row: &usize| {
                let minute = Minute(u32::try_from(all.column(Name::Minute).get(*row)).unwrap());
                all.id(all.column(name).get(*row)) == id && minutes.contains(&minute)
            };
            prop_assert_eq!(found, (0..all.rows()).filter(is_meant).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_file_with_other_bytes_is_refused_or_read_but_never_a_panic(
        at in any::<proptest::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let facts: Vec<Fact> = (0..50).map(|n| Fact {
            minute: Minute(HOUR + n % 7),
            second: 3,
            kind: 1,
            reason: 0,
            ids: [n % 7, 1, 2, 3, 4],
            codes: Codes::nth(n),
            region: [0; 3],
            network: [4, 1, 2, 3, 0, 0, 0],
            visitor: n.into(),
            price: 1,
            age: Some(3),
        }).collect();
        let mut written = Written::new(vec![vec![block(&facts)]]);
        let mut directory = written.directory.to_bytes();
        let place = at.index(directory.len());
        directory[place] ^= byte | 1;
        prop_assert!(Directory::read(&directory).is_err());
        let whole = written.file.clone();
        let mut file = whole.to_vec();
        let place = at.index(file.len());
        file[place] = byte;
        written.file = file.into();
        let was = |file: &Bytes| file[place] == byte;
        let is_same = was(&whole);
        let read = written.read_all();
        prop_assert!(read.is_err() || is_same || place < 4, "byte {} of {}", place, whole.len());
    }
}

#[test]
fn a_segment_of_many_row_groups_has_its_rows_in_each() {
    let fact = |n: u32| Fact {
        minute: Minute(HOUR + n % 60),
        second: 7,
        kind: 2,
        reason: 0,
        ids: [1 + n % 3, 5, 0, 4, 6],
        codes: Codes::nth(n % 9),
        region: [0; 3],
        network: [0; 7],
        visitor: 1 + u64::from(n),
        price: 0,
        age: None,
    };
    let rows = u32::try_from(GROUP_ROWS * 2 + 5).unwrap();
    let facts: Vec<Fact> = (0..rows).map(fact).collect();
    let written = Written::new(vec![vec![block(&facts)]]);
    assert_eq!((written.directory.rows(), written.directory.groups()), (facts.len(), 3));
    let ad = |ad: &str| {
        let scope = Scope::new(Name::Ad, vec![ad.parse::<NameBuf<Any>>().unwrap().id()]).unwrap();
        written.directory.rows_of(&scope)
    };
    assert_eq!(ad("ad-1"), u64::from(rows.div_ceil(3)));
    assert_eq!(ad("ad-3"), u64::from(rows / 3));
    assert_eq!(ad("ad-9"), 0);
    let visitors: u64 = (0..3)
        .map(|group| {
            let block = written.group(group);
            (0..block.rows()).map(|row| block.column(Name::Visitor).get(row)).sum::<u64>()
        })
        .sum();
    assert_eq!(visitors, facts.iter().map(|fact| fact.visitor).sum::<u64>());
    let (largest, rest) = written.directory.largest(2);
    assert_eq!((largest.count(), rest), (2, u64::from(rows / 3)));
    nodes_and_minutes_are_all_events(&written, &facts);
    written.is_rebuilt(None);
}

/// The nodes that cover a range, and the events of the minutes that none covers, are all events.
fn nodes_and_minutes_are_all_events(written: &Written, facts: &[Fact]) {
    let nodes = &written.directory.nodes;
    let sketches = &written.sketches;
    let event = nodes::event(2, false);
    let first = HOUR;
    for (from, to) in [(0, 60), (0, 1), (7, 8), (3, 59), (10, 40), (59, 90), (60, 61), (0, 100_000)]
    {
        let range = Minute(first + from)..Minute(first + to);
        let mut uniques = crate::facts::uniques::Uniques::<65_536>::default();
        let mut events = 0;
        for run in 0..3 {
            let cover = nodes.cover(run as usize, event, &range);
            assert!(cover.nodes.len() < 60, "whole quarters are taken at once");
            for node in &cover.nodes {
                let bytes = node.bytes();
                let sketch = &sketches
                    [usize::try_from(bytes.start).unwrap()..usize::try_from(bytes.end).unwrap()];
                assert!(node.is_of(sketch) && !node.is_of(&sketch[1..]));
                uniques.merge_sketch(sketch).unwrap();
                events += u64::from(node.events);
            }
            // Each minute has some four thousand events of each ad: whatever has events has a node.
            let minutes = cover.minutes.iter();
            let left = minutes.flat_map(|minutes| {
                facts.iter().filter(|fact| fact.ids[0] == 1 + run && minutes.contains(&fact.minute))
            });
            assert_eq!(left.count(), 0, "{:?}", cover.minutes);
        }
        let within = facts.iter().filter(|fact| range.contains(&fact.minute));
        let expected = within.count() as u64;
        assert_eq!(events, expected, "{from} to {to}");
        let estimate = uniques.estimate().uniques;
        assert!(estimate.abs_diff(expected) <= expected / 15, "{estimate} of {expected}");
        assert_eq!(nodes.cover(0, nodes::event(1, false), &range).nodes, []);
    }
}

#[test]
fn a_period_with_few_events_has_no_node_and_is_read() {
    let fact = |n: u32| Fact {
        // A thousand events in each of three minutes, of one ad: more than a node needs together.
        minute: Minute(HOUR + 1 + n / 1_000 * 20),
        second: 0,
        kind: 1,
        reason: 0,
        ids: [1, 5, 0, 4, 6],
        codes: Codes::nth(0),
        region: [0; 3],
        network: [0; 7],
        visitor: u64::from(n % 700),
        price: 0,
        age: None,
    };
    let facts: Vec<Fact> = (0..3_000).map(fact).collect();
    let written = Written::new(vec![vec![block(&facts)]]);
    let nodes = &written.directory.nodes;
    let cover =
        |from: u32, to: u32| nodes.cover(0, nodes::event(1, false), &(Minute(from)..Minute(to)));
    let all = cover(0, u32::MAX);
    assert_eq!((all.nodes.len(), all.minutes.len()), (1, 0));
    assert_eq!((all.nodes[0].events, all.nodes[0].without_visitor), (3_000, 5));
    let part = cover(HOUR + 1, HOUR + 22);
    let minutes: u32 = part.minutes.iter().map(|minutes| minutes.end.0 - minutes.start.0).sum();
    assert_eq!((part.nodes.len(), minutes), (0, 21));
}
