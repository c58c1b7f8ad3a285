//! Answers beside DuckDB: the real logs are imported, and each question is asked of both.

use std::path::Path;

use serde_json::Value;
use shared::text::escaped;

use crate::duckdb::duckdb;
use crate::process::Server;

const LOGS: [&str; 3] = ["all", "men", "women"];
/// 2019-11-24, when the logs begin, and 2019-12-01, in Unix seconds.
const FROM: u64 = 1_574_553_600;
const TO: u64 = 1_575_158_400;
const DAY: u64 = 86_400;

/// What is asked of the API, as rows of text, and the same in SQL.
struct Question {
    path: String,
    rows: fn(&Value) -> Vec<String>,
    sql: String,
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
fn duckdb_answers_what_the_api_answers() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start_with(&dir.path().join("data"), None, &[]);
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data");
    let files: Vec<_> = LOGS.iter().map(|log| data.join(format!("obd_bts_{log}.csv"))).collect();
    let (code, said, err) = crate::process::run(server.import().args(&files));
    assert_eq!(code, Some(0), "{said}{err}");
    let mut questions = counts();
    questions.extend(tables());
    assert!(questions.len() > 30, "{}", questions.len());
    let logs: Vec<_> = files.iter().map(|file| format!("'{}'", file.display())).collect();
    let table = format!(
        "CREATE TABLE log AS SELECT * EXCLUDE timestamp, \
           CAST(replace(timestamp, '+00:00', '') AS TIMESTAMP) AS shown \
         FROM read_csv([{}], types = {{'timestamp': 'VARCHAR'}});\n",
        logs.join(", ")
    );
    let file = dir.path().join("question.sql");
    let expected: Vec<_> = questions
        .iter()
        .map(|question| {
            std::fs::write(&file, format!("{table}{};", question.sql)).unwrap();
            duckdb(dir.path(), &file, &[])
        })
        .collect();
    for round in ["as it was imported", "after kill -9"] {
        for (Question { path, rows, sql }, expected) in questions.iter().zip(&expected) {
            let body: Value = serde_json::from_str(&ask(&server, path)).unwrap();
            assert_eq!(rows(&body), *expected, "{round}: {path}\n{sql}");
        }
        server.kill_and_restart_with(&[]);
    }
}

fn ask(server: &Server, path: &str) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(server.text(path))
}
