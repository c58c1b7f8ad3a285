//! Requests that an edge signs with its issuer's key: to the collector's gateway, which lets it in
//! for that.
//!
//! The field `Countersign-Signature: KEY.MS.SIGNATURE`: the key's id, the time of sending in ms, and
//! the Ed25519 signature (base64url) over a domain string, the deployment, the time, the path and the
//! body's BLAKE3 hash. Whoever repeats a request within [`LIFE_MS`] repeats what happened already:
//! batches have numbers.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::Signature;

use super::{DeploymentId, KeyId, Keyring, PublicKey};
use crate::limits::HORIZON_MS;
use crate::time::Timestamp;
use crate::token::Signer;

/// The field's name.
pub const FIELD: &str = "countersign-signature";
/// How far the sender's clock may be from the receiver's: five minutes.
pub const LIFE_MS: u64 = 300_000;

const DOMAIN: &[u8] = b"countersign request signature v1\0";

/// Why a request's signature is not believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RequestError {
    /// The field is not of this form.
    #[error("the field {FIELD} is no KEY.MS.SIGNATURE")]
    Malformed,
    /// No key of this deployment, one that was revoked, or one that was retired a horizon ago.
    #[error("the key is not, or no more, one of this deployment")]
    Key,
    /// It was sent too long ago, or in the future.
    #[error("it was signed more than {} s from now: set the clock", LIFE_MS / 1000)]
    Time,
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
    let signature = signer.sign_bytes(&covered(deployment, path, body, now));
    format!("{}.{}.{}", signer.id(), now.0, URL_SAFE_NO_PAD.encode(signature))
}

/// Whose key signed the request. A retired one is believed for the horizon, as its tokens are: an edge
/// may not have its next one yet.
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
    let public = verify_known(field, keyring, path, body, now)?;
    let is_past = public.retired_at.is_some_and(|end| now > end.plus_ms(HORIZON_MS));
    if public.revoked || public.not_before > now || is_past {
        return Err(RequestError::Key);
    }
    Ok(public)
}

/// The same of a key that was revoked too: enough to be told of it, and of what everybody may know.
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
    let covered = covered(keyring.deployment(), path, body, at);
    verifying.verify_strict(&covered, &signature).map_err(|_| RequestError::Signature)?;
    Ok(public)
}

fn covered(deployment: DeploymentId, path: &str, body: &[u8], at: Timestamp) -> Vec<u8> {
    let mut bytes = DOMAIN.to_vec();
    bytes.extend(deployment.0.to_be_bytes());
    bytes.extend(at.0.to_le_bytes());
    bytes.extend((path.len() as u64).to_le_bytes());
    bytes.extend(path.as_bytes());
    bytes.extend(blake3::hash(body).as_bytes());
    bytes
}
