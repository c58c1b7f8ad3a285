//! Every place of a TOML catalogue that is wrong, when its text is TOML and its entries are not all what they
//! must be: a reader of the whole stops at the first.

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::{AdEntry, CatalogueError, Lifetimes, Links, PlacementEntry, Written, check};

/// What is wrong with it; `first` is what its reader has said.
pub(super) fn wrong(text: &str, first: &toml::de::Error) -> CatalogueError {
    let first = || CatalogueError(vec![first.to_string()]);
    // What is no TOML is said best by its reader, which shows the line.
    let Ok(mut table) = text.parse::<Table>() else { return first() };
    let mut found = Vec::new();
    let (lifetimes, links) =
        (one(&mut table, "lifetimes", &mut found), one(&mut table, "links", &mut found));
    let (ads, bad) = list::<AdEntry>(&mut table, "ads", &mut found);
    let (placements, _) = list::<PlacementEntry>(&mut table, "placements", &mut found);
    found.extend(table.keys().map(|name| format!("{name}: nothing is called so here")));
    let file = Written {
        lifetimes: lifetimes.unwrap_or_else(Lifetimes::default),
        links: links.unwrap_or_else(Links::default),
        ads,
        placements,
    };
    if let Err(CatalogueError(more)) = check(file, bad) {
        found.extend(more);
    }
    // One alone is said with its line, too, and what no entry shows by itself.
    if found.len() <= 1 { first() } else { CatalogueError(super::shown(found)) }
}

/// An entry of a list.
trait Entry {
    /// Its place there, though others were left out.
    fn stands_at(&mut self, at: usize);
}

impl Entry for AdEntry {
    fn stands_at(&mut self, at: usize) {
        self.at = Some(at);
    }
}

impl Entry for PlacementEntry {
    fn stands_at(&mut self, at: usize) {
        self.at = Some(at);
    }
}

/// A section by itself.
fn one<T: DeserializeOwned>(table: &mut Table, name: &str, found: &mut Vec<String>) -> Option<T> {
    let read = table.remove(name)?.try_into();
    read.map_err(|error: toml::de::Error| found.push(format!("{name}: {}", error.message()))).ok()
}

/// Its entries that can be read, and the names of the others.
fn list<T: DeserializeOwned + Entry>(
    table: &mut Table,
    name: &str,
    found: &mut Vec<String>,
) -> (Vec<T>, Vec<String>) {
    let (mut read, mut bad) = (Vec::new(), Vec::new());
    let entries = match table.remove(name) {
        Some(Value::Array(entries)) => entries,
        Some(_) => {
            found.push(format!("{name}: they are written [[{name}]], each by itself"));
            return (read, bad);
        }
        None => return (read, bad),
    };
    for (at, entry) in entries.into_iter().enumerate() {
        let id = entry.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
        match entry.try_into::<T>() {
            Ok(mut entry) => {
                entry.stands_at(at);
                read.push(entry);
            }
            Err(error) => {
                found.push(format!("{name}[{at}] ({id:?}): {}", error.message().trim_end()));
                bad.push(id);
            }
        }
    }
    (read, bad)
}
