//! The keys of the rows: a letter for the family, then fields of fixed size. Numbers are big
//! endian, so that keys are in the order of their fields.
//!
//! | family | key | row |
//! |---|---|---|
//! | `m` | | position, clock, resident minutes, partition: one row |
//! | `p` | issuer 16, block 10, kind 1, valid 1, container 1 | 4 096 dedup bits |
//! | `c` | ad 16, minute 4 | the cells of an ad in a minute: an ad's range is one scan |
//! | `t` | minute 4, kind 1 (128 more: invalid events) | the totals of all ads: the top N of a minute is one row |
//! | `l` | minute 4 | what page views at each publisher have told |
//! | `a` | minute 4 | the account |
//! | `r` | minute 4 | the revision, where there is one |
//! | `o` | edge 16, epoch 8 | an outbox |
//! | `e` | edge 16 | the last of the edge's epochs that is over |
//! | `x` | edge 16 | since when the edge is out of service, in ms |
//! | `k` | edge 16 | the batch from which on the edge is cut off |
//! | `s` | source 16 | an imported log |
//! | `v` | page view 8 | how many events the page view has told, and when |
//! | `n` | id 16 | the name of an id that is a digest |
//! | `f` | hour 4, sequence 8 | the facts of an hour that a checkpoint brought, and its sequence |
//! | `i` | hour 4 | which blocks of facts the hour has: sequence, and how many facts |
//! | `d` | level 1, first minute 4, id 8 | a segment of facts |
//! | `g` | | the minute from which on there are facts: one row |
//! | `h` | hour 4 | the sequence at the hour's first checkpoint: for trimming the log |

use shared::name::{Ad, Any, Edge, Noun};
use shared::{AdId, AnyId, BlockId, EdgeId, Id, Kind, Minute, OutboxId, PageView, SourceId};

use crate::count::ContainerKey;

/// The key of the one row of meta data.
pub const META: &[u8] = b"m";
/// Family of dedup containers.
pub const CONTAINER: u8 = b'p';
/// Family of cells.
pub const CELLS: u8 = b'c';
/// Family of ad totals.
pub const TOTALS: u8 = b't';
/// Family of what page views have told.
pub const TOLD: u8 = b'l';
/// Family of page views.
pub const PAGE_VIEW: u8 = b'v';
/// Family of accounts.
pub const ACCOUNT: u8 = b'a';
/// Family of revisions.
pub const REVISION: u8 = b'r';
/// Family of outboxes.
pub const OUTBOX: u8 = b'o';
/// Family of epochs.
pub const EPOCH: u8 = b'e';
/// Family of edges out of service.
pub const RETIRED: u8 = b'x';
/// Family of edges that are cut off.
pub const CUT_OFF: u8 = b'k';
/// Family of imported logs.
pub const SOURCE: u8 = b's';
/// Family of names.
pub const NAME: u8 = b'n';
/// Family of facts.
pub const FACTS: u8 = b'f';
/// Family of the lists of blocks of facts.
pub const FACTS_INDEX: u8 = b'i';
/// Family of segments of facts.
pub const SEGMENT: u8 = b'd';
/// The key of the one row that says where facts begin.
pub const FACTS_FROM: &[u8] = b"g";
/// Family of the hours' sequences.
pub const HOUR: u8 = b'h';

fn key(family: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + parts.iter().map(|part| part.len()).sum::<usize>());
    key.push(family);
    parts.iter().for_each(|part| key.extend_from_slice(part));
    key
}

/// The range of all keys of a family: from (inclusive), to (exclusive).
#[must_use]
pub fn family(family: u8) -> (Vec<u8>, Vec<u8>) {
    (vec![family], vec![family + 1])
}

/// A dedup container.
#[must_use]
pub fn container(at: &ContainerKey) -> Vec<u8> {
    let rest = [at.kind.code(), u8::from(at.valid), at.index];
    key(CONTAINER, &[at.issuer.padded(), &at.block.0, &rest])
}

/// The cells of an ad in a minute.
#[must_use]
pub fn cells(ad: AdId, minute: Minute) -> Vec<u8> {
    key(CELLS, &[ad.padded(), &minute.0.to_be_bytes()])
}

/// The totals of a minute.
#[must_use]
pub fn totals(minute: Minute, kind: Kind, valid: bool) -> Vec<u8> {
    let invalid = if valid { 0 } else { 1 << 7 };
    key(TOTALS, &[&minute.0.to_be_bytes(), &[kind.code() | invalid]])
}

/// The row of a minute, in a family that has one for each: [`ACCOUNT`], [`REVISION`], [`TOLD`].
#[must_use]
pub fn minute(family: u8, minute: Minute) -> Vec<u8> {
    key(family, &[&minute.0.to_be_bytes()])
}

/// An outbox.
#[must_use]
pub fn outbox(id: OutboxId) -> Vec<u8> {
    key(OUTBOX, &[id.edge.padded(), &id.epoch.to_be_bytes()])
}

/// An edge's epochs.
#[must_use]
pub fn epoch(edge: EdgeId) -> Vec<u8> {
    key(EPOCH, &[edge.padded()])
}

/// An edge out of service.
#[must_use]
pub fn retired(edge: EdgeId) -> Vec<u8> {
    key(RETIRED, &[edge.padded()])
}

/// An edge that is cut off.
#[must_use]
pub fn cut_off(edge: EdgeId) -> Vec<u8> {
    key(CUT_OFF, &[edge.padded()])
}

/// An imported log.
#[must_use]
pub fn source(id: SourceId) -> Vec<u8> {
    key(SOURCE, &[&id.0])
}

/// A page view.
#[must_use]
pub fn page_view(page: PageView) -> Vec<u8> {
    key(PAGE_VIEW, &[&page.0.to_be_bytes()])
}

/// A name.
#[must_use]
pub fn name(id: AnyId) -> Vec<u8> {
    key(NAME, &[id.padded()])
}

/// The facts of an hour since 1970 that a checkpoint at this sequence of the log brought.
#[must_use]
pub fn facts(hour: u32, sequence: u64) -> Vec<u8> {
    key(FACTS, &[&hour.to_be_bytes(), &sequence.to_be_bytes()])
}

/// Which blocks of facts an hour has.
#[must_use]
pub fn facts_index(hour: u32) -> Vec<u8> {
    key(FACTS_INDEX, &[&hour.to_be_bytes()])
}

/// A segment of facts: the length of its period, the first minute of this, and its id.
#[must_use]
pub fn segment(level: u8, start: Minute, id: u64) -> Vec<u8> {
    key(SEGMENT, &[&[level], &start.0.to_be_bytes(), &id.to_be_bytes()])
}

/// An hour since 1970.
#[must_use]
pub fn hour(hour: u32) -> Vec<u8> {
    key(HOUR, &[&hour.to_be_bytes()])
}

/// Reads the fields of a key from the front. A field that does not fit gives `None`: the key was
/// not made here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// The fields behind the letter of the family.
    pub(crate) fn from_key(key: &'a [u8]) -> Self {
        Self(key.get(1..).unwrap_or_default())
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    pub(crate) fn id<T: Noun>(&mut self) -> Option<Id<T>> {
        Id::from_padded(self.take()?).ok()
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.take().map(|[byte]| byte)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    pub(crate) fn minute(&mut self) -> Option<Minute> {
        self.u32().map(Minute)
    }

    pub(crate) fn kind(&mut self) -> Option<Kind> {
        let [code] = self.take()?;
        Kind::from_code(code)
    }

    /// The last field of [`totals`].
    fn kind_and_validity(&mut self) -> Option<(Kind, bool)> {
        let [code] = self.take()?;
        Some((Kind::from_code(code & 0x7f)?, code & 1 << 7 == 0))
    }

    pub(crate) fn outbox(&mut self) -> Option<OutboxId> {
        Some(OutboxId { edge: self.id()?, epoch: self.take().map(u64::from_be_bytes)? })
    }

    pub(crate) fn page_view(&mut self) -> Option<PageView> {
        self.take().map(|bytes| PageView(u64::from_be_bytes(bytes)))
    }

    pub(crate) fn source(&mut self) -> Option<SourceId> {
        self.take().map(SourceId)
    }

    pub(crate) fn container(&mut self) -> Option<ContainerKey> {
        let (issuer, block) = (self.id()?, BlockId(self.take()?));
        let kind = self.kind()?;
        let [valid, index] = self.take()?;
        let valid = [false, true].get(usize::from(valid)).copied()?;
        (index < 16).then_some(ContainerKey { issuer, block, kind, valid, index })
    }

    /// `None` when anything follows.
    pub(crate) fn end(self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

/// An id as text: the name that it is, or its digest.
fn plain(id: AnyId) -> String {
    id.text().map_or_else(|| format!("{id:?}"), str::to_owned)
}

/// The key in words, for errors.
#[must_use]
pub fn describe(key: &[u8]) -> String {
    let mut fields = Fields::from_key(key);
    let words = match key.first() {
        Some(b'm') => Some("the meta row".to_owned()),
        Some(b'g') => Some("where facts begin".to_owned()),
        Some(&FACTS) => fields
            .u32()
            .zip(fields.u64())
            .map(|(hour, at)| format!("facts of hour {hour}, saved at sequence {at}")),
        Some(&CONTAINER) => fields.container().map(|c| {
            let ContainerKey { issuer, block, kind, valid, index } = c;
            format!("dedup page {index} of block {block:?}, issuer {issuer}, {kind}, valid {valid}")
        }),
        Some(&CELLS) => fields
            .id::<Ad>()
            .zip(fields.minute())
            .map(|(ad, m)| format!("cells of ad {} at {}", plain(ad.any()), m.start())),
        Some(&TOTALS) => fields.minute().zip(fields.kind_and_validity()).map(|(m, (k, valid))| {
            format!("{}{k} totals of {}", if valid { "" } else { "invalid " }, m.start())
        }),
        Some(&TOLD) => fields.minute().map(|m| format!("what pages told at {}", m.start())),
        Some(&PAGE_VIEW) => fields.page_view().map(|page| format!("page view {page}")),
        Some(&ACCOUNT) => fields.minute().map(|m| format!("account of {}", m.start())),
        Some(&REVISION) => fields.minute().map(|m| format!("revision of {}", m.start())),
        Some(&OUTBOX) => fields.outbox().map(|o| format!("outbox {} epoch {}", o.edge, o.epoch)),
        Some(&EPOCH) => fields.id::<Edge>().map(|edge| format!("epochs of edge {edge}")),
        Some(&RETIRED) => fields.id::<Edge>().map(|edge| format!("edge {edge} out of service")),
        Some(&CUT_OFF) => fields.id::<Edge>().map(|edge| format!("edge {edge} cut off")),
        Some(&SOURCE) => fields.source().map(|source| format!("imported log {source}")),
        Some(&NAME) => fields.id::<Any>().map(|id| format!("the name of {}", plain(id))),
        Some(&FACTS_INDEX) => fields.u32().map(|hour| format!("blocks of facts of hour {hour}")),
        Some(&SEGMENT) => fields
            .u8()
            .and_then(|_| fields.minute().zip(fields.u64()))
            .map(|(start, id)| format!("segment {id:016x} of facts from {}", start.start())),
        Some(&HOUR) => fields.u32().map(|hour| format!("sequence of hour {hour}")),
        _ => None,
    };
    words.unwrap_or_else(|| format!("unknown key {}", shared::text::hex(key)))
}
