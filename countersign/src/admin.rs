//! The operator's key: the one key of this deployment's API.
//!
//! Every route of the API requires it (`Authorization: Bearer …`), except those that tell nothing
//! about visitors or ads: `/healthz`, `/readyz`, the API's description and the public keys.
//! `/metrics` requires it too, because it shows traffic and the sums of ads; Prometheus sends it
//! with `authorization: { credentials: … }`.

use std::path::Path;
use std::sync::Arc;

use api::{Principal, Refusal};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use collector::gateway::BATCHES_PATH;
use shared::keys::request::FIELD;
use shared::{Random, Ready};

use crate::data::{Mode, read_if_there, write_file};
use crate::failure::Failure;

/// The shortest key that the environment may give, in characters.
const CHARS_MIN: usize = 16;
const PREFIX: &str = "cs_admin_";
/// The environment variable that may give the key.
pub(crate) const VARIABLE: &str = "COUNTERSIGN_ADMIN_KEY";

/// The hash of the key, which is all that is kept. A plain hash is enough for 256 random bits; a
/// key that a person chose comes from the environment, and [`AdminKey::find`] writes nothing of it.
#[derive(Clone)]
pub(crate) struct AdminKey(blake3::Hash);

/// Where the key came from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// [`VARIABLE`].
    Environment,
    /// Made now: this is the only time that it can be shown.
    Made(String),
    /// Made at an earlier start.
    Kept,
}

impl AdminKey {
    /// The key of the environment; else the one that was made before; else a new one.
    ///
    /// # Errors
    /// When the environment's key is too short, or the file cannot be read or written.
    pub(crate) fn find(
        path: &Path,
        environment: Option<&str>,
        random: &mut dyn Random,
    ) -> Result<(Self, Origin), Failure> {
        if let Some(key) = Self::from_environment(environment)? {
            return Ok((key, Origin::Environment));
        }
        if let Some(text) = read_if_there(path)? {
            let kept = Self::read(&text).ok_or_else(|| {
                Failure::data(format!(
                    "{} is damaged: remove it, and the next start makes a new key",
                    path.display()
                ))
            })?;
            return Ok((kept, Origin::Kept));
        }
        let (made, key) = Self::make(random);
        write_file(path, made.kept().as_bytes(), Mode::Secret)?;
        Ok((made, Origin::Made(key)))
    }

    /// The key of the environment, if there is one.
    ///
    /// # Errors
    /// When it is too short, or has characters other than printable ASCII.
    pub(crate) fn from_environment(key: Option<&str>) -> Result<Option<Self>, Failure> {
        let Some(key) = key else { return Ok(None) };
        if key.chars().count() < CHARS_MIN || !key.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Failure::usage(format!(
                "{VARIABLE} needs at least {CHARS_MIN} characters, ASCII without spaces; or unset \
                 it, and a key is made"
            )));
        }
        Ok(Some(Self::from_key(key)))
    }

    /// A new key, and the text that a person gets: this is the only time that it can be shown.
    pub(crate) fn make(random: &mut dyn Random) -> (Self, String) {
        let mut bytes = [0; 32];
        random.fill(&mut bytes);
        let key = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes));
        (Self::from_key(&key), key)
    }

    /// The line that the file keeps: the hash.
    pub(crate) fn kept(&self) -> String {
        format!("blake3:{}\n", self.0.to_hex())
    }

    /// Reads what [`AdminKey::kept`] wrote; `None` when it is damaged.
    pub(crate) fn read(kept: &str) -> Option<Self> {
        let hash = kept.trim().strip_prefix("blake3:").and_then(shared::text::unhex::<32>)?;
        Some(Self(hash.into()))
    }

    fn from_key(key: &str) -> Self {
        Self(blake3::hash(key.as_bytes()))
    }

    /// Whether a request brings the key.
    fn admits(&self, headers: &HeaderMap) -> bool {
        let value = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes());
        let bearer = value.and_then(|value| {
            let (scheme, key) = value.split_at_checked(b"Bearer ".len())?;
            scheme.eq_ignore_ascii_case(b"Bearer ").then_some(key)
        });
        // `blake3::Hash` compares in constant time.
        bearer.is_some_and(|key| blake3::hash(key) == self.0)
    }
}

/// The layer in front of the API's routes. Lets a request through that brings the key, asks whether
/// the process is ready, or is a batch that an edge has signed.
pub(crate) async fn guard(
    State(key): State<Arc<AdminKey>>,
    mut request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path();
    // An edge signs its batches instead: the gateway checks the signature when it has read the
    // body.
    let is_signed = path == BATCHES_PATH && request.headers().contains_key(FIELD);
    // A supervisor or load balancer has no key, and must be able to ask whether the process is
    // ready.
    if path == Ready::PATH || is_signed {
        return next.run(request).await;
    }
    if key.admits(request.headers()) {
        request.extensions_mut().insert(Principal::Operator);
        return next.run(request).await;
    }
    let refusal = Refusal::new(
        StatusCode::UNAUTHORIZED,
        "unauthorized",
        "send the operator's key in the header `Authorization: Bearer KEY`; it was printed when \
         `countersign up` first started or by `countersign init`, or is what COUNTERSIGN_ADMIN_KEY said",
    );
    refusal.with(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::random::Seeded;

    fn headers(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())])
    }

    #[test]
    fn made_once_and_kept_as_a_hash() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.key");
        let (_, origin) = AdminKey::find(&path, None, &mut Seeded::new(1)).unwrap();
        let Origin::Made(key) = origin else { panic!("{origin:?}") };
        assert!(key.starts_with("cs_admin_") && key.len() == 9 + 43, "{key}");
        assert!(!std::fs::read_to_string(&path).unwrap().contains(&key[9..]));
        let (kept, origin) = AdminKey::find(&path, None, &mut Seeded::new(2)).unwrap();
        assert_eq!(origin, Origin::Kept);
        assert!(kept.admits(&headers(&format!("Bearer {key}"))));
        assert!(kept.admits(&headers(&format!("bearer {key}"))));
        for wrong in [key.clone(), format!("Bearer {key}x"), "Bearer ".into(), "B".into()] {
            assert!(!kept.admits(&headers(&wrong)), "{wrong}");
        }
        assert!(!kept.admits(&HeaderMap::new()));
    }

    #[test]
    fn the_environment_wins_and_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.key");
        let find = |key| AdminKey::find(&path, Some(key), &mut Seeded::new(1));
        let (key, origin) = find("0123456789abcdef").unwrap();
        assert_eq!(origin, Origin::Environment);
        assert!(key.admits(&headers("Bearer 0123456789abcdef")));
        assert!(!path.exists());
        for bad in ["", "0123456789abcde", "0123456789 abcdef"] {
            let Err(failure) = find(bad) else { panic!("{bad:?} was taken") };
            assert!(failure.message.contains(VARIABLE));
        }
    }

    #[test]
    fn a_damaged_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.key");
        std::fs::write(&path, "blake3:00\n").unwrap();
        let Err(failure) = AdminKey::find(&path, None, &mut Seeded::new(1)) else { panic!() };
        assert_eq!(failure.code, crate::failure::DATA);
    }
}
