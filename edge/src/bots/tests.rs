#![allow(clippy::unwrap_used)]

use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;

const CRAWLERS: &str = include_str!("../../bots/crawlers.yml");
const BROWSERS: &str = include_str!("../../bots/browsers.yml");

/// The entries of a list of isbot's own.
fn agents(list: &str) -> Vec<&str> {
    let entries = list.lines().filter_map(|line| line.strip_prefix("  - "));
    entries.map(|entry| entry.trim_matches('"')).collect()
}

#[test]
fn the_lists_of_isbot_are_told_apart() {
    let (crawlers, browsers) = (agents(CRAWLERS), agents(BROWSERS));
    assert!(crawlers.len() > 600 && browsers.len() > 500);
    let missed: Vec<_> = crawlers.iter().filter(|agent| !is_bot(agent.as_bytes())).collect();
    let taken: Vec<_> = browsers.iter().filter(|agent| is_bot(agent.as_bytes())).collect();
    eprintln!(
        "{} of {} crawlers are found, {} of {} browsers are taken for one",
        crawlers.len() - missed.len(),
        crawlers.len(),
        taken.len(),
        browsers.len()
    );
    assert!(missed.is_empty() && taken.is_empty(), "missed {missed:#?}, taken {taken:#?}");
}

/// What isbot says of each.
#[test]
fn patterns_that_look_around() {
    let cases = [
        ("Mozilla/5.0 (X11; Linux x86_64) Cubot/1.0", false),
        ("Mozilla/5.0 (Linux; Android 9; CUBOT X19) Mobile Safari/537.36", false),
        ("Mozilla/5.0 (Linux) xcubot_", true),
        ("Mozilla/5.0 (Linux; Android 6.0; M BOT 551 Build/MRA58K) Mobile Safari/537.36", false),
        ("Mozilla/5.0 (Linux; Android 7.0; M bot 60) Mobile Safari/537.36", false),
        ("Mozilla/5.0 (compatible; m-bot)", true),
        ("Mozilla/5.0 (Linux) GoogleWV", false),
        ("Mozilla/5.0 (Linux) GoogleApp", false),
        ("Mozilla/5.0 (Linux) Google App", true),
        ("Mozilla/5.0 (Linux) Google Something", true),
        ("Mozilla/5.0 (Linux) ends in Google", true),
        ("Mozilla/5.0 (Linux) channel/google", false),
        ("Mozilla/5.0 (Linux) Java; x", false),
        ("Mozilla/5.0 (Linux) Java x", true),
        ("Mozilla/5.0 (Linux) SamScan", true),
        ("Mozilla/5.0 (Linux) CamScanner", false),
        ("Mozilla/5.0 (Linux) NewsSapphire", false),
        ("Mozilla/5.0 (Linux) News", true),
    ];
    for (agent, expected) in cases {
        assert_eq!(is_bot(agent.as_bytes()), expected, "{agent}");
    }
}

#[test]
fn what_is_no_text_is_no_matter() {
    assert!(!is_bot(b""));
    // Anything long without a space is a program's, as isbot has it.
    assert!(is_bot(&[b'x'; 4_000]));
    assert!(
        is_bot(b"curl/8.9.1")
            && is_bot(b"Go-http-client/1.1")
            && is_bot(b"facebookexternalhit/1.1")
    );
}

#[test]
fn the_tables_stay_small() {
    let tables = FIRST.iter().chain([&ANYWHERE]);
    let bytes: Vec<usize> = tables.map(|table| table.next.len() * 2).collect();
    let windows: u32 = WINDOWS.iter().map(|bits| bits.count_ones()).sum();
    eprintln!("{bytes:?} bytes of tables, {windows} of 32768 windows");
    assert!(bytes.iter().sum::<usize>() < 256 << 10 && windows < 4_096);
}

proptest! {
    #[test]
    fn any_bytes_are_taken(agent in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = is_bot(&agent);
    }
}

/// The patterns as isbot has them, matched by an engine for JavaScript's expressions.
static PATTERNS: LazyLock<Vec<regress::Regex>> = LazyLock::new(|| {
    let patterns: Vec<String> =
        serde_json::from_str(include_str!("../../bots/patterns.json")).unwrap();
    patterns.iter().map(|pattern| regress::Regex::with_flags(pattern, "i").unwrap()).collect()
});

fn isbot(agent: &str) -> bool {
    PATTERNS.iter().any(|pattern| pattern.find(agent).is_some())
}

/// Every place tried, nothing passed over.
fn plainly(agent: &[u8]) -> bool {
    FIRST.iter().any(|table| table.begins(agent, 0))
        || (0..agent.len()).any(|at| ANYWHERE.begins(&agent[at..], before(agent, at)))
}

/// One of the lists' agents, cut, joined with another, and with bytes put in.
fn mixed() -> impl Strategy<Value = String> {
    let all: Vec<&str> = agents(CRAWLERS).into_iter().chain(agents(BROWSERS)).collect();
    let one = prop::sample::select(all);
    let part = (one, any::<prop::sample::Index>(), any::<prop::sample::Index>());
    let part = part.prop_map(|(agent, from, to)| {
        let agent: String = agent.chars().filter(char::is_ascii).collect();
        let (from, to) = (from.index(agent.len() + 1), to.index(agent.len() + 1));
        agent[from.min(to)..from.max(to)].to_owned()
    });
    prop::collection::vec((part, "[ -~]{0,3}"), 1..4)
        .prop_map(|parts| parts.into_iter().map(|(a, b)| a + &b).collect())
}

#[test]
fn every_agent_of_the_lists_as_isbot_has_it() {
    for agent in agents(CRAWLERS).into_iter().chain(agents(BROWSERS)) {
        assert_eq!(is_bot(agent.as_bytes()), isbot(agent), "{agent}");
        assert_eq!(is_bot(agent.as_bytes()), plainly(agent.as_bytes()), "{agent}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn what_is_passed_over_holds_no_match(agent in mixed()) {
        prop_assert_eq!(is_bot(agent.as_bytes()), plainly(agent.as_bytes()));
    }

    #[test]
    fn bytes_that_are_no_text_too(agent in prop::collection::vec(any::<u8>(), 1..200)) {
        prop_assert_eq!(is_bot(&agent), plainly(&agent));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_mixture_as_isbot_has_it(agent in mixed()) {
        prop_assert_eq!(is_bot(agent.as_bytes()), isbot(&agent));
    }
}

/// Prints what an agent costs; `--release` for figures.
#[test]
fn what_an_agent_costs() {
    let rounds = if cfg!(debug_assertions) { 1 } else { 200 };
    for (list, text) in [("browsers", BROWSERS), ("crawlers", CRAWLERS)] {
        let mut ns: Vec<u128> = Vec::new();
        for agent in agents(text) {
            let watch = shared::ambient::Stopwatch::start();
            for _ in 0..rounds {
                std::hint::black_box(is_bot(std::hint::black_box(agent.as_bytes())));
            }
            ns.push(watch.elapsed().as_nanos() / rounds);
        }
        ns.sort_unstable();
        let (median, last) = (ns[ns.len() / 2], ns[ns.len() - 1]);
        eprintln!("{list}: median {median} ns, longest {last} ns");
    }
}
