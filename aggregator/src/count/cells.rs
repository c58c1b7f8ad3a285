//! What is kept by the minute: cells, totals, amounts, accounts. A minute has up to two tables.
//! Messages count into the `unsaved` one, which the store does not have yet. The `saved` one holds
//! what the store has, and is kept for the resident minutes.

use std::collections::BTreeMap;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use shared::counted::{Amount, Packed};
use shared::name::Any;
use shared::{AdId, AnyId, Currency, Dimensions, Kind, Minute, NameBuf, PublisherId, Validity};

use super::accounts::MinuteAccount;
use super::changes::{AdTotal, Cell, CellAmount, MinuteRows, PublisherTold};
use super::error::EngineError;
use super::intern::{Interner, NUMBER_BITS};
use super::page_views::Told;
use super::table::{Counter, Key, mix};

/// The most rows of saved minutes that a partition keeps in memory, some 25 bytes each.
const SAVED_ROWS_MAX: usize = 1 << 21;

const TOO_MANY_IDS: EngineError =
    EngineError::Snapshot("more ads and publishers in the resident minutes than can be told apart");

/// How many names a cell has.
const NAMES: usize = Dimensions::NAMES.len();

/// A cell's dimensions as one number: for each name its number (in a [`CellKey`]) or its rank (to
/// sort by), then the codes.
type Wide = u64;

/// [`NUMBER_BITS`] for each name, then the bits of the codes.
#[expect(clippy::cast_possible_truncation, reason = "there are a handful of names")]
const KEY_BITS: u32 = NAMES as u32 * NUMBER_BITS + Packed::BITS;

const _: () = {
    assert!(KEY_BITS <= Wide::BITS, "the dimensions need a `Wide` of 128 bits");
    assert!(NUMBER_BITS + Packed::OUTCOME_BITS <= u32::BITS, "an ad's key has 32 bits");
};

/// A cell's dimensions in as few words of 32 bits as they need: an entry of a counter then has 12
/// bytes, and not 16.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct CellKey([u32; KEY_BITS.div_ceil(u32::BITS) as usize]);

/// An ad's number, then kind and validity.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct AdKey(u32);

impl CellKey {
    /// Made of the numbers of the names, in the order of [`Dimensions::NAMES`].
    #[inline]
    pub(super) fn new(names: [u32; NAMES], packed: Packed) -> Self {
        let wide = wide(names, packed);
        #[expect(clippy::cast_possible_truncation, reason = "cut into words of 32 bits")]
        Self(std::array::from_fn(|word| (wide >> (32 * word)) as u32))
    }

    #[inline]
    fn wide(self) -> Wide {
        let words = self.0.iter().rev();
        words.fold(0, |wide, word| wide << 16 << 16 | Wide::from(*word))
    }

    fn names(self) -> [u32; NAMES] {
        let wide = self.wide() >> Packed::BITS;
        std::array::from_fn(|at| {
            field(wide >> (NUMBER_BITS * (NAMES - 1 - at) as u32), NUMBER_BITS)
        })
    }

    fn packed(self) -> u32 {
        field(self.wide(), Packed::BITS)
    }

    /// A number that sorts as the [`Dimensions`] do. `ranks`: by number, the ranks of the ids.
    fn ranked(self, ranks: &[u32]) -> Wide {
        let names = self.names().map(|number| Wide::from(ranks[number as usize]));
        let names = names.into_iter().fold(0, |wide, rank| wide << NUMBER_BITS | rank);
        names << Packed::BITS | Wide::from(self.packed())
    }

    fn dimensions(self, ids: &Interner) -> Dimensions {
        let (codes, kind, valid) = Packed::read(self.packed()).expect("made of known codes");
        Dimensions::new(self.names().map(|number| ids.id(number)), codes, kind, valid)
    }

    /// Gives the names numbers where they have none.
    fn from_dimensions(dimensions: &Dimensions, ids: &mut Interner) -> Result<Self, EngineError> {
        if !ids.has_room(NAMES) {
            return Err(TOO_MANY_IDS);
        }
        Ok(Self::new(dimensions.names().map(|id| ids.number(id)), dimensions.packed()))
    }
}

#[inline]
fn wide(names: [u32; NAMES], packed: Packed) -> Wide {
    let names = names.iter().fold(0, |wide, number| wide << NUMBER_BITS | Wide::from(*number));
    names << Packed::BITS | Wide::from(packed.number())
}

/// The lowest bits.
#[inline]
fn field(wide: Wide, bits: u32) -> u32 {
    u32::try_from(wide & ((1 << bits) - 1)).unwrap_or(0)
}

impl AdKey {
    /// Made of the ad's number, and of kind and validity alone of a packed form.
    #[inline]
    pub(super) fn new(ad: u32, packed: Packed) -> Self {
        Self(ad << Packed::OUTCOME_BITS | packed.outcome())
    }

    fn ad(self) -> u32 {
        self.0 >> Packed::OUTCOME_BITS
    }

    fn outcome(self) -> Packed {
        Packed::from_outcome(self.0)
    }

    /// A number that sorts as [`AdTotal`] does. `ranks`: by number, the ranks of the ids.
    fn ranked(self, ranks: &[u32]) -> u64 {
        let rank = u64::from(ranks[self.ad() as usize]);
        rank << Packed::OUTCOME_BITS | u64::from(self.outcome().number())
    }
}

impl Key for CellKey {
    #[inline]
    fn hash(self) -> u64 {
        self.0.chunks(2).fold(0, |hash, words| {
            mix(hash ^ words.iter().rev().fold(0, |two, word| two << 32 | u64::from(*word)))
        })
    }
}

impl Key for AdKey {
    #[inline]
    fn hash(self) -> u64 {
        mix(u64::from(self.0))
    }
}

/// The rows of one minute, by numbers in place of ids.
#[derive(Clone, Debug, Default)]
pub(super) struct MinuteTable {
    pub(super) cells: Counter<CellKey>,
    pub(super) totals: Counter<AdKey>,
    pub(super) amounts: HashMap<(CellKey, Amount, Currency), i64, FixedState>,
    /// By the publisher's number.
    pub(super) told: HashMap<u32, Told, FixedState>,
    pub(super) account: MinuteAccount,
}

impl MinuteTable {
    /// Adds to an amount of a cell. The sum stays within the bounds of `i64`, which are 9 billion
    /// units of money in one cell of one minute, rather than wrap around.
    pub(super) fn add(&mut self, key: (CellKey, Amount, Currency), micros: i64) {
        let sum = self.amounts.entry(key).or_insert(0);
        *sum = sum.saturating_add(micros);
    }

    fn merge(&mut self, other: &Self) {
        self.cells.merge(&other.cells);
        self.totals.merge(&other.totals);
        other.amounts.iter().for_each(|(key, n)| self.add(*key, *n));
        other.told.iter().for_each(|(id, told)| self.told.entry(*id).or_default().add(*told));
        self.account.add(&other.account);
    }

    fn rows(&self, minute: Minute, ids: &Interner, ranks: &[u32]) -> MinuteRows {
        let cells = in_order(&self.cells, |key| key.ranked(ranks));
        let cell = |(key, count): (CellKey, u64)| Cell { dimensions: key.dimensions(ids), count };
        let totals = in_order(&self.totals, |key| key.ranked(ranks));
        let amounts = self.amounts.iter().map(|(key, n)| amount_row(key, *n, ids));
        let mut amounts: Vec<_> = amounts.collect();
        amounts.sort_unstable();
        let told = self.told.iter();
        let told =
            told.map(|(id, told)| PublisherTold { publisher: ids.id(*id).cast(), told: *told });
        let mut told: Vec<_> = told.collect();
        told.sort_unstable();
        MinuteRows {
            minute,
            cells: cells.map(cell).collect(),
            amounts,
            totals: totals.map(|total| total_row(total, ids)).collect(),
            told,
            account: self.account,
        }
    }

    fn from_rows(rows: &MinuteRows, ids: &mut Interner) -> Result<Self, EngineError> {
        let mut table = Self { account: rows.account, ..Self::default() };
        table.cells.reserve(rows.cells.len());
        table.totals.reserve(rows.totals.len());
        for cell in &rows.cells {
            table.cells.add(CellKey::from_dimensions(&cell.dimensions, ids)?, cell.count);
        }
        for total in &rows.totals {
            let ad = ids.find(total.ad.any());
            let ad = ad.ok_or(EngineError::Snapshot("a total of an ad without a cell"))?;
            table.totals.add(AdKey::new(ad, Packed::new(0, total.kind, total.valid)), total.count);
        }
        for row in &rows.amounts {
            let cell = CellKey::from_dimensions(&row.dimensions, ids)?;
            table.add((cell, row.amount, row.currency), row.micros);
        }
        for PublisherTold { publisher, told } in &rows.told {
            if !ids.has_room(1) {
                return Err(TOO_MANY_IDS);
            }
            table.told.entry(ids.number(publisher.any())).or_default().add(*told);
        }
        Ok(table)
    }

    /// How many rows of all kinds the table has.
    fn rows_kept(&self) -> usize {
        self.cells.len() + self.totals.len() + self.amounts.len() + self.told.len()
    }

    fn bytes(&self) -> usize {
        let maps = self.amounts.allocation_size() + self.told.allocation_size();
        self.cells.bytes() + self.totals.bytes() + maps + size_of::<Self>()
    }
}

/// All entries of a counter, in the order of what `rank` gives for their keys.
fn in_order<K: Key, R: Ord>(
    counter: &Counter<K>,
    rank: impl Fn(K) -> R,
) -> impl Iterator<Item = (K, u64)> {
    let ranked = counter.iter().map(|(key, count)| (rank(key), key, count));
    let mut rows: Vec<_> = ranked.collect();
    rows.sort_unstable_by(|one, other| one.0.cmp(&other.0));
    rows.into_iter().map(|(_, key, count)| (key, count))
}

fn total_row((key, count): (AdKey, u64), ids: &Interner) -> AdTotal {
    let outcome = key.outcome();
    let ad = ids.id(key.ad()).cast();
    AdTotal { ad, kind: outcome.kind(), valid: outcome.is_valid(), count }
}

fn amount_row(key: &(CellKey, Amount, Currency), micros: i64, ids: &Interner) -> CellAmount {
    let (cell, amount, currency) = *key;
    CellAmount { dimensions: cell.dimensions(ids), amount, currency, micros }
}

/// All minutes in memory.
#[derive(Clone, Debug)]
pub(super) struct Minutes {
    pub(super) ids: Interner,
    /// By minute, the index of its table in `unsaved`.
    places: BTreeMap<Minute, usize>,
    unsaved: Vec<MinuteTable>,
    saved: BTreeMap<Minute, MinuteTable>,
    /// From this minute on, `saved` has all that the store has.
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
            let table = MinuteTable::from_rows(rows, &mut self.ids)?;
            let twice = self.saved.insert(rows.minute, table).is_some();
            if twice || rows.minute < resident_from {
                return Err(EngineError::Snapshot("a minute is there twice, or is not resident"));
            }
        }
        Ok(())
    }

    /// The index of a minute's unsaved table, for [`Self::unsaved`]. It holds until the next
    /// checkpoint. The table is made when it is missing.
    pub(super) fn place(&mut self, minute: Minute) -> usize {
        if let Some(place) = self.places.get(&minute) {
            return *place;
        }
        // As large as the minute before: growing step by step would cost more.
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

    /// Returns the rows and names that are not saved yet, and takes them as saved. Minutes before
    /// `resident_from` are dropped from memory.
    pub(super) fn checkpoint(
        &mut self,
        resident_from: Minute,
    ) -> (Vec<MinuteRows>, Vec<(AnyId, NameBuf<Any>)>) {
        let names = self.ids.checkpoint();
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
        self.drop_oldest();
        if self.ids.is_sweep_due() {
            self.sweep();
        }
        (rows, names)
    }

    /// Drops the oldest saved minutes when there are more rows than [`SAVED_ROWS_MAX`]. An issuer
    /// may sign for as many ads as it likes, so that minutes can be of any size; questions about a
    /// minute that was dropped are answered from the store.
    fn drop_oldest(&mut self) {
        let mut rows: usize = self.saved.values().map(MinuteTable::rows_kept).sum();
        // Each round drops one minute, until the rest has few enough rows or none is left.
        while rows > self.saved_most
            && let Some((minute, table)) = self.saved.pop_first()
        {
            rows -= table.rows_kept();
            self.resident_from = self.resident_from.max(Minute(minute.0.saturating_add(1)));
        }
    }

    /// Makes room for so many more ids. When there is none, all saved minutes are dropped (the
    /// store has them), and with them the ids that only they have. False when there is still no
    /// room: then the unsaved minutes have too many ids.
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

    /// By number, whether one of these tables has it. Totals and amounts are not looked at: all
    /// their numbers are in cells, too.
    fn used<'a>(&self, tables: impl Iterator<Item = &'a MinuteTable>) -> Vec<bool> {
        let mut used = vec![false; self.ids.slots()];
        for table in tables {
            for (key, _) in table.cells.iter() {
                key.names().iter().for_each(|number| used[*number as usize] = true);
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
        ad: AdId,
        kind: Kind,
        validity: Validity,
        from: Minute,
        to: Minute,
    ) -> u64 {
        let Some(number) = self.ids.find(ad.any()) else { return 0 };
        if from >= to {
            return 0;
        }
        let saved = self.saved.range(from..to).map(|(_, table)| table);
        let unsaved = self.places.range(from..to).map(|(_, place)| &self.unsaved[*place]);
        let key = |valid| AdKey::new(number, Packed::new(0, kind, valid));
        let total = |table: &MinuteTable| -> u64 {
            let taken = [true, false].into_iter().filter(|valid| validity.takes(*valid));
            taken.map(|valid| table.totals.get(key(valid))).sum()
        };
        saved.chain(unsaved).map(total).sum()
    }

    pub(super) fn ad_totals(
        &self,
        minute: Minute,
        kind: Kind,
        validity: Validity,
        each: &mut impl FnMut(AdId, u64),
    ) {
        union(self.parts(minute).map(|part| part.map(|table| &table.totals)), |key, count| {
            if key.outcome().kind() == kind && validity.takes(key.outcome().is_valid()) {
                each(self.ids.id(key.ad()).cast(), count);
            }
        });
    }

    pub(super) fn cells(&self, minute: Minute, each: &mut impl FnMut(&Cell)) {
        union(self.parts(minute).map(|part| part.map(|table| &table.cells)), |key, count| {
            each(&Cell { dimensions: key.dimensions(&self.ids), count });
        });
    }

    pub(super) fn amounts(&self, minute: Minute, each: &mut impl FnMut(&CellAmount)) {
        let [saved, unsaved] = self.parts(minute).map(|part| part.map(|table| &table.amounts));
        for (key, micros) in saved.into_iter().flatten() {
            let more = unsaved.and_then(|part| part.get(key)).copied().unwrap_or(0);
            each(&amount_row(key, micros.saturating_add(more), &self.ids));
        }
        for (key, micros) in unsaved.into_iter().flatten() {
            if saved.is_none_or(|part| !part.contains_key(key)) {
                each(&amount_row(key, *micros, &self.ids));
            }
        }
    }

    /// The name of an id that is a digest, if it is in memory.
    pub(super) fn name(&self, id: AnyId) -> Option<&NameBuf<Any>> {
        self.ids.name(id)
    }

    pub(super) fn told(&self, from: Minute, to: Minute) -> BTreeMap<PublisherId, Told> {
        let mut sums: BTreeMap<PublisherId, Told> = BTreeMap::new();
        if from >= to {
            return sums;
        }
        let saved = self.saved.range(from..to).map(|(_, table)| table);
        let unsaved = self.places.range(from..to).map(|(_, place)| &self.unsaved[*place]);
        for (id, told) in saved.chain(unsaved).flat_map(|table| &table.told) {
            sums.entry(self.ids.id(*id).cast()).or_default().add(*told);
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

    /// Bytes of all tables and ids, the number of saved cells, that of unsaved cells.
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
