//! What the centre tells edges elsewhere.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use shared::keys::PublicKey;

/// What the centre tells edges elsewhere: whom to believe, and what to show. They ask for it with a
/// signed request ([`shared::keys::request`]) and keep the last one that they got.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// The public keys of all issuers, as they are in force ([`PublicKey::told_to`]).
    pub public: Vec<PublicKey>,
    /// What the issuer may show of the catalogue, in its JSON form; left out where the centre has none,
    /// and for a key that was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catalogue: Option<Box<RawValue>>,
}

impl Published {
    /// Where the centre tells it.
    pub const PATH: &str = "/v1/edge/policy";
}
