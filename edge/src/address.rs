//! Finds the client's address: the peer's, or what trusted proxies say it is.

use std::net::IpAddr;
use std::str::FromStr;

/// An address, or a range of addresses in CIDR notation (RFC 4632): `10.0.0.0/8`, `::1`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    base: u128,
    /// The length of the prefix out of 128 bits: an IPv4 range lies within `::ffff:0:0/96`.
    prefix_bits: u8,
}

impl Range {
    /// The addresses of this machine itself: `127.0.0.0/8` and `::1`.
    pub const LOOPBACK: [Self; 2] =
        [Self { base: 0xffff_7f00_0000, prefix_bits: 104 }, Self { base: 1, prefix_bits: 128 }];

    /// Whether the address lies in the range. `::ffff:a.b.c.d` is taken for the IPv4 address.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let differ = bits(address) ^ self.base;
        differ.checked_shr(128 - u32::from(self.prefix_bits)).unwrap_or(0) == 0
    }
}

impl FromStr for Range {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let error = || {
            let shown: String = text.chars().take(64).collect();
            format!("{shown:?} is neither an IP address nor a range such as 10.0.0.0/8")
        };
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| error())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse::<u8>().ok().filter(|length| *length <= most).ok_or_else(error)?
            }
            Some(_) => return Err(error()),
            None => most,
        };
        let prefix_bits = length + (128 - most);
        let base = bits(address);
        let host_bits = 128 - u32::from(prefix_bits);
        let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
        if base & !mask != 0 {
            return Err(format!("{text:?} has bits behind its prefix: did you mean the network?"));
        }
        Ok(Self { base, prefix_bits })
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The client's address: that of the peer, unless the peer is a trusted proxy; then the rightmost
/// address in `X-Forwarded-For` that is not a trusted proxy. Whatever stands left of it was written
/// by someone whom we do not trust, and is never looked at.
///
/// `None` when the address to the left of the trusted proxies is unreadable, or there is none: the
/// proxy hides its client, and its own address would make one visitor of many.
#[must_use]
pub fn client<'a>(
    peer: IpAddr,
    forwarded_for: impl DoubleEndedIterator<Item = &'a [u8]>,
    trusted: &[Range],
) -> Option<IpAddr> {
    let is_trusted = |address| trusted.iter().any(|range| range.contains(address));
    if !is_trusted(peer) {
        return Some(peer.to_canonical());
    }
    // Several header lines form one list (RFC 9110 §5.3). It is read from its end: as long as the
    // entries are trusted proxies, one of them wrote the entry to the left, so the first that is
    // none is the client.
    for line in forwarded_for.rev() {
        for entry in line.rsplit(|byte| *byte == b',') {
            let address = read(entry)?;
            if !is_trusted(address) {
                return Some(address);
            }
        }
    }
    None
}

/// Reads an entry: an address, perhaps with a port, as some proxies write it.
fn read(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?.trim();
    let bare = text.parse::<IpAddr>().ok();
    let with_port = || text.parse::<std::net::SocketAddr>().ok().map(|address| address.ip());
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<IpAddr>().ok();
    bare.or_else(with_port).or_else(bracketed).map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(peer: &str, forwarded: &[&str], trusted: &[&str]) -> Option<String> {
        let trusted: Vec<Range> = trusted.iter().map(|range| range.parse().unwrap()).collect();
        let lines = forwarded.iter().map(|line| line.as_bytes());
        client(peer.parse().unwrap(), lines, &trusted).map(|address| address.to_string())
    }

    #[test]
    fn a_stranger_cannot_say_who_it_is() {
        assert_eq!(who("203.0.113.7", &["198.51.100.1"], &[]).unwrap(), "203.0.113.7");
        let trusted = ["10.0.0.0/8"];
        assert_eq!(who("203.0.113.7", &["198.51.100.1"], &trusted).unwrap(), "203.0.113.7");
    }

    #[test]
    fn the_rightmost_stranger_asks() {
        let trusted = ["10.0.0.0/8", "::1"];
        let lines = ["1.1.1.1, 198.51.100.1", "10.0.0.2"];
        assert_eq!(who("10.0.0.1", &lines, &trusted).unwrap(), "198.51.100.1");
        assert_eq!(who("::1", &["[2001:db8::1]:443"], &trusted).unwrap(), "2001:db8::1");
        assert_eq!(who("::ffff:10.1.2.3", &["198.51.100.1:80"], &trusted).unwrap(), "198.51.100.1");
    }

    #[test]
    fn a_hidden_client_is_nobody() {
        assert_eq!(who("10.0.0.1", &[], &["10.0.0.0/8"]), None);
        assert_eq!(who("10.0.0.1", &["10.0.0.9"], &["10.0.0.0/8"]), None);
        assert_eq!(who("10.0.0.1", &["198.51.100.1, unknown"], &["10.0.0.0/8"]), None);
    }

    #[test]
    fn ranges() {
        let range = |text: &str| text.parse::<Range>();
        let inside =
            |text: &str, address: &str| range(text).unwrap().contains(address.parse().unwrap());
        assert!(inside("0.0.0.0/0", "255.255.255.255") && !inside("0.0.0.0/0", "2001:db8::1"));
        assert!(inside("::/0", "2001:db8::1"));
        assert!(
            inside("192.0.2.128/25", "192.0.2.255") && !inside("192.0.2.128/25", "192.0.2.127")
        );
        for wrong in ["", "10.0.0.0/33", "10.0.0.1/8", "10.0.0.0/", "10.0.0.0/+8", "::/129", "a/8"]
        {
            assert!(range(wrong).is_err(), "{wrong}");
        }
    }
}
