use std::fs;

use super::*;

fn config(dir: &Path) -> LocalLogConfig {
    let segments = SegmentsConfig { segment_bytes: 4096 };
    LocalLogConfig { segments, ..LocalLogConfig::new(dir, 2) }
}

fn open(dir: &Path) -> LocalLog {
    LocalLog::open(&config(dir), [7; 16]).unwrap().0
}

async fn append(log: &LocalLog, partition: u16, payload: Vec<u8>) {
    log.append(vec![Message { partition, payload: payload.into() }]).await.unwrap();
}

async fn letters(log: &LocalLog) -> Vec<(u64, u8)> {
    let mut reader = log.reader(DEAD, None).await.unwrap();
    let next = || reader.try_next().unwrap();
    std::iter::from_fn(next).map(|letter| (letter.position.sequence, letter.payload[0])).collect()
}

fn segments(dir: &Path) -> usize {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().ends_with(".seg")).count()
}

#[tokio::test]
async fn letters_of_an_earlier_build_keep_their_numbers_and_hold_no_segment() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path();
    // As an earlier build has written them: letters and events in one sequence of segments.
    let small = config(dir).segments;
    let (mut earlier, _) = Segments::open(dir, small, [7; 16]).unwrap();
    for number in 0..60 {
        earlier.append(&[Record { stream: 0, payload: &[number; 500] }]).unwrap();
        if number < 3 {
            earlier.append(&[Record { stream: DEAD, payload: &[number; 10] }]).unwrap();
        }
    }
    drop(earlier);
    // An incomplete copy, as a crash leaves it, is thrown away.
    let torn = Segments::open(&dir.join(LETTERS_NEW), small, [7; 16]).unwrap();
    drop(torn);
    for more in [None, Some(9), Some(10)] {
        let log = open(dir);
        if let Some(letter) = more {
            append(&log, DEAD, vec![letter; 10]).await;
        }
        let wanted = [(1, 0), (2, 1), (3, 2), (4, 9), (5, 10)];
        let there = more.map_or(3, |letter| usize::from(letter) - 5);
        assert_eq!(letters(&log).await, wanted[..there]);
        assert_eq!(log.end(DEAD).await.unwrap().unwrap().sequence, there as u64);
        log.close();
    }
    let log = open(dir);
    let before = segments(dir);
    assert!(log.trim(&[(0, 60)]).await.unwrap() > 0);
    assert_eq!((before > 5, segments(dir)), (true, 1), "all but the one that is written to");
    assert_eq!(letters(&log).await.len(), 5);
    // Letters that are gone do not come back with other sequences.
    log.close();
    fs::remove_dir_all(dir.join(LETTERS)).unwrap();
    assert_eq!(letters(&open(dir)).await, []);
}

#[tokio::test]
async fn events_and_letters_of_one_append_come_back_in_the_order_given() {
    let home = tempfile::tempdir().unwrap();
    let log = open(home.path());
    let message = |partition| Message { partition, payload: Bytes::from(vec![1]) };
    let positions = log.append(vec![message(1), message(DEAD), message(1), message(DEAD)]).await;
    let sequences: Vec<_> = positions.unwrap().iter().map(|position| position.sequence).collect();
    assert_eq!(sequences, [1, 1, 2, 2]);
}
