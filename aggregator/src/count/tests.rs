//! Tests of the engine: against a model that is obviously right, in one run and with restarts.
#![allow(clippy::unwrap_used)]

mod cases;
mod hostile;
mod oracle;
mod properties;
mod script;
mod store;

use std::collections::{BTreeMap, BTreeSet};

use shared::counted::Amount;
use shared::wire::Judged;
use shared::wire::MessageView;
use shared::{
    AdId, BatchDigest, Codes, Currency, Dimensions, Fingerprint, Flags, Id, ImpressionId, Kind,
    Minute, Money, Network, OutboxId, PublisherId, Region, RuleSet, SourceId, Timestamp, Validity,
};

use super::{Cell, CellAmount, Engine, Finality, Gap, MinuteAccount, SourceState, Told};
use store::Store;

/// The answers to everything that can be asked of a partition.
#[derive(Clone, PartialEq, Debug, Default)]
struct Answers {
    clock: Timestamp,
    cells: BTreeMap<(Minute, Dimensions), u64>,
    amounts: BTreeMap<(Minute, Dimensions, Amount, Currency), i64>,
    totals: BTreeMap<(Minute, AdId, Kind, bool), u64>,
    told: BTreeMap<(Minute, PublisherId), Told>,
    accounts: BTreeMap<Minute, MinuteAccount>,
    finality: Finality,
    gaps: Vec<(OutboxId, Vec<u64>)>,
    conflicts: BTreeSet<(OutboxId, u64, BatchDigest)>,
    sources: BTreeMap<SourceId, SourceState>,
}

/// What memory and store answer together: memory alone for resident minutes, both for older ones.
fn answers(engine: &Engine, store: &Store, sources: &[SourceId]) -> Answers {
    let mut answers =
        Answers { clock: engine.clock(), finality: engine.finality(), ..Answers::default() };
    let everything = (Minute(0), Minute(u32::MAX));
    for (minute, rows) in store.minutes.range(..engine.resident_from()) {
        rows.cells.iter().for_each(|(d, n)| *answers.cells.entry((*minute, *d)).or_default() += n);
        rows.spend.iter().for_each(|((d, amount, c), n)| {
            *answers.amounts.entry((*minute, *d, *amount, *c)).or_default() += n;
        });
        rows.totals.iter().for_each(|((ad, kind, valid), n)| {
            *answers.totals.entry((*minute, *ad, *kind, *valid)).or_default() += n;
        });
        for (publisher, told) in &rows.told {
            answers.told.entry((*minute, *publisher)).or_default().add(*told);
        }
        answers.accounts.entry(*minute).or_default().add(&rows.account);
    }
    for (minute, account) in engine.account(everything.0, everything.1) {
        answers.accounts.entry(minute).or_default().add(&account);
        engine.cells(minute, &mut |cell: &Cell| {
            *answers.cells.entry((minute, cell.dimensions)).or_default() += cell.count;
        });
        engine.amounts(minute, &mut |of: &CellAmount| {
            let key = (minute, of.dimensions, of.amount, of.currency);
            *answers.amounts.entry(key).or_default() += of.micros;
        });
        let next = Minute(minute.0 + 1);
        for (publisher, told) in engine.told(minute, next) {
            answers.told.entry((minute, publisher)).or_default().add(told);
        }
        for kind in Kind::ALL {
            let mut all: BTreeMap<AdId, u64> = BTreeMap::new();
            for (validity, valid) in [(Validity::Valid, true), (Validity::Invalid, false)] {
                engine.ad_totals(minute, *kind, validity, &mut |ad, n| {
                    *answers.totals.entry((minute, ad, *kind, valid)).or_default() += n;
                    *all.entry(ad).or_default() += n;
                    assert_eq!(engine.ad_count(ad, *kind, validity, minute, next), n);
                });
            }
            let mut both: BTreeMap<AdId, u64> = BTreeMap::new();
            let mut add = |ad, n| *both.entry(ad).or_default() += n;
            engine.ad_totals(minute, *kind, Validity::All, &mut add);
            assert_eq!(both, all);
            for (ad, n) in all {
                assert_eq!(engine.ad_count(ad, *kind, Validity::All, minute, next), n);
            }
        }
    }
    // A hostile number leaves up to 2^63 missing: the first 40 000 are enough to compare.
    let flat = |gap: Gap| (gap.outbox, gap.missing.into_iter().flatten().take(40_000).collect());
    answers.gaps = engine.gaps().into_iter().map(flat).collect();
    for (outbox, state) in engine.conflicts() {
        let all = state.contents.conflicts.iter().map(|one| (outbox, one.number, one.skipped));
        answers.conflicts.extend(all);
    }
    let state = |source: &SourceId| Some((*source, engine.source(*source)?));
    answers.sources = sources.iter().filter_map(state).collect();
    answers
}

/// Reads a message that is known to be good.
fn read(bytes: &[u8]) -> MessageView<'_> {
    MessageView::read(bytes).unwrap()
}

/// An event of which nothing is known, for tests to fill in.
fn blank() -> Judged<'static> {
    Judged {
        issuer: Id::NONE,
        id: ImpressionId::default(),
        kind: Kind::Served,
        outcome: Ok(None),
        at: Timestamp(0),
        issued: None,
        ad: Id::NONE,
        campaign: Id::NONE,
        advertiser: Id::NONE,
        publisher: Id::NONE,
        placement: Id::NONE,
        names: &[],
        codes: Codes::default(),
        region: Region::UNKNOWN,
        network: Network::default(),
        visitor: Fingerprint::NONE,
        flags: Flags(0),
        rules: RuleSet::UNKNOWN,
        page: None,
        price: Money::ZERO,
        proof: b"",
    }
}
