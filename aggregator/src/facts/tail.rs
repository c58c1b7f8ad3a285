//! The newest facts: those that no checkpoint has written yet.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use foldhash::fast::FixedState;
use hashbrown::{HashMap, HashSet};
use shared::name::Any;
use shared::wire::{KeptRows, MessageView, Row};
use shared::{AnyId, Kind, Minute, Money, NameBuf};

use super::block::{Block, Fact, Order};

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
            Block::new(&facts, self.ids.clone(), self.prices.clone(), Order::Arrival)
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

    pub(super) fn facts(&self) -> impl Iterator<Item = Fact> {
        self.rows.rows().map(|(row, payers)| fact(&self.minutes, &row, payers))
    }

    /// The ids and the prices by their numbers.
    pub(crate) fn tables(&self) -> (&[AnyId], &[Money]) {
        (&self.ids, &self.prices)
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

fn fact(minutes: &[Minute], row: &Row, payers: [u16; 2]) -> Fact {
    let verdict = row.outcome.ok().flatten();
    let costs = verdict.is_none() && row.kind() == Kind::Impression;
    Fact {
        minute: minutes[usize::from(row.minute)],
        second: u8::try_from(row.ms / 1_000).unwrap_or(59),
        kind: row.kind().code(),
        reason: verdict.map_or(0, shared::Reason::code),
        ids: names_of(row, payers).map(u32::from),
        codes: row.codes(),
        region: row.region.bytes(),
        network: row.network.0,
        visitor: row.visitor.0,
        price: if costs { row.price.into() } else { 0 },
        age: row.age(),
    }
}
