//! A user's nkey: an Ed25519 key in the spelling of NATS (base32 of prefix, key and CRC16). The
//! crate `nkeys` brings a second implementation of Ed25519, and a crate for base32 as much Wasm as
//! all of our handlers: both are too large for a Worker.
//!
//! <https://github.com/nats-io/nkeys#encoding>

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signer as _, SigningKey};

/// The kind "user", as the first byte of a public key.
const USER: u8 = 20 << 3;
/// The kinds "seed" and "user", five bits each.
const USER_SEED: [u8; 2] = [(18 << 3) | (USER >> 5), (USER & 31) << 3];

/// Reads the seed of a user's nkey (`SU…`).
///
/// # Errors
/// When the text is not such a seed.
pub fn seed(text: &str) -> Result<[u8; 32], &'static str> {
    let read = || {
        let bytes = unbase32(text)?;
        let (body, crc) = bytes.split_last_chunk::<2>()?;
        let (prefix, seed) = body.split_first_chunk::<2>()?;
        let fits = *prefix == USER_SEED && u16::from_le_bytes(*crc) == crc16(body);
        <[u8; 32]>::try_from(seed).ok().filter(|_| fits)
    };
    read().ok_or("the seed of a user's nkey begins with SU and has 58 characters")
}

/// The public key and the signature over a server's nonce, as text.
#[must_use]
pub fn sign(seed: &[u8; 32], nonce: &[u8]) -> (String, String) {
    let key = SigningKey::from_bytes(seed);
    let mut public = vec![USER];
    public.extend(key.verifying_key().to_bytes());
    public.extend(crc16(&public).to_le_bytes());
    (base32(&public), URL_SAFE_NO_PAD.encode(key.sign(nonce).to_bytes()))
}

const DIGITS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// RFC 4648 §6, without padding.
fn base32(bytes: &[u8]) -> String {
    let bit = |at: usize| bytes.get(at / 8).map_or(0, |byte| byte >> (7 - at % 8) & 1);
    let digit = |first: usize| (first..first + 5).fold(0, |value, at| value << 1 | bit(at));
    let digits = (0..bytes.len() * 8).step_by(5);
    digits.map(|first| char::from(DIGITS[usize::from(digit(first))])).collect()
}

/// Decodes [`base32`]; trailing bits that fill no byte are dropped.
fn unbase32(text: &str) -> Option<Vec<u8>> {
    let value = |digit: u8| DIGITS.iter().position(|known| *known == digit);
    let values: Option<Vec<usize>> = text.bytes().map(value).collect();
    let values = values?;
    let bit = |at: usize| (values[at / 5] >> (4 - at % 5) & 1) as u8;
    let byte = |first: usize| (first..first + 8).fold(0, |byte, at| byte << 1 | bit(at));
    Some((0..values.len() * 5 / 8).map(|at| byte(at * 8)).collect())
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc: u16, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pair of the documentation of `nk`.
    const SEED: &str = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
    const PUBLIC: &str = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";

    #[test]
    fn a_known_seed_has_its_public_key() {
        let (public, signature) = sign(&seed(SEED).unwrap(), b"nonce");
        assert_eq!(public, PUBLIC);
        assert_eq!(URL_SAFE_NO_PAD.decode(signature).unwrap().len(), 64);
    }

    /// RFC 4648 §10.
    #[test]
    fn base32_of_the_rfc() {
        for (bytes, text) in
            [("", ""), ("f", "MY"), ("fooba", "MZXW6YTB"), ("foobar", "MZXW6YTBOI")]
        {
            assert_eq!(base32(bytes.as_bytes()), text);
            assert_eq!(unbase32(text).unwrap(), bytes.as_bytes());
        }
        assert_eq!(unbase32("MY="), None);
    }

    #[test]
    fn what_is_no_seed_of_a_user_is_refused() {
        let other = SEED.replace("SU", "SA");
        let changed = SEED.replace("CSSL", "CSSM");
        for wrong in ["", "SU", PUBLIC, &other, &changed, &SEED[..57], "SU!"] {
            assert!(seed(wrong).is_err(), "{wrong}");
        }
    }
}
