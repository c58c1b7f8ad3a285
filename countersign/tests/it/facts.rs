//! Objects of segments are damaged, and `countersign facts` says which, and makes anew what it can.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use shared::ambient::Stopwatch;

use crate::process::{KEY, PATIENCE, Server, binary, run};

/// 2026-01-15T12:00:00Z.
const HOUR: u64 = 1_768_478_400;
const CLICKS: u64 = 90_000;

/// An hour with an ad that has most of the clicks: enough for totals, and so many that its visitors
/// are asked of sketches.
fn log(file: &Path) {
    let mut log = String::from("ad_id,timestamp,country,user_id\n");
    for n in 0..CLICKS {
        let ad = if n % 9 == 0 { n % 50 } else { 99 };
        let country = if n % 3 == 0 { "DE" } else { "FR" };
        writeln!(log, "ad-{ad},{},{country},u{}", HOUR + n / 25, n * 7 % 2_500).unwrap();
    }
    std::fs::write(file, log).unwrap();
}

fn questions() -> [String; 5] {
    let range = format!("from={HOUR}&to={}", HOUR + 3_600);
    [
        format!("/v1/ads/ad-99/series?step=minute&metrics=clicks&{range}"),
        format!("/v1/ads/ad-99/uniques?{range}"),
        format!("/v1/top?of=ads&count=20&where=country!=DE&{range}"),
        format!("/v1/ads/ad-99/breakdown?by=country&{range}"),
        format!("/v1/ads/ad-7/count?where=country=FR&{range}"),
    ]
}

/// Status and body, without what tells how far it is counted. A server that has just started is
/// asked until it is ready.
async fn ask(server: &Server, path: &str) -> (u16, Value) {
    let watch = Stopwatch::start();
    loop {
        let request = server.http.get(format!("{}{path}", server.api)).bearer_auth(KEY);
        let reply = request.send().await.unwrap();
        let status = reply.status().as_u16();
        if status == 503 && watch.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        }
        let mut body: Value = serde_json::from_str(&reply.text().await.unwrap()).unwrap();
        let told = ["as_of", "behind", "final", "revision"];
        body.as_object_mut().unwrap().retain(|name, _| !told.contains(&name.as_str()));
        return (status, body);
    }
}

async fn answers(server: &Server) -> Vec<(u16, Value)> {
    let mut all = Vec::new();
    for path in questions() {
        all.push(ask(server, &path).await);
    }
    all
}

fn facts(command: &str, data: &Path) -> (Option<i32>, String) {
    let (code, out, err) = run(binary().args(["facts", command, "--data"]).arg(data));
    (code, out + &err)
}

/// The deployment of a test.
struct Sealed {
    server: Server,
    /// What it answers when all is well.
    before: Vec<(u16, Value)>,
    /// The Parquet files of its segments, from where the state lies.
    files: Vec<String>,
}

impl Sealed {
    /// A server that has the log in one segment, which no other takes the place of. What of the log
    /// is counted late may become a small segment of its own, which stays: then all begins anew.
    async fn new(dir: &Path) -> Self {
        for attempt in 0..5 {
            let dir = dir.join(attempt.to_string());
            std::fs::create_dir(&dir).unwrap();
            if let Some(sealed) = Self::attempt(&dir).await {
                return sealed;
            }
        }
        panic!("the log is in more than one segment");
    }

    async fn attempt(dir: &Path) -> Option<Self> {
        let (file, config) = (dir.join("clicks.csv"), dir.join("countersign.toml"));
        log(&file);
        std::fs::write(&config, "partitions = 1\n").unwrap();
        let config = config.display().to_string();
        let server = Server::start_with(&dir.join("data"), None, &["--config", &config]);
        let (code, said, err) = run(server.import().arg(&file));
        assert_eq!(code, Some(0), "{said}{err}");
        let watch = Stopwatch::start();
        while watch.elapsed() < PATIENCE / 2 {
            let listed = server.ask("/v1/segments").await;
            let segments = listed["segments"].as_array().unwrap();
            let is_all = |segment: &Value| segment["events"].as_u64() == Some(CLICKS);
            if let [segment] = &segments[..]
                && is_all(segment)
            {
                let before = answers(&server).await;
                assert!(before.iter().all(|(status, _)| *status == 200), "{before:?}");
                let files = vec![segment["file"].as_str().unwrap().to_owned()];
                return Some(Self { server, before, files });
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        None
    }

    fn state(&self) -> PathBuf {
        self.server.data.join("state")
    }

    /// Every object of the segments with this ending: its name in the state, and where it is.
    fn objects(&self, kind: &str) -> Vec<(String, PathBuf)> {
        let named = self.files.iter().map(|file| file.replace("parquet", kind));
        let mut found: Vec<_> = named.map(|name| (name.clone(), self.state().join(name))).collect();
        found.retain(|(_, path)| path.exists());
        assert!(!found.is_empty(), "no {kind}");
        found
    }
}

#[derive(Clone, Copy, Debug)]
enum Damage {
    Missing,
    Cut,
    Flipped,
}

fn damage(path: &Path, how: Damage) {
    let mut bytes = std::fs::read(path).unwrap();
    match how {
        Damage::Missing => return std::fs::remove_file(path).unwrap(),
        Damage::Cut => bytes.truncate(bytes.len() * 2 / 3),
        Damage::Flipped => {
            // One byte of a Parquet file; of what stands beside it something of every part.
            let is_file = path.extension().is_some_and(|kind| kind == "parquet");
            let step = if is_file { bytes.len() } else { 50 };
            let first = bytes.len() / 2 % step;
            bytes.iter_mut().skip(first).step_by(step).for_each(|byte| *byte ^= 4);
        }
    }
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn what_stands_beside_a_file_is_made_anew_and_answers_are_as_before() {
    use Damage::{Cut, Flipped, Missing};
    let dir = tempfile::tempdir().unwrap();
    let mut sealed = Sealed::new(dir.path()).await;
    let data = sealed.server.data.clone();
    let (code, said) = facts("check", &data);
    assert!(code == Some(0) && said.contains("all is what was written"), "{code:?} {said}");
    for damages in [
        vec![("directory", Missing)],
        vec![("directory", Cut)],
        vec![("sketches", Missing)],
        vec![("sketches", Flipped)],
        vec![("totals", Cut)],
        vec![("totals", Flipped)],
        vec![("directory", Flipped), ("sketches", Cut), ("totals", Missing)],
    ] {
        let mut names = Vec::new();
        let mut were = Vec::new();
        for (kind, how) in &damages {
            for (name, path) in sealed.objects(kind) {
                were.push((path.clone(), std::fs::read(&path).unwrap()));
                damage(&path, *how);
                names.push(name);
            }
        }
        // What was read before is in memory.
        sealed.server.kill_and_restart_with(&[]);
        let refused: Vec<_> = answers(&sealed.server)
            .await
            .into_iter()
            .filter(|(status, _)| *status != 200)
            .collect();
        assert!(!refused.is_empty(), "{damages:?}");
        for (status, body) in &refused {
            let detail = body["detail"].as_str().unwrap();
            assert_eq!(
                (*status, &body["type"]),
                (500, &Value::from("urn:countersign:damaged_checkpoint")),
                "{body}"
            );
            assert!(names.iter().any(|name| detail.contains(name)), "{detail}");
            assert!(detail.contains("`countersign facts rebuild` makes it anew"), "{detail}");
        }
        let (code, said) = facts("check", &data);
        assert_eq!(code, Some(1), "{said}");
        for name in &names {
            let line = said.lines().find(|line| line.contains(name)).expect(name);
            assert!(line.contains("facts rebuild"), "{line}");
        }
        let (code, said) = facts("rebuild", &data);
        assert_eq!(code, Some(0), "{said}");
        assert!(names.iter().all(|name| said.contains(&format!("{name}: made anew\n"))), "{said}");
        assert_eq!(said.matches("made anew\n").count(), names.len() + 1, "{said}");
        for (path, was) in were {
            assert!(std::fs::read(&path).unwrap() == was, "{}", path.display());
        }
        let (code, said) = facts("check", &data);
        assert_eq!(code, Some(0), "{said}");
        // Without a restart.
        assert_eq!(answers(&sealed.server).await, sealed.before, "{damages:?}");
    }
}

#[tokio::test]
async fn a_parquet_file_that_is_damaged_is_named_and_not_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    let mut sealed = Sealed::new(dir.path()).await;
    let data = sealed.server.data.clone();
    let (name, path) = sealed.objects("parquet").remove(0);
    let beside = path.with_extension("directory");
    let (whole, directory) = (std::fs::read(&path).unwrap(), std::fs::read(&beside).unwrap());
    for (how, what) in [
        (Damage::Flipped, "of row group 0 is not what was written"),
        (Damage::Cut, "were written"),
        (Damage::Missing, "it is missing"),
    ] {
        // Whether the directory is there or not, nothing is made of a file that is not sound.
        for is_alone in [false, true] {
            std::fs::write(&path, &whole).unwrap();
            std::fs::write(&beside, &directory).unwrap();
            damage(&path, how);
            if is_alone {
                std::fs::remove_file(&beside).unwrap();
            }
            for command in ["check", "rebuild"] {
                let (code, said) = facts(command, &data);
                assert_eq!(code, Some(1), "{said}");
                let line = said.lines().find(|line| line.contains(&name)).unwrap();
                assert!(line.contains(what) && line.contains("cannot be rebuilt"), "{line}");
                assert!(line.contains("countersign restore"), "{line}");
            }
            assert_eq!(beside.exists(), !is_alone);
        }
    }
    sealed.server.kill_and_restart_with(&[]);
    let (refused, name) = (answers(&sealed.server).await, name.replace("parquet", "directory"));
    assert!(refused.iter().any(|(_, body)| body["detail"].to_string().contains(&name)));
    // The file as it was, and its directory, as from a backup.
    std::fs::write(&path, &whole).unwrap();
    let (code, said) = facts("rebuild", &data);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(std::fs::read(&beside).unwrap(), directory);
    assert_eq!(answers(&sealed.server).await, sealed.before);
    elsewhere(&mut sealed.server, dir.path());
}

/// Objects that nothing names, a stopped deployment, a copy, and places that are none.
fn elsewhere(server: &mut Server, dir: &Path) {
    let data = server.data.clone();
    let stray = data.join("state/facts/00/hour-20260115T12-0123456789abcdef.parquet");
    std::fs::write(&stray, "left behind").unwrap();
    let (code, said) = facts("check", &data);
    assert!(code == Some(0) && said.contains("objects that no store names: "), "{said}");
    let copy = dir.join("copy");
    let (code, said, err) =
        run(binary().arg("backup").arg("--data").arg(&data).arg("--to").arg(&copy));
    assert_eq!(code, Some(0), "{said}{err}");
    assert!(server.terminate().success());
    for place in [&data, &copy] {
        let (code, said) = facts("check", place);
        assert!(code == Some(0) && said.contains("1 partitions"), "{code:?} {said}");
    }
    let (code, said) = facts("rebuild", &copy);
    assert!(code == Some(2) && said.contains("countersign restore"), "{code:?} {said}");
    for (command, place) in [("check", dir.join("nowhere")), ("rebuild", dir.to_owned())] {
        let (code, said) = facts(command, &place);
        assert!(code == Some(2) && said.contains("there are no counts in"), "{code:?} {said}");
        assert!(!place.join("state").exists());
    }
    let config = dir.join("aggregator.toml");
    let of_config = |text: &str| {
        std::fs::write(&config, text).unwrap();
        let (code, out, err) = run(binary().args(["facts", "check", "--config"]).arg(&config));
        (code, out + &err)
    };
    let (code, said) = of_config(&format!("data = {:?}\n", data.display().to_string()));
    assert!(code == Some(0) && said.contains("all is what was written"), "{code:?} {said}");
    let (code, said) = of_config("aggregator.state_url = \"ftp://counts\"\n");
    assert!(code == Some(2) && said.contains("aggregator.state_url"), "{code:?} {said}");
    for command in ["check", "rebuild"] {
        let (code, help, _) = run(binary().args(["facts", command, "--help"]));
        let example = format!("countersign facts {command} --");
        assert!(code == Some(0) && help.contains(&example), "{help}");
        assert!(help.contains("facts: an object is damaged or missing"), "{help}");
    }
}
