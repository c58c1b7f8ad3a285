//! The archive of a server that is killed, counted again; and archives that somebody has changed.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::properties::WriterProperties;
use shared::Clock as _;

use crate::process::{KEY, Server, binary, random_moment, run};

pub(crate) const REAL_LOG: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/obd_bts_men.csv");
/// The days of the log.
const DAYS: [&str; 4] = ["--from", "2019-11-20T00:00:00Z", "--to", "1575504000"];

/// Many small files, with checkpoints in between. Few partitions, since each takes a while to count
/// in an unoptimised build.
const SETTINGS: &str = "partitions = 3\n[aggregator]\ncheckpoint_ms = 300\n\
    [archive]\nevery_ms = 40\nfile_bytes = 20000";

pub(crate) fn flags(dir: &Path) -> [String; 3] {
    let path = dir.join("settings.toml");
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(&path, SETTINGS).unwrap();
    ["--demo".to_owned(), "--config".to_owned(), path.display().to_string()]
}

fn recount(server: &Server, range: &[&str]) -> Command {
    let mut command = recount_of(&server.api, &server.data);
    command.args(range);
    command
}

pub(crate) fn recount_of(api: &str, data: &Path) -> Command {
    let mut command = binary();
    command.args(["recount", "--api", api, "--key", KEY, "--data"]).arg(data);
    command
}

/// Checks that the archive in a data directory agrees with the API about the last half hour.
pub(crate) fn agrees(api: &str, data: &Path) {
    agree(&mut recount_of(api, data));
}

/// As [`agrees`], with an archive in an object store.
pub(crate) fn agrees_at(api: &str, archive: &str, environment: &[(String, String)]) {
    let mut command = binary();
    command.args(["recount", "--api", api, "--key", KEY, "--archive", archive]);
    agree(command.envs(environment.iter().cloned()));
}

fn agree(recount: &mut Command) {
    let (code, said, err) = run(recount.args(since(30)));
    assert_eq!(code, Some(0), "{said}{err}");
    assert!(said.contains("agree: ") && !said.contains(" 0 counts"), "{said}");
}

/// A range from so many minutes ago until half an hour from now.
pub(crate) fn since(minutes: u32) -> [String; 4] {
    let now = shared::ambient::SystemClock.now().minute().0;
    let time = |minute: u32| (u64::from(minute) * 60).to_string();
    ["--from".into(), time(now - minutes), "--to".into(), time(now + 30)]
}

/// All files of the archive, the largest first.
pub(crate) fn files(server: &Server) -> Vec<PathBuf> {
    let mut folders = vec![server.data.join("archive")];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "parquet") {
                files.push(path);
            }
        }
    }
    files.sort_by_key(|path| std::cmp::Reverse(path.metadata().unwrap().len()));
    files
}

#[test]
fn kill_9_at_random_moments_and_both_counts_agree() {
    let dir = tempfile::tempdir().unwrap();
    let flags = flags(dir.path());
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut server = Server::start_with(&dir.path().join("data"), None, &flags);
    let mut simulate = binary();
    simulate.args(["simulate", "--edge", &server.edge, "--api", &server.api, "--key", KEY]);
    simulate.args(["--rate", "40", "--seconds", "4"]);
    let simulating = std::thread::spawn(move || run(&mut simulate));
    let mut import = server.import();
    let import = import.arg(REAL_LOG).stdout(Stdio::piped()).stderr(Stdio::piped());
    let import = import.spawn().unwrap();
    for _ in 0..4 {
        std::thread::sleep(random_moment(Duration::from_millis(900)));
        server.kill_and_restart_with(&flags);
    }
    let (code, said, err) = simulating.join().unwrap();
    assert_eq!(code, Some(0), "{said}{err}");
    assert!(import.wait_with_output().unwrap().status.success());
    let (code, said, err) = run(server.import().arg(REAL_LOG));
    assert_eq!(code, Some(0), "{said}{err}");
    let (code, said, err) = run(&mut recount(&server, &DAYS));
    assert_eq!(code, Some(0), "{said}{err}");
    assert!(said.contains("agree: ") && !said.contains(" 0 counts"), "{said}");
    agrees(&server.api, &server.data);
    assert!(files(&server).len() > 30, "many files");
    // After an orderly end everything is archived.
    assert_eq!(server.terminate().code(), Some(0));
}

/// A server that has counted a log, and archived it.
fn counted(dir: &Path) -> Server {
    let flags = flags(dir);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let server = Server::start_with(&dir.join("data"), None, &flags);
    let (code, said, err) = run(server.import().arg(REAL_LOG));
    assert_eq!(code, Some(0), "{said}{err}");
    let (code, said, err) = run(&mut recount(&server, &DAYS));
    assert_eq!(code, Some(0), "{said}{err}");
    server
}

fn says(server: &Server, expected: i32, words: &[&str]) {
    let (code, said, err) = run(&mut recount(server, &DAYS));
    assert_eq!(code, Some(expected), "{said}{err}");
    let all = format!("{said}{err}");
    words.iter().for_each(|word| assert!(all.contains(word), "{word}: {all}"));
}

/// Removes one event from a file.
pub(crate) fn without_an_event(path: &Path) {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
    let fields = reader.metadata().file_metadata().key_value_metadata().cloned();
    let batches: Vec<RecordBatch> = reader.build().unwrap().map(Result::unwrap).collect();
    let properties = WriterProperties::builder().set_key_value_metadata(fields).build();
    let file = File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batches[0].schema(), Some(properties)).unwrap();
    let mut left_out = false;
    for batch in batches {
        let records = batch.column_by_name("record").unwrap().as_string::<i32>().clone();
        let event = (0..records.len()).find(|at| !left_out && records.value(*at) == "event");
        if let Some(event) = event {
            left_out = true;
            writer.write(&batch.slice(0, event)).unwrap();
            writer.write(&batch.slice(event + 1, batch.num_rows() - event - 1)).unwrap();
        } else {
            writer.write(&batch).unwrap();
        }
    }
    writer.close().unwrap();
    assert!(left_out);
}

#[test]
fn an_archive_that_was_changed_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let server = counted(dir.path());
    let file = files(&server).remove(0);
    let whole = std::fs::read(&file).unwrap();
    let name = file.file_name().unwrap().to_str().unwrap();

    without_an_event(&file);
    says(&server, 1, &[" DIFFERENCES: ", "kind=impression valid: engine ", " counted: "]);

    std::fs::write(&file, &whole[..whole.len() - 100]).unwrap();
    says(&server, 5, &[name]);
    let mut damaged = whole.clone();
    damaged[4..whole.len() / 2].fill(7);
    std::fs::write(&file, &damaged).unwrap();
    says(&server, 5, &[name]);
    std::fs::write(&file, &whole).unwrap();
    says(&server, 0, &["agree"]);

    let other_hour = file.parent().unwrap().with_file_name("hour=99");
    std::fs::create_dir_all(&other_hour).unwrap();
    std::fs::copy(&file, other_hour.join(name)).unwrap();
    says(&server, 1, &["are in two files", "hour=99", name]);
    std::fs::remove_dir_all(&other_hour).unwrap();

    // A second file behind it, so that its absence leaves a gap.
    let (code, ..) = run(server.import().arg(REAL_LOG));
    assert_eq!(code, Some(0));
    says(&server, 0, &["agree"]);
    std::fs::remove_file(&file).unwrap();
    says(&server, 1, &["are in no file"]);
}

#[test]
fn what_cannot_be_counted_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"));
    let nowhere = dir.path().join("nowhere");
    let nowhere = nowhere.to_str().unwrap();
    let (code, _, err) = run(recount(&server, &DAYS).args(["--archive", nowhere]));
    assert!(
        code == Some(2) && err.contains("there is no archive") && err.contains(nowhere),
        "{err}"
    );
    let (code, _, err) = run(recount(&server, &DAYS).args(["--archive", "http://x"]));
    assert!(code == Some(2) && err.contains("begins with s3://"), "{err}");
    let (code, _, err) = run(&mut recount(&server, &["--from", "60", "--to", "60"]));
    assert!(code == Some(2) && err.contains("--to is not after --from"), "{err}");
    let (code, _, err) = run(&mut recount(&server, &["--from", "61", "--to", "120"]));
    assert!(code == Some(2) && err.contains("a whole minute"), "{err}");
    // Somebody else's archive.
    let other = counted(dir.path().join("other").as_path());
    let (code, _, err) = run(server.import().arg(REAL_LOG));
    assert_eq!(code, Some(0), "{err}");
    let archive = other.data.join("archive");
    let (code, _, err) =
        run(recount(&server, &DAYS).args(["--archive", archive.to_str().unwrap()]));
    assert!(code == Some(5) && err.contains("of another log"), "{code:?} {err}");
}
