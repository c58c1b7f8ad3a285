//! Facts, added up as the oracle adds up events.

use std::collections::BTreeMap;

use aggregator::facts::{Block, Name};
use shared::{AdId, Kind, Minute};

/// How many facts there are by minute, ad, kind and validity.
pub(super) type Facts = BTreeMap<(Minute, AdId, Kind, bool), u64>;

/// Adds those of a block.
pub(super) fn add(facts: &mut Facts, block: &Block) {
    for row in 0..block.rows() {
        let number = |name: Name| block.column(name).get(row);
        let minute = Minute(u32::try_from(number(Name::Minute)).unwrap_or(u32::MAX));
        let kind = u8::try_from(number(Name::Kind)).ok().and_then(Kind::from_code);
        let ad = block.id(number(Name::Ad)).cast();
        let key = (minute, ad, kind.unwrap_or(Kind::Served), number(Name::Reason) == 0);
        *facts.entry(key).or_default() += 1;
    }
}

/// Those of one minute.
pub(super) fn of_minute(facts: &Facts, minute: Minute) -> Facts {
    let first = |minute| (minute, AdId::NONE, Kind::Served, false);
    let next = Minute(minute.0.saturating_add(1));
    facts.range(first(minute)..first(next)).map(|(key, count)| (*key, *count)).collect()
}
