//! What is remembered of a token.

use std::sync::Arc;

use bytes::Bytes;
use shared::limits::HORIZON_MS;
use shared::wire::{Event, MessageView, Tally};
use shared::{Kind, Minute, Outcome, PageSeq, PageView, Reason, Timestamp};

use super::world::{NOW, World, batch, event, map};
use crate::coalesce::Coalescer;
use crate::verify::{Checks, Verifier};

async fn outcomes(verifier: &Verifier, world: &World, bytes: Bytes) -> Vec<Outcome> {
    let events = crate::verify::inspect(&bytes).unwrap().events;
    let judged = verifier.batch(bytes, events, Arc::new(world.keys()), NOW).await.unwrap();
    judged.rows.iter().map(|row| row.judged.outcome).collect()
}

#[tokio::test]
async fn a_good_signature_is_checked_once_and_a_bad_one_always() {
    let mut world = World::new();
    let checks = Checks::default();
    let verifier = Verifier::new(2, 1_000, map(4), checks.clone()).unwrap();
    let good = world.token(1);
    // The last byte of the tag, which the signature does not cover and no collector looks at: the same
    // token. Else one token would count as many, one for each tag, and each could name a page view.
    let mut other_tag = good.clone();
    *other_tag.last_mut().unwrap() ^= 1;
    let mut bad = good.clone();
    bad[40] ^= 1;
    let one = |token| batch(0, vec![event(Kind::Click, token)], Vec::new());
    let seen = || (checks.verified.get(), checks.cached.get());

    assert_eq!(outcomes(&verifier, &world, one(&good)).await, [Ok(None)]);
    assert_eq!(seen(), (1, 0));
    assert_eq!(outcomes(&verifier, &world, one(&good)).await, [Ok(None)]);
    assert_eq!(seen(), (1, 1));
    assert_eq!(outcomes(&verifier, &world, one(&other_tag)).await, [Ok(None)]);
    assert_eq!(seen(), (1, 2));
    for checked in 2..4 {
        assert_eq!(outcomes(&verifier, &world, one(&bad)).await, [Err(Reason::BadSeal)]);
        assert_eq!(seen(), (checked, 2));
    }
    // The signature stays good, the key does not.
    let key = world.store.issuers[0].public.id;
    world.store.revoke(key).unwrap();
    assert_eq!(outcomes(&verifier, &world, one(&good)).await, [Err(Reason::RevokedKey)]);
    assert_eq!(seen(), (3, 3));
}

#[tokio::test]
async fn large_batches_keep_their_order_on_all_threads() {
    let world = World::new();
    let verifier = Verifier::new(3, 0, map(4), Checks::default()).unwrap();
    let tokens: Vec<_> = (0..200)
        .map(|seq| {
            let mut token = world.token(seq);
            token[150] ^= u8::from(seq % 3 == 0);
            token
        })
        .collect();
    let events = tokens.iter().map(|token| event(Kind::Impression, token)).collect();
    let outcomes = outcomes(&verifier, &world, batch(0, events, Vec::new())).await;
    let want = (0..200).map(|seq| if seq % 3 == 0 { Err(Reason::BadSeal) } else { Ok(None) });
    assert_eq!(outcomes, want.collect::<Vec<_>>());
}

#[tokio::test]
async fn a_doubted_token_is_put_where_the_believed_one_would_be() {
    let world = World::new();
    let verifier = Verifier::new(1, 0, map(1_024), Checks::default()).unwrap();
    let good = world.token(1);
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    bad[good.len() - 30] ^= 1;
    let bytes = batch(0, vec![event(Kind::Click, &good), event(Kind::Click, &bad)], Vec::new());
    let judged = verifier.batch(bytes, 2, Arc::new(world.keys()), NOW).await.unwrap();
    let [good, bad] = &judged.rows[..] else { panic!("two rows") };
    assert_eq!((good.judged.outcome, bad.judged.outcome), (Ok(None), Err(Reason::BadSeal)));
    assert_eq!(good.partition, bad.partition);
}

#[tokio::test]
async fn what_pages_have_sent_goes_to_the_partition_that_remembers_it() {
    let world = World::new();
    let verifier = Verifier::new(1, 0, map(16), Checks::default()).unwrap();
    let good = world.token(1);
    let mut bad = good.clone();
    bad[40] ^= 1;
    let told = |page, seq| Some(PageSeq { page: PageView(page), seq });
    let tell = |kind, page, token| Event { page, ..event(kind, token) };
    let events = vec![
        tell(Kind::Impression, told(1, 2), &good),
        tell(Kind::Viewable, told(1, 5), &good),
        tell(Kind::Impression, told(2, 4_096), &good),
        tell(Kind::Viewable, told(1, 3), &good),
        // A rejected event does not count for a page view, nor does an event without a page number.
        tell(Kind::Impression, told(3, 7), &bad),
        tell(Kind::Click, None, &good),
    ];
    let count = events.len();
    let bytes = batch(0, events, Vec::new());
    let judged = verifier.batch(bytes, count, Arc::new(world.keys()), NOW).await.unwrap();
    let mut coalescer = Coalescer::new(map(16));
    coalescer.batch(&judged, ());
    let flush = coalescer.finish(NOW);
    let (mut pages, mut numbered) = (Vec::new(), Vec::new());
    for message in &flush.messages {
        let view = MessageView::read(&message.payload).unwrap();
        for row in &view.page_views {
            assert_eq!(message.partition, map(16).of_page_view(row.told.page));
            assert_eq!(view.minutes[usize::from(row.minute)], NOW.minute());
            let publisher = view.name(row.publisher);
            pages.push((row.told.page.0, row.told.seq, publisher.to_string()));
        }
        numbered.extend(view.rows().map(|row| row.numbered));
    }
    pages.sort_unstable();
    let publisher = judged.rows[0].judged.publisher.own_name().unwrap().to_string();
    assert_eq!(pages, [(1, 5, publisher.clone()), (2, 4_096, publisher)]);
    assert_eq!(numbered.iter().filter(|numbered| **numbered).count(), 5);
    assert_eq!(numbered.len(), 6);
}

#[tokio::test]
async fn a_token_speaks_for_one_page_view() {
    let world = World::new();
    let verifier = Verifier::new(1, 1_000, map(4), Checks::default()).unwrap();
    let (one, two) = (world.token(1), world.token(2));
    let tell = |page, token| {
        let page = Some(PageSeq { page: PageView(page), seq: 4_096 });
        Event { page, ..event(Kind::Viewable, token) }
    };
    let pages = async |number, events| {
        let bytes = batch(number, events, Vec::new());
        let judged = verifier.batch(bytes, 3, Arc::new(world.keys()), NOW).await.unwrap();
        let page = |row: &crate::verify::JudgedRow| {
            assert_eq!(row.judged.outcome, Ok(None), "it counts all the same");
            row.judged.page.map(|told| told.page.0)
        };
        judged.rows.iter().map(page).collect::<Vec<_>>()
    };
    let first = pages(0, vec![tell(7, &one), tell(8, &one), tell(7, &two)]).await;
    assert_eq!(first, [Some(7), None, Some(7)]);
    let later = pages(1, vec![tell(9, &one), tell(7, &one), tell(8, &two)]).await;
    assert_eq!(later, [None, Some(7), None]);
    // An event without a page view, such as an edge's own when it serves an ad, does not settle which page
    // view the token belongs to.
    let three = world.token(3);
    let silent = event(Kind::Impression, &three);
    let first = pages(2, vec![silent, tell(7, &three), silent, tell(8, &three)]).await;
    assert_eq!(first, [None, Some(7), None, None]);
}

#[tokio::test]
async fn minutes_of_any_year_are_named_and_declared_where_they_are_counted() {
    let world = World::new();
    let verifier = Verifier::new(1, 0, map(4), Checks::default()).unwrap();
    let token = world.token(1);
    let mut bad = token.clone();
    bad[40] ^= 1;
    let at = |at, token| Event { at, ..event(Kind::Click, token) };
    let far = Minute(4_223_376_000);
    let events = vec![
        at(NOW, &token),
        at(far.start(), &token),
        at(Timestamp::MAX, &bad),
        at(Timestamp(7), &token),
    ];
    let tally =
        |minute, count| Tally { minute, kind: Kind::Click, reason: Reason::OutboxFull, count };
    let tallies = vec![tally(far, 5), tally(NOW.minute(), 6), tally(Minute(3), 7)];
    let bytes = batch(0, events, tallies);
    let judged = verifier.batch(bytes, 4, Arc::new(world.keys()), NOW).await.unwrap();
    let outcomes: Vec<_> = judged.rows.iter().map(|row| row.judged.outcome).collect();
    let [ahead, late] = [Reason::ClockAhead, Reason::TooLate].map(Err);
    assert_eq!(outcomes, [Ok(None), ahead, Err(Reason::BadSeal), late]);
    let [first, last] = [NOW.minus_ms(HORIZON_MS).minute(), NOW.plus_ms(60_000).minute()];
    let minutes: Vec<_> = judged.rows.iter().map(|row| row.judged.at.minute()).collect();
    assert_eq!(minutes, [NOW.minute(), last, last, first]);
    let tallied: Vec<_> = judged.tallies.iter().map(|t| (t.minute, t.reason)).collect();
    let kept = (NOW.minute(), Reason::OutboxFull);
    assert_eq!(tallied, [(last, Reason::ClockAhead), kept, (first, Reason::TooLate)]);
    assert_eq!(judged.entry.declared, [(first, 8), (NOW.minute(), 7), (last, 7)]);
}
