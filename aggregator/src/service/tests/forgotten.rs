//! Facts are kept for so many days.

use super::*;

/// Imported events are a year older than the others.
#[tokio::test]
async fn facts_that_are_older_than_they_are_kept_are_gone_and_said_to_be() {
    let (log, stores, world) = saved().await;
    let first = *world.oracle.minutes.first().unwrap();
    assert!(first.0 + 100 * 1_440 < START.0);
    let old = format!("/v1/ads/ad-1/count?validity=all&{}", range(first, Minute(first.0 + 60)));
    let new = format!("/v1/ads/ad-1/count?validity=all&{}", range(START, Minute(START.0 + 60)));
    // Those of the year of the imported events.
    let segments = async |stores: &MemStores| {
        let listed = stores.objects().list(None);
        let listed: Vec<_> = futures::StreamExt::collect(listed).await;
        let names = listed.into_iter().map(|one| one.unwrap().location.to_string());
        names.filter(|name| name.contains("-2025") && name.ends_with(".parquet")).count()
    };
    let running = start(&log, stores.clone());
    caught_up(&running).await;
    let counts = good(&running, &new).await;
    for round in 0.. {
        if segments(&stores).await > 0 {
            break;
        }
        assert!(round < 1_000, "no segment is made");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(good(&running, &old).await["count"].as_u64().unwrap() > 0);
    running.close().await;

    let settings = Settings { facts_days: Some(30), segments_kept: Duration::ZERO, ..settings() };
    let running = start_with(&log, stores.clone(), settings);
    caught_up(&running).await;
    let mut world = world;
    for _ in 0..3 {
        log.append(world.flush()).await.unwrap();
    }
    caught_up(&running).await;
    for round in 0.. {
        let (status, body) = ask(&running, &old).await;
        if status == StatusCode::UNPROCESSABLE_ENTITY && segments(&stores).await == 0 {
            let from = Minute(START.0 / 1_440 * 1_440 - 30 * 1_440).start().to_string();
            assert!(body["detail"].as_str().unwrap().contains(&from), "{body}");
            break;
        }
        assert!(round < 1_000, "{status} {body}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(good(&running, &new).await["count"].as_u64() >= counts["count"].as_u64());
    // Without a filter there are totals, which are kept.
    let totals = old.replace("/count?", "/aggregated_count?");
    assert!(good(&running, &totals).await["count"].as_u64().unwrap() > 0);
    running.close().await;
    // It stays so when everything is kept again: what is gone is gone.
    let running = start(&log, stores);
    caught_up(&running).await;
    assert_eq!(ask(&running, &old).await.0, StatusCode::UNPROCESSABLE_ENTITY);
    running.close().await;
}
