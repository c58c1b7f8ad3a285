use std::path::PathBuf;

use tempfile::TempDir;

use super::*;
use crate::fake::{Faults, MemLog};
use crate::local::{LocalLog, LocalLogConfig};
use crate::segments::SegmentsConfig;

struct Mem(u8);

impl Subject for Mem {
    type Log = MemLog;

    async fn fresh(&mut self) -> MemLog {
        self.0 += 1;
        MemLog::new(3, [self.0; 16])
    }

    async fn reopen(&mut self, log: MemLog) -> MemLog {
        log.crash();
        log
    }
}

struct Local {
    dirs: Vec<TempDir>,
}

impl Local {
    fn open(dir: PathBuf, identity: u8) -> LocalLog {
        let config = LocalLogConfig {
            segments: SegmentsConfig { segment_bytes: 4096 },
            ..LocalLogConfig::new(dir, 3)
        };
        LocalLog::open(&config, [identity; 16]).unwrap().0
    }
}

impl Subject for Local {
    type Log = LocalLog;

    async fn fresh(&mut self) -> LocalLog {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        self.dirs.push(dir);
        Self::open(path, self.dirs.len() as u8)
    }

    async fn reopen(&mut self, log: LocalLog) -> LocalLog {
        log.close();
        let dir = self.dirs.last().unwrap().path().join("log");
        // The identity that is passed differs: the log must keep the one that it has.
        Self::open(dir, 0xee)
    }
}

#[tokio::test]
async fn the_fake_keeps_the_contract() {
    check(&mut Mem(0)).await;
}

#[tokio::test]
async fn the_local_log_keeps_the_contract() {
    check(&mut Local { dirs: Vec::new() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_local_log_keeps_the_contract_on_many_threads() {
    check(&mut Local { dirs: Vec::new() }).await;
}

#[tokio::test]
async fn the_fake_loses_acks() {
    let log = MemLog::new(3, [1; 16]);
    let faults = Faults { lose_ack: 1, ..Faults::default() };
    check_lost_ack(&log, || log.set_faults(faults)).await;
}

/// A fake that breaks its promise makes the contract fail.
#[tokio::test]
async fn broken_promises_are_seen() {
    struct Forgetful;
    impl Subject for Forgetful {
        type Log = MemLog;
        async fn fresh(&mut self) -> MemLog {
            MemLog::new(3, [1; 16])
        }
        async fn reopen(&mut self, log: MemLog) -> MemLog {
            let end = log.messages(0).len() as u64;
            log.vanish(0, end - 1);
            log
        }
    }
    let broken = tokio::spawn(async { reopening(&mut Forgetful).await });
    assert!(broken.await.unwrap_err().is_panic());
}

#[tokio::test]
async fn the_fakes_faults() {
    let log = MemLog::new(3, [1; 16]);
    let faults = Faults { fail_before_write: 1, no_space: 1, write_half: 1, ..Faults::default() };
    log.set_faults(faults);
    let two = || vec![message(0, "a"), message(1, "b")];
    assert!(log.append(two()).await.unwrap_err().is_retryable());
    assert_eq!(log.messages(0).len(), 0);
    assert!(matches!(log.append(two()).await, Err(LogError::NoSpace)));
    assert!(log.append(two()).await.unwrap_err().is_retryable());
    assert_eq!([log.messages(0).len(), log.messages(1).len()], [1, 0]);
    let second = log.append(two()).await.unwrap()[0];
    assert_eq!(second.sequence, 2);

    log.replace(0, 2, Bytes::from("other"));
    let replaced = log.reader(0, Some(second)).await;
    assert!(matches!(replaced, Err(LogError::Mismatch { .. })));
    let mut reader = log.reader(0, None).await.unwrap();
    assert_eq!(drain(&log, 0, &mut reader, 0).await.len(), 2);
    log.vanish(0, 1);
    let gone = log.reader(0, Some(second)).await;
    assert!(matches!(gone, Err(LogError::StepBack { end: 1, .. })));
    assert!(matches!(reader.try_next(), Err(LogError::StepBack { .. })));
    log.crash();
    assert!(reader.try_next().unwrap_err().is_retryable());
    assert_eq!(log.messages(0).len(), 1);
    log.recreate([2; 16]);
    assert_eq!(log.end(0).await.unwrap(), None);
    assert_eq!(log.identity(), [2; 16]);
}
