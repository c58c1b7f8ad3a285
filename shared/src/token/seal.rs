//! The two seals of a token: the signature, which is the proof, and the tag, which our own edges
//! check before they redirect.

use ed25519_dalek::{Signature, Signer as _, SigningKey};
use subtle::ConstantTimeEq as _;

use super::{Token, layout};
use crate::event::Reason;
use crate::id::ImpressionId;
use crate::keys::{DeploymentId, KeyId, Keyring, PublicKey, Signer, TagKeys};
use crate::limits::{TOKEN_BYTES_MAX, TOKEN_LIFE_MS_MAX};
use crate::time::Timestamp;

/// Bytes of the Ed25519 signature.
pub const SIGNATURE_BYTES: usize = 64;
/// Bytes of the edge's tag.
pub const TAG_BYTES: usize = 16;

const SIGN_DOMAIN: &[u8] = b"countersign token signature v1\0";
const TAG_DOMAIN: &[u8] = b"countersign token tag v1\0";

impl Signer {
    /// Makes the sealed token: body, signature, and the tag with the key of its day of issue.
    ///
    /// # Errors
    /// Says which field no token can carry: a bad URL, a life beyond
    /// [`TOKEN_LIFE_MS_MAX`], a time beyond 48 bits, a missing name.
    pub fn mint(&self, token: &Token<'_>) -> Result<Vec<u8>, String> {
        Self::unsealed(token).map(|unsealed| self.seal(unsealed, None))
    }

    /// Makes the token without its seals, for a signature that is made elsewhere.
    ///
    /// # Errors
    /// As [`Signer::mint`].
    pub fn unsealed(token: &Token<'_>) -> Result<Unsealed, String> {
        super::check_url(token.url)?;
        let life_s = u64::from(token.impression_life_s.max(token.click_life_s));
        if life_s * 1000 > TOKEN_LIFE_MS_MAX {
            return Err(format!("a token lives at most 24 hours, and not {life_s} s"));
        }
        if token.issued_at.0 >> 48 != 0 || token.names().iter().any(|name| name.is_empty()) {
            return Err("a token needs a time of 48 bits and all five names".to_owned());
        }
        let mut signed = Vec::with_capacity(256 + token.url.len());
        signed.extend_from_slice(SIGN_DOMAIN);
        layout::write(token, &mut signed);
        Ok(Unsealed { signed, day: token.issued_at.day() })
    }

    /// Seals the token. A signature that was made elsewhere (RFC 8032, Ed25519) is taken without a
    /// check; without one it is made here.
    #[must_use]
    pub fn seal(&self, unsealed: Unsealed, signature: Option<[u8; SIGNATURE_BYTES]>) -> Vec<u8> {
        let Unsealed { signed, day } = unsealed;
        let body = &signed[SIGN_DOMAIN.len()..];
        let mut bytes = Vec::with_capacity(body.len() + SIGNATURE_BYTES + TAG_BYTES);
        bytes.extend_from_slice(body);
        bytes.extend(signature.unwrap_or_else(|| self.sign_bytes(&signed)));
        tag(&mut bytes, self.tags(), day);
        bytes
    }
}

/// A token without its seals.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unsealed {
    signed: Vec<u8>,
    /// The UTC day of its issue.
    day: u32,
}

impl Unsealed {
    /// The bytes that the signature has to cover.
    #[must_use]
    pub fn signed(&self) -> &[u8] {
        &self.signed
    }
}

/// Appends the signature over all these bytes.
pub fn sign(bytes: &mut Vec<u8>, key: &SigningKey) {
    let signature = key.sign(&[SIGN_DOMAIN, bytes].concat());
    bytes.extend(signature.to_bytes());
}

/// Appends the tag over all these bytes, with the key of a UTC day.
pub fn tag(bytes: &mut Vec<u8>, tags: &TagKeys, day: u32) {
    let tag = tag_of(bytes, &tags.of_day(day));
    bytes.extend(tag);
}

fn tag_of(bytes: &[u8], key: &[u8; 32]) -> [u8; TAG_BYTES] {
    let mut tag = [0; TAG_BYTES];
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(TAG_DOMAIN).update(bytes).finalize_xof().fill(&mut tag);
    tag
}

/// A token as it came: read, but not verified. Its content can be had only by one of the checks.
#[derive(Clone, Copy, Debug)]
pub struct Unverified<'a> {
    bytes: &'a [u8],
    token: Token<'a>,
}

impl<'a> Unverified<'a> {
    /// Reads a token of this deployment.
    ///
    /// # Errors
    /// [`Reason::Malformed`], [`Reason::UnknownVersion`] or [`Reason::WrongDeployment`].
    pub fn read(bytes: &'a [u8], deployment: DeploymentId) -> Result<Self, Reason> {
        if bytes.len() > TOKEN_BYTES_MAX {
            return Err(Reason::Malformed);
        }
        bytes.first().map_or(Ok(()), |version| layout::check_version(*version))?;
        let body = bytes.len().checked_sub(SIGNATURE_BYTES + TAG_BYTES).ok_or(Reason::Malformed)?;
        let token = layout::read(&bytes[..body])?;
        if token.deployment != deployment {
            return Err(Reason::WrongDeployment);
        }
        Ok(Self { bytes, token })
    }

    /// Checks the tag, in constant time, with the key of the day on which the token says that it
    /// was issued, whatever day that is. So a stranger's token is refused without the much slower
    /// check of a signature. `tags`: those of the signing key that the token names.
    ///
    /// # Errors
    /// [`Reason::BadSeal`].
    pub fn check_tag(&self, tags: &TagKeys, now: Timestamp) -> Result<Token<'a>, Reason> {
        let day = self.token.issued_at.day();
        // A token may claim any day. Only keys of days that are asked for all the time are kept.
        let key = if now.day().abs_diff(day) <= 1 { tags.of_day(day) } else { tags.derive(day) };
        let (sealed, tag) = self.bytes.split_at(self.bytes.len() - TAG_BYTES);
        let is_ours = bool::from(tag_of(sealed, &key).ct_eq(tag));
        if is_ours { Ok(self.token) } else { Err(Reason::BadSeal) }
    }

    /// Checks the signature (`verify_strict`: RFC 8032 §5.1.7, no small-order keys, no malleable
    /// spelling), the key's validity and its publishers. `received_at` is the edge's receive time.
    ///
    /// # Errors
    /// [`Reason::UnknownKey`], [`Reason::RevokedKey`], [`Reason::RetiredKey`],
    /// [`Reason::PublisherNotAllowed`] or [`Reason::BadSeal`].
    pub fn verify<'k>(
        &self,
        keyring: &'k Keyring,
        received_at: Timestamp,
    ) -> Result<(Token<'a>, &'k PublicKey), Reason> {
        self.check_signature(keyring)?;
        self.verify_again(keyring, received_at)
    }

    /// Checks the signature alone (`verify_strict`), even if its key was retired or revoked since.
    ///
    /// # Errors
    /// [`Reason::UnknownKey`] or [`Reason::BadSeal`].
    pub fn check_signature(&self, keyring: &Keyring) -> Result<Token<'a>, Reason> {
        let (_, verifying) = keyring.get(self.token.key).ok_or(Reason::UnknownKey)?;
        if self.signed_by(verifying) { Ok(self.token) } else { Err(Reason::BadSeal) }
    }

    /// Checks a token again whose signature was found good before: the signature stays good, but
    /// the key may have been retired or revoked since.
    ///
    /// # Errors
    /// As [`Unverified::verify`], without [`Reason::BadSeal`].
    pub fn verify_again<'k>(
        &self,
        keyring: &'k Keyring,
        received_at: Timestamp,
    ) -> Result<(Token<'a>, &'k PublicKey), Reason> {
        let (key, _) = keyring.get(self.token.key).ok_or(Reason::UnknownKey)?;
        self.authorise(key, received_at)?;
        Ok((self.token, key))
    }

    /// The key and the impression that it names. Nothing of that is verified: it may be used to
    /// sort tokens, and not be believed.
    #[must_use]
    pub const fn claim(&self) -> (KeyId, ImpressionId) {
        (self.token.key, self.token.id)
    }

    /// The bytes that the signature covers, and the signature: the proof of an impression.
    #[must_use]
    pub fn proof(&self) -> &'a [u8] {
        &self.bytes[..self.bytes.len() - TAG_BYTES]
    }

    fn authorise(&self, key: &PublicKey, received_at: Timestamp) -> Result<(), Reason> {
        key.check(self.token.issued_at, received_at)?;
        if key.signs_for(self.token.publisher) { Ok(()) } else { Err(Reason::PublisherNotAllowed) }
    }

    fn signed_by(&self, verifying: &ed25519_dalek::VerifyingKey) -> bool {
        let (body, signature) = self.proof().split_at(self.proof().len() - SIGNATURE_BYTES);
        let Ok(signature) = Signature::from_slice(signature) else {
            return false;
        };
        verifying.verify_strict(&[SIGN_DOMAIN, body].concat(), &signature).is_ok()
    }
}
