//! A store in memory: applies changes as a real one does.

use std::collections::BTreeMap;

use eventlog::Position;
use shared::counted::Amount;
use shared::{
    AdId, AnyId, Codes, Currency, Dimensions, EdgeId, Kind, Minute, OutboxId, PageView,
    PublisherId, SourceId, Timestamp,
};

use crate::count::{
    AdTotal, Cell, CellAmount, Changes, Container, ContainerKey, CutOff, MinuteAccount, MinuteRows,
    OutboxState, PageViewState, PublisherTold, Snapshot, SourceState, Told,
};
use crate::facts::{Block, Name, blocks, code_text};

#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Rows {
    pub(super) cells: BTreeMap<Dimensions, u64>,
    pub(super) spend: BTreeMap<(Dimensions, Amount, Currency), i64>,
    pub(super) totals: BTreeMap<(AdId, Kind, bool), u64>,
    pub(super) told: BTreeMap<PublisherId, Told>,
    pub(super) account: MinuteAccount,
}

#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Store {
    position: Option<Position>,
    clock: Timestamp,
    ahead: Option<Timestamp>,
    settled: Timestamp,
    resident_from: Minute,
    facts_from: Option<Minute>,
    pub(super) containers: BTreeMap<ContainerKey, Container>,
    pub(super) minutes: BTreeMap<Minute, Rows>,
    outboxes: BTreeMap<OutboxId, OutboxState>,
    epochs: BTreeMap<EdgeId, u64>,
    retired: BTreeMap<EdgeId, Timestamp>,
    cut_off: BTreeMap<EdgeId, CutOff>,
    sources: BTreeMap<SourceId, SourceState>,
    page_views: BTreeMap<PageView, PageViewState>,
}

type FactsKey = (Minute, AnyId, AnyId, u64, bool, Vec<String>);

/// Asserts that there is a fact for each event of a cell, and no other.
fn facts_add_up_to_cells(changes: &Changes) {
    let mut cells: BTreeMap<FactsKey, u64> = BTreeMap::new();
    for rows in &changes.minutes {
        for Cell { dimensions, count } in &rows.cells {
            let texts = dimensions.codes().texts().to_vec();
            let (kind, valid) = (u64::from(dimensions.kind.code()), dimensions.valid);
            let [ad, publisher] = dimensions.names();
            *cells.entry((rows.minute, ad, publisher, kind, valid, texts)).or_default() += count;
        }
    }
    let mut facts: BTreeMap<FactsKey, u64> = BTreeMap::new();
    let mut spend = 0_i128;
    for (hour, block) in blocks(&changes.facts) {
        let block = Block::read(&block.to_bytes()).unwrap();
        for row in 0..block.rows() {
            let number = |name| block.column(name).get(row);
            let minute = Minute(u32::try_from(number(Name::Minute)).unwrap());
            assert_eq!(minute.0 / 60, hour);
            let codes = (0..Codes::NAMES.len())
                .map(|at| code_text(at, number(Name::Code(at))).unwrap())
                .collect();
            let [ad, publisher] = [Name::Ad, Name::Publisher].map(|name| block.id(number(name)));
            let key = (minute, ad, publisher, number(Name::Kind), number(Name::Reason) == 0, codes);
            *facts.entry(key).or_default() += 1;
            spend += i128::from(block.price(number(Name::Price)).micros);
        }
    }
    assert_eq!(facts, cells);
    let amounts = changes.minutes.iter().flat_map(|rows| &rows.amounts);
    assert_eq!(spend, amounts.map(|row| i128::from(row.micros)).sum::<i128>());
}

/// Asserts that a list of changes is in order, and has no key twice.
fn in_order<T, K: Ord>(list: &[T], key: impl Fn(&T) -> K) {
    assert!(list.windows(2).all(|pair| key(&pair[0]) < key(&pair[1])));
}

impl Store {
    pub(super) fn write(&mut self, changes: &Changes) {
        in_order(&changes.dropped_containers, |key| *key);
        in_order(&changes.containers, |(key, _)| *key);
        in_order(&changes.minutes, |rows| rows.minute);
        in_order(&changes.dropped_outboxes, |key| *key);
        in_order(&changes.outboxes, |(key, _)| *key);
        in_order(&changes.epochs, |(key, _)| *key);
        in_order(&changes.retired, |(key, _)| *key);
        in_order(&changes.cut_off, |(key, _)| *key);
        in_order(&changes.sources, |(key, _)| *key);
        in_order(&changes.page_views, |(key, _)| *key);
        self.position = changes.position;
        self.clock = changes.clock;
        self.ahead = changes.ahead;
        self.settled = changes.settled;
        self.resident_from = changes.resident_from;
        self.facts_from = Some(changes.facts_from);
        facts_add_up_to_cells(changes);
        for key in &changes.dropped_containers {
            assert!(self.containers.remove(key).is_some(), "{key:?} was never saved");
        }
        assert!(
            changes.containers.iter().all(|(key, _)| !changes.dropped_containers.contains(key))
        );
        self.containers.extend(changes.containers.iter().cloned());
        changes.minutes.iter().for_each(|rows| self.add(rows));
        for outbox in &changes.dropped_outboxes {
            self.outboxes.remove(outbox);
        }
        self.outboxes.extend(changes.outboxes.iter().cloned());
        self.epochs.extend(changes.epochs.iter().copied());
        self.retired.extend(changes.retired.iter().copied());
        self.cut_off.extend(changes.cut_off.iter().copied());
        self.sources.extend(changes.sources.iter().copied());
        for (page, state) in &changes.page_views {
            match state {
                Some(state) => drop(self.page_views.insert(*page, *state)),
                None => drop(self.page_views.remove(page)),
            }
        }
    }

    fn add(&mut self, rows: &MinuteRows) {
        in_order(&rows.cells, |cell| cell.dimensions);
        in_order(&rows.amounts, |row| (row.dimensions, row.amount, row.currency));
        in_order(&rows.totals, |total| (total.ad, total.kind, total.valid));
        let minute = self.minutes.entry(rows.minute).or_default();
        for cell in &rows.cells {
            *minute.cells.entry(cell.dimensions).or_default() += cell.count;
        }
        for spend in &rows.amounts {
            let key = (spend.dimensions, spend.amount, spend.currency);
            *minute.spend.entry(key).or_default() += spend.micros;
        }
        for total in &rows.totals {
            *minute.totals.entry((total.ad, total.kind, total.valid)).or_default() += total.count;
        }
        in_order(&rows.told, |row| row.publisher);
        for row in &rows.told {
            minute.told.entry(row.publisher).or_default().add(row.told);
        }
        minute.account.add(&rows.account);
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        Snapshot {
            position: self.position,
            clock: self.clock,
            ahead: self.ahead,
            settled: self.settled,
            resident_from: self.resident_from,
            facts_from: self.facts_from,
            containers: self
                .containers
                .iter()
                .map(|(key, container)| (*key, container.clone()))
                .collect(),
            minutes: self.minutes.range(self.resident_from..).map(whole).collect(),
            outboxes: self.outboxes.iter().map(|(key, state)| (*key, state.clone())).collect(),
            epochs: self.epochs.iter().map(|(edge, epoch)| (*edge, *epoch)).collect(),
            retired: self.retired.iter().map(|(edge, since)| (*edge, *since)).collect(),
            cut_off: self.cut_off.iter().map(|(edge, at)| (*edge, *at)).collect(),
            sources: self.sources.iter().map(|(key, state)| (*key, *state)).collect(),
            page_views: self.page_views.iter().map(|(page, state)| (*page, *state)).collect(),
        }
    }
}

fn whole((minute, rows): (&Minute, &Rows)) -> MinuteRows {
    let cell =
        |(dimensions, count): (&Dimensions, &u64)| Cell { dimensions: *dimensions, count: *count };
    let spend =
        |((dimensions, amount, currency), micros): (&(Dimensions, Amount, Currency), &i64)| {
            CellAmount {
                dimensions: *dimensions,
                amount: *amount,
                currency: *currency,
                micros: *micros,
            }
        };
    let total = |((ad, kind, valid), count): (&(AdId, Kind, bool), &u64)| AdTotal {
        ad: *ad,
        kind: *kind,
        valid: *valid,
        count: *count,
    };
    let told = |(publisher, told): (&PublisherId, &Told)| PublisherTold {
        publisher: *publisher,
        told: *told,
    };
    MinuteRows {
        minute: *minute,
        cells: rows.cells.iter().map(cell).collect(),
        amounts: rows.spend.iter().map(spend).collect(),
        totals: rows.totals.iter().map(total).collect(),
        told: rows.told.iter().map(told).collect(),
        account: rows.account,
    }
}
