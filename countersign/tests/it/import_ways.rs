//! Logs as they are in real life: grown, mended, rotated, of web servers, read wrongly at first.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use shared::ambient::Stopwatch;
use shared::import::unnamed_source;

use crate::process::{Server, run};

const PATIENCE: Duration = Duration::from_secs(30);

fn start(dir: &Path) -> Server {
    Server::start_with(&dir.join("data"), None, &[])
}

fn import(server: &Server, path: &Path, flags: &[&str]) -> (Option<i32>, String, String) {
    run(server.import().arg(path).args(flags))
}

/// The count of one kind in the minute of these logs.
async fn counted_as(server: &Server, ad: &str, kind: &str) -> u64 {
    let path = format!("/v1/ads/{ad}/aggregated_count?from=1700000040&to=1700000100&event={kind}");
    server.ask(&path).await["count"].as_u64().unwrap()
}

async fn counted(server: &Server, ad: &str) -> u64 {
    counted_as(server, ad, "click").await
}

#[tokio::test]
async fn a_log_without_a_name_counts_each_row_once_when_it_has_grown_or_ends_its_lines_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    let path = dir.path().join("a.csv");
    let rows = "ad_id,timestamp\na,1700000051\na,1700000052\n";
    for (text, clicks) in [
        (rows.to_owned(), 2),
        (rows.replace('\n', "\r\n"), 2),
        (format!("\u{feff}{rows}"), 2),
        (rows.trim_end().to_owned(), 2),
        (format!("{rows}a,1700000053\n"), 3),
        (format!("{}a,1700000053\r\n\r\na,1700000054\r\n", rows.replace('\n', "\r\n")), 4),
    ] {
        fs::write(&path, &text).unwrap();
        let (code, said, err) = import(&server, &path, &[]);
        assert_eq!((code, counted(&server, "a").await), (Some(0), clicks), "{text:?} {said}{err}");
        assert!(!err.contains("under way"), "the run before has ended: {err}");
    }
    // The same log through a pipe, which can be read only once.
    let mut command = server.import();
    let input = fs::File::open(&path).unwrap();
    let (code, said, err) = run(command.arg("-").current_dir(dir.path()).stdin(input));
    assert!(code == Some(0) && said.contains("4, of them 4 taken before"), "{said}{err}");
    // Another log that begins alike is refused, with what to do about it.
    fs::write(&path, format!("{rows}b,1700000053\n")).unwrap();
    let (code, _, told) = import(&server, &path, &[]);
    assert!(code == Some(3) && told.contains("begins as this one does"), "{code:?} {told}");
    assert_eq!(counted(&server, "b").await, 0);
    assert_eq!(import(&server, &path, &["--source", "b"]).0, Some(0));
    assert_eq!(counted(&server, "b").await, 1);
}

#[tokio::test]
async fn a_log_that_an_earlier_build_has_taken_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    let path = dir.path().join("a.csv");
    let text = "ad_id,timestamp\r\na,1700000051\r\na,1700000052\r\n";
    fs::write(&path, text).unwrap();
    let source = unnamed_source(blake3::hash(text.as_bytes()).as_bytes());
    let digest = blake3::hash(text.trim_end().as_bytes()).to_hex();
    let event = |row: u64| serde_json::json!({ "row": row, "kind": "click", "at": 1_700_000_051_000_u64, "ad": "a" });
    let chunk = serde_json::json!({
        "source": source, "first_row": 0, "end_row": 2, "digest": digest.as_str(),
        "events": [event(0), event(1)],
    });
    let sent = server.http.post(format!("{}/v1/import", server.api));
    let sent = sent.bearer_auth(crate::process::KEY).json(&chunk).send().await.unwrap();
    assert_eq!(sent.status(), 200);
    let (code, said, err) = import(&server, &path, &[]);
    assert!(code == Some(0) && said.contains("2, of them 0 sent now"), "{code:?} {said}{err}");
    assert_eq!(counted(&server, "a").await, 2);
}

#[tokio::test]
async fn rejected_rows_are_mended_in_their_file_and_count_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    let path = dir.path().join("a.csv");
    let rejects = dir.path().join("a.csv.rejects");
    fs::write(&path, "ad_id;timestamp\na;1700000051\na;oops\na\u{7f}a;1700000053\na;?\n").unwrap();
    let (code, said, err) = import(&server, &path, &[]);
    assert!(code == Some(1) && said.contains("rejected    3 rows"), "{said}{err}");
    let mend = |from: &str, to: &str| {
        let text = fs::read_to_string(&rejects).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(&rejects, text.replace(from, to)).unwrap();
    };
    mend("a;oops", "a;1700000052");
    let (code, said, err) = import(&server, &rejects, &[]);
    assert!(code == Some(1) && said.contains("counted     1 now"), "{code:?} {said}{err}");
    assert_eq!(counted(&server, "a").await, 2);
    mend("a\u{7f}a;", "a;");
    mend("a;?", "a;1700000054");
    for (now, before) in [(2, 1), (0, 3)] {
        let (code, said, err) = import(&server, &rejects, &[]);
        let again = format!("duplicate   {before} (counted before)");
        assert!(code == Some(0) && said.contains(&format!("counted     {now} now")), "{said}{err}");
        assert!(said.contains(&again), "{said}");
        assert_eq!(counted(&server, "a").await, 4);
    }
    // Importing the unchanged log again leaves the mended file as it is.
    let mended = fs::read_to_string(&rejects).unwrap();
    assert_eq!(import(&server, &path, &[]).0, Some(1));
    assert_eq!(fs::read_to_string(&rejects).unwrap(), mended);
    let all = server.ask("/v1/accounting?from=1700000040&to=1700000100").await;
    assert_eq!((&all["counted"], &all["adds_up"]), (&4.into(), &true.into()), "{all}");
}

#[tokio::test]
async fn of_a_log_that_is_read_wrongly_nothing_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    let path = dir.path().join("a.csv");
    fs::write(&path, "ad_id,timestamp\na,14/11/2023 22:14:11\na,14/11/2023 22:14:12\n").unwrap();
    let (code, said, told) = import(&server, &path, &[]);
    assert!(code == Some(1) && said.contains("nothing was sent"), "{code:?} {said}{told}");
    assert!(told.contains("--time-format"), "{told}");
    let format = ["--time-format", "%d/%m/%Y %H:%M:%S"];
    let (code, said, err) = import(&server, &path, &format);
    assert_eq!((code, counted(&server, "a").await), (Some(0), 2), "{said}{err}");
    // With --strict nothing is sent of a log with one bad row.
    let path = dir.path().join("b.csv");
    fs::write(&path, "ad_id,timestamp,country\nb,1700000051,DE\nb,1700000052,Mars\n").unwrap();
    let (code, said, _) = import(&server, &path, &["--strict"]);
    assert!(code == Some(1) && said.contains("nothing was sent (--strict)"), "{said}");
    assert!(said.contains("as \"Mars\""), "{said}");
    assert_eq!(counted(&server, "b").await, 0);
    assert_eq!(import(&server, &path, &[]).0, Some(0));
    assert_eq!(counted(&server, "b").await, 2);
    for (flags, word) in [
        (&["--default", "publisher=a\u{7f}b"][..], "publisher: a name"),
        (&["--map", "event=nope"], "--map event=nope: the log has no such column"),
        (&["--source", ""], "is not empty"),
        (&["--request", "/c/{ad_id}"], "--request is for access logs"),
        (&["--rejects", path.to_str().unwrap()], "that is one of the logs"),
    ] {
        let (code, _, told) = import(&server, &path, flags);
        assert!(code == Some(2) && told.contains(word), "{flags:?}: {code:?} {told}");
    }
}

/// Whatever the two logs have in common: the second import finds what the first has left.
#[tokio::test]
async fn of_two_logs_at_once_under_one_name_none_is_mixed_into_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    let begin = |ad: &str, rows: usize| {
        let path = dir.path().join(format!("{ad}.csv"));
        let own = (0..rows).map(|n| format!("{ad},{}\n", 1_700_000_040 + n % 60));
        let text = format!("ad_id,timestamp\nsame,1700000050\n{}", own.collect::<String>());
        fs::write(&path, text).unwrap();
        let mut command = server.import();
        command.arg(path).args(["--source", "shop"]);
        std::thread::spawn(move || run(&mut command))
    };
    let ended = [begin("a", 30_000), begin("b", 50)].map(|one| one.join().unwrap());
    for (ad, rows, (code, said, told)) in [("a", 30_000, &ended[0]), ("b", 50, &ended[1])] {
        let wanted = if *code == Some(0) { rows } else { 0 };
        assert_eq!(counted(&server, ad).await, wanted, "{ad} {code:?} {said}{told}");
    }
    let codes = ended.map(|(code, ..)| code.unwrap());
    assert!(codes == [0, 3] || codes == [3, 0], "{codes:?}");
}

const COMBINED: &str = r#"203.0.113.9 - - [14/Nov/2023:22:14:11 +0000] "GET /click/a?pub=news HTTP/1.1" 302 0 "-" "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) Mobile/15E148"
203.0.113.9 - - [14/Nov/2023:22:14:12 +0000] "GET /click/a?pub=news HTTP/1.1" 404 0 "-" "Mozilla/5.0 (X11; Linux x86_64)"
203.0.113.9 - - [14/Nov/2023:22:14:13 +0000] "GET /pixel/a.gif HTTP/1.1" 200 43 "-" "Mozilla/5.0 (X11; Linux x86_64)"
203.0.113.9 - - [14/Nov/2023:22:14:14 +0000] "GET /favicon.ico HTTP/1.1" 200 43 "-" "Mozilla/5.0 (X11; Linux x86_64)"
203.0.113.9 - - [14/Nov/2023:22:14:15 +0000] "GET /click/a HTTP/1.1" 302 0 "-" "Googlebot/2.1 (+http://www.google.com/bot.html)"
"#;

#[tokio::test]
async fn web_servers_logs() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    let path = dir.path().join("access.log");
    fs::write(&path, COMBINED).unwrap();
    let (code, _, told) = import(&server, &path, &[]);
    assert!(code == Some(2) && told.contains("--request '/click/{ad_id}'"), "{code:?} {told}");
    let requests = ["--request", "/click/{ad_id}", "--request", "impression=/pixel/{ad_id}.gif"];
    let (code, said, err) = import(&server, &path, &requests);
    assert_eq!(code, Some(0), "{said}{err}");
    assert!(said.contains("other       2 rows") && said.contains("bots        1 rows"), "{said}");
    assert_eq!(counted(&server, "a").await, 1);
    assert_eq!(counted_as(&server, "a", "impression").await, 1);
    let path = dir.path().join("u_ex.log");
    let iis = "#Version: 1.0\r\n#Fields: date time cs-method cs-uri-stem cs-uri-query c-ip sc-status\r\n\
               2023-11-14 22:14:11 GET /click/b pub=news 203.0.113.9 302\r\n\
               2023-11-14 22:14:12 GET /click/b - 203.0.113.9 500\r\n";
    fs::write(&path, iis).unwrap();
    let (code, said, err) = import(&server, &path, &requests);
    assert!(code == Some(0) && said.contains("other       1 rows"), "{code:?} {said}{err}");
    assert_eq!(counted(&server, "b").await, 1);
}

/// The log is written to, moved away and begun anew, and the importer is killed in between.
#[tokio::test]
async fn a_log_is_followed_through_rotation_and_kill_9() {
    use std::io::Write as _;
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    let path = dir.path().join("live.csv");
    let follow = || {
        let mut command = server.import();
        command.arg(&path).args(["--follow", "--format", "csv"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let append = |text: &str| {
        let mut file = fs::File::options().create(true).append(true).open(&path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    };
    let until = async |clicks: u64| {
        let watch = Stopwatch::start();
        while counted(&server, "a").await != clicks {
            assert!(watch.elapsed() < PATIENCE, "{} of {clicks}", counted(&server, "a").await);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    append("ad_id,timestamp\n");
    let mut follower = follow();
    append("a,1700000051\na,17000");
    until(1).await;
    append("00052\n");
    until(2).await;
    follower.kill().unwrap();
    follower.wait().unwrap();
    append("a,1700000053\n");
    let follower = follow();
    until(3).await;
    fs::rename(&path, dir.path().join("live.csv.1")).unwrap();
    append("ad_id,timestamp\na,1700000055\n");
    // The server goes on writing to the moved file until it is told.
    let mut moved = fs::File::options().append(true).open(dir.path().join("live.csv.1")).unwrap();
    moved.write_all(b"a,1700000054\n").unwrap();
    until(5).await;
    append("a,1700000056\noops\n");
    until(6).await;
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&follower),
        rustix::process::Signal::INT,
    )
    .unwrap();
    let ended = follower.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stdout);
    assert_eq!(ended.status.code(), Some(1), "a row was rejected: {ended:?}");
    assert!(said.contains("4, of them 2 taken before"), "{said}");
    assert!(fs::read_to_string(dir.path().join("live.csv.rejects")).unwrap().contains("oops"));
    let all = server.ask("/v1/accounting?from=1700000040&to=1700000100").await;
    assert_eq!((&all["counted"], &all["adds_up"]), (&6.into(), &true.into()), "{all}");
}

#[tokio::test]
async fn who_follows_a_log_goes_on_when_somebody_else_imports_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    let path = dir.path().join("a.csv");
    let append = |text: &str| {
        use std::io::Write as _;
        let mut file = fs::File::options().create(true).append(true).open(&path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    };
    append("ad_id,timestamp\na,1700000051\n");
    let mut follow = server.import();
    follow.arg(&path).arg("--follow").stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = follow.spawn().unwrap();
    let until = async |clicks: u64| {
        let watch = Stopwatch::start();
        while counted(&server, "a").await != clicks {
            assert!(watch.elapsed() < PATIENCE, "{} of {clicks}", counted(&server, "a").await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    until(1).await;
    // The follower is silent for so long that another import may take over.
    tokio::time::sleep(Duration::from_millis(3_500)).await;
    append("a,1700000052\n");
    let (code, said, err) = import(&server, &path, &[]);
    assert_eq!(code, Some(0), "{said}{err}");
    append("a,1700000053\n");
    until(3).await;
    let id = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    let watch = Stopwatch::start();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(watch.elapsed() < PATIENCE, "it does not end");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!((status.code(), counted(&server, "a").await), (Some(0), 3));
}

#[tokio::test]
async fn nothing_is_left_of_a_log_of_which_nothing_was_taken_and_no_file_is_spoiled() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    let path = dir.path().join("a.csv");
    let rejects = dir.path().join("a.csv.rejects");
    fs::write(&path, "ad_id,timestamp\na,14/11/2023 22:14:11\na,14/11/2023 22:14:12\n").unwrap();
    for _ in 0..2 {
        let (code, said, _) = import(&server, &path, &[]);
        assert!(code == Some(1) && said.contains("nothing was sent"), "{code:?} {said}");
        assert!(!rejects.exists(), "its rows would count twice by it");
    }
    // A file of somebody's own is not written to.
    let own = dir.path().join("own.csv");
    fs::write(&own, "my notes").unwrap();
    fs::write(&path, "ad_id,timestamp\na,1700000051\na,oops\n").unwrap();
    let (code, _, told) = import(&server, &path, &["--rejects", own.to_str().unwrap()]);
    assert!(code == Some(2) && told.contains("something else in it"), "{code:?} {told}");
    assert_eq!(fs::read_to_string(&own).unwrap(), "my notes");
    // A file that is no log does not stop the others.
    let (bad, good) = (dir.path().join("b.csv"), dir.path().join("c.csv"));
    fs::write(&bad, "id,when\n1,2\n").unwrap();
    fs::write(&good, "ad_id,timestamp\nc,1700000051\n").unwrap();
    let (code, said, told) = run(server.import().arg(&bad).arg(&good));
    assert!(code == Some(2) && told.contains("b.csv"), "{code:?} {said}{told}");
    assert_eq!(counted(&server, "c").await, 1);
    // A first row that waits is reported.
    fs::write(&path, "ad_id,timestamp\nw,1700000051").unwrap();
    let (code, said, _) = import(&server, &path, &["--source", "w"]);
    assert!(code == Some(0) && said.contains("waiting     line 2"), "{code:?} {said}");
    let (code, _, told) = import(&server, &path, &["--follow", "--source", "w"]);
    assert!(code == Some(2) && told.contains("leave out --source"), "{code:?} {told}");
}

#[tokio::test]
async fn what_names_no_program_is_a_person_and_an_opened_mail_an_impression() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    let path = dir.path().join("a.csv");
    let row = |event: &str, agent: &str| format!("a,1700000051,{event},{agent},-\n");
    let mut text = "ad_id,timestamp,event,user_agent,publisher\n".to_owned();
    for agent in ["-", "null", "Chrome", "Firefox 120", "iPhone", "Mozilla/5.0", "(not set)"] {
        text += &row("click", agent);
    }
    let mail =
        "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)";
    text += &(row("impression", mail) + &row("click", mail) + &row("click", "curl/8.0"));
    fs::write(&path, text).unwrap();
    let (code, said, err) = import(&server, &path, &["--default", "publisher=news"]);
    assert!(code == Some(0) && said.contains("bots        2 rows"), "{code:?} {said}{err}");
    assert_eq!(counted(&server, "a").await, 7);
    assert_eq!(counted_as(&server, "a", "impression").await, 1);
}
