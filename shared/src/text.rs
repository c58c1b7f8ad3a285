//! Types that are texts in JSON: hexadecimal numbers, and whatever has a `Display` and a `FromStr`.

/// Makes serde write a type as its `Display` does, and read it as its `FromStr` does.
macro_rules! serde_as_text {
    ($name:ty) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

/// Makes `Display`, `FromStr` and serde write and read a type of so many bytes as hexadecimal
/// digits.
macro_rules! hex_text {
    ($name:ident, $bytes:literal, $to:expr, $from:expr) => {
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let bytes: [u8; $bytes] = $to(self.0);
                f.pad(&$crate::text::hex(&bytes))
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::text::HexError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                $crate::text::unhex::<$bytes>(text).map(|bytes| Self($from(bytes))).ok_or_else(
                    || $crate::text::HexError {
                        text: text.chars().take(64).collect(),
                        digits: 2 * $bytes,
                    },
                )
            }
        }

        $crate::text::serde_as_text!($name);
    };
}

pub(crate) use {hex_text, serde_as_text};

/// A text that is not the hexadecimal that is wanted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {digits} lower-case hexadecimal digits")]
pub struct HexError {
    /// The text, or its beginning.
    pub text: String,
    /// How many digits there must be.
    pub digits: usize,
}

/// A text for a part of a URL: percent-encoded, except for the unreserved characters (RFC 3986
/// §2.3).
#[must_use]
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            let digit = |n: u8| char::from(b"0123456789ABCDEF"[usize::from(n)]);
            out.extend(['%', digit(byte >> 4), digit(byte & 15)]);
        }
    }
    out
}

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads exactly `N` bytes of lower-case hexadecimal.
#[must_use]
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let text = text.as_bytes();
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}
