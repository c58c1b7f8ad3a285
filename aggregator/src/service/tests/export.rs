//! All cells of a partition, wherever they lie, beside an engine that keeps everything in memory.

use eventlog::{Position, Reader};
use shared::counted::{Amount, Codes};
use shared::wire::MessageView;

use shared::AnyId;

use super::*;

/// What has the same names, added up; and the position.
type Sums = BTreeMap<String, u64>;

async fn lines<L: Log, S: Stores>(
    aggregator: &Aggregator<L, S>,
    partition: u16,
    query: &str,
) -> (Value, Sums) {
    let uri = format!("/v1/partitions/{partition}/cells?{query}");
    let request = Request::builder().uri(&uri).body(Body::empty()).unwrap();
    let response =
        api::Principal::Operator.asks(aggregator.router()).oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "application/x-ndjson");
    let body = axum::body::to_bytes(response.into_body(), 16 << 20).await.unwrap();
    let text = String::from_utf8(body.to_vec()).unwrap();
    let mut lines: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.pop(), Some(json!({"end": true})));
    let position = lines.remove(0);
    let mut sums = Sums::new();
    for mut line in lines {
        let fields = line.as_object_mut().unwrap();
        if let Some(reasons) = fields.remove("reasons") {
            for (name, count) in reasons.as_object().unwrap() {
                fields.insert(name.clone(), count.clone());
            }
            let minute = fields.remove("minute").unwrap();
            for (name, count) in fields.iter().filter(|(_, count)| **count != 0) {
                *sums.entry(format!("{minute} {name}")).or_default() += count.as_u64().unwrap();
            }
            continue;
        }
        let number = fields.remove("count").or_else(|| fields.remove("micros")).unwrap();
        *sums.entry(line.to_string()).or_default() += number.as_u64().unwrap();
    }
    (position, sums)
}

/// The same from an engine that has applied the log of a partition, and saved nothing.
async fn expected<L: Log>(log: &L, partition: u16) -> (Position, Sums) {
    let mut engine = count::Engine::new(partition, count::Settings { resident_minutes: u32::MAX });
    let mut reader = log.reader(partition, None).await.unwrap();
    while let Some(next) = reader.try_next().unwrap() {
        engine.apply(&MessageView::read(&next.payload).unwrap(), next.position).unwrap();
    }
    let mut sums = Sums::new();
    let mut add = |key: String, n: u64| {
        if n > 0 {
            *sums.entry(key).or_default() += n;
        }
    };
    let name = |id: AnyId| id.own_name().or_else(|| engine.name(id).cloned()).unwrap();
    let cell = |minute: Minute, d: &shared::Dimensions| {
        let mut cell = json!({
            "minute": minute, "ad": name(d.ad.any()), "kind": d.kind, "valid": d.valid,
        });
        for (name, text) in Codes::NAMES.iter().zip(d.codes().texts()) {
            cell[name] = json!(text);
        }
        if !d.publisher.is_none() {
            cell["publisher"] = json!(name(d.publisher.any()));
        }
        cell
    };
    for (minute, account) in engine.account(Minute(0), Minute(u32::MAX)) {
        let n = minute.0;
        add(format!("{n} declared"), account.declared);
        add(format!("{n} imported"), account.imported);
        add(format!("{n} counted"), account.counted);
        add(format!("{n} duplicate"), account.duplicate);
        Reason::ALL.iter().for_each(|r| add(format!("{n} {r}"), account.reason(*r)));
        engine.cells(minute, &mut |c| add(cell(minute, &c.dimensions).to_string(), c.count));
        engine.amounts(minute, &mut |of| {
            let mut line = cell(minute, &of.dimensions);
            line["currency"] = json!(of.currency);
            if of.amount != Amount::Spend {
                line["amount"] = json!(of.amount);
            }
            add(line.to_string(), u64::try_from(of.micros).unwrap());
        });
    }
    (engine.position().unwrap(), sums)
}

async fn check_all<L: Log, S: Stores>(aggregator: &Aggregator<L, S>, log: &L, world: &World) {
    let first = *world.oracle.minutes.first().unwrap();
    for partition in 0..PARTITIONS {
        let (at, sums) = expected(log, partition).await;
        // The log of long ago, and now.
        let mut found = lines(aggregator, partition, &range(first, Minute(first.0 + 10))).await.1;
        let now = range(START, Minute(START.0 + 100_000));
        let (position, rest) = lines(aggregator, partition, &now).await;
        found.extend(rest);
        assert_eq!(position["sequence"], at.sequence);
        assert_eq!(position["log"], shared::text::hex(&at.identity));
        assert_eq!(position["digest"], shared::text::hex(&at.digest));
        assert!(found == sums && sums.len() > 20, "partition {partition}");
        let empty = lines(aggregator, partition, "from=0&to=60").await.1;
        assert!(empty.is_empty());
    }
}

#[tokio::test]
async fn all_cells_are_there_once_in_memory_moving_and_stored() {
    let (log, stores) = (mem_log(), MemStores::new());
    let (world, flushes) = history(11, 60);
    for messages in flushes {
        log.append(messages).await.unwrap();
    }
    (0..PARTITIONS).for_each(|partition| stores.slow(partition, Duration::from_millis(5)));
    let running = start(&log, stores.clone());
    caught_up(&running).await;
    check_all(&running, &*log, &world).await;
    running.close().await;
    let restored = start(&log, stores);
    caught_up(&restored).await;
    check_all(&restored, &*log, &world).await;
}
