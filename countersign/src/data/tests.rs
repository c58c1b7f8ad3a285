#![allow(clippy::unwrap_used)]
use super::*;
use shared::random::Seeded;
use shared::{EdgeId, Id, IssuerId};

const NOW: Timestamp = Timestamp(1_700_000_000_000);
const EDGE: EdgeId = Id::literal("edge");
const ISSUER: IssuerId = Id::literal("edge");

fn started() -> (tempfile::TempDir, DataDir) {
    let root = tempfile::tempdir().unwrap();
    let dir = DataDir::new(root.path().join("data"));
    drop(dir.take().unwrap());
    (root, dir)
}

fn keys(dir: &DataDir) -> KeyStore {
    dir.keys_or_new(EDGE, ISSUER, NOW, &mut Seeded::new(1)).unwrap()
}

fn deployment(
    dir: &DataDir,
    partitions: Option<u16>,
    keys: &KeyStore,
) -> Result<Deployment, Failure> {
    let partitions = partitions.map(|count| Partitions::new(count).unwrap());
    dir.deployment(partitions, keys, NOW, &mut Seeded::new(2))
}

#[test]
fn two_processes_never_share_it() {
    let (_root, dir) = started();
    let first = dir.take().unwrap();
    let failure = dir.take().unwrap_err();
    assert_eq!(failure.code, crate::failure::LOCKED);
    assert!(failure.message.contains("another `countersign`"), "{}", failure.message);
    drop(first);
    drop(dir.take().unwrap());
}

#[test]
fn the_number_of_partitions_is_fixed() {
    let (_root, dir) = started();
    let keys = keys(&dir);
    let made = deployment(&dir, None, &keys).unwrap();
    assert_eq!(made.partitions, 16);
    assert_eq!(deployment(&dir, Some(16), &keys).unwrap(), made);
    let failure = deployment(&dir, Some(8), &keys).unwrap_err();
    assert!(failure.message.contains("16 partitions") && failure.message.contains("say 8"));
}

#[test]
fn keys_of_another_deployment_are_refused() {
    let (_root, dir) = started();
    deployment(&dir, None, &keys(&dir)).unwrap();
    let other = KeyStore::generate(&mut Seeded::new(9));
    assert!(deployment(&dir, None, &other).unwrap_err().message.contains("another data directory"));
}

#[test]
fn data_without_its_description_is_refused() {
    let (_root, dir) = started();
    let keys = keys(&dir);
    fs::create_dir(dir.path("log")).unwrap();
    assert!(deployment(&dir, None, &keys).unwrap_err().message.contains("no deployment.json"));
}

#[test]
fn a_deployment_without_its_keys_gets_no_new_ones() {
    let (_root, dir) = started();
    let there = keys(&dir);
    deployment(&dir, None, &there).unwrap();
    fs::remove_file(dir.path("keys.json")).unwrap();
    let refused = dir.keys_or_new(EDGE, ISSUER, NOW, &mut Seeded::new(2)).unwrap_err();
    assert!(refused.message.contains("no keys.json: restore that file"), "{}", refused.message);
    assert!(!dir.path("keys.json").exists());
}

#[test]
fn a_damaged_file_says_where() {
    let (_root, dir) = started();
    let keys = keys(&dir);
    deployment(&dir, None, &keys).unwrap();
    let path = dir.path("deployment.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"version\": 1", "\"version\": 2")).unwrap();
    assert!(deployment(&dir, None, &keys).unwrap_err().message.contains("version 2"));
    fs::write(&path, &text[..text.len() / 2]).unwrap();
    assert!(deployment(&dir, None, &keys).unwrap_err().message.contains("deployment.json"));
}

#[test]
fn keys_live_through_their_life() {
    let (_root, dir) = started();
    assert!(dir.require_keys().unwrap_err().message.contains("countersign up"));
    let first = keys(&dir).issuers[0].public.id;
    assert_eq!(keys(&dir).issuers[0].public.id, first, "made once");

    let random = &mut Seeded::new(3);
    let second = dir.change_keys(|keys| keys.rotate(ISSUER, NOW, 1000, random)).unwrap();
    dir.change_keys(|keys| keys.retire(second, NOW.plus_ms(5))).unwrap();
    dir.change_keys(|keys| keys.revoke(first)).unwrap();
    let there = dir.require_keys().unwrap();
    let state: Vec<_> = there.issuers.iter().map(|key| &key.public).collect();
    assert_eq!((state[0].id, state[0].revoked), (first, true));
    assert_eq!((state[1].id, state[1].retired_at), (second, Some(NOW.plus_ms(5))));

    let again = dir.change_keys(|keys| keys.revoke(first)).unwrap_err();
    assert_eq!(again.code, crate::failure::USAGE);
    assert!(!dir.path("keys.json.new").exists());
}

#[cfg(unix)]
#[test]
fn keys_are_for_the_owner_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let (_root, dir) = started();
    keys(&dir);
    fs::write(dir.path("keys.json.new"), "left by a crash").unwrap();
    dir.change_keys(|keys| keys.create(Id::literal("other"), vec![], NOW, &mut Seeded::new(4)))
        .unwrap();
    for (name, mode) in [("keys.json", 0o600), (".", 0o700)] {
        let there = fs::metadata(dir.path(name)).unwrap().permissions().mode();
        assert_eq!(there & 0o777, mode, "{name}");
    }
}

/// Only root may give a file away: run by anybody else, this only sees that the file is written.
#[cfg(unix)]
#[test]
fn a_file_that_is_replaced_stays_its_owner_s() {
    use std::os::unix::fs::{MetadataExt as _, chown};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.json");
    write_file(&path, b"one", Mode::Secret).unwrap();
    let is_root = chown(&path, Some(4_242), Some(4_243)).is_ok();
    write_file(&path, b"two", Mode::Secret).unwrap();
    let meta = fs::metadata(&path).unwrap();
    assert_eq!((fs::read(&path).unwrap(), meta.mode() & 0o777), (b"two".to_vec(), 0o600));
    assert!(!is_root || (meta.uid(), meta.gid()) == (4_242, 4_243));
}
