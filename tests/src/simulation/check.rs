//! The invariants: after every step, and in the end.

use std::collections::{BTreeMap, BTreeSet};

use aggregator::count::{CellAmount, MinuteAccount, MinuteRows};
use shared::counted::Amount;
use shared::import;
use shared::keys::registered_name;
use shared::limits::HORIZON_MS;
use shared::token::Unverified;
use shared::wire::Batch;
use shared::{AdId, EdgeId, Id, ImpressionId, Kind, Minute, Reason, Validity};

use super::centre::Partition;
use super::edge::Edge;
use super::facts;
use super::hostile;
use super::oracle::Account;
use super::world::{ISSUER, Summary, World, logged};

impl World<'_> {
    /// Checks what must hold after every step.
    pub(super) fn check(&mut self) -> Result<(), String> {
        for (at, partition) in self.centre.partitions.iter().enumerate() {
            check_partition(partition).map_err(|what| format!("partition {at}: {what}"))?;
            self.check_waiting(partition).map_err(|what| format!("partition {at}: {what}"))?;
            let finality = partition.engine.finality();
            for (minute, account) in accounts(partition) {
                if !finality.is_final(minute) {
                    continue;
                }
                let key = (at, minute, account.revision);
                let before = *self.finals.entry(key).or_insert(account.counted);
                if before != account.counted {
                    return Err(format!(
                        "partition {at}: final minute {minute:?} had {before} and has {} events, \
                         both at revision {}",
                        account.counted, account.revision
                    ));
                }
            }
        }
        Ok(())
    }

    /// While a batch is missing of an outbox that a partition knows, the minutes of its events are
    /// provisional in that partition, however long the edge is silent. That ends when the minutes
    /// are behind the horizon, where nothing is counted any more.
    fn check_waiting(&self, partition: &Partition) -> Result<(), String> {
        let finality = partition.engine.finality();
        let batches = self.edges.iter().flat_map(|edge| &edge.declared);
        let waiting =
            batches.filter(|batch| partition.oracle.waits_for(batch.outbox, batch.number));
        let horizon = partition.oracle.clock.minus_ms(HORIZON_MS);
        for batch in waiting {
            for (minute, _) in batch.minutes.iter().filter(|(minute, _)| minute.end() > horizon) {
                if finality.is_final(*minute) || finality.behind(*minute) == 0 {
                    return Err(format!("{minute:?} is final, and {batch:?} has not come"));
                }
            }
        }
        Ok(())
    }

    /// Checks in the end that what is on the edges' disks and in the imported logs is what was
    /// counted: as often, in the same minutes, in the same partitions. A partition whose log has
    /// lost messages must only stand still.
    pub(super) fn check_conservation(&self) -> Result<Summary, String> {
        let mut sum = Account::default();
        let expected = self.expected();
        let mut stopped = 0;
        for (number, partition) in (0_u16..).zip(&self.centre.partitions) {
            if partition.is_cut_off(&self.centre.log) {
                stopped += 1;
                continue;
            }
            let own = self.check_delivered(number, partition, &expected);
            sum.add(&own.map_err(|what| format!("partition {number}: {what}"))?);
        }
        if stopped == 0 {
            let received: u64 = expected.received.values().sum();
            same("received and outcomes", received + sum.imported, sum.outcomes())?;
            self.check_batches()?;
        }
        let accepted: u64 = self.edges.iter().map(|edge| edge.accepted).sum();
        let untold: u64 = self.edges.iter().map(Edge::untold).sum();
        let tallied: u64 = self.edges.iter().map(|edge| edge.tallied).sum();
        same("tallied", tallied, expected.tallied + untold)?;
        if accepted > expected.events {
            return Err(format!("{accepted} events accepted, {} on disk", expected.events));
        }
        Ok(Summary {
            counted: sum.counted,
            duplicate: sum.duplicate,
            reasons: sum.reasons.iter().sum(),
            tests: sum.reason(Reason::Test),
            clock_ahead: sum.reason(Reason::ClockAhead),
            stopped,
            lies: self.centre.lies.len() as u64,
            turned_away: self.centre.turned_away,
        })
    }

    /// Checks that every event which a batch declared has one outcome, whoever sent the batch. Left
    /// out are batches of a hostile sender that had the number of another: some partitions may have
    /// taken the one, some the other.
    fn check_batches(&self) -> Result<(), String> {
        let honest = self.edges.iter().flat_map(|edge| &edge.disk);
        let mut contents: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for bytes in honest.chain(&self.centre.lies) {
            let batch = Batch::read(bytes).expect("it was sent");
            contents.entry((batch.outbox, batch.number)).or_default().push(batch);
        }
        for (key, batches) in contents {
            let [batch] = &batches[..] else { continue };
            let partitions = || self.centre.partitions.iter().map(|partition| &partition.oracle);
            if partitions().any(|oracle| oracle.is_over(key.0)) {
                continue;
            }
            let declared: u64 = batch.declared().iter().map(|(_, count)| u64::from(*count)).sum();
            let mut outcomes = 0;
            for oracle in partitions() {
                let told = oracle.told.get(&key).copied().unwrap_or_default();
                same("what a batch declares", declared, told.declared)?;
                outcomes += told.outcomes;
            }
            same("what a batch declares, and what became of it", declared, outcomes)?;
        }
        Ok(())
    }

    fn check_delivered(
        &self,
        number: u16,
        partition: &Partition,
        expected: &Expected,
    ) -> Result<Account, String> {
        let is_honest = |edge: EdgeId| edge != hostile::EDGE;
        let gaps = partition.engine.gaps();
        if let Some(gap) = gaps.iter().find(|gap| is_honest(registered_name(gap.outbox.edge))) {
            return Err(format!("everything was delivered, and there is {gap:?}"));
        }
        let mut own = Account::default();
        let mut declared: BTreeMap<Minute, u64> = BTreeMap::new();
        let accounts = partition.oracle.accounts.iter();
        for ((_, minute), account) in accounts.filter(|((edge, _), _)| is_honest(*edge)) {
            own.add(account);
            if account.declared > 0 {
                *declared.entry(*minute).or_default() += account.declared;
            }
        }
        if self.is_moved() {
            // Which minute was the nearest that was allowed, only the collector knew.
            let [should, is] = [&expected.received, &declared].map(|by| by.values().sum::<u64>());
            same("declared, in all", should, is)?;
        } else {
            same("declared, minute by minute", &expected.received, &declared)?;
        }
        let mut unique = 0;
        for (source, rows) in &self.sent_rows {
            same("rows of a log", *rows, partition.rows(*source))?;
            let here = |row: &u64| {
                let block = import::impression(*source, *row).block;
                self.map.of_block(import::ISSUER, block) == number
            };
            unique += (0..*rows).filter(here).flat_map(logged).count() as u64;
        }
        let here = |of: &&(ImpressionId, Kind)| self.map.of_block(ISSUER, of.0.block) == number;
        unique += expected.valid.iter().filter(here).count() as u64;
        let tests = expected.tests.iter().filter(here).count() as u64;
        let tested = own.reason(Reason::Test);
        // An event that was rejected for one of these reasons may have been the only copy.
        let lost = own.reason(Reason::TooLate)
            + own.reason(Reason::EdgeRetired)
            + own.reason(Reason::ClockAhead);
        if lost == 0 {
            same("unique valid events and counted ones", unique, own.counted)?;
            same("unique events of tests", tests, tested)?;
        } else if own.counted > unique
            || tested > tests
            || own.counted + tested + lost < unique + tests
        {
            let counted = own.counted;
            return Err(format!("{unique} and {tests}: {counted} and {tested}, {lost} refused"));
        }
        Ok(own)
    }

    /// Whether any event of an edge may have been moved to another minute: it came from further
    /// ahead than clocks may differ, or from behind the horizon, and was declared in the nearest
    /// minute that is allowed. A partition that stands still does not tell.
    fn is_moved(&self) -> bool {
        const MOVED: [Reason; 3] = [Reason::ClockAhead, Reason::TooLate, Reason::EdgeRetired];
        self.centre.partitions.iter().any(|partition| {
            let accounts = partition.oracle.accounts.iter();
            let mut honest = accounts.filter(|((edge, _), _)| *edge != hostile::EDGE);
            partition.is_cut_off(&self.centre.log)
                || honest.any(|(_, account)| MOVED.iter().any(|why| account.reason(*why) > 0))
        })
    }

    /// What should be counted by the edges' disks, worked out without the centre's code, except the
    /// rules of its judge.
    fn expected(&self) -> Expected {
        let mut expected = Expected::default();
        let keyring = self.keys.keyring().expect("good keys");
        for bytes in self.edges.iter().flat_map(|edge| &edge.disk) {
            let batch = Batch::read(bytes).expect("an edge seals whole batches");
            for (minute, count) in batch.declared() {
                *expected.received.entry(minute).or_default() += u64::from(count);
            }
            let tallied: u64 = batch.tallies.iter().map(|tally| u64::from(tally.count)).sum();
            expected.tallied += tallied;
            expected.events += batch.events.len() as u64;
            for event in batch.events {
                let token = Unverified::read(event.token, self.keys.deployment)
                    .and_then(|token| token.verify(&keyring, event.at));
                let (token, _) = token.expect("an edge takes good tokens only");
                // A test stays a test, whatever verdict the edge has on the visitor.
                let is_counted = event.verdict.is_none() || token.test;
                if is_counted && token.check_time(event.kind, event.at).is_ok() {
                    let set = if token.test { &mut expected.tests } else { &mut expected.valid };
                    set.insert((token.id, event.kind));
                }
            }
        }
        expected
    }
}

#[derive(Default)]
struct Expected {
    received: BTreeMap<Minute, u64>,
    events: u64,
    tallied: u64,
    valid: BTreeSet<(ImpressionId, Kind)>,
    tests: BTreeSet<(ImpressionId, Kind)>,
}

/// Checks that the engine, with memory and store together, agrees with the oracle.
fn check_partition(partition: &Partition) -> Result<(), String> {
    let Partition { engine, oracle, .. } = partition;
    same("the log's clock", oracle.clock, engine.clock())?;
    same("the watermark", oracle.watermark(), engine.finality().watermark)?;
    let says: BTreeMap<Minute, Account> = accounts(partition)
        .map(|(minute, account)| {
            let MinuteAccount { declared, imported, counted, duplicate, reasons, .. } = account;
            (minute, Account { declared, imported, counted, duplicate, reasons })
        })
        .filter(|(_, account)| *account != Account::default())
        .collect();
    let mut should: BTreeMap<Minute, Account> = BTreeMap::new();
    for ((_, minute), account) in &oracle.accounts {
        should.entry(*minute).or_default().add(account);
    }
    should.retain(|_, account| *account != Account::default());
    same("the accounts", &should, &says)?;
    let mut amounts: BTreeMap<Amount, i64> = BTreeMap::new();
    let facts = partition.facts();
    same("facts of minutes", oracle.totals.values().sum::<u64>(), facts.values().sum())?;
    for minute in says.keys() {
        let finality = engine.finality();
        same("how many are behind", oracle.behind(*minute), finality.behind(*minute))?;
        let is_final = oracle.watermark() >= minute.end();
        same("final", is_final, finality.is_final(*minute))?;
        let stored = stored(partition, *minute);
        let mut totals: BTreeMap<(Minute, AdId, Kind, bool), u64> = BTreeMap::new();
        for total in stored.iter().flat_map(|rows| &rows.totals) {
            *totals.entry((*minute, total.ad, total.kind, total.valid)).or_default() += total.count;
        }
        for kind in Kind::ALL {
            for (validity, valid) in [(Validity::Valid, true), (Validity::Invalid, false)] {
                engine.ad_totals(*minute, *kind, validity, &mut |ad, count| {
                    *totals.entry((*minute, ad, *kind, valid)).or_default() += count;
                });
            }
        }
        let ends = (*minute, Minute(minute.0 + 1));
        let should = oracle
            .totals
            .range((ends.0, Id::NONE, Kind::Served, false)..(ends.1, Id::NONE, Kind::Served, false))
            .map(|(key, n)| (*key, *n))
            .collect();
        same("the totals", &should, &totals)?;
        same("the facts", &should, &facts::of_minute(&facts, *minute))?;
        let mut add = |row: &CellAmount| *amounts.entry(row.amount).or_default() += row.micros;
        stored.iter().flat_map(|rows| &rows.amounts).for_each(&mut add);
        engine.amounts(*minute, &mut add);
    }
    amounts.retain(|_, micros| *micros != 0);
    same("the amounts", &oracle.amounts, &amounts)?;
    for (source, rows) in &oracle.rows {
        same("the rows of a log", *rows, partition.rows(*source))?;
    }
    Ok(())
}

/// A minute's rows in the store, if they are not in memory.
fn stored(partition: &Partition, minute: Minute) -> Option<&MinuteRows> {
    let resident = minute >= partition.engine.resident_from();
    if resident { None } else { partition.stored(minute) }
}

/// The accounts of all minutes, memory and store together.
fn accounts(partition: &Partition) -> impl Iterator<Item = (Minute, MinuteAccount)> {
    let mut accounts: BTreeMap<Minute, MinuteAccount> =
        partition.engine.account(Minute(0), Minute(u32::MAX)).into_iter().collect();
    let minutes: BTreeSet<_> = partition.oracle.accounts.keys().map(|(_, minute)| minute).collect();
    for minute in minutes {
        if let Some(rows) = stored(partition, *minute) {
            accounts.entry(*minute).or_default().add(&rows.account);
        }
    }
    accounts.into_iter()
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, should: T, is: T) -> Result<(), String> {
    if should == is {
        return Ok(());
    }
    Err(format!("{what}: should be {should:?}, is {is:?}"))
}
