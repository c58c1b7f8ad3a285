//! What the centre sends to edges elsewhere.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use shared::keys::PublicKey;

/// What the centre sends to edges elsewhere: which keys to believe, and what to show. Edges ask for it with
/// a signed request ([`shared::keys::request`]), and keep the last answer that they got.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// The public keys of all issuers, as this issuer is told of them ([`PublicKey::told_to`]).
    pub public: Vec<PublicKey>,
    /// The part of the catalogue that the issuer may show, in its JSON form. Left out where the centre has
    /// no catalogue, and for a key that was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catalogue: Option<Box<RawValue>>,
}

impl Published {
    /// The path at the centre.
    pub const PATH: &str = "/v1/edge/policy";
}
