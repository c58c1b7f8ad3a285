//! Nodes: sketches of the visitors of those runs and periods that have so many events that reading
//! them would take long. A period is a minute, a quarter of an hour, an hour, a day or a month; a
//! node is of one run, one kind of event, and of valid or of flagged ones.
//!
//! Every period with more than [`ROWS_MIN`] events of its kind has a node, and no other: where there
//! is none, there is little to read.

use std::ops::Range;

use shared::bytes::Reader;
use shared::{Kind, Minute};

use crate::facts::block::Fact;
use crate::facts::uniques::Uniques;

/// A period with more events than this has a node.
pub(crate) const ROWS_MIN: usize = 1_024;
/// Bytes of a node among others.
const NODE_BYTES: usize = 29;
const DAY: u32 = 24 * 60;

/// How long the period of a node is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Span {
    /// A minute.
    Minute = 0,
    /// A quarter of an hour.
    Quarter = 1,
    /// An hour.
    Hour = 2,
    /// A day in UTC.
    Day = 3,
    /// All minutes of the segment.
    Whole = 4,
}

impl Span {
    const ALL: [Self; 5] = [Self::Minute, Self::Quarter, Self::Hour, Self::Day, Self::Whole];

    fn length(self) -> u32 {
        match self {
            Self::Minute => 1,
            Self::Quarter => 15,
            Self::Hour => 60,
            Self::Day => DAY,
            Self::Whole => u32::MAX,
        }
    }

    /// The period of this length that a minute is in.
    fn period(self, minute: u32) -> Range<u32> {
        let start = minute / self.length() * self.length();
        start..start.saturating_add(self.length())
    }

    /// The next shorter one.
    fn shorter(self) -> Option<Self> {
        Self::ALL.get((self as usize).checked_sub(1)?).copied()
    }
}

/// What a node is of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Key {
    run: u32,
    /// [`event`].
    event: u8,
    span: u8,
    /// The first minute of its period.
    start: u32,
}

/// A kind of event, valid or flagged, as one number.
pub(crate) const fn event(kind: u8, is_flagged: bool) -> u8 {
    kind << 1 | is_flagged as u8
}

/// A node: where its sketch is, and what else is known of its events.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Node {
    key: Key,
    /// How many events.
    pub(crate) events: u32,
    /// How many of them have no visitor.
    pub(crate) without_visitor: u32,
    /// Where the sketch begins among all.
    at: u32,
    length: u16,
    /// The first bytes of the sketch's BLAKE3 digest.
    digest: [u8; 5],
}

impl Node {
    /// Where its sketch is among all.
    pub(crate) fn bytes(&self) -> Range<u64> {
        let at = u64::from(self.at);
        at..at + u64::from(self.length)
    }

    /// Whether these are the bytes of its sketch.
    pub(crate) fn is_of(&self, sketch: &[u8]) -> bool {
        digest(sketch) == self.digest
    }
}

fn digest(sketch: &[u8]) -> [u8; 5] {
    let [a, b, c, d, e, ..] = *blake3::hash(sketch).as_bytes();
    [a, b, c, d, e]
}

/// The nodes of a segment, in the order of what they are of.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Nodes(Vec<Node>);

/// What there is of a run's events in a range: periods with nodes, and ranges of minutes with few
/// events each.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Cover {
    pub(crate) nodes: Vec<Node>,
    pub(crate) minutes: Vec<Range<Minute>>,
}

impl Nodes {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// All of them.
    pub(crate) fn all(&self) -> &[Node] {
        &self.0
    }

    /// Bytes on the heap.
    pub(super) fn bytes(&self) -> usize {
        self.0.capacity() * size_of::<Node>()
    }

    fn find(&self, key: Key) -> Option<&Node> {
        self.0.binary_search_by_key(&key, |node| node.key).ok().and_then(|at| self.0.get(at))
    }

    /// What there is of the events of a run in a range of minutes.
    pub(crate) fn cover(&self, run: usize, event: u8, range: &Range<Minute>) -> Cover {
        let mut cover = Cover::default();
        let Ok(run) = u32::try_from(run) else { return cover };
        let range = range.start.0..range.end.0;
        self.add(&mut cover, (run, event), Span::Whole, 0, &range);
        cover
    }

    fn add(&self, cover: &mut Cover, of: (u32, u8), span: Span, start: u32, range: &Range<u32>) {
        let period = span.period(start);
        let part = period.start.max(range.start)..period.end.min(range.end);
        if part.is_empty() {
            return;
        }
        let key = Key { run: of.0, event: of.1, span: span as u8, start: period.start };
        let node = self.find(key);
        match (node, span.shorter()) {
            (Some(node), _) if part == period => cover.nodes.push(*node),
            (Some(_), Some(shorter)) => {
                // Those periods alone in which the run has a node: the others have few events.
                let first =
                    Key { span: shorter as u8, start: shorter.period(part.start).start, ..key };
                let from = self.0.partition_point(|node| node.key < first);
                let of_same = |node: &&Node| {
                    (node.key.run, node.key.event, node.key.span) == (of.0, of.1, first.span)
                        && node.key.start < part.end
                };
                let starts = self.0.iter().skip(from).take_while(of_same);
                let mut from = part.start;
                for inner in starts.map(|node| node.key.start) {
                    push(cover, from..inner);
                    self.add(cover, of, shorter, inner, range);
                    from = shorter.period(inner).end.min(part.end).max(from);
                }
                push(cover, from..part.end);
            }
            _ => push(cover, part),
        }
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        for Node { key, events, without_visitor, at, length, digest } in &self.0 {
            out.extend(key.run.to_le_bytes());
            out.extend([key.event, key.span]);
            for word in [key.start, *events, *without_visitor, *at] {
                out.extend(word.to_le_bytes());
            }
            out.extend(length.to_le_bytes());
            out.extend(digest);
        }
    }

    /// Reads so many nodes.
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, &'static str> {
        let count = reader.count(NODE_BYTES, usize::MAX)?;
        let mut nodes = Vec::with_capacity(count);
        for _ in 0..count {
            let key = Key {
                run: reader.u32()?,
                event: reader.u8()?,
                span: reader.u8()?,
                start: reader.u32()?,
            };
            let (events, without_visitor, at) = (reader.u32()?, reader.u32()?, reader.u32()?);
            let length = u16::from_le_bytes(reader.array()?);
            let digest = reader.array()?;
            nodes.push(Node { key, events, without_visitor, at, length, digest });
        }
        match nodes.is_sorted_by_key(|node| node.key) {
            true => Ok(Self(nodes)),
            false => Err("nodes that are in no order"),
        }
    }
}

fn push(cover: &mut Cover, minutes: Range<u32>) {
    if !minutes.is_empty() {
        cover.minutes.push(Minute(minutes.start)..Minute(minutes.end));
    }
}

/// Events of one kind in one period that is not over.
#[derive(Debug, Default)]
struct Open {
    start: u32,
    events: u32,
    without_visitor: u32,
    visitors: Uniques<ROWS_MIN>,
}

/// Makes the nodes of facts, which come in the order of a segment.
#[derive(Debug, Default)]
pub(super) struct Maker {
    nodes: Vec<Node>,
    sketches: Vec<u8>,
    run: u32,
    /// Events of the run, as long as they are too few for a node: minute, event, visitor.
    few: Vec<(u32, u8, u64)>,
    /// The run has more.
    has_many: bool,
    /// By event and span, what is open.
    open: Vec<[Option<Open>; Span::ALL.len()]>,
}

impl Maker {
    /// Takes the next fact.
    pub(super) fn push(&mut self, run: usize, fact: &Fact) {
        let run = u32::try_from(run).unwrap_or(u32::MAX);
        if run != self.run {
            self.end_run();
            self.run = run;
        }
        let of = (fact.minute.0, event(fact.kind, fact.reason != 0), fact.visitor);
        if self.has_many {
            self.take(of);
            return;
        }
        self.few.push(of);
        if self.few.len() > ROWS_MIN {
            self.has_many = true;
            let few = std::mem::take(&mut self.few);
            few.into_iter().for_each(|of| self.take(of));
        }
    }

    fn take(&mut self, (minute, event, visitor): (u32, u8, u64)) {
        let at = usize::from(event);
        while self.open.len() <= at {
            self.open.push(std::array::from_fn(|_| None));
        }
        if self.open[at][0].as_ref().is_some_and(|open| open.start != minute) {
            self.close(event, Span::Minute);
        }
        let open =
            self.open[at][0].get_or_insert_with(|| Open { start: minute, ..Open::default() });
        open.events += 1;
        match visitor {
            0 => open.without_visitor += 1,
            visitor => open.visitors.add(visitor),
        }
    }

    /// Ends the open period of a span; it becomes part of the next longer one.
    fn close(&mut self, event: u8, span: Span) {
        let (at, level) = (usize::from(event), span as usize);
        let Some(open) = self.open[at][level].take() else { return };
        if open.events as usize > ROWS_MIN {
            self.node(event, span, &open);
        }
        let Some(longer) = Span::ALL.get(level + 1).copied() else { return };
        let start = longer.period(open.start).start;
        if self.open[at][level + 1].as_ref().is_some_and(|outer| outer.start != start) {
            self.close(event, longer);
        }
        let outer =
            self.open[at][level + 1].get_or_insert_with(|| Open { start, ..Open::default() });
        outer.events = outer.events.saturating_add(open.events);
        outer.without_visitor = outer.without_visitor.saturating_add(open.without_visitor);
        outer.visitors.merge(open.visitors);
    }

    fn node(&mut self, event: u8, span: Span, open: &Open) {
        let sketch = open.visitors.to_cpc();
        let (Ok(at), Ok(length)) =
            (u32::try_from(self.sketches.len()), u16::try_from(sketch.len()))
        else {
            return;
        };
        let key = Key { run: self.run, event, span: span as u8, start: open.start };
        let (events, without_visitor) = (open.events, open.without_visitor);
        let digest = digest(&sketch);
        self.sketches.extend(sketch);
        self.nodes.push(Node { key, events, without_visitor, at, length, digest });
    }

    fn end_run(&mut self) {
        self.few.clear();
        self.has_many = false;
        for event in 0..self.open.len() {
            let event = u8::try_from(event).unwrap_or(u8::MAX);
            Span::ALL.into_iter().for_each(|span| self.close(event, span));
        }
    }

    /// All nodes, and their sketches.
    pub(super) fn finish(mut self) -> (Nodes, Vec<u8>) {
        self.end_run();
        self.nodes.sort_unstable_by_key(|node| node.key);
        (Nodes(self.nodes), self.sketches)
    }
}

/// Events of a kind that have nodes: those that a question is about, if they are of one.
pub(crate) fn event_of(kind: Kind, validity: shared::Validity) -> Option<u8> {
    match validity {
        shared::Validity::Valid => Some(event(kind.code(), false)),
        shared::Validity::Invalid => Some(event(kind.code(), true)),
        shared::Validity::All => None,
    }
}
