//! Archive and counts are compared by themselves, and an operator sees what came of it.

use std::path::Path;

use aggregator::store::s3_server;
use serde_json::{Value, json};
use shared::Clock as _;

use crate::process::{KEY, Server, binary, run};
use crate::recount::{files, without_an_event};
use crate::world::{Role, World};

const ALL: &str = "/v1/reconciliations";

/// Few partitions, and an archive that is written often. It is due at any time of the day, as soon
/// as the process runs.
fn settings(dir: &Path, is_on: bool) -> [String; 3] {
    let text = format!(
        "partitions = 3\n[aggregator]\ncheckpoint_ms = 300\n[aggregator.reconcile]\nhour = 0\n\
         delay_s = 0\nenabled = {is_on}\n[archive]\nevery_ms = 40"
    );
    let path = dir.join(format!("reconcile-{is_on}.toml"));
    std::fs::write(&path, text).unwrap();
    ["--demo".to_owned(), "--config".to_owned(), path.display().to_string()]
}

fn start(dir: &Path, is_on: bool) -> Server {
    let flags = settings(dir, is_on);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    Server::start_with(&dir.join("data"), None, &flags)
}

/// A log with clicks of yesterday, of which some come twice.
fn log_of_yesterday(dir: &Path) -> std::path::PathBuf {
    let day = u64::from(shared::ambient::SystemClock.now().day()) * 86_400;
    let mut text = "ad_id,timestamp\n".to_owned();
    for row in 0..300_u64 {
        text.push_str(&format!("ad-{},{}\n", row % 7, day - 86_400 + row * 200));
    }
    let path = dir.join("yesterday.csv");
    std::fs::write(&path, text).unwrap();
    path
}

fn import(server: &Server, log: &Path) {
    let (code, said, err) = run(server.import().arg(log));
    assert_eq!(code, Some(0), "{said}{err}");
}

async fn post(server: &Server, body: &Value) -> (u16, Option<String>, Value) {
    let request = server.http.post(format!("{}{ALL}", server.api)).bearer_auth(KEY);
    let reply = request.body(body.to_string()).send().await.unwrap();
    let place = reply.headers().get("location").map(|place| place.to_str().unwrap().to_owned());
    (reply.status().as_u16(), place, reply.json().await.unwrap())
}

/// Waits until the newest has this number and has ended.
async fn ended(server: &Server, id: u64) -> Value {
    let newest = |all: &Value| all["reconciliations"][0].clone();
    let wanted = |all: &Value| newest(all)["id"] == id && newest(all)["state"] != "running";
    newest(&server.until(ALL, wanted).await)
}

/// The value of a metric without labels.
async fn metric(server: &Server, name: &str) -> f64 {
    let text = server.text("/metrics").await;
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("{name}: {text}")).parse().unwrap()
}

#[tokio::test]
async fn it_runs_by_itself_and_agrees_and_a_restart_repeats_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = start(dir.path(), false);
    import(&server, &log_of_yesterday(dir.path()));
    let none = server.ask(ALL).await;
    assert!(none["waits"].as_str().unwrap().contains("aggregator.reconcile.enabled"), "{none}");
    assert_eq!(none["reconciliations"], json!([]));
    assert_eq!(metric(&server, "countersign_reconciliation_enabled").await, 0.0);
    assert!(server.terminate().success());

    // Nobody asks for it.
    let mut server = start(dir.path(), true);
    let first = ended(&server, 1).await;
    assert_eq!((&first["agrees"], &first["state"]), (&json!(true), &json!("agrees")), "{first}");
    assert_eq!(first["asked_by"], "schedule");
    assert_eq!((&first["partitions"], &first["partitions_done"]), (&json!(3), &json!(3)));
    assert_eq!((&first["events"], &first["differences"]), (&json!(300), &json!(0)), "{first}");
    // Three hundred minutes, each with a cell and an account.
    assert!(first["cells"].as_u64().unwrap() > 600, "{first}");
    let day = shared::ambient::SystemClock.now().day();
    let midnight = |day: u32| shared::Minute(day * 1_440).start().to_string();
    // Unless midnight has passed meanwhile.
    if first["to"] == midnight(day) {
        assert_eq!(first["from"], midnight(day - 1));
    }
    let at = metric(&server, "countersign_reconciliation_last_success_seconds").await;
    assert!(at > 1_700_000_000.0, "{at}");
    assert_eq!(metric(&server, "countersign_reconciliation_differs").await, 0.0);

    // A restart, in order or not, neither forgets it nor does it again.
    assert!(server.terminate().success());
    let mut server = start(dir.path(), true);
    let flags = settings(dir.path(), true);
    server.kill_and_restart_with(&flags.iter().map(String::as_str).collect::<Vec<_>>());
    let next = server.until(ALL, |all| all["next_at"].is_string()).await;
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    let all = server.ask(ALL).await;
    if all["next_at"] == next["next_at"] {
        assert_eq!(all["reconciliations"], json!([first]), "{all}");
    }
    assert_eq!(metric(&server, "countersign_reconciliation_last_success_seconds").await, at);
    assert_eq!(server.ask(&format!("{ALL}/1")).await, first);
}

#[tokio::test]
async fn an_archive_that_was_changed_is_told_by_the_route_and_the_metrics() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = start(dir.path(), false);
    import(&server, &log_of_yesterday(dir.path()));
    let day = u64::from(shared::ambient::SystemClock.now().day()) * 86_400;
    let range = json!({"from": day - 86_400, "to": shared::Timestamp(day * 1_000).to_string()});
    // The minutes are final when the edge has said that it is past them.
    let path = format!("/v1/accounting?from={}&to={day}", day - 60);
    server.until(&path, |account| account["final"] == true).await;
    let (status, place, told) = post(&server, &range).await;
    assert_eq!((status, place.as_deref()), (202, Some("/v1/reconciliations/1")), "{told}");
    assert_eq!((&told["state"], &told["asked_by"]), (&json!("running"), &json!("operator")));
    let first = ended(&server, 1).await;
    assert_eq!((&first["agrees"], &first["events"]), (&json!(true), &json!(300)), "{first}");

    let file = files(&server).into_iter().find(|file| has_events(file)).unwrap();
    let whole = std::fs::read(&file).unwrap();
    without_an_event(&file);
    assert_eq!(post(&server, &range).await.0, 202);
    let second = ended(&server, 2).await;
    assert_eq!((&second["state"], &second["agrees"]), (&json!("differs"), &json!(false)));
    let different = second["different"].as_array().unwrap();
    let count = second["differences"].as_u64().unwrap();
    assert!(count > 0 && different.len() as u64 == count, "{second}");
    let cell = different.iter().find(|one| one["what"] == "valid").unwrap();
    assert_eq!(cell["cell"]["kind"], "click", "{cell}");
    assert!(cell["cell"]["ad"].as_str().unwrap().starts_with("ad-"), "{cell}");
    assert_eq!(cell["engine"].as_i64().unwrap() - cell["archive"].as_i64().unwrap(), 1, "{cell}");
    assert_eq!(metric(&server, "countersign_reconciliation_differs").await, 1.0);
    let differences = metric(&server, "countersign_reconciliation_differences").await;
    assert_eq!(differences, different.len() as f64);

    // A damaged one is an error that names the file, and the other partitions are compared.
    let mut damaged = whole.clone();
    damaged[4..whole.len() / 2].fill(7);
    std::fs::write(&file, &damaged).unwrap();
    assert_eq!(post(&server, &range).await.0, 202);
    let third = ended(&server, 3).await;
    assert_eq!((&third["state"], &third["agrees"]), (&json!("failed"), &Value::Null), "{third}");
    let name = file.file_name().unwrap().to_str().unwrap();
    assert!(third["errors"][0].as_str().unwrap().contains(name), "{third}");
    assert_eq!(third["partitions_done"], 3);
    assert_eq!(metric(&server, "countersign_reconciliation_failed").await, 1.0);
    assert_eq!(metric(&server, "countersign_reconciliation_failures_total").await, 1.0);

    // One that is killed while it runs goes on when the process is there again.
    std::fs::write(&file, &whole).unwrap();
    assert_eq!(post(&server, &range).await.0, 202);
    let flags = settings(dir.path(), false);
    server.kill_and_restart_with(&flags.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(ended(&server, 4).await["agrees"], true);
    assert_eq!(server.ask(ALL).await["reconciliations"].as_array().unwrap().len(), 4);
    assert_eq!(metric(&server, "countersign_reconciliation_failed").await, 0.0);
    assert_eq!(metric(&server, "countersign_reconciliation_differs").await, 0.0);
}

fn has_events(file: &Path) -> bool {
    use arrow_array::cast::AsArray as _;
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(
        std::fs::File::open(file).unwrap(),
    );
    reader.unwrap().build().unwrap().any(|batch| {
        let batch = batch.unwrap();
        let records = batch.column_by_name("record").unwrap().as_string::<i32>();
        records.iter().flatten().any(|record| record == "event")
    })
}

/// Aggregators that share nothing but an object store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_counts_compares_and_who_takes_over_knows_what_came_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path());
    let buckets = dir.path().join("buckets");
    std::fs::create_dir_all(buckets.join("ads")).unwrap();
    let endpoint = s3_server::serve(&buckets);
    let start = |name: &str, is_on: bool| {
        let data = dir.path().join(name).display().to_string();
        let args = ["aggregator", "--log", &world.nats.url(), "--data", &data];
        let mut environment = s3_server::environment(&endpoint, "secret");
        let mut set = |name: &str, value: &str| {
            environment.push((format!("COUNTERSIGN_{name}"), value.to_owned()));
        };
        set("AGGREGATOR__STATE_URL", "s3://ads/state");
        set("ARCHIVE__URL", "s3://ads/archive");
        set("AGGREGATOR__RECONCILE__ENABLED", if is_on { "true" } else { "false" });
        set("AGGREGATOR__RECONCILE__HOUR", "0");
        set("AGGREGATOR__RECONCILE__DELAY_S", "0");
        Role::start_in(environment, args.map(str::to_owned).to_vec(), &[])
    };
    let all = |role: &Role| format!("{}{ALL}", role.url("api"));
    let collector = world.collector();
    let mut first = start("one", false);
    world.until(&all(&first), |all| all["waits"].is_string()).await;
    let mut import = binary();
    import.args(["import", "--api", first.url("api"), "--collector", collector.url("api")]);
    let (code, said, err) = run(import.args(["--key", KEY]).arg(log_of_yesterday(dir.path())));
    assert_eq!(code, Some(0), "{said}{err}");
    let mut second = start("two", true);
    let (status, text) = world.get(&all(&second)).await;
    assert!(status == 503 && text.contains("stands by"), "{status} {text}");
    first.kill();
    let done = |all: &Value| all["reconciliations"][0]["ended_at"].is_string();
    let told = world.until(&all(&second), done).await["reconciliations"].clone();
    assert_eq!((&told[0]["agrees"], &told[0]["events"]), (&json!(true), &json!(300)), "{told}");
    assert_eq!(told[0]["partitions_done"], 4);
    let third = start("three", true);
    second.kill();
    world.until(&all(&third), |all| all["next_at"].is_string()).await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let later = world.until(&all(&third), done).await["reconciliations"].clone();
    // Unless midnight has passed meanwhile.
    assert!(later == told || later[0]["to"] != told[0]["to"], "{told} {later}");
}

#[tokio::test]
async fn what_cannot_be_begun_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), false);
    let now = shared::ambient::SystemClock.now().minute().0;
    let minute = |minute: u32| u64::from(minute) * 60;
    let cases = [
        (json!({}), 400, "malformed", "two whole minutes"),
        (json!({"from": 60, "to": 120, "ad": "a"}), 400, "malformed", "`ad`"),
        (json!({"from": 60, "to": 60}), 400, "invalid_parameter", "to: it is not after"),
        (json!({"from": 61, "to": 120}), 400, "invalid_parameter", "from: "),
        (json!({"from": "noon", "to": 120}), 400, "invalid_parameter", "RFC 3339"),
        (json!({"from": 0, "to": minute(now)}), 400, "invalid_parameter", "400 days"),
        (
            json!({"from": minute(now - 5), "to": minute(now + 5)}),
            409,
            "not_final",
            "GET /v1/edges",
        ),
    ];
    for (body, status, kind, words) in cases {
        let (code, _, problem) = post(&server, &body).await;
        assert_eq!(code, status, "{body}: {problem}");
        assert_eq!(problem["type"], format!("urn:countersign:{kind}"), "{body}");
        assert!(problem["detail"].as_str().unwrap().contains(words), "{problem}");
    }
    for (path, kind) in
        [("/7", "unknown_reconciliation"), ("/x", "invalid_parameter"), ("?a=1", "invalid_param")]
    {
        let request = server.http.get(format!("{}{ALL}{path}", server.api)).bearer_auth(KEY);
        let problem: Value = request.send().await.unwrap().json().await.unwrap();
        assert!(problem["type"].as_str().unwrap().contains(kind), "{path}: {problem}");
    }
}

#[tokio::test]
async fn without_an_archive_there_is_nothing_to_compare() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("none.toml");
    std::fs::write(&path, "[archive]\nenabled = false").unwrap();
    let config = ["--config", path.to_str().unwrap()];
    let server = Server::start_with(&dir.path().join("data"), None, &config);
    let (code, _, problem) = post(&server, &json!({"from": 60, "to": 120})).await;
    assert_eq!((code, &problem["type"]), (409, &json!("urn:countersign:no_archive")), "{problem}");
    assert!(server.ask(ALL).await["waits"].as_str().unwrap().contains("archive.enabled"));
}
