#![allow(clippy::unwrap_used)]

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
    assert!(!BOTS.is_empty() && FILE.len() < 64 << 10, "{} bytes of tables", FILE.len());
    let read: usize = BOTS.iter().map(|bot| bot.dfa.write_to_len() + 5).sum();
    assert_eq!(read, FILE.len(), "all of the file is read");
}

proptest! {
    #[test]
    fn any_bytes_are_taken(agent in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = is_bot(&agent);
    }
}
