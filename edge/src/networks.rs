//! Networks in which programs run and no people browse: data centres, by the number of their
//! autonomous system (ASN). Pure; the rim says to which system an address belongs.
//!
//! General invalid traffic (MRC) includes "known data-center traffic", except routing artifacts of
//! people. So the list holds only hosters and clouds. Systems through which people's browsers come
//! are left out: content delivery networks (iCloud Private Relay and WARP leave through Cloudflare,
//! Fastly and Akamai), VPN exits, company proxies.

use std::str::FromStr;
use std::sync::Arc;

/// The list that comes with the program (`networks/data-centres.txt`).
const LIST: &str = include_str!(concat!(env!("OUT_DIR"), "/data-centres.txt"));

/// The most systems in a list; more than exist.
const SYSTEMS_MAX: usize = 150_000;

/// The autonomous systems of data centres, sorted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DataCentres(Arc<[u32]>);

impl DataCentres {
    /// An empty list: no network is a data centre.
    #[must_use]
    pub fn none() -> Self {
        Self(Arc::default())
    }

    /// Their numbers, ascending.
    #[must_use]
    pub fn systems(&self) -> &[u32] {
        &self.0
    }

    /// Whether the list has this system.
    #[must_use]
    pub fn contains(&self, asn: u32) -> bool {
        self.0.binary_search(&asn).is_ok()
    }
}

impl Default for DataCentres {
    /// The list that comes with the program.
    fn default() -> Self {
        LIST.parse().expect("a test reads the list")
    }
}

impl FromStr for DataCentres {
    type Err = String;

    /// One system a line: its number (`AS` may stand before it), then any text; `#` begins a
    /// comment.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut systems = Vec::new();
        for (line, number) in text.lines().zip(1..) {
            let line = line.split('#').next().unwrap_or_default().trim();
            let Some(word) = line.split_whitespace().next() else { continue };
            let digits = word.strip_prefix("AS").unwrap_or(word);
            // 0 and the last number are reserved (RFC 7607, RFC 7300).
            let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
            let asn =
                digits.parse().ok().filter(|_| plain).filter(|asn| (1..u32::MAX).contains(asn));
            let asn = asn.ok_or_else(|| {
                let shown: String = word.chars().take(32).collect();
                format!("line {number}: {shown:?} is no number of an autonomous system")
            })?;
            if systems.len() == SYSTEMS_MAX {
                return Err(format!("line {number}: more than {SYSTEMS_MAX} systems"));
            }
            systems.push(asn);
        }
        systems.sort_unstable();
        systems.dedup();
        Ok(Self(systems.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_has_hosters_and_nobody_that_people_come_through() {
        let list = DataCentres::default();
        assert!(list.0.len() > 100, "{}", list.0.len());
        for (asn, name) in [(16509, "Amazon"), (24940, "Hetzner"), (16276, "OVH"), (8075, "Azure")]
        {
            assert!(list.contains(asn), "{name}");
        }
        let people = [13335, 209242, 54113, 20940, 36183, 15169, 9009, 212238, 3320, 7922, 0];
        assert!(people.iter().all(|asn| !list.contains(*asn)));
        assert!(!DataCentres::none().contains(16509));
    }

    #[test]
    fn a_list_is_read_or_refused_with_its_line() {
        let read = |text: &str| text.parse::<DataCentres>();
        let list = read("# ours\nAS64500 Example\n\n 64499\t# another\n64500\n").unwrap();
        assert_eq!(list.0[..], [64_499, 64_500]);
        for wrong in ["AS", "0", "4294967295", "-1", "+5", "x 5", "as5", "1.2"] {
            let error = read(&format!("64500\n{wrong}")).unwrap_err();
            assert!(error.starts_with("line 2: "), "{wrong}: {error}");
        }
    }
}
