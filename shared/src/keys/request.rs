//! Signatures of requests: an edge signs with its issuer's key, and a collector's gateway accepts
//! the request because of it.
//!
//! The field `Countersign-Signature: KEY.MS.SIGNATURE`: the key's id, the time of sending in ms,
//! and the Ed25519 signature (base64url) over a domain string, the deployment, the time, the path
//! and the body's BLAKE3 hash. A request that somebody repeats within [`LIFE_MS`] does no harm: its
//! batches are known by their numbers.
//!
//! The field `Countersign-Body: HASH` has that hash, as 64 hexadecimal digits, so that the
//! signature can be checked before one byte of the body is read. Without this field, which senders
//! of older builds lack, the head only tells who claims to send.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signature, VerifyingKey};

use super::{DeploymentId, KeyId, Keyring, PublicKey, Signer};
use crate::limits::HORIZON_MS;
use crate::text::unhex;
use crate::time::Timestamp;

/// The field of the body's hash; see [`body_field`].
pub const BODY_FIELD: &str = "countersign-body";
/// The signature's field.
pub const FIELD: &str = "countersign-signature";
/// How far the sender's clock may be from the receiver's: five minutes.
pub const LIFE_MS: u64 = 300_000;

const DOMAIN: &[u8] = b"countersign request signature v1\0";

/// Why a request's signature is not believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RequestError {
    /// The field [`FIELD`] has not the form `KEY.MS.SIGNATURE`.
    #[error("the field {FIELD} is no KEY.MS.SIGNATURE")]
    Malformed,
    /// The key is none of this deployment, was revoked, is not in force yet, or was retired longer
    /// than the horizon ago.
    #[error("the key is not, or no more, one of this deployment")]
    Key,
    /// It was sent too long ago, or in the future.
    #[error("it was signed more than {} s from now: set the clock", LIFE_MS / 1000)]
    Time,
    /// The field of the body's hash is no hash.
    #[error("the field {BODY_FIELD} is no BLAKE3 hash: 64 hexadecimal digits in lower case")]
    Body,
    /// The signature is of another key, path or body.
    #[error("the signature is not this request's")]
    Signature,
}

/// The field's value for a request that is sent now.
#[must_use]
pub fn sign(
    signer: &Signer,
    deployment: DeploymentId,
    path: &str,
    body: &[u8],
    now: Timestamp,
) -> String {
    let signature = signer.sign_bytes(&covered(deployment, path, &blake3::hash(body), now));
    format!("{}.{}.{}", signer.id(), now.0, URL_SAFE_NO_PAD.encode(signature))
}

/// The value of [`BODY_FIELD`].
#[must_use]
pub fn body_field(body: &[u8]) -> String {
    blake3::hash(body).to_hex().to_string()
}

/// Which key a request's head names as the sender's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim<'a> {
    /// The key, in force.
    pub key: &'a PublicKey,
    /// Whether the head alone proves it. If not, anybody who knows the key's id can have claimed
    /// it, and key ids are public.
    pub is_proven: bool,
}

/// Checks what can be checked before the body is read, by [`FIELD`] and [`BODY_FIELD`]: that the
/// key is in force, and the time is near; with the hash of the body also that the key has signed a
/// request with such a body. [`verify`] must still follow, with the body.
///
/// # Errors
/// [`RequestError`].
pub fn verify_head<'a>(
    field: &str,
    body_hash: Option<&str>,
    keyring: &'a Keyring,
    path: &str,
    now: Timestamp,
) -> Result<Claim<'a>, RequestError> {
    let signed = Signed::read(field, keyring, now)?;
    let key = in_force(signed.public, now)?;
    let Some(hash) = body_hash else { return Ok(Claim { key, is_proven: false }) };
    let hash = unhex::<32>(hash).ok_or(RequestError::Body)?;
    signed.check(keyring.deployment(), path, &hash.into())?;
    Ok(Claim { key, is_proven: true })
}

/// The key that signed the request. A retired key is believed for the horizon, as its tokens are,
/// because an edge may not have the next one yet.
///
/// # Errors
/// [`RequestError`].
pub fn verify<'a>(
    field: &str,
    keyring: &'a Keyring,
    path: &str,
    body: &[u8],
    now: Timestamp,
) -> Result<&'a PublicKey, RequestError> {
    in_force(verify_known(field, keyring, path, body, now)?, now)
}

/// As [`verify`], but for a key that is not in force too. Enough for an edge to be told that its
/// key was revoked, and what everybody may know.
///
/// # Errors
/// [`RequestError`].
pub fn verify_known<'a>(
    field: &str,
    keyring: &'a Keyring,
    path: &str,
    body: &[u8],
    now: Timestamp,
) -> Result<&'a PublicKey, RequestError> {
    let signed = Signed::read(field, keyring, now)?;
    signed.check(keyring.deployment(), path, &blake3::hash(body))?;
    Ok(signed.public)
}

fn in_force(public: &PublicKey, now: Timestamp) -> Result<&PublicKey, RequestError> {
    let is_past = public.retired_at.is_some_and(|end| now > end.plus_ms(HORIZON_MS));
    if public.revoked || public.not_before > now || is_past {
        return Err(RequestError::Key);
    }
    Ok(public)
}

/// The content of the field. The key is known, and the time is near.
struct Signed<'a> {
    public: &'a PublicKey,
    verifying: &'a VerifyingKey,
    at: Timestamp,
    signature: Signature,
}

impl<'a> Signed<'a> {
    fn read(field: &str, keyring: &'a Keyring, now: Timestamp) -> Result<Self, RequestError> {
        let read = || {
            let mut parts = field.splitn(3, '.');
            let key: KeyId = parts.next()?.parse().ok()?;
            let at = parts.next()?.parse().map(Timestamp).ok()?;
            let signature = URL_SAFE_NO_PAD.decode(parts.next()?).ok()?;
            Some((key, at, Signature::from_slice(&signature).ok()?))
        };
        let (key, at, signature) = read().ok_or(RequestError::Malformed)?;
        let (public, verifying) = keyring.get(key).ok_or(RequestError::Key)?;
        if at.0.abs_diff(now.0) > LIFE_MS {
            return Err(RequestError::Time);
        }
        Ok(Self { public, verifying, at, signature })
    }

    fn check(
        &self,
        deployment: DeploymentId,
        path: &str,
        body: &blake3::Hash,
    ) -> Result<(), RequestError> {
        let covered = covered(deployment, path, body, self.at);
        let checked = self.verifying.verify_strict(&covered, &self.signature);
        checked.map_err(|_| RequestError::Signature)
    }
}

fn covered(deployment: DeploymentId, path: &str, body: &blake3::Hash, at: Timestamp) -> Vec<u8> {
    let mut bytes = DOMAIN.to_vec();
    bytes.extend(deployment.0.to_be_bytes());
    bytes.extend(at.0.to_le_bytes());
    bytes.extend((path.len() as u64).to_le_bytes());
    bytes.extend(path.as_bytes());
    bytes.extend(body.as_bytes());
    bytes
}
