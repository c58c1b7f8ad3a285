//! A deployment with fixed keys: one that signs for all, one for two publishers, one retired, one
//! revoked; and tokens of it.

use shared::keys::{IssuerKey, KeyStore};
pub(super) use shared::name::literal as id;
use shared::token::{Signer, Token};
use shared::{BlockId, Fingerprint, ImpressionId, Money, Name, Timestamp};

/// 2026-01-31T12:00:00Z.
pub(super) const NOW: Timestamp = Timestamp(1_769_860_800_000);
pub(super) const MINUTE_MS: u64 = 60_000;
pub(super) const HOUR_MS: u64 = 60 * MINUTE_MS;
pub(super) const DAY_MS: u64 = 24 * HOUR_MS;
/// Exactly 60 characters.
pub(super) const URL_60: &str = "https://shop.example/spring/shoes?campaign=42&creative=13&x=";

/// The keys were made a month before [`NOW`], by a build whose tags had one secret for all issuers.
pub(super) fn store() -> KeyStore {
    let file: serde_json::Value =
        serde_json::from_str(include_str!("../../vectors/tokens.json")).unwrap();
    serde_json::from_value(file["keys"].clone()).unwrap()
}

pub(super) fn key<'a>(store: &'a KeyStore, issuer: &str) -> &'a IssuerKey {
    store.issuers.iter().find(|key| key.public.issuer.as_str() == issuer).unwrap()
}

pub(super) fn price() -> Money {
    Money { micros: 1_250, currency: "EUR".parse().unwrap() }
}

/// Issued at [`NOW`]: one hour for the impression, 24 for the click.
pub(super) fn token<'a>(store: &KeyStore, signer: &Signer, url: &'a str) -> Token<'a> {
    let impression = ImpressionId {
        block: BlockId([0x30, 0x9e, 0xa0, 0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd]),
        seq: 258,
    };
    Token {
        test: false,
        pass_query: false,
        deployment: store.deployment,
        key: signer.id(),
        id: impression,
        issued_at: NOW,
        impression_life_s: 3_600,
        click_life_s: 86_400,
        price: store.price_key(signer.id()).seal(impression, price()),
        visitor: Fingerprint(0x1122_3344_5566_7788),
        ad: Name::literal("spring-shoes-01"),
        campaign: Name::literal("spring-2026"),
        advertiser: Name::literal("shop"),
        publisher: Name::literal("pub-1"),
        placement: Name::literal("front-top"),
        url,
    }
}

/// A token of an issuer, changed before it is signed.
pub(super) fn mint(store: &KeyStore, issuer: &str, change: impl FnOnce(&mut Token<'_>)) -> Vec<u8> {
    let signer = Signer::new(key(store, issuer));
    let mut token = token(store, &signer, URL_60);
    change(&mut token);
    signer.mint(&token).unwrap()
}
