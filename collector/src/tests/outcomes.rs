//! Every event ends in one row of one partition, with the right outcome.

use std::collections::BTreeMap;
use std::sync::Arc;

use eventlog::fake::MemLog;
use eventlog::{DEAD, LocalLog, LocalLogConfig, Log};
use proptest::prelude::*;
use shared::import::{ISSUER as IMPORT, ImportChunk, ImportEvent, impression, named_source};
use shared::random::{Random, Seeded, below};
use shared::wire::DeadLetter;
use shared::wire::batch::{Event, Tally};
use shared::{Country, Id, Kind, Minute, Money, Outcome, Reason, Timestamp};

use super::world::{
    EDGE, HOUR_MS, ISSUER, LIMITED, NOW, Rig, World, batch, event, id, map, price, read_all, rig,
};
use crate::{Receipt, Sender, Settings, SubmitError};

fn quick() -> Settings {
    Settings { verify_threads: 2, flush_ms: 1, ..Settings::default() }
}

/// One event of each sort, with the outcome that it must have.
fn sorts(world: &World) -> Vec<(Vec<u8>, Kind, Timestamp, Outcome)> {
    let good = world.token(1);
    let click = |token: Vec<u8>, outcome| (token, Kind::Click, NOW, outcome);
    let mut altered = good.clone();
    altered[30] ^= 1;
    let mut version = good.clone();
    version[0] = 2;
    let mut deployment = good.clone();
    deployment[1] ^= 1;
    let not_yet = world.token_of(ISSUER, 2, |token| token.issued_at = NOW.plus_ms(120_000));
    let priceless = world.token_of(ISSUER, 3, |token| token.price[0] ^= 0x80);
    let too_new = world.token_of(LIMITED, 4, |token| {
        token.issued_at = NOW.minus_ms(40 * 24 * HOUR_MS);
    });
    let no_block = world.token_of(ISSUER, 6, |token| token.id.block.0[0] ^= 1);
    let elsewhere = world.token_of(LIMITED, 5, |token| token.publisher = id("pub-2"));
    vec![
        (good.clone(), Kind::Served, NOW, Ok(None)),
        (good.clone(), Kind::Impression, NOW, Ok(None)),
        click(good.clone(), Ok(None)),
        // A minute ahead is what clocks may differ; a second more is not.
        (good.clone(), Kind::Click, NOW.plus_ms(60_000), Ok(None)),
        (good.clone(), Kind::Click, NOW.plus_ms(61_000), Err(Reason::ClockAhead)),
        // 5 minutes old when received: an hour for the impression, two for the click.
        (good.clone(), Kind::Impression, NOW.plus_ms(56 * 60_000), Err(Reason::ClockAhead)),
        click(good[..good.len() - 1].to_vec(), Err(Reason::Malformed)),
        click(Vec::new(), Err(Reason::Malformed)),
        click(vec![1; 2_000], Err(Reason::Malformed)),
        click(version, Err(Reason::UnknownVersion)),
        click(deployment, Err(Reason::WrongDeployment)),
        click(altered, Err(Reason::BadSeal)),
        click(world.foreign_token(), Err(Reason::UnknownKey)),
        click(too_new, Err(Reason::RetiredKey)),
        click(elsewhere, Err(Reason::PublisherNotAllowed)),
        // Good in itself, and reported by the edge of another issuer.
        click(world.token_of(LIMITED, 6, |_| ()), Err(Reason::ForeignIssuer)),
        click(not_yet, Err(Reason::NotYetValid)),
        click(priceless, Err(Reason::Malformed)),
        // Of a block of another year.
        click(no_block, Err(Reason::Malformed)),
    ]
}

async fn every_sort_has_its_outcome<L: Log>(log: L) {
    let world = World::new();
    let rig = rig(log, &world, quick());
    let sorts = sorts(&world);
    let events = sorts.iter().map(|(token, kind, at, _)| Event { at: *at, ..event(*kind, token) });
    rig.collector.submit(batch(0, events.collect(), Vec::new())).await.unwrap();
    let all = read_all(&*rig.log).await;
    let rows = &all["edge-1/1/0"].rows;
    let count = |outcomes: &mut dyn Iterator<Item = (Kind, Outcome)>| {
        let mut counts = BTreeMap::new();
        outcomes.for_each(|(kind, outcome)| {
            *counts.entry(format!("{kind} {outcome:?}")).or_insert(0) += 1
        });
        counts
    };
    assert_eq!(
        count(&mut rows.iter().map(|row| (row.kind, row.outcome))),
        count(&mut sorts.iter().map(|(_, kind, _, outcome)| (*kind, *outcome))),
    );
    for row in rows {
        match row.outcome {
            Ok(_) => {
                assert_eq!((row.block.0, row.ad, row.price), (ISSUER, id("ad-1"), price()));
                assert_eq!(row.partition, map(rig.log.partitions()).of_block(ISSUER, row.block.1));
                let proof = sorts[0].0.len() - shared::token::TAG_BYTES;
                assert_eq!(row.proof.len(), if row.kind == Kind::Served { proof } else { 0 });
            }
            Err(_) => assert!(sorts.iter().any(|(token, ..)| *token == row.proof)),
        }
        let doubted = matches!(
            row.outcome,
            Err(Reason::BadSeal
                | Reason::UnknownKey
                | Reason::RetiredKey
                | Reason::UnknownVersion
                | Reason::WrongDeployment
                | Reason::PublisherNotAllowed)
        );
        if doubted {
            assert_eq!((row.block.0, row.seq, row.ad), (Id::NONE, 0, Id::NONE), "{row:?}");
        }
    }
    rig.collector.close().await;
}

#[tokio::test]
async fn every_sort_has_its_outcome_in_memory() {
    every_sort_has_its_outcome(MemLog::new(16, [1; 16])).await;
    every_sort_has_its_outcome(MemLog::new(1, [1; 16])).await;
}

#[tokio::test]
async fn every_sort_has_its_outcome_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = LocalLog::open(&LocalLogConfig::new(dir.path(), 16), [1; 16]).unwrap();
    every_sort_has_its_outcome(log).await;
}

async fn outcome_of<L: Log>(rig: &Rig<L>, number: u64, one: Event<'_>) -> Outcome {
    rig.collector.submit(batch(number, vec![one], Vec::new())).await.unwrap();
    let all = read_all(&*rig.log).await;
    all[&format!("edge-1/1/{number}")].rows[0].outcome
}

#[tokio::test]
async fn keys_and_edges_are_judged_as_they_stand_now() {
    let mut world = World::new();
    let rig = rig(MemLog::new(4, [1; 16]), &world, quick());
    let token = world.token(1);
    let click = event(Kind::Click, &token);
    assert_eq!(outcome_of(&rig, 0, click).await, Ok(None));
    let key = world.key(ISSUER).public.id;

    // Retired after the token was issued: it is believed for the horizon, even from the cache.
    world.store.retire(key, NOW).unwrap();
    rig.keys.send_replace(Arc::new(world.keys()));
    assert_eq!(outcome_of(&rig, 1, click).await, Ok(None));

    // Retired before: not at all.
    world.store.retire(key, NOW.minus_ms(HOUR_MS)).unwrap();
    rig.keys.send_replace(Arc::new(world.keys()));
    assert_eq!(outcome_of(&rig, 2, click).await, Err(Reason::RetiredKey));

    world.store.revoke(key).unwrap();
    rig.keys.send_replace(Arc::new(world.keys()));
    assert_eq!(outcome_of(&rig, 3, click).await, Err(Reason::RevokedKey));

    let mut keys = World::new().keys();
    keys.retired_edges.insert(EDGE, NOW.plus_ms(1));
    rig.keys.send_replace(Arc::new(keys));
    assert_eq!(outcome_of(&rig, 4, click).await, Ok(None));
    rig.clock.0.store(NOW.0 + 1, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(outcome_of(&rig, 5, click).await, Err(Reason::EdgeRetired));
}

#[tokio::test]
async fn what_comes_of_a_test_is_told_apart() {
    let world = World::new();
    let rig = rig(MemLog::new(4, [1; 16]), &world, quick());
    let test = world.token_of(ISSUER, 1, |token| token.test = true);
    let late = world.token_of(ISSUER, 2, |token| (token.test, token.click_life_s) = (true, 1));
    let by = |verdict| Event { verdict: Some(verdict), ..event(Kind::Click, &test) };
    let served = Event { verdict: Some(Reason::Bot), ..event(Kind::Served, &test) };
    let cases = [
        (event(Kind::Served, &test), Ok(Some(Reason::Test))),
        (event(Kind::Click, &test), Ok(Some(Reason::Test))),
        // A test token may come from a command line or a data centre: whatever the edge's verdict, it is a
        // test and in no count.
        (by(Reason::HeadRequest), Ok(Some(Reason::Test))),
        (by(Reason::Bot), Ok(Some(Reason::Test))),
        (by(Reason::DataCentre), Ok(Some(Reason::Test))),
        (served, Ok(Some(Reason::Test))),
        (event(Kind::Click, &late), Err(Reason::Expired)),
    ];
    for (number, (event, outcome)) in (0..).zip(cases) {
        assert_eq!(outcome_of(&rig, number, event).await, outcome, "{number}");
    }
}

#[tokio::test]
async fn expiry_is_judged_at_the_receive_time() {
    let world = World::new();
    let rig = rig(MemLog::new(4, [1; 16]), &world, quick());
    // The batch waited three days in the outbox.
    rig.clock.0.store(NOW.0 + 72 * HOUR_MS, std::sync::atomic::Ordering::SeqCst);
    let token = world.token(1);
    let expiry = NOW.minus_ms(300_000).plus_ms(HOUR_MS);
    let at = |kind, at| Event { at, ..event(kind, &token) };
    let cases = [
        (at(Kind::Click, NOW), Ok(None)),
        (at(Kind::Viewable, expiry), Ok(None)),
        (at(Kind::Viewable, expiry.plus_ms(1)), Err(Reason::Expired)),
        (at(Kind::Click, expiry.plus_ms(1)), Ok(None)),
        (at(Kind::Click, expiry.plus_ms(HOUR_MS)), Ok(None)),
        (at(Kind::Click, expiry.plus_ms(HOUR_MS + 1)), Err(Reason::Expired)),
    ];
    for (number, (event, outcome)) in cases.into_iter().enumerate() {
        assert_eq!(outcome_of(&rig, number as u64, event).await, outcome, "case {number}");
    }
}

#[tokio::test]
async fn a_verdict_passes_through() {
    let world = World::new();
    let rig = rig(MemLog::new(4, [1; 16]), &world, quick());
    let token = world.token(1);
    let one = Event { verdict: Some(Reason::Prefetch), ..event(Kind::Click, &token) };
    assert_eq!(outcome_of(&rig, 0, one).await, Ok(Some(Reason::Prefetch)));
}

#[tokio::test]
async fn rows_of_a_log_become_events() {
    let world = World::new();
    let rig = rig(MemLog::new(16, [1; 16]), &world, quick());
    let source = named_source("shop.log");
    let row = |row, kind, at| ImportEvent {
        row,
        kind,
        at,
        ad: id("ad-9"),
        publisher: None,
        placement: None,
        country: Country::UNKNOWN,
        device: None,
        ip: Some("192.0.2.7".parse().unwrap()),
        user: Some("u1".to_owned()),
    };
    let events = vec![
        row(65_530, Kind::Impression, Timestamp(1_500)),
        row(65_530, Kind::Click, Timestamp(1_500)),
        row(65_536, Kind::Click, NOW.plus_ms(61_000)),
    ];
    let chunk = ImportChunk { source, first_row: 65_530, end_row: 65_540, digest: [3; 32], events };
    rig.collector.import(chunk.clone()).await.unwrap();
    let all = read_all(&*rig.log).await;
    let mut rows = all[&format!("{source}/65530")].rows.clone();
    rows.sort_by_key(|row| (std::cmp::Reverse(row.seq), row.kind));
    let got: Vec<_> = rows.iter().map(|row| (row.kind, row.seq, row.outcome)).collect();
    let want = [
        (Kind::Impression, 65_530, Ok(None)),
        (Kind::Click, 65_530, Ok(None)),
        (Kind::Click, 0, Err(Reason::ClockAhead)),
    ];
    assert_eq!(got, want);
    for row in &rows {
        let log_row = if row.seq == 0 { 65_536 } else { 65_530 };
        assert_eq!(row.block, (IMPORT, impression(source, log_row).block));
        assert_eq!((row.ad, row.price), (id("ad-9"), Money::ZERO));
        assert_eq!(row.partition, map(16).of_block(IMPORT, row.block.1));
    }

    let wrong = ImportChunk { end_row: 65_531, ..chunk };
    let refused = rig.collector.import(wrong).await;
    assert!(matches!(refused, Err(SubmitError::Refused(why)) if why.contains("65536")));
}

#[tokio::test]
async fn what_is_no_batch_goes_to_the_dead_letters() {
    let world = World::new();
    let rig = rig(MemLog::new(4, [1; 16]), &world, quick());
    let token = world.token(1);
    let mut bytes = batch(0, vec![event(Kind::Click, &token)], Vec::new()).to_vec();
    bytes.pop();
    let refused = rig.collector.submit_from(Sender::Operator, "edge-1", bytes.clone().into()).await;
    let why = "at byte 91: the bytes end too early";
    assert_eq!(refused, Err(SubmitError::Refused(why.to_owned())));
    let dead = rig.log.messages(DEAD);
    let letter = DeadLetter::read(&dead[0]).unwrap();
    let sender = Some(Sender::Operator);
    assert_eq!(letter, DeadLetter { at: NOW, sender, from: "edge-1", reason: why, bytes: &bytes });
    assert_eq!((dead.len(), rig.collector.metrics().dead_letters.get()), (1, 1));

    // A batch that declares more events than the count of a minute can hold would not add up.
    let tally =
        Tally { minute: Minute(9), kind: Kind::Click, reason: Reason::OutboxFull, count: u32::MAX };
    let refused = rig.collector.submit(batch(1, Vec::new(), vec![tally; 2])).await;
    assert!(matches!(refused, Err(SubmitError::Refused(_))));
    assert_eq!(rig.log.messages(DEAD).len(), 2);
    assert!((0..4).all(|partition| rig.log.messages(partition).is_empty()));
}

#[tokio::test]
async fn a_receipt_says_how_far_the_edge_s_clock_is_ahead() {
    let rig = rig(MemLog::new(4, [1; 16]), &World::new(), quick());
    for (number, watermark, ahead) in [
        (0, Timestamp(NOW.0 - 5_000), 0),
        (1, NOW.plus_ms(61_000), 61_000),
        // A closing batch tells nothing of the time.
        (2, Timestamp::MAX, 0),
    ] {
        let mut bytes = batch(number, Vec::new(), Vec::new()).to_vec();
        bytes[36..44].copy_from_slice(&watermark.0.to_le_bytes());
        let receipt = rig.collector.submit(bytes.into()).await;
        assert_eq!(
            receipt,
            Ok(Receipt { clock_ahead_ms: ahead, is_out_of_service: false }),
            "{watermark:?}"
        );
    }
}

/// Random batches: good and bad tokens, wild times, tallies, one batch sent again.
fn random_batch(world: &World, number: u64, random: &mut dyn Random) -> bytes::Bytes {
    let tokens: Vec<Vec<u8>> = (0..below(random, 24))
        .map(|_| {
            let mut token = world.token(below(random, 500) as u16);
            match below(random, 4) {
                0 => {
                    let at = below(random, token.len() as u64 * 8);
                    token[at as usize / 8] ^= 1 << (at % 8);
                }
                1 => token.truncate(below(random, token.len() as u64) as usize),
                _ => {}
            }
            token
        })
        .collect();
    let events = tokens.iter().map(|token| {
        let at = match below(random, 12) {
            0 => Timestamp(below(random, u64::MAX)),
            1 => Timestamp::MAX,
            _ => NOW.minus_ms(below(random, HOUR_MS)),
        };
        let kind = Kind::ALL[below(random, 4) as usize];
        Event { at, ..event(kind, token) }
    });
    let events = events.collect();
    let tallies = (0..below(random, 3)).map(|_| Tally {
        minute: Minute(below(random, 1 << 32) as u32),
        kind: Kind::Click,
        reason: Reason::ALL[below(random, 16) as usize],
        count: below(random, 1 << 20) as u32,
    });
    batch(number, events, tallies.collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn received_is_rows_and_tallies(seed: u64, partitions in 1_u16..20, batches in 1_u64..12) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let world = World::new();
            let rig = rig(MemLog::new(partitions, [1; 16]), &world, quick());
            let mut random = Seeded::new(seed);
            let mut sent = Vec::new();
            for number in 0..batches {
                sent.push(random_batch(&world, number, &mut random));
            }
            sent.push(sent[below(&mut random, batches) as usize].clone());
            let submits: Vec<_> = sent.into_iter().map(|bytes| {
                let collector = Arc::clone(&rig.collector);
                tokio::spawn(async move { collector.submit(bytes).await })
            }).collect();
            for submit in submits {
                submit.await.unwrap().unwrap();
            }
            // Checks that what is declared is there, once.
            prop_assert_eq!(read_all(&*rig.log).await.len() as u64, batches);
            rig.collector.close().await;
            Ok(())
        })?;
    }
}
