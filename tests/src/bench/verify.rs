//! Verifying tokens as a collector does: every signature, on all cores, and again from its cache.

use std::sync::Arc;

use bytes::Bytes;
use collector::CollectorKeys;
use collector::verify::{Checks, Verifier};
use futures::executor::block_on;
use shared::ambient::Stopwatch;
use shared::wire::{Batch, Event};
use shared::{
    Codes, Country, Device, Fingerprint, Flags, Id, Kind, Network, OutboxId, PartitionMap,
    Partitions, Region, RuleSet,
};

use super::tokens::{Mint, NOW, per_second};
use super::{Measured, Size};

const EVENTS: u32 = 500;
/// Passes over tokens that were seen before; the median counts.
const AGAIN: usize = 21;

pub(super) fn measure(size: Size) -> Result<Vec<Measured>, String> {
    let mint = Mint::new()?;
    let keys = Arc::new(CollectorKeys::of_store(&mint.store).map_err(|error| error.to_string())?);
    let batches = u32::try_from(size.choose(100, 1)).map_err(|error| error.to_string())?;
    let batches: Vec<_> =
        (0..batches).map(|number| batch(&mint, number)).collect::<Result<_, _>>()?;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let [one, _] = rates(&batches, 1, &keys)?;
    let [all, again] = rates(&batches, 0, &keys)?;
    let what = "verify and judge a batch's tokens";
    let of_all = |more: &str| format!("{what}, {cores} cores{more}");
    Ok(vec![
        Measured::new("verify/one-core", format!("{what}, one thread"), one, "tokens/s"),
        Measured::new("verify/all-cores", of_all(""), all, "tokens/s").peer("verify/one-core"),
        Measured::new("verify/seen-before", of_all(", seen before"), again, "tokens/s"),
    ])
}

/// Tokens per second of a verifier with so many threads (0: one for each core): for tokens not seen
/// before, and seen before.
fn rates(batches: &[Bytes], threads: usize, keys: &Arc<CollectorKeys>) -> Result<[f64; 2], String> {
    let tokens = batches.len() * EVENTS as usize;
    let map = PartitionMap::new(Partitions::new(16).ok_or("16 partitions")?);
    let verifier = Verifier::new(threads, 2 * tokens as u64, map, Checks::default())?;
    let measure = || {
        let watch = Stopwatch::start();
        let mut accepted = 0;
        for bytes in batches {
            let judged =
                block_on(verifier.batch(bytes.clone(), EVENTS as usize, Arc::clone(keys), NOW))?;
            accepted += judged.rows.iter().filter(|row| row.judged.outcome == Ok(None)).count();
        }
        if accepted != tokens {
            return Err(format!("only {accepted} of {tokens} were accepted"));
        }
        Ok(per_second(tokens, watch.elapsed()))
    };
    let once = measure()?;
    // One pass takes some fifty milliseconds, too little for a reliable figure.
    let mut again: Vec<f64> = (0..AGAIN).map(|_| measure()).collect::<Result<_, _>>()?;
    again.sort_by(f64::total_cmp);
    Ok([once, again[AGAIN / 2]])
}

fn batch(mint: &Mint, number: u32) -> Result<Bytes, String> {
    let tokens: Vec<_> =
        (0..EVENTS).map(|n| mint.token(number * EVENTS + n)).collect::<Result<_, _>>()?;
    let event = |token| Event {
        kind: Kind::Impression,
        at: NOW,
        verdict: None,
        flags: Flags::default(),
        rules: RuleSet::UNKNOWN,
        page: None,
        codes: Codes::new(Country::UNKNOWN, Device::Phone),
        region: Region::UNKNOWN,
        network: Network::default(),
        visitor: Fingerprint(1),
        token,
    };
    let events = tokens.iter().map(|token| event(token)).collect();
    let outbox = OutboxId { edge: Id::literal("bench"), epoch: 1 };
    let number = u64::from(number);
    Ok(Batch { outbox, number, watermark: NOW, events, tallies: Vec::new() }.to_bytes().into())
}
