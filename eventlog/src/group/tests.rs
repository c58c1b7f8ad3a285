#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::mpsc;

use super::*;

type Items = Vec<u32>;

/// A committer that reports each group and waits for a signal before it goes on.
fn gated(config: GroupConfig) -> (GroupCommit<u32, u32>, mpsc::Receiver<Items>, mpsc::Sender<()>) {
    let (seen, groups) = mpsc::channel();
    let (gate, leave) = mpsc::channel();
    let commit = GroupCommit::start(
        config,
        |item| *item as usize,
        move |items: Items| {
            seen.send(items.clone()).unwrap();
            let _ = leave.recv();
            items.iter().map(|item| item * 2).collect()
        },
    );
    (commit.unwrap(), groups, gate)
}

#[tokio::test]
async fn what_waits_becomes_one_group() {
    let (commit, groups, gate) = gated(GroupConfig::default());
    let first = commit.try_send(1).unwrap();
    assert_eq!(groups.recv().unwrap(), [1]);
    let second = commit.try_send(2).unwrap();
    let third = commit.try_send(3).unwrap();
    assert_eq!(commit.waiting(), (2, 5));
    gate.send(()).unwrap();
    assert_eq!(groups.recv().unwrap(), [2, 3]);
    assert_eq!(first.await, Ok(2));
    gate.send(()).unwrap();
    assert_eq!(third.await, Ok(6));
    assert_eq!(second.await, Ok(4));
}

#[tokio::test]
async fn groups_and_the_queue_are_bounded() {
    let (commit, groups, gate) = gated(GroupConfig {
        queue_items_max: 4,
        queue_bytes_max: 30,
        group_items_max: 2,
        group_bytes_max: 10,
        ..GroupConfig::default()
    });
    // Heavier than the queue may hold, but nothing else waits.
    commit.try_send(99).unwrap();
    assert_eq!(groups.recv().unwrap(), [99]);
    for item in [1, 2, 9] {
        commit.try_send(item).unwrap();
    }
    assert_eq!(commit.try_send(19).unwrap_err(), SendError::Full(19));
    commit.try_send(18).unwrap();
    assert_eq!(commit.try_send(0).unwrap_err(), SendError::Full(0));
    for expected in [&[1, 2][..], &[9], &[18]] {
        gate.send(()).unwrap();
        assert_eq!(groups.recv().unwrap(), expected);
    }
    drop(gate);
}

#[tokio::test]
async fn send_waits_for_room() {
    let (commit, groups, gate) =
        gated(GroupConfig { queue_items_max: 1, ..GroupConfig::default() });
    commit.try_send(1).unwrap();
    groups.recv().unwrap();
    commit.try_send(2).unwrap();
    let commit = Arc::new(commit);
    let waiting = tokio::spawn({
        let commit = Arc::clone(&commit);
        async move { commit.send(3).await.unwrap().await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    drop(gate);
    assert_eq!(waiting.await.unwrap(), Ok(6));
}

#[tokio::test]
async fn items_that_come_thick_are_waited_for_and_one_alone_is_not() {
    let (commit, groups, gate) = gated(GroupConfig {
        linger: Duration::from_secs(3600),
        group_items_max: 5,
        ..GroupConfig::default()
    });
    commit.try_send(1).unwrap();
    assert_eq!(groups.recv().unwrap(), [1]);
    let many = 2..2 + LINGER_ITEMS_LEAST as u32;
    for item in many.clone() {
        commit.try_send(item).unwrap();
    }
    gate.send(()).unwrap();
    assert_eq!(groups.recv().unwrap(), many.collect::<Items>(), "few came before them");
    gate.send(()).unwrap();
    for item in 6..10 {
        commit.try_send(item).unwrap();
    }
    let short = Duration::from_millis(30);
    assert!(groups.recv_timeout(short).is_err(), "many came before them");
    commit.try_send(10).unwrap();
    assert_eq!(groups.recv().unwrap(), [6, 7, 8, 9, 10], "a full group does not wait");
    // Closing ends the lingering.
    commit.try_send(11).unwrap();
    drop(gate);
    commit.join();
    assert_eq!(groups.recv().unwrap(), [11]);
}

#[tokio::test]
async fn closing_drains() {
    let (commit, groups, gate) =
        gated(GroupConfig { group_items_max: 1, ..GroupConfig::default() });
    let all: Vec<_> = (1..=5).map(|n| commit.try_send(n).unwrap()).collect();
    commit.close();
    assert_eq!(commit.try_send(6).unwrap_err(), SendError::Closed(6));
    assert_eq!(commit.send(6).await.unwrap_err(), SendError::Closed(6));
    drop(gate);
    commit.join();
    for (index, pending) in all.into_iter().enumerate() {
        assert_eq!(pending.await, Ok((index as u32 + 1) * 2));
    }
    assert_eq!(groups.iter().count(), 5, "the closure is gone with the thread");
}

#[tokio::test]
async fn waiters_hear_of_a_committer_that_ends() {
    let commit = GroupCommit::start(
        GroupConfig::default(),
        |_: &u32| 1,
        |items: Items| match items[0] {
            0 => Vec::<u32>::new(),
            _ => panic!("on purpose"),
        },
    );
    let commit = commit.unwrap();
    let short = commit.try_send(0).unwrap();
    assert_eq!(short.await, Err(Lost), "too few results");
    let panicked = commit.try_send(1).unwrap();
    assert_eq!(panicked.await, Err(Lost));
    // The thread is unwinding; when it has, the queue is closed.
    let closed = async {
        while let Ok(pending) = commit.try_send(2) {
            assert_eq!(pending.await, Err(Lost));
        }
        assert_eq!(commit.try_send(2).unwrap_err(), SendError::Closed(2));
    };
    let second = Duration::from_secs(1);
    tokio::time::timeout(second, closed).await.unwrap();
}
