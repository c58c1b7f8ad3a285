//! The golden vectors of `shared/vectors/` as inputs, and the deployment whose tokens they hold.

use std::sync::LazyLock;

use serde_json::Value;
use shared::keys::{KeyStore, Keyring};
use shared::text::unhex;
use shared::token::{Signer, Token, Unverified, from_text};
use shared::{Reason, Timestamp};

/// When the golden tokens were issued: 2026-01-31T12:00:00Z.
pub(super) const NOW: Timestamp = Timestamp(1_769_860_800_000);

macro_rules! vectors {
    ($name:literal) => {
        json(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/vectors/", $name)))
    };
}

/// The deployment of the golden tokens.
pub(super) struct Deployment {
    pub(super) store: KeyStore,
    pub(super) keyring: Keyring,
}

impl Deployment {
    /// Checks a token's tag by the key that it names.
    pub(super) fn check_tag<'a>(&self, token: &Unverified<'a>) -> Result<Token<'a>, Reason> {
        let (id, _) = token.claim();
        let key = self.store.issuers.iter().find(|key| key.public.id == id);
        token.check_tag(Signer::new(key.ok_or(Reason::UnknownKey)?).tags(), NOW)
    }

    /// Whether its issuer sealed it, by the tag or, in an earlier build, by the signature.
    pub(super) fn is_sealed(&self, token: &Unverified<'_>) -> bool {
        self.check_tag(token).is_ok() || token.check_signature(&self.keyring).is_ok()
    }
}

pub(super) static DEPLOYMENT: LazyLock<Deployment> = LazyLock::new(|| {
    let store: KeyStore = serde_json::from_value(vectors!("tokens.json")["keys"].clone())
        .expect("the golden keys are a key store");
    let keyring = store.keyring().expect("its keys are good");
    Deployment { keyring, store }
});

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("the golden vectors are JSON")
}

/// Texts that may come as tokens, as bytes where they can be read: good ones and rejected ones.
pub(super) fn tokens() -> Vec<Vec<u8>> {
    let vectors = vectors!("rejections.json");
    let texts = list(&vectors["rejections"]).filter_map(|case| case["text"].as_str());
    texts.map(|text| from_text(text.as_bytes()).unwrap_or_else(|_| text.into())).collect()
}

pub(super) fn batches() -> Vec<Vec<u8>> {
    let vectors = vectors!("batches.json");
    list(&vectors["batches"]).map(whole).chain(list(&vectors["rejected"]).map(hex)).collect()
}

pub(super) fn messages() -> Vec<Vec<u8>> {
    let vectors = vectors!("messages.json");
    list(&vectors["messages"]).map(whole).chain(list(&vectors["rejected"]).map(hex)).collect()
}

pub(super) fn json_batches() -> Vec<Vec<u8>> {
    list(&vectors!("batches.json")["batches"])
        .map(|batch| batch["json"].to_string().into_bytes())
        .collect()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().expect("the golden vectors are lists").iter()
}

/// A vector that is told part by part.
fn whole(vector: &Value) -> Vec<u8> {
    list(&vector["parts"]).flat_map(|part| bytes(&part[1])).collect()
}

fn hex(vector: &Value) -> Vec<u8> {
    bytes(&vector["hex"])
}

fn bytes(hex: &Value) -> Vec<u8> {
    let digits = hex.as_str().expect("the golden vectors are hexadecimal digits");
    let pairs = (0..digits.len()).step_by(2).map(|at| unhex::<1>(&digits[at..at + 2]));
    pairs.map(|byte| byte.expect("two digits")[0]).collect()
}
