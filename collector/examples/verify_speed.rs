//! Measures how many tokens a second are verified on all cores, when none was seen before and when
//! all were: `cargo run --release -p collector --example verify_speed`.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::sync::Arc;

use bytes::Bytes;
use collector::verify::Verifier;
use collector::{CollectorKeys, Metrics};
use shared::ambient::Stopwatch;
use shared::event::{Country, Device, Fingerprint, Flags, Network};
use shared::id::IdAllocator;
use shared::keys::KeyStore;
use shared::random::Seeded;
use shared::token::{Signer, Token};
use shared::wire::{Batch, Event};
use shared::{Id, Kind, Money, OutboxId, PartitionMap, Partitions, Timestamp};

const NOW: Timestamp = Timestamp(1_769_860_800_000);
const BATCHES: u64 = 100;
const EVENTS: u64 = 500;

fn main() {
    let mut random = Seeded::new(1);
    let mut store = KeyStore::generate(&mut random);
    store.create(Id::literal("house"), Vec::new(), NOW, &mut random).unwrap();
    let batches = batches(&store, &mut random);
    let keys = Arc::new(CollectorKeys::of_store(&store).unwrap());
    let map = PartitionMap::new(Partitions::new(16).unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let cores = std::thread::available_parallelism().unwrap();
    for threads in [1, cores.get()] {
        let metrics = Arc::new(Metrics::default());
        let verifier =
            Verifier::new(threads, 2 * BATCHES * EVENTS, map.clone(), Arc::clone(&metrics))
                .unwrap();
        for name in ["not seen before", "all seen before"] {
            let watch = Stopwatch::start();
            let rows = runtime.block_on(run(&verifier, &batches, &keys));
            let seconds = watch.elapsed().as_secs_f64();
            println!(
                "{threads} threads, {name}: {:.0} tokens/s, {} of {} cached in all, result {rows}",
                (BATCHES * EVENTS) as f64 / seconds,
                metrics.verify_cached.get(),
                metrics.verify_cached.get() + metrics.verified.get(),
            );
        }
    }
}

/// Accepted events, so that a fast wrong answer is seen.
async fn run(verifier: &Verifier, batches: &[Bytes], keys: &Arc<CollectorKeys>) -> usize {
    let mut accepted = 0;
    for bytes in batches {
        let batch = verifier.batch(bytes.clone(), EVENTS as usize, Arc::clone(keys), NOW).await;
        accepted += batch.unwrap().rows.iter().filter(|row| row.judged.outcome.is_ok()).count();
    }
    accepted
}

fn batches(store: &KeyStore, random: &mut Seeded) -> Vec<Bytes> {
    let signer = Signer::new(&store.issuers[0]);
    let (tags, cover) = (store.tag_keys(), store.price_key(signer.id()));
    let mut ids = IdAllocator::default();
    let name = Id::literal("some-name-here");
    let mut mint = || {
        let id = ids.next(NOW, random);
        let token = Token {
            deployment: store.deployment,
            key: signer.id(),
            id,
            issued_at: NOW,
            impression_life_s: 3_600,
            click_life_s: 86_400,
            price: cover.seal(id, Money::ZERO),
            visitor: Fingerprint(1),
            ad: name,
            campaign: name,
            advertiser: name,
            publisher: name,
            placement: name,
            url: "https://shop.example/spring/shoes?campaign=42&creative=13&x=",
        };
        signer.mint(&token, &tags).unwrap()
    };
    let batch = |number| {
        let tokens: Vec<_> = (0..EVENTS).map(|_| mint()).collect();
        let event = |token| Event {
            kind: Kind::Impression,
            at: NOW,
            verdict: None,
            flags: Flags::default(),
            country: Country::UNKNOWN,
            device: Device::Phone,
            network: Network::default(),
            visitor: Fingerprint(1),
            token,
        };
        let events = tokens.iter().map(|token| event(token)).collect();
        let outbox = OutboxId { edge: name, epoch: 1 };
        Batch { outbox, number, watermark: NOW, events, tallies: Vec::new() }.to_bytes().into()
    };
    (0..BATCHES).map(batch).collect()
}
