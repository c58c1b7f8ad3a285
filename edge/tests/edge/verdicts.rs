//! Verdicts that need more than one request, or a table: over TCP.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use edge::clicks::Pace;
use edge::native::RunError;
use shared::wire::Batch;
use shared::{Kind, Reason, Verdict};

use crate::harness::{Edge, Store};
use crate::support::BROWSER;

/// What became of the clicks.
fn verdicts(sink: &Store) -> BTreeMap<Verdict, usize> {
    let mut verdicts = BTreeMap::new();
    for bytes in sink.got.lock().values() {
        let batch = Batch::read(bytes).unwrap();
        for event in batch.events.iter().filter(|event| event.kind == Kind::Click) {
            *verdicts.entry(event.verdict).or_default() += 1;
        }
    }
    verdicts
}

async fn click(edge: &Edge, client: &str, seq: i64) {
    let path = format!("/v1/c/{}", edge.token(seq));
    let head = format!("GET {path} HTTP/1.1\r\nX-Forwarded-For: {client}\r\nUser-Agent: {BROWSER}");
    assert_eq!(edge.send(&head, b"").await.status, 302);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_clicks_are_sent_on_and_flagged() {
    let dir = tempfile::tempdir().unwrap();
    let edge = Edge::start_with(dir.path(), Arc::new(Store::default()), |parts| {
        parts.settings.pace = Pace { clicks: 3, window_s: 3_600 };
    })
    .await;
    for seq in 0..10 {
        click(&edge, "203.0.113.7", seq).await;
    }
    for seq in 10..13 {
        click(&edge, "203.0.113.8", seq).await;
    }
    let (_, sink) = edge.stop().await;
    assert_eq!(verdicts(&sink), [(None, 6), (Some(Reason::TooManyClicks), 7)].into());
}

/// A table in MaxMind's form (version 2.0 of the format) that knows one network, an IPv4 /24: a tree
/// of 24 levels with records of 24 bits, the record of the network, and what the table says of itself.
fn table(network: [u8; 3], key: &str, number: u32) -> Vec<u8> {
    let nodes: u32 = 24;
    let bits = network.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1));
    let mut out = Vec::new();
    for (level, bit) in (1..).zip(bits) {
        // The last points into the data, which begins 16 behind the number of nodes.
        let next = if level == nodes { nodes + 16 } else { level };
        let pair = if bit == 0 { [next, nodes] } else { [nodes, next] };
        pair.iter().for_each(|record| out.extend(&record.to_be_bytes()[1..]));
    }
    let text = |out: &mut Vec<u8>, text: &str| {
        out.push(0x40 | text.len() as u8);
        out.extend(text.as_bytes());
    };
    let uint32 = |out: &mut Vec<u8>, number: u32| {
        out.push(0xc4);
        out.extend(number.to_be_bytes());
    };
    out.extend([0; 16]);
    out.push(0xe1);
    text(&mut out, key);
    uint32(&mut out, number);
    out.extend(b"\xab\xcd\xefMaxMind.com");
    // Nine fields; 16 bits are a type of their own, and an empty list and 0 of 64 bits are two bytes.
    out.push(0xe9);
    text(&mut out, "node_count");
    uint32(&mut out, nodes);
    let shorts = [
        ("record_size", 24),
        ("ip_version", 4),
        ("binary_format_major_version", 2),
        ("binary_format_minor_version", 0),
    ];
    for (key, number) in shorts {
        text(&mut out, key);
        out.extend([0xa2, 0, number]);
    }
    for (key, empty) in
        [("build_epoch", &[0, 2][..]), ("languages", &[0, 4]), ("description", &[0xe0])]
    {
        text(&mut out, key);
        out.extend(empty);
    }
    text(&mut out, "database_type");
    text(&mut out, "Test");
    out
}

async fn with_table(dir: &Path, table: &[u8]) -> Edge {
    let path = dir.join("asn.mmdb");
    std::fs::write(&path, table).unwrap();
    Edge::start_with(dir, Arc::new(Store::default()), |parts| {
        parts.settings.networks = Some(path);
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_networks_tells_data_centres() {
    let dir = tempfile::tempdir().unwrap();
    let edge =
        with_table(dir.path(), &table([198, 51, 100], "autonomous_system_number", 24_940)).await;
    for (seq, client) in (0..).zip(["198.51.100.7", "198.51.101.7", "2001:db8::1", "unknown"]) {
        click(&edge, client, seq).await;
    }
    let (_, sink) = edge.stop().await;
    assert_eq!(verdicts(&sink), [(None, 3), (Some(Reason::DataCentre), 1)].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_sort_of_table_is_refused_at_the_start() {
    for bytes in [table([198, 51, 100], "country", 24_940), b"no table".to_vec()] {
        let dir = tempfile::tempdir().unwrap();
        let edge = with_table(dir.path(), &bytes).await;
        match edge.task.await.unwrap() {
            Err(RunError::Settings(why)) => assert!(why.contains("the table of networks"), "{why}"),
            other => panic!("{other:?}"),
        }
    }
}
