use super::*;

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
