//! Asks what was counted, and compares it with what was sent.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use api::answers::{Account, Counted, Popular};
use api::routes;
use shared::ambient::Stopwatch;
use shared::{AdName, Kind, Minute, Reason};

use super::World;
use super::ledger::{Bounds, Ledger};
use crate::client::Api;
use crate::failure::Failure;
use crate::terminal;

const POLL: Duration = Duration::from_millis(200);
/// The most ads whose counts before the run are asked for.
const ADS_MAX: u32 = 1_000;
/// The longest window that is compared: a day.
const WINDOW_MINUTES_MAX: u32 = 24 * 60;

/// What the API answers at one time.
#[derive(Debug, Default)]
pub(super) struct Counts {
    account: Account,
    ads: BTreeMap<(Kind, AdName), u64>,
}

async fn account(api: &Api, range: &Range<Minute>) -> Result<Account, Failure> {
    let (from, to) = (range.start.start().seconds(), range.end.start().seconds());
    api.require(&format!("{}?from={from}&to={to}", routes::ACCOUNTING.path)).await
}

/// Waits until nothing is on its way any more and at least `least` events have come. Two answers in
/// a row must have the same number, so that nothing came in between them.
async fn settled(
    api: &Api,
    range: &Range<Minute>,
    patience: Duration,
    least: u64,
) -> Result<Account, Failure> {
    let watch = Stopwatch::start();
    let mut found = account(api, range).await?;
    loop {
        tokio::time::sleep(POLL * 5).await;
        let before = std::mem::replace(&mut found, account(api, range).await?);
        let all = found.received >= least && found.in_flight == 0;
        if all && found.received == before.received {
            return Ok(found);
        }
        if watch.elapsed() > patience {
            return Err(Failure::server(format!(
                "{} events are still on their way before the simulation begins: is somebody \
                     else using the deployment?",
                found.in_flight.max(i128::from(found.received < least))
            )));
        }
    }
}

impl Counts {
    /// Waits until nothing is on its way any more; returns how many events have come.
    pub(super) async fn received(
        api: &Api,
        range: &Range<Minute>,
        patience: Duration,
    ) -> Result<u64, Failure> {
        Ok(settled(api, range, patience, 0).await?.received)
    }

    /// The counts before the run, once `least` events have come and nothing is on its way any more.
    pub(super) async fn before(
        api: &Api,
        range: &Range<Minute>,
        patience: Duration,
        least: u64,
    ) -> Result<Self, Failure> {
        let account = settled(api, range, patience, least).await?;
        let mut ads = BTreeMap::new();
        // Minutes beyond this window are not asked for: nothing has happened in them yet.
        let window = (range.end.0 - range.start.0).min(WINDOW_MINUTES_MAX);
        let at = Minute(range.start.0 + window).start().seconds();
        for kind in Kind::ALL {
            let path = format!(
                "{}?count={ADS_MAX}&window={window}&event={kind}&at={at}",
                routes::POPULAR_ADS.path
            );
            let found: Popular = api.require(&path).await?;
            ads.extend(found.ad_ids.into_iter().map(|ad| (*kind, ad)).zip(found.counts));
        }
        Ok(Self { account, ads })
    }

    /// The counts after the run, once everything that must be counted is, or the patience has
    /// ended.
    pub(super) async fn after(
        api: &Api,
        before: &Self,
        ledger: &Ledger,
        range: &Range<Minute>,
        patience: Duration,
    ) -> Result<Self, Failure> {
        let watch = Stopwatch::start();
        let mut account = Account::default();
        let mut told = false;
        loop {
            let last = std::mem::replace(&mut account, self::account(api, range).await?);
            let came = account.received.saturating_sub(before.account.received);
            let all = came >= ledger.received.least && account.in_flight == 0;
            let late = watch.elapsed() > patience;
            if (all && last.received == account.received) || late {
                let ads = Self::counts_of_ads(api, ledger, range).await?;
                let found = Self { account: account.clone(), ads };
                // The sum alone is not enough: requests without a sure answer may fill it up while
                // something that must come is still held up, for example by an election of NATS.
                let short = lines(ledger, before, &found).iter().any(|line| line.short);
                if !short || late {
                    return Ok(found);
                }
                if !std::mem::replace(&mut told, true) {
                    eprintln!("not all of it is counted yet: waiting up to {patience:?}");
                }
            }
            // Longer than a heartbeat, with which an edge sends what it has only tallied.
            tokio::time::sleep(POLL * 8).await;
        }
    }

    async fn counts_of_ads(
        api: &Api,
        ledger: &Ledger,
        range: &Range<Minute>,
    ) -> Result<BTreeMap<(Kind, AdName), u64>, Failure> {
        let mut ads = BTreeMap::new();
        let (from, to) = (range.start.start().seconds(), range.end.start().seconds());
        for ad in ledger.ads() {
            for kind in Kind::ALL {
                let path =
                    format!("{}?from={from}&to={to}&event={kind}", routes::AD_COUNT.at(&[&ad]));
                let found: Counted = api.require(&path).await?;
                ads.insert((*kind, ad.clone()), found.count);
            }
        }
        Ok(ads)
    }
}

/// One line of the comparison.
struct Line {
    what: String,
    sent: String,
    counted: u64,
    good: bool,
    /// Less is counted than must be; the rest may still come.
    short: bool,
    why: String,
}

fn lines(ledger: &Ledger, before: &Counts, after: &Counts) -> Vec<Line> {
    let mut lines = ad_lines(ledger, before, after);
    lines.extend(outcome_lines(ledger, before, after));
    lines
}

/// Prints the comparison. True: every difference is explained.
pub(super) fn print(ledger: &Ledger, before: &Counts, after: &Counts, world: &World) -> bool {
    let lines = lines(ledger, before, after);
    let head = ["", "sent", "counted", ""].map(str::to_owned).to_vec();
    let rows = lines.iter().map(|line| {
        let mark = if line.good { "" } else { "NOT EXPLAINED " };
        let (what, sent) = (line.what.clone(), line.sent.clone());
        vec![what, sent, line.counted.to_string(), format!("{mark}{}", line.why)]
    });
    terminal::table(&std::iter::once(head).chain(rows).collect::<Vec<_>>());
    for (act, count) in &ledger.acts {
        terminal::line(format!("played: {count} {act}"));
    }
    if world.brief_s.is_none() && !world.plain {
        terminal::line(format!(
            "not played: clicks after their token's end (the catalogue's lifetimes are over {} s)",
            super::forge::BRIEF_S_MAX
        ));
    }
    for what in &ledger.unexpected {
        terminal::line(format!("NOT EXPLAINED answer: {what}"));
    }
    let bad = lines.iter().filter(|line| !line.good).count() as u64 + ledger.unexpected_count;
    terminal::line(match bad {
        0 => "every difference is explained".to_owned(),
        bad => format!("{bad} differences are NOT explained"),
    });
    bad == 0
}

fn ad_lines(ledger: &Ledger, before: &Counts, after: &Counts) -> Vec<Line> {
    let full = delta_of(Reason::OutboxFull, before, after);
    let mut lines = Vec::new();
    for ((kind, ad), bounds) in &ledger.counted {
        let key = (*kind, ad.clone());
        let now = after.ads.get(&key).copied().unwrap_or(0);
        let counted = now.saturating_sub(before.ads.get(&key).copied().unwrap_or(0));
        let mut allowed = *bounds;
        let mut why = Vec::new();
        if bounds.most > bounds.least {
            why.push(format!("{} without a sure answer", bounds.most - bounds.least));
        }
        if *kind == Kind::Served && ledger.served_to_nobody > 0 {
            allowed.most += ledger.served_to_nobody;
            why.push(format!(
                "{} served ads may have got lost on the way",
                ledger.served_to_nobody
            ));
        }
        if *kind == Kind::Click && full > 0 {
            allowed.least = allowed.least.saturating_sub(full);
            why.push(format!("{full} redirects while the outbox was full"));
        }
        lines.push(Line {
            what: format!("{kind} {ad}"),
            sent: range(*bounds),
            counted,
            good: allowed.hold(counted),
            short: counted < allowed.least,
            why: why.join(", "),
        });
    }
    lines
}

fn delta_of(reason: Reason, before: &Counts, after: &Counts) -> u64 {
    let of = |counts: &Counts| counts.account.reasons.get(reason.name()).copied().unwrap_or(0);
    of(after).saturating_sub(of(before))
}

fn outcome_lines(ledger: &Ledger, before: &Counts, after: &Counts) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut push = |what: &str, bounds: Bounds, counted: u64, why: String| {
        let (good, short) = (bounds.hold(counted), counted < bounds.least);
        lines.push(Line { what: what.to_owned(), sent: range(bounds), counted, good, short, why });
    };
    let unsure = |bounds: Bounds| match bounds.most - bounds.least {
        0 => String::new(),
        unsure => format!("{unsure} without a sure answer"),
    };
    let (now, then) = (&after.account, &before.account);
    // An edge tallies the repeats that it recognises; the others become duplicates.
    let repeated = delta_of(Reason::Repeated, before, after);
    let duplicate = now.duplicate.saturating_sub(then.duplicate) + repeated;
    push("duplicate, repeated", ledger.duplicate, duplicate, unsure(ledger.duplicate));
    for reason in Reason::ALL.iter().filter(|reason| **reason != Reason::Repeated) {
        let sent = ledger.reasons.get(reason).copied().unwrap_or_default();
        let counted = delta_of(*reason, before, after);
        if sent == Bounds::default() && counted == 0 {
            continue;
        }
        // Redirects go out although the outbox is full; how many did cannot be known here.
        let full = *reason == Reason::OutboxFull;
        let sent = if full { Bounds { least: 0, most: ledger.requests } } else { sent };
        push(reason.name(), sent, counted, unsure(sent));
    }
    let received = now.received.saturating_sub(then.received);
    push("received", ledger.received, received, unsure(ledger.received));
    let outcomes = now.counted + now.duplicate + now.reasons.values().sum::<u64>();
    let sum = i128::from(outcomes) + now.in_flight;
    let good = now.adds_up && now.in_flight == 0 && sum == i128::from(now.received);
    lines.push(Line {
        what: "adds up".to_owned(),
        sent: now.received.to_string(),
        counted: outcomes,
        good,
        // A batch that a killed collector held comes again after a while; until then there is a
        // gap.
        short: !good,
        why: format!(
            "of all that came in these minutes, others' too: received = counted + duplicate + reasons; {} in \
             flight{}",
            now.in_flight,
            now.because.iter().map(|why| format!("; {why}")).collect::<String>()
        ),
    });
    lines
}

fn range(bounds: Bounds) -> String {
    if bounds.least == bounds.most {
        bounds.least.to_string()
    } else {
        format!("{}–{}", bounds.least, bounds.most)
    }
}
