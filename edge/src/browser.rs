//! Tells whether a user agent looks like a browser's. Pure.
//!
//! MRC counts among general invalid traffic, besides known robots, "non-browser user-agent headers
//! or other forms of unknown browsers". Every browser in use today begins its agent with
//! `Mozilla/`. The few others name their engine, the system library that apps fetch with, or the
//! profile of a feature phone. An agent without any of these is not a browser's, whatever sends it.

/// The beginnings of browsers' agents, in lower case.
const BEGINNINGS: &[&str] =
    &["mozilla/", "opera/", "lynx/", "elinks/", "links (", "w3m/", "ucweb/"];

/// Names in the agents of browsers and of apps that show pages, in lower case: engines, the
/// fetching libraries of iOS and Android, feature phones.
const NAMES: &[&str] = &[
    "applewebkit",
    "browser",
    "mozilla",
    "gecko",
    "presto/",
    "trident/",
    "cfnetwork/",
    "dalvik/",
    "android",
    "(iphone;",
    "(ipad;",
    "ios ",
    "midp-",
    "[fban/",
    "roku",
    "playstation",
];

/// Only so many bytes of a user agent are looked at.
const BYTES_MAX: usize = 1_024;

/// Whether the agent looks like a browser's. An empty one does not.
pub(crate) fn is_like_browser(user_agent: &[u8]) -> bool {
    let agent = &user_agent[..user_agent.len().min(BYTES_MAX)];
    let begins = |at: &[u8], word: &str| {
        at.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word.as_bytes()))
    };
    let is_named = |at: usize| {
        let first = agent[at].to_ascii_lowercase();
        NAMES.iter().any(|word| word.as_bytes()[0] == first && begins(&agent[at..], word))
    };
    BEGINNINGS.iter().any(|word| begins(agent, word)) || (0..agent.len()).any(is_named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents() {
        let cases: &[(&str, bool)] = &[
            ("", false),
            ("   ", false),
            ("-", false),
            ("null", false),
            ("undefined (unknown)", false),
            ("MyClient 2.1 (linux; amd64)", false),
            ("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", true),
            ("MOZILLA/5.0 (WINDOWS NT 10.0; WIN64; X64)", true),
            ("Opera/9.80 (Windows NT 6.1; WOW64) Presto/2.12.388 Version/12.18", true),
            ("Lynx/2.9.0dev.6 libwww-FM/2.14 SSL-MM/1.4.1 OpenSSL/1.1.1j-dev", true),
            ("ExampleApp/1 iPhone5,2 iOS/10_1 CFNetwork/808.3 Darwin/16.3.0", true),
            ("ESPN App/6.12.0 Dalvik/2.1.0 (Linux; U; Android 9; SM-G965U)", true),
            ("Nokia200/2.0 (11.81) Profile/MIDP-2.1 Configuration/CLDC-1.1", true),
        ];
        for (agent, expected) in cases {
            assert_eq!(is_like_browser(agent.as_bytes()), *expected, "{agent:?}");
        }
        assert!(!is_like_browser(&[0xff; 4_096]));
    }

    /// isbot's list of browsers also has apps, players and mistakes: all agents that begin as
    /// browsers do pass, and most of the others.
    #[test]
    fn browsers_of_the_list_are_like_browsers() {
        let list = include_str!("../bots/browsers.yml").lines();
        let agents = list.filter_map(|line| line.strip_prefix("  - "));
        let agents: Vec<_> = agents.map(|agent| agent.trim_matches('"')).collect();
        let unlike: Vec<_> =
            agents.iter().filter(|agent| !is_like_browser(agent.as_bytes())).collect();
        assert!(agents.len() > 500 && unlike.len() <= 35, "{} {unlike:#?}", unlike.len());
        eprintln!("{} of {}: {unlike:#?}", unlike.len(), agents.len());
    }
}
