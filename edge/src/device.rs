//! Classifies devices by user agent, with a small table of our own. The classes are coarse; what
//! the table cannot tell is `unknown`.

use shared::Device;

/// Words that tell a class, first match first: a television says `Android` too, and a tablet may
/// say `Mobile`.
const WORDS: &[(Device, &[&str])] = &[
    (
        Device::Tv,
        &[
            "smart-tv",
            "smarttv",
            "hbbtv",
            "appletv",
            "googletv",
            "android tv",
            "netcast",
            "web0s",
            "webos.tv",
            "roku",
            "bravia",
            "viera",
            "aftt",
            "aftb",
            "afts",
            "aftm",
            "crkey",
            "tizen tv",
            "playstation",
            "xbox",
            "nintendo",
        ],
    ),
    (Device::Tablet, &["ipad", "tablet", "kindle", "silk/", "playbook", "nexus 7", "nexus 10"]),
    (
        Device::Phone,
        &["iphone", "ipod", "windows phone", "mobile", "opera mini", "blackberry", "phone;"],
    ),
    // Android without `Mobile` is a tablet (the convention of Chrome and Firefox).
    (Device::Tablet, &["android"]),
    (Device::Desktop, &["windows nt", "macintosh", "x11;", "linux x86_64", "linux i686", "cros "]),
];

/// Only so many bytes of a user agent are looked at.
const BYTES_MAX: usize = 512;

/// The number of words. Each has a bit in the filter, in their order.
const COUNT: usize = {
    let (mut class, mut count) = (0, 0);
    while class < WORDS.len() {
        count += WORDS[class].1.len();
        class += 1;
    }
    count
};

/// For each of the first three places of a word: which words have a given byte there, in either
/// case. With it one pass over a user agent compares a whole word at hardly any place.
const FILTER: [[u64; 256]; 3] = {
    let mut filter = [[0; 256]; 3];
    let (mut class, mut nth) = (0, 0);
    while class < WORDS.len() {
        let words = WORDS[class].1;
        let mut at = 0;
        while at < words.len() {
            let word = words[at].as_bytes();
            let mut place = 0;
            while place < 3 {
                filter[place][word[place] as usize] |= 1 << nth;
                filter[place][word[place].to_ascii_uppercase() as usize] |= 1 << nth;
                place += 1;
            }
            (at, nth) = (at + 1, nth + 1);
        }
        class += 1;
    }
    filter
};

const _: () = assert!(COUNT <= 64);

/// The class of the device with this user agent.
#[must_use]
pub fn classify(user_agent: &[u8]) -> Device {
    let seen = &user_agent[..user_agent.len().min(BYTES_MAX)];
    let mut found = 0;
    for (at, three) in seen.array_windows().enumerate() {
        let [a, b, c] = three.map(usize::from);
        let mut candidates = FILTER[0][a] & FILTER[1][b] & FILTER[2][c] & !found;
        while candidates != 0 {
            let nth = candidates.trailing_zeros();
            candidates &= candidates - 1;
            if word(nth).is_some_and(|(_, word)| starts_with(&seen[at..], word)) {
                found |= 1 << nth;
            }
        }
    }
    // The lowest bit is the first word in the list of those found, which takes precedence.
    word(found.trailing_zeros()).map_or(Device::Unknown, |(device, _)| device)
}

/// The nth word of the table, with its class.
fn word(nth: u32) -> Option<(Device, &'static str)> {
    WORDS
        .iter()
        .flat_map(|(device, words)| words.iter().map(|word| (*device, *word)))
        .nth(nth as usize)
}

fn starts_with(text: &[u8], word: &str) -> bool {
    text.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes() {
        let cases = [
            ("", Device::Unknown),
            ("curl/8.5.0", Device::Unknown),
            (
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/126.0 Safari/537.36",
                Device::Desktop,
            ),
            (
                "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 Version/17.5 Safari/605.1.15",
                Device::Desktop,
            ),
            (
                "Mozilla/5.0 (X11; Linux x86_64; rv:127.0) Gecko/20100101 Firefox/127.0",
                Device::Desktop,
            ),
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 Mobile/15E148",
                Device::Phone,
            ),
            (
                "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 Chrome/126.0 Mobile Safari/537.36",
                Device::Phone,
            ),
            (
                "Mozilla/5.0 (Linux; Android 13; SM-X910) AppleWebKit/537.36 Chrome/126.0 Safari/537.36",
                Device::Tablet,
            ),
            (
                "Mozilla/5.0 (iPad; CPU OS 16_6 like Mac OS X) AppleWebKit/605.1.15 Mobile/15E148",
                Device::Tablet,
            ),
            (
                "Mozilla/5.0 (SMART-TV; Linux; Tizen 7.0) AppleWebKit/537.36 Safari/537.36",
                Device::Tv,
            ),
            (
                "Mozilla/5.0 (Linux; Android 12; BRAVIA 4K) AppleWebKit/537.36 Safari/537.36",
                Device::Tv,
            ),
            ("Roku/DVP-12.5 (12.5.0.4178)", Device::Tv),
        ];
        for (user_agent, device) in cases {
            assert_eq!(classify(user_agent.as_bytes()), device, "{user_agent}");
        }
        assert_eq!(classify(&[0xff; 4096]), Device::Unknown);
    }
}
