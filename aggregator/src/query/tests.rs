use std::time::Duration;

use super::*;
use crate::store::memory::MemStore;

#[test]
fn the_largest_come_first_and_ties_by_their_bytes() {
    let id = AdId::literal;
    let all = vec![(id("b"), 5), (id("B"), 5), (id("a"), 5), (id("z"), 9), (id("-"), 1)];
    let names = |most| {
        let ads = top(all.clone(), most);
        ads.iter().map(|(ad, _)| ad.text().expect("no digest").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(9), ["z", "B", "a", "b", "-"]);
    assert_eq!(names(5), ["z", "B", "a", "b", "-"]);
    assert_eq!(names(3), ["z", "B", "a"]);
    assert_eq!(names(1), ["z"]);
    assert!(top::<shared::name::Ad>(vec![], 3).is_empty());
}

#[test]
fn a_range_is_as_complete_as_its_least_complete_partition() {
    let part = |is_final, behind, as_of| Completeness { is_final, behind, as_of: Timestamp(as_of) };
    let all = part(true, 0, 9).and(part(false, 2, 5)).and(part(false, 1, 7));
    assert_eq!(all, part(false, 2, 5));
    assert_eq!(part(true, 0, 9).and(part(true, 0, 8)), part(true, 0, 8));
}

/// Nothing stands in these partitions: it is about their locks alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moments_that_are_taken_together_never_wait_for_each_other_for_ever() {
    let slots: Arc<Vec<Slot<MemStore>>> = Arc::new((0..16).map(|_| Slot::new(None)).collect());
    let mut tasks = tokio::task::JoinSet::new();
    for partition in 0..slots.len() {
        let slots = Arc::clone(&slots);
        tasks.spawn(async move {
            for _ in 0..20_000 {
                drop(slots[partition].write().await);
                tokio::task::yield_now().await;
            }
        });
    }
    for _ in 0..4 {
        let slots = Arc::clone(&slots);
        tasks.spawn(async move {
            for _ in 0..4_000 {
                At::this_moment(&slots).await.unwrap_err();
            }
        });
    }
    let all = tokio::time::timeout(Duration::from_secs(20), tasks.join_all());
    all.await.expect("they wait for each other");
}
