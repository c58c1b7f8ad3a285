//! Facts that were judged again. A fact is never changed: whoever reads it puts the judgements over
//! it, in the order in which they were made.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use shared::{Kind, Minute, Verdict};

use super::block::Block;
use super::column::{Column, Name};
use super::select::Select;

/// Facts of these minutes that are meant have this verdict, whatever they had before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Judgement {
    range: Range<Minute>,
    select: Select,
    code: u8,
}

impl Judgement {
    /// Events of these minutes, and of a kind if one is given, that pass.
    pub(crate) fn new(
        range: Range<Minute>,
        event: Option<Kind>,
        which: Select,
        verdict: Verdict,
    ) -> Self {
        let all = event.map(Select::kind).into_iter();
        let select = all.chain([Select::Minutes(range.clone()), which]).collect();
        let code = verdict.map_or(0, shared::Reason::code);
        Self { range, select: Select::All(select), code }
    }
}

/// Judgements in their order: a later one sees the verdicts that those before it have given.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Overlay(Vec<Arc<Judgement>>);

impl Overlay {
    pub(crate) fn new(judgements: impl IntoIterator<Item = Judgement>) -> Self {
        Self(judgements.into_iter().map(Arc::new).collect())
    }

    /// The judgements on events of these minutes.
    pub(crate) fn of(&self, range: &Range<Minute>) -> Self {
        let meets = |own: &Range<Minute>| own.start < range.end && range.start < own.end;
        Self(self.0.iter().filter(|judgement| meets(&judgement.range)).cloned().collect())
    }

    /// Whether facts have the verdicts that they came with.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Hands the columns that it reads to `each`.
    pub(crate) fn names(&self, each: &mut impl FnMut(Name)) {
        for judgement in &self.0 {
            each(Name::Reason);
            judgement.select.names(each);
        }
    }

    /// The block with the verdicts that its facts have by now.
    pub(crate) fn judge<'a>(&self, block: &'a Block) -> Cow<'a, Block> {
        let mut judged = Cow::Borrowed(block);
        for judgement in &self.0 {
            let meant = judgement.select.rows(&judged, 0..judged.rows()).keep;
            if meant.contains(&1) {
                let codes = judged.column(Name::Reason);
                let code = |(row, meant): (usize, &u8)| match meant {
                    0 => codes.get(row),
                    _ => u64::from(judgement.code),
                };
                let codes = Column::new(meant.iter().enumerate().map(code));
                judged = Cow::Owned(judged.with(Name::Reason, codes));
            }
        }
        judged
    }
}
