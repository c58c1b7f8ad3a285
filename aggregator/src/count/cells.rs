//! What is kept by the minute. Every minute is in up to two places: what the store has not yet
//! (`unsaved`, small, where messages count), and what it has, for the resident minutes (`saved`).

use std::collections::BTreeMap;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use shared::{Country, Currency, Device, Id, Kind, Minute, Validity};

use super::accounts::MinuteAccount;
use super::changes::{AdTotal, Cell, Dimensions, MinuteRows, PublisherTold, Spend};
use super::error::EngineError;
use super::intern::Interner;
use super::pages::Told;
use super::table::{Counter, Key, mix};

/// So many rows of saved minutes stay in memory, some 25 bytes each, in each partition.
const SAVED_ROWS_MAX: usize = 1 << 21;

const TOO_MANY_IDS: EngineError =
    EngineError::Snapshot("more ads and publishers in the resident minutes than can be told apart");

/// A cell's dimensions in 64 bits: ad (24), publisher (24), and the rest (16). As two halves, so
/// that a counter's entry has 12 bytes and not 16.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct CellKey([u32; 2]);

/// Country (10 bits), device (3), kind (2), valid (1): as numbers in the order of [`Dimensions`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct CellRest(u16);

/// An ad's number, then the kind (2 bits) and valid (1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct AdKey(u32);

impl CellRest {
    #[inline]
    pub(super) fn new(country: u16, device: Device, kind: Kind, valid: bool) -> Self {
        let device = u16::from(device.code());
        Self(country << 6 | device << 3 | u16::from(kind.code()) << 1 | u16::from(valid))
    }

    #[inline]
    pub(super) const fn is_valid(self) -> bool {
        self.0 & 1 == 1
    }

    #[inline]
    pub(super) fn kind(self) -> Kind {
        Kind::ALL[usize::from(self.0 >> 1 & 3)]
    }

    fn country(self) -> Country {
        Country::from_index(self.0 >> 6).unwrap_or_default()
    }

    fn device(self) -> Device {
        let code = u8::try_from(self.0 >> 3 & 7).unwrap_or(0);
        Device::from_code(code).unwrap_or(Device::Unknown)
    }
}

impl CellKey {
    #[inline]
    pub(super) fn new(ad: u32, publisher: u32, rest: CellRest) -> Self {
        Self([ad << 8 | publisher >> 16, publisher << 16 | u32::from(rest.0)])
    }

    fn ad(self) -> u32 {
        self.0[0] >> 8
    }

    fn publisher(self) -> u32 {
        (self.0[0] & 0xff) << 16 | self.0[1] >> 16
    }

    /// A number in the order of [`Dimensions`], by the ranks of the ids.
    fn ranked(self, ranks: &[u32]) -> u64 {
        let [ad, publisher] = [self.ad(), self.publisher()].map(|id| ranks[id as usize]);
        let Self([high, low]) = Self::new(ad, publisher, self.rest());
        u64::from(high) << 32 | u64::from(low)
    }

    fn rest(self) -> CellRest {
        CellRest(u16::try_from(self.0[1] & 0xffff).unwrap_or(0))
    }

    fn dimensions(self, ids: &Interner) -> Dimensions {
        let rest = self.rest();
        Dimensions {
            ad: ids.id(self.ad()),
            publisher: ids.id(self.publisher()),
            country: rest.country(),
            device: rest.device(),
            kind: rest.kind(),
            valid: rest.is_valid(),
        }
    }

    fn of(dimensions: &Dimensions, ids: &mut Interner) -> Result<Self, EngineError> {
        if !ids.has_room(2) {
            return Err(TOO_MANY_IDS);
        }
        let Dimensions { ad, publisher, country, device, kind, valid } = *dimensions;
        let rest = CellRest::new(country.index(), device, kind, valid);
        Ok(Self::new(ids.number(ad), ids.number(publisher), rest))
    }
}

impl AdKey {
    #[inline]
    pub(super) fn new(ad: u32, kind: Kind, valid: bool) -> Self {
        Self(ad << 3 | u32::from(kind.code()) << 1 | u32::from(valid))
    }

    fn ad(self) -> u32 {
        self.0 >> 3
    }

    fn kind(self) -> Kind {
        Kind::ALL[self.0 as usize >> 1 & 3]
    }

    fn is_valid(self) -> bool {
        self.0 & 1 == 1
    }

    /// A number in the order of [`AdTotal`], by the ranks of the ids.
    fn ranked(self, ranks: &[u32]) -> u64 {
        u64::from(ranks[self.ad() as usize]) << 3 | u64::from(self.0 & 7)
    }
}

impl Key for CellKey {
    #[inline]
    fn hash(self) -> u64 {
        mix(u64::from(self.0[0]) << 32 | u64::from(self.0[1]))
    }
}

impl Key for AdKey {
    #[inline]
    fn hash(self) -> u64 {
        mix(u64::from(self.0))
    }
}

/// One minute.
#[derive(Clone, Debug, Default)]
pub(super) struct MinuteTable {
    pub(super) cells: Counter<CellKey>,
    pub(super) totals: Counter<AdKey>,
    pub(super) spend: HashMap<(CellKey, Currency), i64, FixedState>,
    /// By the publisher's number.
    pub(super) told: HashMap<u32, Told, FixedState>,
    pub(super) account: MinuteAccount,
}

impl MinuteTable {
    /// Adds to the spend of a cell; the sum ends at the bounds of `i64` (9 billion units of money
    /// in one cell of one minute), rather than anywhere wrong.
    pub(super) fn spend(&mut self, cell: CellKey, currency: Currency, micros: i64) {
        let sum = self.spend.entry((cell, currency)).or_insert(0);
        *sum = sum.saturating_add(micros);
    }

    fn merge(&mut self, other: &Self) {
        self.cells.merge(&other.cells);
        self.totals.merge(&other.totals);
        other.spend.iter().for_each(|((cell, currency), n)| self.spend(*cell, *currency, *n));
        other.told.iter().for_each(|(id, told)| self.told.entry(*id).or_default().add(*told));
        self.account.add(&other.account);
    }

    fn rows(&self, minute: Minute, ids: &Interner, ranks: &[u32]) -> MinuteRows {
        let cells = in_order(&self.cells, |key| key.ranked(ranks));
        let cell = |(key, count): (CellKey, u64)| Cell { dimensions: key.dimensions(ids), count };
        let totals = in_order(&self.totals, |key| key.ranked(ranks));
        let mut spend: Vec<_> = self.spend.iter().map(|(k, n)| spend_row(k, *n, ids)).collect();
        spend.sort_unstable();
        let told = self.told.iter();
        let told = told.map(|(id, told)| PublisherTold { publisher: ids.id(*id), told: *told });
        let mut told: Vec<_> = told.collect();
        told.sort_unstable();
        MinuteRows {
            minute,
            cells: cells.map(cell).collect(),
            spend,
            totals: totals.map(|total| total_row(total, ids)).collect(),
            told,
            account: self.account,
        }
    }

    fn of(rows: &MinuteRows, ids: &mut Interner) -> Result<Self, EngineError> {
        let mut table = Self { account: rows.account, ..Self::default() };
        table.cells.reserve(rows.cells.len());
        table.totals.reserve(rows.totals.len());
        for cell in &rows.cells {
            table.cells.add(CellKey::of(&cell.dimensions, ids)?, cell.count);
        }
        for total in &rows.totals {
            let ad = ids.find(total.ad);
            let ad = ad.ok_or(EngineError::Snapshot("a total of an ad without a cell"))?;
            table.totals.add(AdKey::new(ad, total.kind, total.valid), total.count);
        }
        for spend in &rows.spend {
            table.spend(CellKey::of(&spend.dimensions, ids)?, spend.currency, spend.micros);
        }
        for PublisherTold { publisher, told } in &rows.told {
            if !ids.has_room(1) {
                return Err(TOO_MANY_IDS);
            }
            table.told.entry(ids.number(*publisher)).or_default().add(*told);
        }
        Ok(table)
    }

    /// How many rows of all kinds are in memory.
    fn rows_kept(&self) -> usize {
        self.cells.len() + self.totals.len() + self.spend.len() + self.told.len()
    }

    fn bytes(&self) -> usize {
        let maps = self.spend.allocation_size() + self.told.allocation_size();
        self.cells.bytes() + self.totals.bytes() + maps + size_of::<Self>()
    }
}

/// All of a counter, in the order of its keys' ranks.
fn in_order<K: Key>(
    counter: &Counter<K>,
    rank: impl Fn(K) -> u64,
) -> impl Iterator<Item = (K, u64)> {
    let ranked = counter.iter().map(|(key, count)| (rank(key), key, count));
    let mut rows: Vec<_> = ranked.collect();
    rows.sort_unstable_by_key(|row| row.0);
    rows.into_iter().map(|(_, key, count)| (key, count))
}

fn total_row((key, count): (AdKey, u64), ids: &Interner) -> AdTotal {
    AdTotal { ad: ids.id(key.ad()), kind: key.kind(), valid: key.is_valid(), count }
}

fn spend_row(key: &(CellKey, Currency), micros: i64, ids: &Interner) -> Spend {
    Spend { dimensions: key.0.dimensions(ids), currency: key.1, micros }
}

/// All minutes in memory.
#[derive(Clone, Debug)]
pub(super) struct Minutes {
    pub(super) ids: Interner,
    places: BTreeMap<Minute, usize>,
    unsaved: Vec<MinuteTable>,
    saved: BTreeMap<Minute, MinuteTable>,
    resident_from: Minute,
    /// [`SAVED_ROWS_MAX`], but in tests.
    pub(super) saved_most: usize,
}

impl Minutes {
    pub(super) fn new() -> Self {
        Self {
            ids: Interner::new(),
            places: BTreeMap::new(),
            unsaved: Vec::new(),
            saved: BTreeMap::new(),
            resident_from: Minute(0),
            saved_most: SAVED_ROWS_MAX,
        }
    }

    /// Takes the minutes of a snapshot back.
    pub(super) fn load(
        &mut self,
        resident_from: Minute,
        minutes: &[MinuteRows],
    ) -> Result<(), EngineError> {
        self.resident_from = resident_from;
        for rows in minutes {
            let table = MinuteTable::of(rows, &mut self.ids)?;
            let twice = self.saved.insert(rows.minute, table).is_some();
            if twice || rows.minute < resident_from {
                return Err(EngineError::Snapshot("a minute is there twice, or is not resident"));
            }
        }
        Ok(())
    }

    /// Where messages count into a minute, for [`Self::unsaved`]; holds until the next checkpoint.
    pub(super) fn place(&mut self, minute: Minute) -> usize {
        if let Some(place) = self.places.get(&minute) {
            return *place;
        }
        // The minute before tells how large this one will be: growing step by step costs more.
        let before = minute.0.checked_sub(1).and_then(|before| self.places.get(&Minute(before)));
        let before = before.map(|place| &self.unsaved[*place]);
        let (cells, totals) = before.map_or((0, 0), |t| (t.cells.len(), t.totals.len()));
        let mut table = MinuteTable::default();
        table.cells.reserve(cells);
        table.totals.reserve(totals);
        self.unsaved.push(table);
        self.places.insert(minute, self.unsaved.len() - 1);
        self.unsaved.len() - 1
    }

    #[inline]
    pub(super) fn unsaved(&mut self, place: usize) -> &mut MinuteTable {
        &mut self.unsaved[place]
    }

    pub(super) const fn resident_from(&self) -> Minute {
        self.resident_from
    }

    /// Gives out what is unsaved, keeps it where it is resident, and lets go of what is not.
    pub(super) fn checkpoint(&mut self, resident_from: Minute) -> Vec<MinuteRows> {
        self.resident_from = self.resident_from.max(resident_from);
        let ranks = self.ids.ranks(&self.used(self.unsaved.iter()));
        let mut rows = Vec::with_capacity(self.places.len());
        for (minute, place) in std::mem::take(&mut self.places) {
            let table = std::mem::take(&mut self.unsaved[place]);
            rows.push(table.rows(minute, &self.ids, &ranks));
            if minute < self.resident_from {
                continue;
            }
            match self.saved.get_mut(&minute) {
                Some(saved) => saved.merge(&table),
                None => drop(self.saved.insert(minute, table)),
            }
        }
        self.unsaved.clear();
        self.saved = self.saved.split_off(&self.resident_from);
        self.let_go();
        if self.ids.is_sweep_due() {
            self.sweep();
        }
        rows
    }

    /// Lets go of the oldest saved minutes while all have too many rows: whoever signs ads may name as many
    /// as it likes, and a question that is not answered from memory is answered from the store.
    fn let_go(&mut self) {
        let mut rows: usize = self.saved.values().map(MinuteTable::rows_kept).sum();
        while rows > self.saved_most
            && let Some((minute, table)) = self.saved.pop_first()
        {
            rows -= table.rows_kept();
            self.resident_from = self.resident_from.max(Minute(minute.0.saturating_add(1)));
        }
    }

    /// Makes room for so many more ids: when there is none, the saved minutes are let go of, which
    /// the store has, and the ids that only they have. False when what is not yet saved has too many.
    pub(super) fn make_room(&mut self, ids: usize) -> bool {
        if self.ids.has_room(ids) {
            return true;
        }
        if let Some((last, _)) = self.saved.last_key_value() {
            self.resident_from = self.resident_from.max(Minute(last.0.saturating_add(1)));
        }
        self.saved.clear();
        let used = self.used(self.unsaved.iter());
        self.ids.sweep(&used);
        self.ids.has_room(ids)
    }

    /// Forgets the ids that no resident cell has.
    fn sweep(&mut self) {
        let used = self.used(self.saved.values());
        self.ids.sweep(&used);
    }

    /// Which numbers these tables have. Totals and spend have none that cells have not.
    fn used<'a>(&self, tables: impl Iterator<Item = &'a MinuteTable>) -> Vec<bool> {
        let mut used = vec![false; self.ids.slots()];
        for table in tables {
            for (key, _) in table.cells.iter() {
                used[key.ad() as usize] = true;
                used[key.publisher() as usize] = true;
            }
            table.told.keys().for_each(|id| used[*id as usize] = true);
        }
        used
    }

    /// The saved and the unsaved part of a minute.
    fn parts(&self, minute: Minute) -> [Option<&MinuteTable>; 2] {
        [self.saved.get(&minute), self.places.get(&minute).map(|place| &self.unsaved[*place])]
    }

    pub(super) fn ad_count(
        &self,
        ad: Id,
        kind: Kind,
        validity: Validity,
        from: Minute,
        to: Minute,
    ) -> u64 {
        let Some(number) = self.ids.find(ad) else { return 0 };
        if from >= to {
            return 0;
        }
        let saved = self.saved.range(from..to).map(|(_, table)| table);
        let unsaved = self.places.range(from..to).map(|(_, place)| &self.unsaved[*place]);
        let key = |valid| AdKey::new(number, kind, valid);
        let of = |table: &MinuteTable| -> u64 {
            let taken = [true, false].into_iter().filter(|valid| validity.takes(*valid));
            taken.map(|valid| table.totals.get(key(valid))).sum()
        };
        saved.chain(unsaved).map(of).sum()
    }

    pub(super) fn ad_totals(
        &self,
        minute: Minute,
        of: Kind,
        validity: Validity,
        each: &mut impl FnMut(Id, u64),
    ) {
        union(self.parts(minute).map(|part| part.map(|table| &table.totals)), |key, count| {
            if key.kind() == of && validity.takes(key.is_valid()) {
                each(self.ids.id(key.ad()), count);
            }
        });
    }

    pub(super) fn cells(&self, minute: Minute, each: &mut impl FnMut(&Cell)) {
        union(self.parts(minute).map(|part| part.map(|table| &table.cells)), |key, count| {
            each(&Cell { dimensions: key.dimensions(&self.ids), count });
        });
    }

    pub(super) fn spend(&self, minute: Minute, each: &mut impl FnMut(&Spend)) {
        let [saved, unsaved] = self.parts(minute).map(|part| part.map(|table| &table.spend));
        for (key, micros) in saved.into_iter().flatten() {
            let more = unsaved.and_then(|part| part.get(key)).copied().unwrap_or(0);
            each(&spend_row(key, micros.saturating_add(more), &self.ids));
        }
        for (key, micros) in unsaved.into_iter().flatten() {
            if saved.is_none_or(|part| !part.contains_key(key)) {
                each(&spend_row(key, *micros, &self.ids));
            }
        }
    }

    pub(super) fn told(&self, from: Minute, to: Minute) -> BTreeMap<Id, Told> {
        let mut sums: BTreeMap<Id, Told> = BTreeMap::new();
        if from >= to {
            return sums;
        }
        let saved = self.saved.range(from..to).map(|(_, table)| table);
        let unsaved = self.places.range(from..to).map(|(_, place)| &self.unsaved[*place]);
        for (id, told) in saved.chain(unsaved).flat_map(|table| &table.told) {
            sums.entry(self.ids.id(*id)).or_default().add(*told);
        }
        sums
    }

    pub(super) fn accounts(&self, from: Minute, to: Minute) -> Vec<(Minute, MinuteAccount)> {
        if from >= to {
            return Vec::new();
        }
        let mut sums: BTreeMap<Minute, MinuteAccount> =
            self.saved.range(from..to).map(|(minute, table)| (*minute, table.account)).collect();
        for (minute, place) in self.places.range(from..to) {
            sums.entry(*minute).or_default().add(&self.unsaved[*place].account);
        }
        sums.into_iter().collect()
    }

    /// Bytes, saved cells, unsaved cells.
    pub(super) fn size(&self) -> (usize, usize, usize) {
        let all = self.saved.values().chain(&self.unsaved);
        let bytes = self.ids.bytes() + all.map(MinuteTable::bytes).sum::<usize>();
        let saved = self.saved.values().map(|table| table.cells.len()).sum();
        (bytes, saved, self.unsaved.iter().map(|table| table.cells.len()).sum())
    }
}

/// Every key of either counter once, with the sum of its counts.
fn union<K: Key>(parts: [Option<&Counter<K>>; 2], mut each: impl FnMut(K, u64)) {
    let [saved, unsaved] = parts;
    for (key, n) in saved.into_iter().flat_map(Counter::iter) {
        each(key, n + unsaved.map_or(0, |part| part.get(key)));
    }
    for (key, n) in unsaved.into_iter().flat_map(Counter::iter) {
        if saved.is_none_or(|part| !part.contains(key)) {
            each(key, n);
        }
    }
}
