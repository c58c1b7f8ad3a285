//! Answers beside DuckDB and ClickHouse: the real logs are imported, and each question is asked of
//! all.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;
use shared::text::escaped;

use crate::engines::{clickhouse_all, duckdb_all};
use crate::process::Server;

const LOGS: [&str; 3] = ["all", "men", "women"];
/// 2019-11-24, when the logs begin, and 2019-12-01, in Unix seconds.
const FROM: u64 = 1_574_553_600;
const TO: u64 = 1_575_158_400;
const DAY: u64 = 86_400;
/// Impressions and clicks in the logs.
pub(crate) const EVENTS: u64 = 30_157;

/// What is asked of the API, as rows of text, and the same in SQL.
pub(crate) struct Question {
    pub(crate) path: String,
    pub(crate) rows: fn(&Value) -> Vec<String>,
    sql: String,
}

/// How many events are in the segments of an answer to `/v1/segments`.
pub(crate) fn sealed(listed: &Value) -> u64 {
    let segments = listed["segments"].as_array().unwrap().iter();
    segments.map(|segment| segment["events"].as_u64().unwrap()).sum()
}

/// All of them.
pub(crate) fn questions() -> Vec<Question> {
    let mut all = counts();
    all.extend(tables());
    assert!(all.len() > 30, "{}", all.len());
    all
}

/// The real logs.
pub(crate) fn logs() -> Vec<PathBuf> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data");
    LOGS.iter().map(|log| data.join(format!("obd_bts_{log}.csv"))).collect()
}

fn sql_time(second: u64) -> String {
    format!("make_timestamp({}::BIGINT)", second * 1_000_000)
}

fn within(from: u64, to: u64) -> String {
    format!("shown >= {} AND shown < {}", sql_time(from), sql_time(to))
}

fn number(value: &Value) -> String {
    value.as_u64().map_or_else(|| value.to_string(), |number| number.to_string())
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn count(body: &Value) -> Vec<String> {
    vec![number(&body["count"])]
}

fn uniques(body: &Value) -> Vec<String> {
    assert_eq!(body["exact"], true, "{body}");
    vec![number(&body["uniques"])]
}

fn top(body: &Value) -> Vec<String> {
    let rows = body["top"].as_array().unwrap();
    rows.iter().map(|row| format!("{}|{}", text(&row["id"]), number(&row["count"]))).collect()
}

fn popular(body: &Value) -> Vec<String> {
    let ads = body["ad_ids"].as_array().unwrap().iter();
    let counts = body["counts"].as_array().unwrap().iter();
    ads.zip(counts).map(|(ad, count)| format!("{}|{}", text(ad), number(count))).collect()
}

fn series(body: &Value) -> Vec<String> {
    let points = body["points"].as_array().unwrap().iter();
    let row =
        |point: &Value| format!("{}|{}", number(&point["impressions"]), number(&point["clicks"]));
    points.map(row).collect()
}

fn breakdown(body: &Value) -> Vec<String> {
    let mut rows = Vec::new();
    for group in body["groups"].as_array().unwrap() {
        let key = text(&group["group"]["ad"]);
        let rate = group["click_rate"].as_f64().unwrap_or(0.0);
        let (impressions, clicks) = (number(&group["impressions"]), number(&group["clicks"]));
        rows.push(format!("{key}|{impressions}|{clicks}|{rate:.6}"));
    }
    let other = &body["other"];
    rows.push(format!("other|{}|{}|", number(&other["impressions"]), number(&other["clicks"])));
    rows
}

fn counts() -> Vec<Question> {
    let mut all = Vec::new();
    let filters = [
        ("", "true"),
        ("placement=2", "placement = 2"),
        ("placement!=2", "placement <> 2"),
        ("ad=men-2,men-9,women-36", "ad_id IN ('men-2', 'men-9', 'women-36')"),
        (r#"{"any":[{"placement":"1"},{"ad":"all-14"}]}"#, "(placement = 1 OR ad_id = 'all-14')"),
    ];
    for (n, (filter, condition)) in (0_u64..).zip(filters) {
        let (from, to) = (FROM + n * 7_200, FROM + DAY + n * DAY / 2 + 60 * n);
        let range = format!("from={from}&to={to}&where={}", escaped(filter));
        let time = within(from, to);
        for (event, of_event) in [("impression", "true"), ("click", "click = 1")] {
            let sql = format!(
                "SELECT count(*) FROM log WHERE ad_id = 'all-14' AND {of_event} AND {condition} AND {time}"
            );
            let path = format!("/v1/ads/all-14/aggregated_count?event={event}&{range}");
            all.push(Question { path, rows: count, sql });
        }
        let sql = format!(
            "SELECT ad_id, count(*) AS n FROM log WHERE {condition} AND {time} \
             GROUP BY ad_id ORDER BY n DESC, ad_id LIMIT 12"
        );
        let path = format!("/v1/top?of=ads&count=12&event=impression&{range}");
        all.push(Question { path, rows: top, sql });
        let sql = format!(
            "SELECT count(DISTINCT user_id) FROM log WHERE placement = 3 AND {condition} AND {}",
            within(from, from + DAY / 2)
        );
        let range = format!("from={from}&to={}&where={}", from + DAY / 2, escaped(filter));
        let path = format!("/v1/placements/3/uniques?event=impression&{range}");
        all.push(Question { path, rows: uniques, sql });
    }
    all
}

fn tables() -> Vec<Question> {
    let mut all = Vec::new();
    let range = format!("from={FROM}&to={TO}");
    // Tokyo is nine hours ahead all year: a range from its midnight to its midnight.
    let (from, to) = (FROM - 9 * 3_600, TO - 9 * 3_600);
    let tokyo = format!("from={from}&to={to}&tz=Asia/Tokyo");
    for placement in 1..=3 {
        for (step, seconds, range, from, to) in [
            ("day", DAY, &range, FROM, TO),
            ("hour", 3_600, &range, FROM, TO),
            ("day", DAY, &tokyo, from, to),
        ] {
            let sql = format!(
                "SELECT count(shown), count(shown) FILTER (click = 1) FROM range({from}, {to}, {seconds}) steps(start) \
                 LEFT JOIN log ON placement = {placement} \
                   AND shown >= make_timestamp(start * 1000000) AND shown < make_timestamp((start + {seconds}) * 1000000) \
                 GROUP BY start ORDER BY start"
            );
            let path = format!("/v1/placements/{placement}/series?step={step}&{range}");
            all.push(Question { path, rows: series, sql });
        }
        let condition = format!("placement = {placement} AND {}", within(FROM, TO));
        let sql = format!(
            "WITH ads AS (SELECT ad_id, count(*) AS n, count(*) FILTER (click = 1) AS clicks \
               FROM log WHERE {condition} GROUP BY ad_id), \
             ranked AS (SELECT *, row_number() OVER (ORDER BY n DESC, ad_id) AS place FROM ads) \
             SELECT id, n, clicks, rate FROM (SELECT ad_id AS id, n, clicks, \
               format('{{:.6f}}', clicks / n) AS rate, place FROM ranked WHERE place <= 7 \
             UNION ALL SELECT 'other', sum(n), sum(clicks), '', 8 FROM ranked WHERE place > 7) ORDER BY place"
        );
        let path =
            format!("/v1/placements/{placement}/breakdown?by=ad&event=impression&count=7&{range}");
        all.push(Question { path, rows: breakdown, sql });
    }
    let at = FROM + 2 * DAY;
    let sql = format!(
        "SELECT ad_id, count(*) AS n FROM log WHERE placement <> 1 AND {} \
         GROUP BY ad_id ORDER BY n DESC, ad_id LIMIT 20",
        within(at - DAY, at)
    );
    let path = format!(
        "/v1/ads/popular_ads?count=20&window=1440&event=impression&at={at}&where=placement!=1"
    );
    all.push(Question { path, rows: popular, sql });
    all
}

#[test]
fn duckdb_and_clickhouse_answer_what_the_api_answers() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start_with(&dir.path().join("data"), None, &[]);
    let files = logs();
    let (code, said, err) = crate::process::run(server.import().args(&files));
    assert_eq!(code, Some(0), "{said}{err}");
    let questions = questions();
    let logs: Vec<_> = files.iter().map(|file| format!("'{}'", file.display())).collect();
    let table = format!(
        "CREATE TABLE log AS SELECT * EXCLUDE timestamp, \
           CAST(replace(timestamp, '+00:00', '') AS TIMESTAMP) AS shown \
         FROM read_csv([{}], types = {{'timestamp': 'VARCHAR'}})",
        logs.join(", ")
    );
    let mut script = vec![table.clone()];
    script.extend(questions.iter().map(|question| question.sql.clone()));
    let expected = duckdb_all(dir.path(), &script).split_off(1);
    for round in ["as it was imported", "after kill -9", "in segments", "in segments after kill -9"]
    {
        if round == "in segments" {
            let listed = wait(server.until("/v1/segments", |body| sealed(body) == EVENTS));
            segments_have_the_log(dir.path(), &server.data.join("state"), &listed, &table);
            clickhouse_agrees(dir.path(), &server, &listed, &expected);
        }
        for (Question { path, rows, sql }, expected) in questions.iter().zip(&expected) {
            let body: Value = serde_json::from_str(&ask(&server, path)).unwrap();
            assert_eq!(rows(&body), *expected, "{round}: {path}\n{sql}");
        }
        server.kill_and_restart_with(&[]);
    }
}

/// ClickHouse answers the questions that are counts, from the segments and from the archive.
fn clickhouse_agrees(dir: &Path, server: &Server, listed: &Value, expected: &[Vec<String>]) {
    for partition in 0..16 {
        let archive = format!("{}/v1/archive/{partition}", server.api);
        let reply = wait(server.http.post(archive).bearer_auth(crate::process::KEY).send());
        assert!(reply.unwrap().status().is_success());
    }
    let listed = listed["segments"].as_array().unwrap().iter();
    let names: Vec<String> = listed.map(|segment| text(&segment["file"])).collect();
    let segments = format!("{}/{{{}}}", server.data.join("state").display(), names.join(","));
    let archive = format!("{}/archive/**/*.parquet", server.data.display());
    for (files, shown, is_meant) in [
        (segments, "minute + toIntervalSecond(second)", "true"),
        (archive, "at", "record = 'event' AND outcome = 'accepted'"),
    ] {
        let view = |name: &str, kind: &str| {
            format!(
                "CREATE VIEW {name} AS SELECT ad AS ad_id, toInt32(placement) AS placement, \
                   visitor AS user_id, {shown} AS shown, 1 AS click FROM file('{files}', Parquet) \
                 WHERE kind = '{kind}' AND {is_meant}"
            )
        };
        let mut script = vec![
            "CREATE FUNCTION make_timestamp AS (micros) -> fromUnixTimestamp64Micro(micros, 'UTC')"
                .to_owned(),
            view("impressions", "impression"),
            view("clicks", "click"),
        ];
        // A row of the log is an impression, and some are clicks too.
        script.extend(counts().iter().map(|question| match question.sql.contains("click = 1") {
            true => question.sql.replace("FROM log", "FROM clicks"),
            false => question.sql.replace("FROM log", "FROM impressions"),
        }));
        let answers = clickhouse_all(dir, &script).split_off(3);
        assert_eq!(answers.len(), counts().len());
        for ((answer, expected), sql) in answers.iter().zip(expected).zip(&script[3..]) {
            assert_eq!(answer, expected, "{files}: {sql}");
        }
    }
}

/// A click of a log that is made up: ad, second of the hour, whether it is from Germany, visitor.
type Click = (u64, u64, bool, u64);

/// Many ads, of which few have most of the clicks; and one with more than are read one by one.
fn clicks() -> Vec<Click> {
    let mut state = 14_u64;
    let mut random = |below: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut clicks: Vec<Click> = Vec::new();
    for second in 0..3_600 {
        for _ in 0..20 {
            let ad = random(95) * random(95);
            clicks.push((ad, second, random(3) == 0, 1 + random(20_000)));
        }
        let hottest = (0..60).map(|_| (9_999, second, random(3) == 0, 1 + random(50_000)));
        clicks.extend(hottest.collect::<Vec<_>>());
    }
    clicks
}

#[test]
fn top_lists_and_visitors_of_many_ads_equal_a_plain_count() {
    /// 2026-01-15T12:00:00Z.
    const HOUR: u64 = 1_768_478_400;
    let clicks = clicks();
    let dir = tempfile::tempdir().unwrap();
    let mut log = String::from("ad_id,timestamp,country,user_id\n");
    for (ad, second, is_german, user) in &clicks {
        let country = if *is_german { "DE" } else { "FR" };
        writeln!(log, "ad-{ad:04},{},{country},u{user}", HOUR + second).unwrap();
    }
    let file = dir.path().join("clicks.csv");
    std::fs::write(&file, log).unwrap();
    // In each of two partitions there are more ads than a segment shows at first.
    let config = dir.path().join("countersign.toml");
    std::fs::write(&config, "partitions = 2\n").unwrap();
    let server = Server::start_with(
        &dir.path().join("data"),
        None,
        &["--config", &config.display().to_string()],
    );
    let (code, said, err) = crate::process::run(server.import().arg(&file));
    assert_eq!(code, Some(0), "{said}{err}");
    wait(server.until("/v1/segments", |body| body["loose_events"] == 0));
    for (filter, is_meant) in [
        ("", (|_| true) as fn(&Click) -> bool),
        ("country=DE", |click| click.2),
        ("ad!=ad-9999;country=FR", |click| click.0 != 9_999 && !click.2),
        ("country=US", |_| false),
    ] {
        for (from, to, count) in [(0, 60, 20), (7, 17, 100), (59, 60, 3)] {
            let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
            let within =
                |click: &&Click| (from * 60..to * 60).contains(&click.1) && is_meant(click);
            let meant: Vec<&Click> = clicks.iter().filter(within).collect();
            meant.iter().for_each(|click| *counts.entry(click.0).or_default() += 1);
            let mut ranked: Vec<(u64, u64)> = counts.into_iter().collect();
            ranked.sort_by_key(|(ad, count)| (std::cmp::Reverse(*count), *ad));
            let expected: Vec<String> =
                ranked.iter().take(count).map(|(ad, n)| format!("ad-{ad:04}|{n}")).collect();
            let range = format!("from={}&to={}", HOUR + from * 60, HOUR + to * 60);
            let question = format!("{range}&where={}", escaped(filter));
            let body = ask(&server, &format!("/v1/top?of=ads&count={count}&{question}"));
            assert_eq!(top(&serde_json::from_str(&body).unwrap()), expected, "{question}");
            let body = ask(&server, &format!("/v1/ads/ad-9999/uniques?{question}"));
            let body: Value = serde_json::from_str(&body).unwrap();
            let own: Vec<u64> = meant.iter().filter(|c| c.0 == 9_999).map(|c| c.3).collect();
            let visitors = own.iter().collect::<BTreeSet<_>>().len() as u64;
            assert_eq!(body["events"], own.len(), "{question}");
            let uniques = body["uniques"].as_u64().unwrap();
            let off = if body["exact"] == true { 0 } else { visitors / 15 };
            assert!(uniques.abs_diff(visitors) <= off, "{question}: {visitors}, not {body}");
            assert!(body["exact"] == true || filter.is_empty(), "{body}");
        }
    }
}

/// DuckDB reads the segments, and finds in them what it finds in the logs.
fn segments_have_the_log(dir: &Path, state: &Path, listed: &Value, log: &str) {
    let listed = listed["segments"].as_array().unwrap();
    let path = |segment: &Value| format!("'{}'", state.join(text(&segment["file"])).display());
    let paths: Vec<String> = listed.iter().map(path).collect();
    let segments = format!("read_parquet([{}])", paths.join(", "));
    let of_log = "SELECT ad_id AS ad, placement::VARCHAR AS placement, date_trunc('minute', shown) AS minute, \
                    date_part('second', shown)::UTINYINT AS second FROM log";
    let of_segments = format!(
        "SELECT ad, placement, minute AT TIME ZONE 'UTC' AS minute, second FROM {segments} WHERE kind = "
    );
    let sql = format!(
        "SELECT \
           (SELECT count(*) FROM ({of_log} EXCEPT ALL {of_segments} 'impression')), \
           (SELECT count(*) FROM ({of_segments} 'impression' EXCEPT ALL {of_log})), \
           (SELECT count(*) FROM ({of_log} WHERE click = 1 EXCEPT ALL {of_segments} 'click')), \
           (SELECT count(*) FROM {segments} WHERE kind = 'click') - (SELECT count(*) FROM log WHERE click = 1), \
           (SELECT count(DISTINCT visitor) FROM {segments}) - (SELECT count(DISTINCT user_id) FROM log)"
    );
    assert_eq!(duckdb_all(dir, &[log.to_owned(), sql])[1], ["0|0|0|0|0"]);
}

fn ask(server: &Server, path: &str) -> String {
    wait(server.text(path))
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(future)
}
