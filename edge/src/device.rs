//! The class of a device, from its user agent. A small table of our own: the classes are coarse,
//! and what it cannot tell is `unknown`.

use shared::Device;

/// Words that tell a class, in the order in which they are asked: a television says `Android`
/// too, and a tablet may say `Mobile`.
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
    // Android without `Mobile` is a tablet (so Chrome and Firefox say it).
    (Device::Tablet, &["android"]),
    (Device::Desktop, &["windows nt", "macintosh", "x11;", "linux x86_64", "linux i686", "cros "]),
];

/// User agents are looked at this far.
const BYTES_MAX: usize = 512;

/// The class that the user agent tells.
pub(crate) fn of(user_agent: &[u8]) -> Device {
    let seen = &user_agent[..user_agent.len().min(BYTES_MAX)];
    if seen.is_empty() {
        return Device::Unknown;
    }
    let mut lower = [0; BYTES_MAX];
    for (to, from) in lower.iter_mut().zip(seen) {
        *to = from.to_ascii_lowercase();
    }
    let lower = &lower[..seen.len()];
    let found = WORDS.iter().find(|(_, words)| words.iter().any(|word| contains(lower, word)));
    found.map_or(Device::Unknown, |(device, _)| *device)
}

fn contains(text: &[u8], word: &str) -> bool {
    let (first, length) = (word.as_bytes()[0], word.len());
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| *byte == first) {
        rest = &rest[at..];
        if rest.len() < length {
            return false;
        }
        if &rest[..length] == word.as_bytes() {
            return true;
        }
        rest = &rest[1..];
    }
    false
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
            assert_eq!(of(user_agent.as_bytes()), device, "{user_agent}");
        }
        assert_eq!(of(&[0xff; 4096]), Device::Unknown);
    }
}
