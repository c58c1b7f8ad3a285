//! Stored filters: named, numbered and versioned predicates that questions may use. Each version is
//! an object of its own beside the checkpoints, which is never written again. So versions can be
//! asked for as long as the deployment lives, and no number is ever given out twice.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::filter::Filter;
use object_store::ObjectStore;
use serde::{Deserialize, Serialize};
use shared::Timestamp;

use crate::documents::{Documents, Folder};
use crate::store::StoreError;

/// The folder of the objects.
const FOLDER: &str = "filters";
/// The most filters that a deployment has, the deleted ones included.
pub(crate) const FILTERS_MAX: usize = 10_000;
/// The most versions of one filter.
pub(crate) const VERSIONS_MAX: usize = 1_000;

/// One version of a filter, as it is stored.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Version {
    pub(crate) name: String,
    /// The filter as JSON; none from the version on that deletes it.
    pub(crate) filter: Option<serde_json::Value>,
    /// When it was written, in ms.
    pub(crate) at: u64,
}

/// A filter, as it is used.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Stored {
    pub(crate) id: u32,
    /// From 1.
    pub(crate) version: usize,
    pub(crate) name: String,
    pub(crate) filter: Filter,
    pub(crate) at: Timestamp,
}

/// Why there is no such filter, or it is not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FilterError {
    #[error("there is no filter {0}; GET /v1/filters lists them")]
    Unknown(u32),
    #[error("filter {0} has no version {1}; there are {2}")]
    NoVersion(u32, usize, usize),
    #[error("filter {0} was deleted; its versions can still be read with ?version=")]
    Deleted(u32),
    #[error("there is, or was, a filter {0}: no number is used twice; leave filter_id out")]
    Exists(u32),
    #[error("there are {FILTERS_MAX} filters, and there may be no more; deleted ones count too")]
    TooMany,
    #[error("filter {0} has {VERSIONS_MAX} versions, and may have no more; make another filter")]
    TooManyVersions(u32),
    #[error("{0}")]
    Store(#[from] StoreError),
}

/// The versions of each filter.
#[derive(Clone, Debug, Default)]
struct All(BTreeMap<u32, Vec<Version>>);

impl Folder for All {
    const NAME: &'static str = FOLDER;
    type Document = Version;

    fn read(all: BTreeMap<String, Version>) -> Result<Self, (String, String)> {
        let mut found: BTreeMap<(u32, usize), Version> = BTreeMap::new();
        for (name, version) in all {
            match key(&name) {
                Some(key) => found.insert(key, version),
                None => return Err((name, "not the name of a filter".to_owned())),
            };
        }
        let mut filters = Self::default();
        for ((id, number), version) in found {
            let versions = filters.0.entry(id).or_default();
            if number != versions.len() + 1 {
                return Err((document(id, versions.len() + 1), "it is missing".to_owned()));
            }
            versions.push(version);
        }
        Ok(filters)
    }
}

impl All {
    /// With one version more, which is the next of its filter: its name, it, and all.
    fn with(&self, id: u32, version: Version) -> (String, Version, Self) {
        let mut all = self.clone();
        let versions = all.0.entry(id).or_default();
        versions.push(version.clone());
        (document(id, versions.len()), version, all)
    }

    fn newest(&self, id: u32) -> Result<Stored, FilterError> {
        let versions = self.0.get(&id).ok_or(FilterError::Unknown(id))?;
        stored(id, versions, versions.len())
    }
}

/// All filters.
#[derive(Debug)]
pub(crate) struct Filters(Documents<All>);

impl Filters {
    pub(crate) fn new(objects: Arc<dyn ObjectStore>) -> Self {
        Self(Documents::new(objects))
    }

    /// The filters that are not deleted, in the order of their numbers.
    pub(crate) async fn all(&self) -> Result<Vec<Stored>, FilterError> {
        let all = self.0.all().await?;
        let newest = all.0.iter().filter(|(_, versions)| is_there(versions));
        newest.map(|(id, versions)| stored(*id, versions, versions.len())).collect()
    }

    /// A filter: its newest version, or another one.
    pub(crate) async fn get(&self, id: u32, version: Option<usize>) -> Result<Stored, FilterError> {
        let all = self.0.all().await?;
        let versions = all.0.get(&id).ok_or(FilterError::Unknown(id))?;
        match version {
            None if !is_there(versions) => Err(FilterError::Deleted(id)),
            None => stored(id, versions, versions.len()),
            Some(version) => stored(id, versions, version),
        }
    }

    /// Makes a filter, with the number that is given or the next one.
    pub(crate) async fn make(
        &self,
        id: Option<u32>,
        name: &str,
        filter: &Filter,
        at: Timestamp,
    ) -> Result<Stored, FilterError> {
        let version = Version { name: name.to_owned(), filter: Some(filter.to_json()), at: at.0 };
        let mut made = 0;
        let next = |known: &All| {
            if known.0.len() >= FILTERS_MAX {
                return Err(FilterError::TooMany);
            }
            let next = known.0.last_key_value().map_or(Some(1), |(last, _)| last.checked_add(1));
            // Somebody has chosen the largest number: the least that was never used then.
            let free = || (1..=u32::MAX).find(|id| !known.0.contains_key(id));
            made = id.or(next).or_else(free).ok_or(FilterError::TooMany)?;
            match known.0.contains_key(&made) {
                true => Err(FilterError::Exists(made)),
                false => Ok(known.with(made, version)),
            }
        };
        let all = self.0.add(next).await?;
        all.newest(made)
    }

    /// Writes the next version of a filter: with what is given anew, and the rest as it was.
    pub(crate) async fn change(
        &self,
        id: u32,
        name: Option<&str>,
        filter: Option<&Filter>,
        at: Timestamp,
    ) -> Result<Stored, FilterError> {
        let change = |last: &Version| {
            let filter = filter.map(Filter::to_json).or_else(|| last.filter.clone());
            (name.unwrap_or(&last.name).to_owned(), filter)
        };
        self.next(id, at, change).await?.newest(id)
    }

    /// Deletes a filter. Its number stays used.
    pub(crate) async fn delete(&self, id: u32, at: Timestamp) -> Result<(), FilterError> {
        self.next(id, at, |last| (last.name.clone(), None)).await.map(drop)
    }

    async fn next(
        &self,
        id: u32,
        at: Timestamp,
        change: impl FnOnce(&Version) -> (String, Option<serde_json::Value>),
    ) -> Result<Arc<All>, FilterError> {
        let next = |known: &All| {
            let versions = known.0.get(&id).ok_or(FilterError::Unknown(id))?;
            let last = versions.last().filter(|last| last.filter.is_some());
            let last = last.ok_or(FilterError::Deleted(id))?;
            if versions.len() >= VERSIONS_MAX {
                return Err(FilterError::TooManyVersions(id));
            }
            let (name, filter) = change(last);
            Ok(known.with(id, Version { name, filter, at: at.0 }))
        };
        self.0.add(next).await
    }
}

fn is_there(versions: &[Version]) -> bool {
    versions.last().is_some_and(|last| last.filter.is_some())
}

fn stored(id: u32, versions: &[Version], number: usize) -> Result<Stored, FilterError> {
    let version = number.checked_sub(1).and_then(|at| versions.get(at));
    let version = version.ok_or(FilterError::NoVersion(id, number, versions.len()))?;
    let filter = version.filter.as_ref().ok_or(FilterError::Deleted(id))?;
    let filter = Filter::from_json(filter).map_err(|error| {
        StoreError::Damaged(format!("{FOLDER}/{}: {error}", document(id, number)))
    })?;
    let (name, at) = (version.name.clone(), Timestamp(version.at));
    Ok(Stored { id, version: number, name, filter, at })
}

fn document(id: u32, version: usize) -> String {
    format!("{id:010}/{version:04}")
}

fn key(name: &str) -> Option<(u32, usize)> {
    let (id, version) = name.split_once('/')?;
    Some((id.parse().ok()?, version.parse().ok()?))
}
