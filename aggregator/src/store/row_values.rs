//! What the values of rows have in common: the version in front, and lists of entries by key.

use shared::bytes::Reader;

/// Why a value could not be read: what was expected.
pub(crate) type Unreadable = &'static str;

/// A reader behind the version with which a value begins. Any other version is refused.
pub(crate) fn versioned(value: &[u8], version: u8) -> Result<Reader<'_>, Unreadable> {
    match value.split_first() {
        Some((first, rest)) if *first == version => Ok(Reader::new(rest)),
        Some(_) => Err("a version that this build does not know"),
        None => Err("an empty value"),
    }
}

/// Adds up the entries that have the same key, and returns them in the order of their keys. `add`
/// adds the second value to the first.
pub(crate) fn sum<K: Ord + Copy, V>(
    mut entries: Vec<(K, V)>,
    mut add: impl FnMut(&mut V, V) -> Result<(), Unreadable>,
) -> Result<Vec<(K, V)>, Unreadable> {
    entries.sort_by_key(|(key, _)| *key);
    let mut sums: Vec<(K, V)> = Vec::with_capacity(entries.len());
    for (key, value) in entries {
        match sums.last_mut() {
            Some((last, total)) if *last == key => add(total, value)?,
            _ => sums.push((key, value)),
        }
    }
    Ok(sums)
}

/// Checks that the keys of a list are in order, each once.
pub(crate) fn in_order<K: Ord, V>(entries: Vec<(K, V)>) -> Result<Vec<(K, V)>, Unreadable> {
    if entries.windows(2).all(|pair| pair[0].0 < pair[1].0) {
        Ok(entries)
    } else {
        Err("a list that is out of order")
    }
}
