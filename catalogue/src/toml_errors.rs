//! Lists every wrong place of a catalogue that is TOML but has wrong entries. Reading the whole at once stops
//! at the first wrong entry, so here each is read by itself.

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::{AdEntry, CatalogueError, Lifetimes, Links, PlacementEntry, Written, check};

/// All errors in `text`; `first` is the error of reading it as a whole.
pub(super) fn collect(text: &str, first: &toml::de::Error) -> CatalogueError {
    let first = || CatalogueError(vec![first.to_string()]);
    // When the text is no TOML, the error of the TOML reader is best, for it shows the line.
    let Ok(mut table) = text.parse::<Table>() else { return first() };
    let mut found = Vec::new();
    let (lifetimes, links) =
        (section(&mut table, "lifetimes", &mut found), section(&mut table, "links", &mut found));
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
    // A single error, too, is reported best by the TOML reader, with its line; and so is one that shows in no
    // entry by itself.
    if found.len() <= 1 { first() } else { CatalogueError(super::shown(found)) }
}

/// An entry of a list.
trait Entry {
    /// Sets the entry's index in the written list, which differs from that in the list of good entries.
    fn set_index(&mut self, index: usize);
}

impl Entry for AdEntry {
    fn set_index(&mut self, index: usize) {
        self.index = Some(index);
    }
}

impl Entry for PlacementEntry {
    fn set_index(&mut self, index: usize) {
        self.index = Some(index);
    }
}

/// Reads one section by itself; none when it is missing or wrong.
fn section<T: DeserializeOwned>(
    table: &mut Table,
    name: &str,
    found: &mut Vec<String>,
) -> Option<T> {
    let read = table.remove(name)?.try_into();
    read.map_err(|error: toml::de::Error| found.push(format!("{name}: {}", error.message()))).ok()
}

/// Reads each entry of a list by itself. Gives those that could be read, and the ids of the others.
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
    for (index, entry) in entries.into_iter().enumerate() {
        let id = entry.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
        match entry.try_into::<T>() {
            Ok(mut entry) => {
                entry.set_index(index);
                read.push(entry);
            }
            Err(error) => {
                found.push(format!("{name}[{index}] ({id:?}): {}", error.message().trim_end()));
                bad.push(id);
            }
        }
    }
    (read, bad)
}
