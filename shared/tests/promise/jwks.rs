//! Keys as everybody may read them.

use ed25519_dalek::SigningKey;
use serde_json::{Value, json};
use shared::Timestamp;
use shared::keys::{DeploymentId, Jwks, KeyStore, Keyring, PublicKey};
use shared::limits::HORIZON_MS;
use shared::random::Seeded;
use shared::text::unhex;

use super::world::{DAY_MS, HOUR_MS, NOW, id};

fn kids(store: &KeyStore, now: Timestamp) -> Vec<String> {
    let jwks = Jwks::new(&store.keyring().unwrap(), now);
    let set: Value = serde_json::from_str(&jwks.body).unwrap();
    let keys = set["keys"].as_array().unwrap().iter();
    keys.map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

/// The key of RFC 8037, appendix A.1 and A.2: its seed, and its public key as a JWK.
#[test]
fn the_example_of_rfc_8037() {
    let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
    let public = SigningKey::from_bytes(&unhex(seed).unwrap()).verifying_key().to_bytes();
    let key = PublicKey {
        id: PublicKey::id_of(&public),
        issuer: id("a"),
        public,
        not_before: NOW,
        retired_at: None,
        revoked: false,
        publishers: vec![id("p")],
        advertisers: vec![id("a")],
        price_max: None,
    };
    let kid = key.id.to_string();
    let ring = Keyring::new(DeploymentId(1), [key]).unwrap();
    let jwks = Jwks::new(&ring, NOW);
    let set: Value = serde_json::from_str(&jwks.body).unwrap();
    assert_eq!(
        set,
        json!({ "keys": [{
            "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
            "kid": kid, "use": "sig", "alg": "EdDSA",
        }] })
    );
    // What others have cached is compared byte for byte.
    let expected = format!(
        "{{\"keys\":[{{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\
         \"x\":\"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\",\"kid\":\"{kid}\",\
         \"use\":\"sig\",\"alg\":\"EdDSA\"}}]}}"
    );
    assert_eq!(jwks.body, expected);
}

#[test]
fn retired_keys_stay_while_they_verify_and_revoked_ones_go_at_once() {
    let mut random = Seeded::new(5);
    let mut store = KeyStore::generate(&mut random);
    let old = store.create(id("a"), Vec::new(), NOW, &mut random).unwrap();
    let later = NOW.plus_ms(DAY_MS);
    let new = store.rotate(id("a"), later, HOUR_MS, &mut random).unwrap();
    let other = store.create(id("b"), Vec::new(), later, &mut random).unwrap();
    let sorted = |mut ids: Vec<shared::keys::KeyId>| {
        ids.sort();
        ids.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let end = later.plus_ms(HOUR_MS + HORIZON_MS);
    for now in [NOW, later, end] {
        assert_eq!(kids(&store, now), sorted(vec![old, new, other]), "{now}");
    }
    assert_eq!(kids(&store, end.plus_ms(1)), sorted(vec![new, other]));
    store.revoke(new).unwrap();
    assert_eq!(kids(&store, later), sorted(vec![old, other]));
}

#[test]
fn no_secret_is_in_it_and_the_tag_follows_the_set() {
    let mut random = Seeded::new(6);
    let mut store = KeyStore::generate(&mut random);
    store.create(id("a"), Vec::new(), NOW, &mut random).unwrap();
    let first = Jwks::new(&store.keyring().unwrap(), NOW);
    let set: Value = serde_json::from_str(&first.body).unwrap();
    assert_eq!(set["keys"][0].as_object().unwrap().len(), 6);
    assert_eq!(set["keys"][0].get("d"), None, "RFC 8037 §2: the private key");
    assert_eq!(first, Jwks::new(&store.keyring().unwrap(), NOW.plus_ms(DAY_MS)));
    store.rotate(id("a"), NOW.plus_ms(1), 0, &mut random).unwrap();
    let second = Jwks::new(&store.keyring().unwrap(), NOW);
    assert_ne!(first.etag, second.etag);

    let known = |header: String| first.is_known(header.as_bytes());
    assert!(known(first.etag.clone()) && known(format!("W/{}", first.etag)) && known("*".into()));
    assert!(known(format!("{}, {}", second.etag, first.etag)));
    for other in [String::new(), second.etag.clone(), first.etag.replace('"', "")] {
        assert!(!known(other.clone()), "{other}");
    }
}
