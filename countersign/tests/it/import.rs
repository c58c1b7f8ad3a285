use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use crate::process::{KEY, Server, random_moment, run};

type Counts = BTreeMap<String, u64>;

pub(crate) fn logs() -> Vec<PathBuf> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data");
    ["obd_bts_all.csv", "obd_bts_men.csv", "obd_bts_women.csv"].map(|name| data.join(name)).to_vec()
}

/// A count by other code: for each kind and minute, how often each ad.
fn oracle(paths: &[PathBuf]) -> BTreeMap<(&'static str, u32), Counts> {
    let mut all: BTreeMap<(&str, u32), Counts> = BTreeMap::new();
    for path in paths {
        let text = std::fs::read_to_string(path).unwrap();
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split(',').collect();
            let number = |range: std::ops::Range<usize>| fields[0][range].parse::<u32>().unwrap();
            // November 2019 began 18 201 days after 1970.
            assert_eq!(&fields[0][..8], "2019-11-");
            let day = 18_201 + number(8..10) - 1;
            let minute = (day * 24 + number(11..13)) * 60 + number(14..16);
            let mut count = |kind| {
                *all.entry((kind, minute)).or_default().entry(fields[1].to_owned()).or_default() +=
                    1;
            };
            count("impression");
            if fields[4] == "1" {
                count("click");
            }
        }
    }
    all
}

async fn popular(server: &Server, kind: &str, end: u32, window: u32) -> Counts {
    let at = u64::from(end) * 60;
    let path = format!("/v1/ads/popular_ads?count=1000&window={window}&event={kind}&at={at}");
    let answer = server.ask(&path).await;
    let list = |name: &str| answer[name].as_array().unwrap().clone();
    let ads = list("ad_ids").into_iter().map(|ad| ad.as_str().unwrap().to_owned());
    ads.zip(list("counts").into_iter().map(|count| count.as_u64().unwrap())).collect()
}

/// Compares every ad, in every `step`th minute that has something, and in all hours, empty ones
/// included.
pub(crate) async fn equals_the_oracle(server: &Arc<Server>, paths: &[PathBuf], step: usize) {
    let oracle = oracle(paths);
    // 2019-11-22 to 2019-12-02.
    for (kind, hour) in ["impression", "click", "viewable", "served"]
        .into_iter()
        .flat_map(|kind| (18_222 * 24..18_232 * 24).map(move |hour| (kind, hour)))
        .filter(|(kind, hour)| ["impression", "click"].contains(kind) || hour % 24 == 0)
    {
        let mut sum = Counts::new();
        for (_, counts) in oracle.range((kind, hour * 60)..(kind, (hour + 1) * 60)) {
            counts.iter().for_each(|(ad, count)| *sum.entry(ad.clone()).or_default() += count);
        }
        assert_eq!(popular(server, kind, (hour + 1) * 60, 60).await, sum, "{kind} in hour {hour}");
    }
    let mut asked = tokio::task::JoinSet::new();
    let minutes: Vec<_> = oracle.into_iter().step_by(step).collect();
    for part in minutes.chunks(minutes.len().div_ceil(4)) {
        let (server, part) = (Arc::clone(server), part.to_vec());
        asked.spawn(async move {
            for ((kind, minute), counts) in part {
                let found = popular(&server, kind, minute + 1, 1).await;
                assert_eq!(found, counts, "{kind} in minute {minute}");
            }
        });
    }
    while let Some(done) = asked.join_next().await {
        done.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_logs_equal_the_oracle_also_when_imported_twice() {
    let dir = tempfile::tempdir().unwrap();
    let server = Arc::new(Server::start_with(&dir.path().join("data"), None, &[]));
    let (code, said, err) = run(server.import().args(logs()));
    assert_eq!(code, Some(0), "{said}{err}");
    assert_eq!(said.matches("all rows are accounted for").count(), 3, "{said}");
    equals_the_oracle(&server, &logs(), 1).await;

    let (code, said, err) = run(server.import().args(logs()));
    assert_eq!(code, Some(0), "{said}{err}");
    assert_eq!(said.matches("0 sent now").count(), 3, "{said}");
    let answer = server.ask("/v1/accounting?from=1574208000&to=1575504000").await;
    assert_eq!(
        (&answer["counted"], &answer["received"]),
        (&30_157.into(), &30_157.into()),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crashes_at_random_moments_count_nothing_twice_and_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(&dir.path().join("data"));
    let paths = &logs()[1..3];
    // The server dies under an import, which goes on when the next one is there …
    let mut command = server.import();
    let child = command.args(paths).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    for _ in 0..3 {
        std::thread::sleep(random_moment(Duration::from_millis(300)));
        server.kill_and_restart();
    }
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    // … and an import dies, the server with it, and is run again.
    let other = &logs()[..1];
    for _ in 0..3 {
        let mut child = server.import().args(other).stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(random_moment(Duration::from_millis(300)));
        child.kill().unwrap();
        child.wait().unwrap();
        server.kill_and_restart();
    }
    let (code, said, err) = run(server.import().args(other));
    assert_eq!(code, Some(0), "{said}{err}");
    equals_the_oracle(&Arc::new(server), &logs(), 20).await;
}

#[tokio::test]
async fn a_named_log_may_grow_but_not_change() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(&dir.path().join("data"), None, &[]);
    let path = dir.path().join("clicks.log");
    let import =
        |flags: &[&str]| run(server.import().arg(&path).args(["--source", "shop"]).args(flags));
    let counted = async |ad: &str| {
        let path = format!("/v1/ads/{ad}/aggregated_count?from=1700000040&to=1700000100");
        server.ask(&path).await["count"].as_u64().unwrap()
    };
    std::fs::write(&path, "ad_id,timestamp\na,1700000050\na,1700000051\nb,17000").unwrap();
    let (code, said, err) = import(&["--format", "csv"]);
    assert!(code == Some(0) && said.contains("waiting"), "{said}{err}");
    assert_eq!((counted("a").await, counted("b").await), (2, 0));

    std::fs::write(
        &path,
        "ad_id,timestamp\na,1700000050\na,1700000051\nb,1700000052\na,1700000053\n?\nb,1700000054",
    )
    .unwrap();
    let (code, said, _) = import(&["--complete"]);
    assert!(code == Some(1) && said.contains("6, of them 2 taken before"), "{code:?} {said}");
    assert!(said.contains("rejected    1 rows"), "{said}");
    let rejects = std::fs::read_to_string(dir.path().join("clicks.log.rejects")).unwrap();
    assert!(rejects.contains(",6,"), "{rejects}");
    assert_eq!((counted("a").await, counted("b").await), (3, 2));

    std::fs::write(&path, "ad_id,timestamp\na,1700000050\nc,1700000051\nb,1700000052\n").unwrap();
    let (code, _, said) = import(&[]);
    assert!(
        code == Some(3) && said.contains("may grow, not change") || said.contains("shrink"),
        "{code:?} {said}"
    );
    assert_eq!(counted("c").await, 0);
}

#[tokio::test]
async fn of_two_logs_at_once_under_one_name_one_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(&dir.path().join("data"), None, &[]);
    let import = |ad: &str| {
        let path = dir.path().join(format!("{ad}.csv"));
        let rows = (0..50_000).map(|n| format!("{ad},{}\n", 1_700_000_040 + n % 60));
        std::fs::write(&path, format!("ad_id,timestamp\n{}", rows.collect::<String>())).unwrap();
        let mut command = server.import();
        command.arg(path).args(["--source", "shop"]);
        std::thread::spawn(move || run(&mut command))
    };
    let ended = [import("a"), import("b")].map(|one| one.join().unwrap());
    let codes: Vec<_> = ended.iter().map(|(code, ..)| code.unwrap()).collect();
    assert!(codes.contains(&0) && codes.contains(&3), "{ended:?}");
    let told = &ended[codes.iter().position(|code| *code == 3).unwrap()].2;
    assert!(told.contains("under this name"), "{told}");
    for (ad, code) in ["a", "b"].into_iter().zip(codes) {
        let path = format!("/v1/ads/{ad}/aggregated_count?from=1700000040&to=1700000100");
        let counted = server.ask(&path).await["count"].as_u64().unwrap();
        assert_eq!(counted, if code == 0 { 50_000 } else { 0 });
    }
}

#[test]
fn a_dry_run_shows_how_a_log_is_read_and_needs_no_server() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("export.csv");
    let log = "creative;hour;shown;land\nshoes;1700000001;1;USA\nhats;1700000002;0;Germany\n";
    std::fs::write(&path, format!("{log}hats;1700000003;0;Atlantis\n;1700000004;0;DE\n")).unwrap();
    let dry = |more: &[&str]| {
        let mut command = crate::process::binary();
        run(command.args(["import", "--dry-run"]).args(more).arg(&path))
    };
    let map = "ad_id=creative,timestamp=hour,click=shown,country=land";
    let (code, said, told) = dry(&["--map", map, "--default", "publisher=news"]);
    assert_eq!(code, Some(1), "{said}{told}");
    for word in [
        "export.csv as Csv, nothing sent",
        "column      ad_id is \"creative\"",
        "row         1: impression of ad shoes at 2023-11-14T22:13:21Z, publisher news, US, unknown",
        "row         1: click of ad shoes",
        "rows        4, 1 of them rejected",
        "events      impression 3, click 1",
        "time        2023-11-14T22:13:21Z to 2023-11-14T22:13:23Z",
        "country     US 2, DE 1, ZZ 1",
        "country     unknown for 1 rows: country is no code or name of one, as \"Atlantis\"",
    ] {
        assert!(said.contains(word), "{word}\n{said}{told}");
    }
    assert!(told.contains("export.csv:5: ad_id: a name"), "{told}");
    let files: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
    assert_eq!(files.len(), 1, "nothing is written");
    let (code, _, told) = dry(&[]);
    assert!(code == Some(2) && told.contains("--map ad_id=NAME,timestamp=NAME"), "{told}");
    let (code, _, told) = dry(&["--map", "colour=land"]);
    assert!(code == Some(2) && told.contains("colour: no column is called so"), "{told}");
    let mut command = crate::process::binary();
    let (code, _, told) = run(command.arg("import").arg(&path).env_remove("COUNTERSIGN_ADMIN_KEY"));
    assert!(
        code == Some(2) && told.contains("--api <URL>") && told.contains("--key <KEY>"),
        "{told}"
    );
}

#[test]
fn what_cannot_be_done_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(&dir.path().join("data"), None, &[]);
    let path = dir.path().join("a.csv");
    std::fs::write(&path, "id,when\n1,2\n").unwrap();
    let (code, _, said) = run(server.import().arg(&path));
    assert!(code == Some(2) && said.contains("and has: id, when"), "{code:?} {said}");
    let (code, _, said) = run(server.import().arg(dir.path().join("none.csv")));
    assert!(code == Some(2) && said.contains("none.csv"), "{code:?} {said}");
    std::fs::write(&path, "ad_id,timestamp\n").unwrap();
    let mut command = crate::process::binary();
    command.args(["import", "--api", &server.api, "--key", "wrong"]).arg(&path);
    let (code, _, said) = run(&mut command);
    assert!(code == Some(4) && said.contains("refuses the key"), "{code:?} {said}");
    let mut command = crate::process::binary();
    command.args(["import", "--api", "http://127.0.0.1:9", "--key", KEY, "--patience", "1"]);
    let (code, _, said) = run(command.arg(&path));
    assert!(code == Some(4) && said.contains("see that it runs there"), "{code:?} {said}");
    let (code, said, _) = run(server.import().arg(&path));
    assert!(code == Some(0) && said.contains("rows        0"), "{code:?} {said}");
}

#[test]
fn what_is_written_in_another_way_is_told_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(&dir.path().join("data"), None, &[]);
    let utf_16 =
        "\u{feff}ad_id,timestamp\na,1700000051\n".encode_utf16().flat_map(u16::to_le_bytes);
    for (name, bytes, word) in [
        ("array.json", br#"[{"ad_id":"a","timestamp":1700000051}]"#.to_vec(), "one object a line"),
        ("wide.csv", utf_16.collect(), "iconv -f UTF-16"),
        ("zip.csv", b"PK\x03\x04".to_vec(), "unzip"),
    ] {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let (code, _, said) = run(server.import().arg(&path));
        assert!(code == Some(2) && said.contains(word), "{name}: {code:?} {said}");
    }
    // A skippable frame of zstd (RFC 8878, section 3.1.2), which some writers put first.
    let path = dir.path().join("skipped.csv.zst");
    let frame = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"any"].concat();
    let log = zstd::encode_all(&b"ad_id,timestamp\na,1700000051\n"[..], 0).unwrap();
    std::fs::write(&path, [frame, log].concat()).unwrap();
    let (code, said, err) = run(server.import().arg(&path));
    assert!(code == Some(0) && said.contains("rows        1"), "{code:?} {said}{err}");
    // The edge's address instead of the API's.
    let mut command = crate::process::binary();
    command.args(["import", "--api", &server.edge, "--key", KEY, "--patience", "1"]);
    let (code, _, said) = run(command.arg(&path));
    assert!(code == Some(4) && said.contains("--api"), "{code:?} {said}");
}

#[test]
fn the_data_directory_is_the_one_that_the_environment_names() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("elsewhere");
    let server = Server::start_with(&data, None, &[]);
    let elsewhere = |arguments: &[&str]| {
        let mut command = crate::process::binary();
        command.args(arguments).env("COUNTERSIGN_DATA", &data).current_dir(dir.path());
        run(&mut command)
    };
    let (code, said, err) = elsewhere(&["keys", "list"]);
    assert!(code == Some(0) && said.contains("edge"), "{code:?} {said}{err}");
    let copy = dir.path().join("copy");
    let (code, said, err) = elsewhere(&["backup", "--to", copy.to_str().unwrap()]);
    assert!(code == Some(0) && copy.join("backup.json").exists(), "{code:?} {said}{err}");
    let hour = ["--from", "2026-01-01T00:00:00Z", "--to", "2026-01-01T01:00:00Z"];
    let at = ["recount", "--api", &server.api, "--key", KEY];
    let (code, said, err) = elsewhere(&[&at[..], &hour].concat());
    assert!(code == Some(0) && said.contains("agree"), "{code:?} {said}{err}");
}
