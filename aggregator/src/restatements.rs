//! Restatements: events that were counted are judged again, all those that pass a filter. Each is a
//! document that is never changed; one that was wrong is taken back by another one.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use api::filter::Filter;
use object_store::ObjectStore;
use serde::{Deserialize, Serialize};
use shared::event::VERDICTS;
use shared::{Kind, Minute, Timestamp, Verdict};

use crate::documents::{Documents, Folder};
use crate::facts::{Judgement, Overlay, Select};
use crate::store::StoreError;

/// The most restatements that a deployment has.
pub(crate) const RESTATEMENTS_MAX: usize = 1_000;

/// What is judged again, and how.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum What {
    /// Events that pass get a verdict.
    Judged { filter: Filter, event: Option<Kind>, range: Range<Minute>, verdict: Verdict },
    /// An earlier restatement holds no more.
    TakesBack(u32),
}

/// A restatement. Its number is its place, from 1.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Restatement {
    pub(crate) what: What,
    pub(crate) why: String,
    pub(crate) at: Timestamp,
}

/// A restatement as it is stored.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Document {
    #[serde(rename = "where", default, skip_serializing_if = "Option::is_none")]
    filter: Option<serde_json::Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    event: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    minutes: Option<(u32, u32)>,
    /// The code of the verdict; 0: valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    verdict: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    takes_back: Option<u32>,
    why: String,
    at: u64,
}

impl From<&Restatement> for Document {
    fn from(restatement: &Restatement) -> Self {
        let Restatement { what, why, at } = restatement;
        let mut document = Self {
            filter: None,
            event: None,
            minutes: None,
            verdict: None,
            takes_back: None,
            why: why.clone(),
            at: at.0,
        };
        match what {
            What::TakesBack(id) => document.takes_back = Some(*id),
            What::Judged { filter, event, range, verdict } => {
                document.filter = Some(filter.to_json());
                document.event = event.map(Kind::code);
                document.minutes = Some((range.start.0, range.end.0));
                document.verdict = Some(verdict.map_or(0, shared::Reason::code));
            }
        }
        document
    }
}

impl Document {
    fn read(self) -> Option<Restatement> {
        let what = match self {
            Self { takes_back: Some(id), .. } => What::TakesBack(id),
            Self { filter, event, minutes, verdict, .. } => {
                let (from, to) = minutes?;
                let code = verdict?;
                let by_code = VERDICTS.iter().find(|reason| reason.code() == code).copied();
                let event = event.map(Kind::from_code);
                What::Judged {
                    filter: Filter::from_json(&filter?).ok()?,
                    event: event.map_or(Some(None), |kind| kind.map(Some))?,
                    range: Minute(from)..Minute(to),
                    verdict: if code == 0 { None } else { Some(by_code?) },
                }
            }
        };
        Some(Restatement { what, why: self.why, at: Timestamp(self.at) })
    }
}

/// Why a restatement is not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RestatementError {
    #[error("there is no restatement {0}; GET /v1/restatements lists them")]
    Unknown(u32),
    #[error("restatement {0} was taken back by {1}; make a new one instead")]
    TakenBack(u32, u32),
    #[error("restatement {0} takes another one back; make a new one instead")]
    TakesBack(u32),
    #[error("there are {RESTATEMENTS_MAX} restatements, and there may be no more")]
    TooMany,
    #[error("another restatement was made in the meantime; look at a dry run again")]
    Changed,
    #[error("{0}")]
    Store(#[from] StoreError),
}

/// All restatements, and what they come to.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Restated {
    all: Vec<Restatement>,
    /// What holds of them.
    pub(crate) overlay: Overlay,
}

impl Restated {
    fn new(all: Vec<Restatement>) -> Self {
        let mut restated = Self { all, overlay: Overlay::default() };
        let holds =
            (1..).zip(&restated.all).filter(|(id, _)| restated.taken_back_by(*id).is_none());
        let judgements = holds.filter_map(|(_, restatement)| match &restatement.what {
            What::TakesBack(_) => None,
            What::Judged { filter, event, range, verdict } => {
                Some(Judgement::new(range.clone(), *event, Select::from(filter), *verdict))
            }
        });
        restated.overlay = Overlay::new(judgements);
        restated
    }

    /// With their numbers, in the order in which they were made.
    pub(crate) fn all(&self) -> impl Iterator<Item = (u32, &Restatement)> {
        (1..).zip(&self.all)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    fn get(&self, id: u32) -> Option<&Restatement> {
        self.all.get(usize::try_from(id.checked_sub(1)?).ok()?)
    }

    /// The restatement that takes another one back.
    pub(crate) fn taken_back_by(&self, id: u32) -> Option<u32> {
        let by = self.all().find(|(_, other)| other.what == What::TakesBack(id));
        by.map(|(by, _)| by)
    }

    /// The minutes whose events a restatement judges, or judged no more.
    pub(crate) fn range(&self, restatement: &Restatement) -> Range<Minute> {
        match &restatement.what {
            What::Judged { range, .. } => range.clone(),
            What::TakesBack(id) => match self.get(*id).map(|taken| &taken.what) {
                Some(What::Judged { range, .. }) => range.clone(),
                _ => Minute(0)..Minute(0),
            },
        }
    }

    /// How often events of these minutes were judged again, or a judgement was taken back: so many
    /// revisions more they have.
    pub(crate) fn revisions(&self, range: &Range<Minute>) -> u64 {
        let ranges = self.all.iter().map(|restatement| self.range(restatement));
        ranges.filter(|own| own.start < range.end && range.start < own.end).count() as u64
    }

    /// These and another one.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn with(&self, restatement: Restatement) -> Result<Self, RestatementError> {
        if let What::TakesBack(id) = restatement.what {
            let taken = self.get(id).ok_or(RestatementError::Unknown(id))?;
            if matches!(taken.what, What::TakesBack(_)) {
                return Err(RestatementError::TakesBack(id));
            }
            if let Some(by) = self.taken_back_by(id) {
                return Err(RestatementError::TakenBack(id, by));
            }
        }
        if self.all.len() >= RESTATEMENTS_MAX {
            return Err(RestatementError::TooMany);
        }
        Ok(Self::new(self.all.iter().cloned().chain([restatement]).collect()))
    }
}

impl Folder for Restated {
    const NAME: &'static str = "restatements";
    type Document = Document;

    fn read(documents: BTreeMap<String, Document>) -> Result<Self, (String, String)> {
        let mut all = Vec::new();
        for (id, (found, document)) in (1..).zip(documents) {
            if found != name(id) {
                return Err((name(id), "it is missing".to_owned()));
            }
            match document.read() {
                Some(restatement) => all.push(restatement),
                None => return Err((found, "this build cannot read it".to_owned())),
            }
        }
        Ok(Self::new(all))
    }
}

/// The restatements of a deployment.
#[derive(Debug)]
pub(crate) struct Restatements(Documents<Restated>);

impl Restatements {
    pub(crate) fn new(objects: Arc<dyn ObjectStore>) -> Self {
        Self(Documents::new(objects))
    }

    /// All of them.
    pub(crate) async fn all(&self) -> Result<Arc<Restated>, StoreError> {
        self.0.all().await
    }

    /// Makes a restatement, if there are still as many as when it was looked at.
    pub(crate) async fn make(
        &self,
        restatement: Restatement,
        after: usize,
    ) -> Result<u32, RestatementError> {
        let id = u32::try_from(after + 1).map_err(|_| RestatementError::TooMany)?;
        let next = |before: &Restated| match before.len() == after {
            true => Ok((name(id), Document::from(&restatement), before.with(restatement)?)),
            false => Err(RestatementError::Changed),
        };
        self.0.add(next).await.map(|_| id)
    }
}

fn name(id: u32) -> String {
    format!("{id:010}")
}
