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

/// What isbot itself says of each.
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
fn a_phone_may_be_called_as_it_likes() {
    let models = [
        "XBot Junior",
        "XBOT_Senior",
        "VR BOT 552",
        "ID bot 53+",
        "C Bot Tab 70",
        "M_bot_tab_71",
        "S222 Build/CUBOT",
        "Discovery II",
        "GM Discovery II Build/LRX21M",
        "Spider 8",
        "Newsday_E1",
        "AURII Virtuoso",
        "Capture+",
        "Radar Deluxe",
        "ECHO JAVA",
        "Google Nexus 4",
        "CG|EON",
    ];
    let with = |system: &str, rest: &str| {
        format!("Mozilla/5.0 (Linux; {system}{rest} AppleWebKit/537.36 Mobile Safari/537.36")
    };
    for model in models {
        for system in ["Android 9; ", "U; Android 4.4.2; en-us; ", "Android 8.1.0; zh_CN; "] {
            let agent = with(system, &format!("{model})"));
            assert!(!is_bot(agent.as_bytes()), "{agent}");
            let agent = with(system, &format!("{model}; wv)"));
            assert!(!is_bot(agent.as_bytes()), "{agent}");
            // What stands anywhere else is what it is.
            let agent = with(system, &format!("{model}; compatible; SomeBot/2.1)"));
            assert!(is_bot(agent.as_bytes()), "{agent}");
        }
    }
    let pixel = "Mozilla/5.0 (Linux; Android 6.0.1; Nexus 5X Build/MMB29P) AppleWebKit/537.36 Chrome/120.0 \
                 Mobile Safari/537.36 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)";
    assert!(is_bot(pixel.as_bytes()));
    for (agent, range) in [
        ("Mozilla/5.0 (Linux; Android 9", 0..0),
        ("Mozilla/5.0 (Linux; Android 9) x; y)", 0..0),
        ("(Linux; Android 9; de-de)", 0..0),
        ("(Linux; Android 9; de; m", 21..24),
        ("; Android ", 0..0),
    ] {
        assert_eq!(model_range(agent.as_bytes()), range, "{agent}");
    }
}

/// Agents as people have reported them.
#[test]
fn persons_and_machines_that_were_mistaken_for_each_other() {
    let wechat = "Mozilla/5.0 (Linux; Android 11; M2007J17C) AppleWebKit/537.36 Version/4.0 Chrome/86.0.4240.99 \
                  MMWEBSDK/20210601 Mobile Safari/537.36 MMWEBID/1 MicroMessenger/8.0.21.2120(0x2800153B) \
                  Process/toolsmp WeChat/arm64 Weixin NetType/WIFI";
    let sogou = "Mozilla/5.0 (Linux; Android 9; NX569J) AppleWebKit/537.36 Chrome/68.0 Mobile Safari/537.36 \
                 SogouMSE,SogouMobileBrowser/5.21.8";
    let news =
        "Mozilla/5.0 (iPhone; CPU iPhone OS 10_2 like Mac OS X) AppleWebKit/602.3.12 AppleNews/607";
    for person in [wechat, sogou, news] {
        assert!(!is_bot(person.as_bytes()), "{person}");
    }
    let edge = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) \
                Chrome/42.0.2311.135 Safari/537.36 Edge/12.246";
    assert!(!is_bot(edge.as_bytes()));
    for more in ["Mozilla/5.0", "Gmail-content-sampling"] {
        assert!(is_bot(format!("{edge} {more}").as_bytes()), "{more}");
    }
    assert!(is_bot(b"Sogou web spider/4.0(+http://www.sogou.com/docs/help/webmasters.htm#07)"));
}

#[test]
fn what_is_no_text_is_no_matter() {
    assert!(!is_bot(b""));
    // isbot takes anything long without a space for a program.
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

/// The patterns as isbot has them, matched by an engine for JavaScript's regular expressions.
static PATTERNS: LazyLock<Vec<regress::Regex>> = LazyLock::new(|| {
    let patterns: Vec<String> =
        serde_json::from_str(include_str!("../../bots/patterns.json")).unwrap();
    patterns.iter().map(|pattern| regress::Regex::with_flags(pattern, "i").unwrap()).collect()
});

fn isbot(agent: &str) -> bool {
    PATTERNS.iter().any(|pattern| pattern.find(agent).is_some())
}

/// Tries every place and skips none.
fn plainly(agent: &[u8]) -> bool {
    let model = model_range(agent);
    let mut places = (0..agent.len()).filter(|at| !model.contains(at));
    FIRST.iter().any(|table| table.begins(agent, 0))
        || GMAIL.iter().any(|end| agent.ends_with(end))
        || places.any(|at| ANYWHERE.begins(&agent[at..], before(agent, at)))
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
        let (ours, theirs) = (is_bot(agent.as_bytes()), isbot(&agent));
        // isbot knows of no phones that are named like a bot.
        prop_assert!(ours == theirs || theirs && !model_range(agent.as_bytes()).is_empty());
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
