//! The public keys as everybody may read them: a JWK Set (RFC 7517 §5) of Ed25519 keys (RFC 8037).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;

use super::{Keyring, PublicKey};
use crate::limits::HORIZON_MS;
use crate::text::hex;
use crate::time::Timestamp;

/// Where the set is served, on the edge and on the API.
pub const PATH: &str = "/.well-known/countersign/jwks.json";
/// Its content type (RFC 7517 §8.5.2).
pub const CONTENT_TYPE: &str = "application/jwk-set+json";
/// It may be kept for a minute only: a new key signs at once, and must be found soon.
pub const CACHE_CONTROL: &str = "public, max-age=60, must-revalidate";

/// A JWK Set, ready to be sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Jwks {
    /// The set, JSON.
    pub body: String,
    /// Its entity tag, quotes included (RFC 9110 §8.8.3): the same as long as the set is.
    pub etag: String,
}

/// Public members alone, in the order in which they are written.
#[derive(Serialize)]
struct Jwk {
    kty: &'static str,
    crv: &'static str,
    x: String,
    kid: String,
    r#use: &'static str,
    alg: &'static str,
}

impl Jwk {
    fn new(key: &PublicKey) -> Self {
        Self {
            kty: "OKP",
            crv: "Ed25519",
            x: URL_SAFE_NO_PAD.encode(key.public),
            kid: key.id.to_string(),
            r#use: "sig",
            alg: "EdDSA",
        }
    }
}

impl Jwks {
    /// The keys whose signatures may be believed at `now` or later, in the order of their ids:
    /// those that sign or will sign, and retired ones as long as what they signed is believed.
    /// Revoked keys are left out.
    #[must_use]
    pub fn new(keyring: &Keyring, now: Timestamp) -> Self {
        #[derive(Serialize)]
        struct Set {
            keys: Vec<Jwk>,
        }
        let verifies = |key: &&PublicKey| {
            !key.revoked && key.retired_at.is_none_or(|end| now <= end.plus_ms(HORIZON_MS))
        };
        let set = Set { keys: keyring.iter().filter(verifies).map(Jwk::new).collect() };
        let body = serde_json::to_string(&set).expect("texts alone always serialize");
        let etag = format!("\"{}\"", hex(&blake3::hash(body.as_bytes()).as_bytes()[..16]));
        Self { body, etag }
    }

    /// Whether a request with this `If-None-Match` has the set already (RFC 9110 §13.1.2).
    #[must_use]
    pub fn is_known(&self, if_none_match: &[u8]) -> bool {
        let known = |tag: &[u8]| {
            let tag = tag.trim_ascii();
            tag == b"*" || tag.strip_prefix(b"W/").unwrap_or(tag) == self.etag.as_bytes()
        };
        if_none_match.split(|byte| *byte == b',').any(known)
    }
}
