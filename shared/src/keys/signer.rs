//! Signs with an issuer's key.

use ed25519_dalek::{SIGNATURE_LENGTH, Signer as _, SigningKey};

use super::{IssuerKey, KeyId, PublicKey, TagKeys};

/// Signs with one key: requests, and tokens ([`crate::token`]).
#[derive(Clone)]
pub struct Signer {
    key: SigningKey,
    tags: TagKeys,
    /// The public half.
    pub public: PublicKey,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signer({})", self.public.id)
    }
}

impl Signer {
    /// Signs with this key.
    #[must_use]
    pub fn new(key: &IssuerKey) -> Self {
        Self {
            key: SigningKey::from_bytes(key.secret.expose()),
            tags: TagKeys::of_key(key.secret.clone()),
            public: key.public.clone(),
        }
    }

    /// The key's name, which goes into the token.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.public.id
    }

    /// The key's tags.
    #[must_use]
    pub const fn tags(&self) -> &TagKeys {
        &self.tags
    }

    /// A signature over these bytes. They must begin with a domain string of their use, so that a
    /// signature for one use is worth nothing for another.
    pub(crate) fn sign_bytes(&self, bytes: &[u8]) -> [u8; SIGNATURE_LENGTH] {
        self.key.sign(bytes).to_bytes()
    }
}
