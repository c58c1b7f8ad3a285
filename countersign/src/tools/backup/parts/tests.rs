#![allow(clippy::unwrap_used)]
use std::fs;

use eventlog::segments::{Record, SegmentsConfig};

use super::*;

const IDENTITY: [u8; 16] = [7; 16];

fn segments(dir: &Path) -> Segments {
    Segments::open(dir, SegmentsConfig { segment_bytes: 4_096 }, IDENTITY).unwrap().0
}

/// Records of a kilobyte, each its own group.
fn append(segments: &mut Segments, count: u8) {
    for n in 0..count {
        segments.append(&[Record { stream: 0, payload: &[n; 1_000] }]).unwrap();
    }
}

fn copier(dir: &Path) -> Copier {
    Copier::new("copying", &dir.join("data"), &dir.join("copy"), 0).unwrap()
}

/// The sequence of a copy's last record; every record before it is read too.
fn records(dir: &Path) -> u64 {
    let copy = segments(dir);
    let mut reader = copy.view().reader(0, copy.view().trimmed(0)).unwrap();
    let mut last = 0;
    while let Some(record) = reader.try_next().unwrap() {
        last = record.sequence;
    }
    assert_eq!(last, copy.view().end(0).unwrap().sequence);
    last
}

#[test]
fn what_the_outbox_deletes_meanwhile_is_in_the_copy() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("data/outbox"), dir.path().join("copy/outbox"));
    let mut outbox = segments(&from);
    append(&mut outbox, 20);
    fs::write(from.join("tallies"), "tallies").unwrap();
    fs::write(from.join("acked"), "acked").unwrap();
    let mut held = HeldOutbox::new(from.clone());
    held.look().unwrap();
    let before = outbox.view().trimmed(0);
    // Batches are acknowledged and deleted while the log is copied, and more come.
    outbox.trim(&[(0, 15)]).unwrap();
    assert!(outbox.view().trimmed(0) > before);
    append(&mut outbox, 20);
    held.look().unwrap();
    outbox.trim(&[(0, 30)]).unwrap();
    append(&mut outbox, 5);

    let mut copier = copier(dir.path());
    held.copy(&mut copier).unwrap();
    copier.finish().unwrap();
    verify(&dir.path().join("copy")).unwrap();
    assert!(to.join("tallies").exists());
    assert!(!to.join("acked").exists(), "it may be ahead of the log in the copy");
    let copy = segments(&to);
    assert_eq!(copy.view().trimmed(0), before);
    drop(copy);
    assert_eq!(records(&to), 45);
}

#[test]
fn a_hole_between_segments_is_no_copy() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("data/outbox");
    let mut outbox = segments(&from);
    append(&mut outbox, 4);
    let mut held = HeldOutbox::new(from);
    held.look().unwrap();
    // So many batches come and go between two looks that a whole segment was never seen.
    append(&mut outbox, 20);
    outbox.trim(&[(0, 20)]).unwrap();
    let mut copier = copier(dir.path());
    held.copy(&mut copier).unwrap();
    copier.finish().unwrap();
    let failure = verify(&dir.path().join("copy")).unwrap_err();
    assert!(failure.message.contains("run the backup again"), "{}", failure.message);
}

/// While other parts are copied, new segments are opened without anybody's asking.
#[test]
fn segments_that_come_and_go_meanwhile_are_held() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("data/outbox");
    let mut outbox = segments(&from);
    append(&mut outbox, 4);
    let mut held = HeldOutbox::new(from);
    let before = outbox.view().trimmed(0);
    held.during(|| {
        append(&mut outbox, 20);
        std::thread::sleep(LOOK_EVERY * 50);
        outbox.trim(&[(0, 20)]).unwrap();
        Ok(())
    })
    .unwrap();
    assert!(outbox.view().trimmed(0) > before, "some have gone");
    append(&mut outbox, 3);
    let mut copier = copier(dir.path());
    held.copy(&mut copier).unwrap();
    copier.finish().unwrap();
    verify(&dir.path().join("copy")).unwrap();
    assert_eq!(records(&dir.path().join("copy/outbox")), 27);
}

#[test]
fn a_group_that_is_being_written_is_cut_and_what_comes_later_is_not_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("data/log");
    let mut log_there = segments(&from);
    append(&mut log_there, 10);
    let last = names(&from).unwrap().into_iter().rfind(|name| is_segment(name)).unwrap();
    let mut torn = fs::read(from.join(&last)).unwrap();
    drop(log_there);
    torn.truncate(torn.len() - 500);
    fs::write(from.join(&last), torn).unwrap();
    // The dead letters lie in it, in segments of their own.
    append(&mut segments(&from.join("dead")), 4);
    let mut copier = copier(dir.path());
    assert!(copy(&mut copier).unwrap());
    copier.finish().unwrap();
    verify(&dir.path().join("copy")).unwrap();
    let there = ["copy/log", "copy/log/dead"].map(|log| records(&dir.path().join(log)));
    assert_eq!(there, [9, 4]);
}

#[test]
fn a_database_is_copied_until_nothing_changes() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("data/state/partition-00");
    for name in ["manifest/1.manifest", "wal/1.sst", "wal/2.sst#1", "compacted/a.sst"] {
        let path = from.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, name).unwrap();
    }
    let mut copier = copier(dir.path());
    // As if an earlier try had found a file that has gone since.
    fs::write(from.join("wal/0.sst"), "old").unwrap();
    copier.file(Path::new("state/partition-00/wal/0.sst")).unwrap();
    fs::remove_file(from.join("wal/0.sst")).unwrap();
    partition(&mut copier, Path::new("state/partition-00")).unwrap();
    let (files, _) = copier.finish().unwrap();
    let paths: Vec<_> = files.iter().map(|file| file.path.to_str().unwrap()).collect();
    let expected = ["compacted/a.sst", "manifest/1.manifest", "wal/1.sst"];
    assert_eq!(paths, expected.map(|name| format!("state/partition-00/{name}")));
    assert!(!dir.path().join("copy/state/partition-00/wal/0.sst").exists());
}
