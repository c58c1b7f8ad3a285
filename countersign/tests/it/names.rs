//! Names as other systems give them: through an edge, a log, a restart, and back in every answer.

use std::fs;

use serde_json::{Value, json};
use shared::text::escaped;

use crate::process::{Server, run};
use crate::recount;

/// Names as customers give them to ads, sorted by their bytes.
const ADS: [&str; 9] = [
    "/1234/home/top",
    "550E8400-E29B-41D4-A716-446655440000",
    "550e8400-e29b-41d4-a716-446655440000",
    "550e8400e29b41d4a716446655440000",
    "ad-1",
    "example.com",
    "mm_10067028.1",
    "summer sale",
    "広告 一",
];
const MINUTE: &str = "from=1700000040&to=1700000100";

fn catalogue() -> String {
    let ads = ADS.map(|ad| {
        format!(
            "[[ads]]\nid = {ad:?}\ncampaign = \"spring 2026\"\nadvertiser = \"acme.example\"\n\
             html = \"x\"\nwidth = 1\nheight = 1\nurl = \"https://shop.example/?a={{ad_id}}\"\n\
             [[placements]]\nid = \"/{ad}\"\npublisher = \"新聞\"\nads = [{ad:?}]\n"
        )
    });
    ads.concat()
}

async fn count(server: &Server, ad: &str, query: &str) -> Value {
    let path = format!("/v1/ads/{}/aggregated_count?{query}", escaped(ad));
    let answer = server.ask(&path).await;
    assert_eq!(answer["ad_id"], json!(ad), "as it was written");
    answer["count"].clone()
}

/// The names of all ads and publishers in what a partition has counted.
async fn exported(server: &Server, query: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for partition in 0..2 {
        let text = server.text(&format!("/v1/partitions/{partition}/cells?{query}")).await;
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let text = |of: &Value| of.as_str().unwrap_or_default().to_owned();
        let cells = lines.filter(|line| line["ad"].is_string());
        found.extend(cells.map(|line| (text(&line["ad"]), text(&line["publisher"]))));
    }
    found.sort_unstable();
    found.dedup();
    found
}

#[tokio::test]
async fn what_an_edge_serves_comes_back_as_it_is_called() {
    let dir = tempfile::tempdir().unwrap();
    let (settings, file) = (dir.path().join("s.toml"), dir.path().join("catalogue.toml"));
    fs::write(&file, catalogue()).unwrap();
    let config = "partitions = 2\n[aggregator]\ncheckpoint_ms = 100\n[archive]\nevery_ms = 40\n";
    fs::write(&settings, format!("{config}[edge]\ncatalogue = {file:?}\n")).unwrap();
    let flags = ["--config", settings.to_str().unwrap()];
    let mut server = Server::start_with(&dir.path().join("data"), None, &flags);
    for (at, ad) in ADS.iter().enumerate() {
        // Each ad has one click more than the one before, except the last three, which share a
        // rank.
        for _ in 0..=at.min(6) {
            let placement = escaped(&format!("/{ad}"));
            let url = format!("{}/v1/serve?placement={placement}", server.edge);
            let served: Value = server.http.get(url).send().await.unwrap().json().await.unwrap();
            assert_eq!(served["ad"], json!(ad));
            assert_eq!(served["publisher"], json!("新聞"));
            let click =
                server.http.get(served["click_url"].as_str().unwrap()).send().await.unwrap();
            let location = format!("https://shop.example/?a={}", escaped(ad));
            assert_eq!(click.headers()["location"], location.as_str());
        }
    }
    let now = "from=1700000040&to=1730000040";
    let clicks = 1 + 2 + 3 + 4 + 5 + 6 + 3 * 7;
    let range = recount::since(30);
    let range = format!("from={}&to={}", escaped(&range[1]), escaped(&range[3]));
    server.until(&format!("/v1/accounting?{range}"), |a| a["counted"] == 2 * clicks).await;
    for again in [false, true] {
        for (at, ad) in ADS.iter().enumerate() {
            assert_eq!(count(&server, ad, &range).await, json!(at.min(6) + 1), "{ad} {again}");
            assert_eq!(count(&server, ad, now).await, json!(0));
        }
        let popular = server.ask("/v1/ads/popular_ads?count=8&window=30&running=true").await;
        let most: Vec<_> = ADS[6..].iter().chain(ADS[1..6].iter().rev()).collect();
        assert_eq!(popular["ad_ids"], json!(most), "most first, then by name: {popular}");
        let cells = exported(&server, &range).await;
        let expected = ADS.map(|ad| (ad.to_owned(), "新聞".to_owned()));
        assert_eq!(cells, expected);
        recount::agrees(&server.api, &server.data);
        server.kill_and_restart_with(&flags);
    }
    let broken = server.http.get(format!("{}/v1/serve?placement=a%0Ab", server.edge)).send().await;
    let broken: Value = broken.unwrap().json().await.unwrap();
    assert!(broken["detail"].as_str().unwrap().contains("U+000A"), "{broken}");
}

#[tokio::test]
async fn rows_of_a_log_are_counted_whatever_their_ads_are_called() {
    let dir = tempfile::tempdir().unwrap();
    let flags = recount::flags(dir.path());
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut server = Server::start_with(&dir.path().join("data"), None, &flags);
    let rows: String = ADS
        .iter()
        .map(|ad| format!("\"{ad}\",1700000051,\"pub.example, Ltd.\",/1/top\n"))
        .collect();
    // The longest names, and so many that a chunk is full of names before it is full of events.
    let long = |n: usize| format!("{n:05}/{}", "x".repeat(122));
    let many: String = (0..3_000).map(|n| format!("{0},1700000051,{0},{0}\n", long(n))).collect();
    let bad = format!("{}x,1700000051,,\na\u{200b}b,1700000051,,\n", long(0));
    let path = dir.path().join("a.csv");
    fs::write(&path, format!("ad_id,timestamp,publisher,placement\n{rows}{many}{bad}")).unwrap();
    let (code, said, err) = run(server.import().arg(&path));
    assert_eq!(code, Some(1), "{said}{err}");
    assert!(err.contains("at most 128 bytes") && err.contains("U+200B"), "{err}");
    for again in [false, true] {
        for ad in ADS.map(str::to_owned).into_iter().chain([long(0), long(2_999)]) {
            assert_eq!(count(&server, &ad, MINUTE).await, json!(1), "{ad} {again}");
        }
        // All share one rank, so they are sorted by their names.
        let popular = server.ask("/v1/ads/popular_ads?count=3005&at=1700000100").await;
        let mut all: Vec<String> = ADS.map(str::to_owned).into_iter().collect();
        all.extend((0..3_000).map(long));
        all.sort_unstable();
        all.truncate(3_005);
        assert_eq!(popular["ad_ids"], json!(all));
        let (code, said, err) = run(recount::recount_of(&server.api, &server.data).args([
            "--from",
            "1700000040",
            "--to",
            "1700000100",
        ]));
        assert_eq!(code, Some(0), "{said}{err}");
        server.kill_and_restart_with(&flags);
    }
}
