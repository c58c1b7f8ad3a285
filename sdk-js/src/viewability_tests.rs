use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    area_px: u32,
    /// When, thousandths in view, visible, focused.
    looks: Vec<(u64, u16, bool, bool)>,
    viewable_at_ms: Option<u64>,
}

#[test]
fn the_cases_that_the_loader_has_too() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("../cases/viewability.json")).unwrap();
    assert!(cases.len() >= 25);
    for case in cases {
        let mut meter = Meter::default();
        let mut viewable_at = Vec::new();
        for (now_ms, per_mille, visible, focused) in case.looks {
            let look = Look { per_mille, area_px: case.area_px, visible, focused };
            if meter.look(now_ms, look) {
                viewable_at.push(now_ms);
            }
        }
        let expected: Vec<u64> = case.viewable_at_ms.into_iter().collect();
        assert_eq!(viewable_at, expected, "{}", case.name);
        assert_eq!(meter.is_viewable(), case.viewable_at_ms.is_some(), "{}", case.name);
    }
}

const IN_VIEW: Look = Look { per_mille: 1000, area_px: 75_000, visible: true, focused: true };

#[test]
fn more_looks_are_wanted_while_the_time_test_runs() {
    let mut meter = Meter::default();
    assert!(!meter.is_running());
    assert!(!meter.look(0, IN_VIEW));
    assert!(meter.is_running());
    assert!(!meter.look(10, Look { visible: false, ..IN_VIEW }));
    assert!(!meter.is_running());
    for now_ms in [20, 420, 820] {
        assert!(!meter.look(now_ms, IN_VIEW));
    }
    assert!(meter.look(1_020, IN_VIEW));
    assert!(!meter.is_running() && meter.is_viewable());
}

/// Runs of looks of random lengths and states, compared with the rule as it is written a second
/// time here: some unbroken stretch of passing looks, none further apart than the gap, lasts a
/// second.
#[test]
fn random_looks_agree_with_the_rule_told_backwards() {
    let mut seed = 7_u64;
    let mut next = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let mut viewables = 0;
    for _ in 0..20_000 {
        let area_px = if next(2) == 0 { LARGE_AREA_PX - 1 } else { LARGE_AREA_PX };
        let (mut meter, mut now_ms) = (Meter::default(), next(1_000));
        let mut looks: Vec<(u64, bool)> = Vec::new();
        let mut told = None;
        for _ in 0..next(30) {
            let step = if next(20) == 0 { next(2_000) } else { next(200) };
            now_ms += step;
            let per_mille = u16::try_from(250 + next(300) * 3).unwrap();
            let look = Look { per_mille, area_px, visible: next(30) > 0, focused: next(30) > 0 };
            if meter.look(now_ms, look) {
                told.get_or_insert(now_ms);
            }
            looks.push((now_ms, look.passes()));
        }
        let viewable = |end: usize| {
            let (end_ms, _) = looks[end];
            let unbroken = (0..=end).rev().take_while(|&at| {
                looks[at].1 && (at == end || looks[at + 1].0 - looks[at].0 <= GAP_MS_MAX)
            });
            unbroken.last().is_some_and(|start| end_ms - looks[start].0 >= TIME_MS_MIN)
        };
        let expected = (0..looks.len()).find(|&end| viewable(end)).map(|end| looks[end].0);
        assert_eq!(told, expected, "{looks:?}");
        viewables += usize::from(told.is_some());
    }
    assert!((1_000..19_000).contains(&viewables), "{viewables}: the looks try one side only");
}
