use std::future::pending;

use tokio::io::AsyncReadExt as _;
use tokio::task::JoinHandle;

use super::*;

fn doors(connections_max: usize, network_max: usize) -> Arc<Doors> {
    let exempt = vec!["10.0.0.0/8".parse().unwrap()];
    let settings = DoorSettings { connections_max, network_max, exempt };
    Doors::new(settings, DoorMetrics::default())
}

/// A connection that holds its permit until it is ended.
struct Held {
    permit: Arc<Permit>,
    task: JoinHandle<()>,
}

impl Held {
    fn new(permit: Permit) -> Self {
        let permit = Arc::new(permit);
        let held = Arc::clone(&permit);
        let task = tokio::spawn(async move {
            let _held = held;
            pending::<()>().await;
        });
        permit.ended_by(task.abort_handle());
        Self { permit, task }
    }

    /// Since when its client is waited for, ms from the start.
    fn since(self, since: u64) -> Self {
        self.permit.set(since);
        self
    }

    /// The task's own reference is the last.
    fn into_task(self) -> JoinHandle<()> {
        self.task
    }
}

async fn held(doors: &Arc<Doors>, peer: &str) -> Held {
    let admitted = doors.admit(peer.parse().unwrap());
    let admitted = tokio::time::timeout(Duration::from_secs(5), admitted).await;
    Held::new(admitted.expect("room is made at once").expect("a permit"))
}

async fn has_ended(task: JoinHandle<()>) -> bool {
    let ended = tokio::time::timeout(Duration::from_secs(5), task).await;
    ended.is_ok_and(|ended| ended.unwrap_err().is_cancelled())
}

#[tokio::test]
async fn who_has_waited_longest_for_its_client_makes_room() {
    let doors = doors(3, 3);
    let working = held(&doors, "192.0.2.1").await;
    working.permit.works();
    let young = held(&doors, "198.51.100.1").await.since(2);
    let old = held(&doors, "203.0.113.1").await.since(1).into_task();
    let new = held(&doors, "192.0.2.9").await;
    assert!(has_ended(old).await);
    assert!(!working.task.is_finished() && !young.task.is_finished());
    assert_eq!(doors.metrics().count(Shut::Displaced), 1);
    assert_eq!(doors.metrics().open(), 3);
    drop(new);
}

#[tokio::test]
async fn a_network_makes_room_for_itself_alone() {
    let doors = doors(10, 2);
    let other = held(&doors, "198.51.100.1").await.since(0);
    let first = held(&doors, "2001:db8:1:2::1").await.since(1).into_task();
    let second = held(&doors, "2001:db8:1:3::1").await;
    second.permit.works();
    let third = held(&doors, "2001:db8:1:4::1").await;
    third.permit.works();
    assert!(has_ended(first).await);
    assert!(!other.task.is_finished(), "the older one of another network");
    // Both work, so no connection can be closed.
    assert!(doors.admit("2001:db8:1::5".parse().unwrap()).await.is_none());
    assert_eq!(doors.metrics().count(Shut::Refused), 1);
    // Another network and a proxy still get permits.
    let _another = held(&doors, "2001:db8:2::5").await;
    for _ in 0..4 {
        std::mem::forget(held(&doors, "10.1.2.3").await.into_task());
    }
    second.task.abort();
    drop(second);
    tokio::time::timeout(Duration::from_secs(5), async {
        while doors.admit("2001:db8:1::5".parse().unwrap()).await.is_none() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("a permit that was given back is there again");
}

#[tokio::test]
async fn proxies_are_closed_last() {
    let doors = doors(2, 2);
    let proxy = held(&doors, "10.0.0.1").await.since(0);
    let stranger = held(&doors, "192.0.2.1").await.since(1).into_task();
    let third = held(&doors, "198.51.100.1").await;
    assert!(has_ended(stranger).await);
    assert!(!proxy.task.is_finished());
    third.permit.works();
    let proxy = proxy.into_task();
    let _fourth = held(&doors, "198.51.100.2").await;
    assert!(has_ended(proxy).await, "when there is nobody else");
}

#[tokio::test]
async fn the_network_that_has_most_makes_room_for_the_others() {
    let doors = doors(4, 3);
    let visitor = held(&doors, "198.51.100.1").await.since(0);
    let mut crowd = Vec::new();
    for since in 1..=3 {
        crowd.push(held(&doors, "203.0.113.7").await.since(since).into_task());
    }
    let other = held(&doors, "192.0.2.1").await.since(0);
    assert!(has_ended(crowd.remove(0)).await);
    // Two of its connections are left, and have waited for less time than the others.
    let third = held(&doors, "192.0.3.1").await;
    assert!(has_ended(crowd.remove(0)).await);
    let all = [&visitor.task, &other.task, &third.task, &crowd[0]];
    assert!(all.iter().all(|task| !task.is_finished()));
}

#[tokio::test]
async fn nobody_is_waited_for_before_somebody_serves_it() {
    let doors = doors(1, 1);
    let permit = doors.admit("192.0.2.1".parse().unwrap()).await.unwrap();
    let since = || permit.activity.since.load(Ordering::Relaxed);
    let accepted = since();
    tokio::time::sleep(Duration::from_millis(20)).await;
    permit.ended_by(tokio::spawn(pending::<()>()).abort_handle());
    assert!(since() > accepted);
}

#[tokio::test]
async fn when_all_work_a_place_is_waited_for() {
    let doors = doors(1, 1);
    let working = held(&doors, "192.0.2.1").await;
    working.permit.works();
    let next = tokio::spawn({
        let doors = Arc::clone(&doors);
        async move { doors.admit("198.51.100.1".parse().unwrap()).await.is_some() }
    });
    tokio::time::sleep(3 * FREED_WITHIN).await;
    assert!(!next.is_finished() && !working.task.is_finished());
    // It has replied, and waits for its client again.
    working.permit.waits();
    let task = working.into_task();
    assert!(has_ended(task).await);
    assert!(next.await.unwrap());
    tokio::time::timeout(Duration::from_secs(5), doors.emptied()).await.expect("all are gone");
}

#[tokio::test]
async fn over_sockets_a_refusal_is_a_503() {
    let doors = doors(9, 1);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut first = tokio::net::TcpStream::connect(address).await.unwrap();
    let (_stream, _, permit) = doors.next(&listener).await;
    permit.works();
    let mut second = tokio::net::TcpStream::connect(address).await.unwrap();
    let next = tokio::spawn(async move {
        let (_stream, _, permit) = doors.next(&listener).await;
        drop(permit);
    });
    let mut said = String::new();
    second.read_to_string(&mut said).await.unwrap();
    assert!(said.starts_with("HTTP/1.1 503 ") && said.contains("retry-after: 1\r\n"), "{said}");
    next.abort();
    drop(permit);
    drop(_stream);
    assert_eq!(first.read(&mut [0; 9]).await.unwrap(), 0);
}
