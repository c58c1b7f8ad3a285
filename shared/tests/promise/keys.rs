//! The lives of keys: made, rotated, retired, revoked.

use shared::keys::{IssuerLimits, KeyError, KeyId, KeyStore, Keyring, PublicKey};
use shared::limits::{CLOCK_AHEAD_MS_MAX, HORIZON_MS};
use shared::random::Seeded;
use shared::token::Signer;
use shared::{Money, PublisherName, Reason, Timestamp};

use super::world::{DAY_MS, HOUR_MS, NOW, id, store};

fn empty() -> (KeyStore, Seeded) {
    let mut random = Seeded::new(5);
    (KeyStore::generate(&mut random), random)
}

fn public(store: &KeyStore, id: KeyId) -> &PublicKey {
    &store.issuers.iter().find(|key| key.public.id == id).unwrap().public
}

#[test]
fn an_issuer_gets_one_key_and_the_name_of_imports_none() {
    let (mut store, mut random) = empty();
    let first = store.create(id("a"), Vec::new(), NOW, &mut random).unwrap();
    let again = store.create(id("a"), Vec::new(), NOW, &mut random);
    assert_eq!(again, Err(KeyError::HasKey(id("a"))));
    let reserved = store.create(id("import"), Vec::new(), NOW, &mut random);
    assert_eq!(reserved, Err(KeyError::Reserved(id("import"))));
    let second = store.create(id("b"), vec![id("p")], NOW, &mut random).unwrap();
    assert_ne!(first, second);
    assert_eq!(store.signing(id("a"), NOW).unwrap().public.id, first);
    assert!(!public(&store, second).signs_for(id("q")));
    assert!(public(&store, first).signs_for(id("q")));
    let unknown = store.signing(id("c"), NOW).map(|key| key.public.id);
    assert_eq!(unknown, Err(KeyError::UnknownIssuer(id("c"))));
    // It signs from its making on.
    assert!(store.signing(id("a"), NOW.minus_ms(1)).is_err());
}

#[test]
fn a_rotation_overlaps() {
    let (mut store, mut random) = empty();
    let old = store.create(id("a"), vec![id("p")], NOW, &mut random).unwrap();
    let later = NOW.plus_ms(DAY_MS);
    let new = store.rotate(id("a"), later, HOUR_MS, &mut random).unwrap();
    assert_eq!(public(&store, new).publishers, [id::<PublisherName>("p")]);
    assert_eq!(store.signing(id("a"), later).unwrap().public.id, new);
    assert_eq!(store.signing(id("a"), later.minus_ms(1)).unwrap().public.id, old);
    let end = later.plus_ms(HOUR_MS);
    assert_eq!(public(&store, old).retired_at, Some(end));
    assert!(public(&store, old).signs_at(end.minus_ms(1)) && !public(&store, old).signs_at(end));
    assert_eq!(public(&store, new).retired_at, None);

    // A rotation within the overlap does not lengthen it.
    store.rotate(id("a"), later.plus_ms(1), DAY_MS, &mut random).unwrap();
    assert_eq!(public(&store, old).retired_at, Some(end));
    assert_eq!(public(&store, new).retired_at, Some(later.plus_ms(1 + DAY_MS)));
    let nobody = store.rotate(id("x"), NOW, 0, &mut random);
    assert_eq!(nobody, Err(KeyError::UnknownIssuer(id("x"))));
}

#[test]
fn a_retired_key_is_believed_for_the_horizon() {
    let (mut store, mut random) = empty();
    let key = store.create(id("a"), Vec::new(), NOW, &mut random).unwrap();
    let end = NOW.plus_ms(DAY_MS);
    store.retire(key, end).unwrap();
    // Later is not later: it was retired.
    store.retire(key, end.plus_ms(DAY_MS)).unwrap();
    assert_eq!(public(&store, key).retired_at, Some(end));
    let check = |issued, received| public(&store, key).check(issued, received);
    let retired = Err(Reason::RetiredKey);
    // What clocks may differ is allowed on both ends.
    assert_eq!(check(NOW.minus_ms(CLOCK_AHEAD_MS_MAX), NOW), Ok(()));
    assert_eq!(check(NOW.minus_ms(CLOCK_AHEAD_MS_MAX + 1), NOW), retired);
    assert_eq!(check(end.plus_ms(CLOCK_AHEAD_MS_MAX), end), Ok(()));
    assert_eq!(check(end.plus_ms(CLOCK_AHEAD_MS_MAX + 1), end), retired);
    assert_eq!(check(NOW, end.plus_ms(HORIZON_MS)), Ok(()));
    assert_eq!(check(NOW, end.plus_ms(HORIZON_MS + 1)), retired);
    // The issuer may have another.
    assert!(store.create(id("a"), Vec::new(), end, &mut random).is_ok());
}

#[test]
fn a_revoked_key_is_never_believed() {
    let (mut store, mut random) = empty();
    let key = store.create(id("a"), Vec::new(), NOW, &mut random).unwrap();
    store.revoke(key).unwrap();
    assert_eq!(store.revoke(key), Err(KeyError::Revoked(key)));
    assert_eq!(public(&store, key).check(NOW, NOW), Err(Reason::RevokedKey));
    assert!(store.signing(id("a"), NOW).is_err());
    assert!(store.create(id("a"), Vec::new(), NOW, &mut random).is_ok());
    let unknown = KeyId(key.0 ^ 1);
    assert_eq!(store.revoke(unknown), Err(KeyError::Unknown(unknown)));
    assert_eq!(store.retire(unknown, NOW), Err(KeyError::Unknown(unknown)));
}

#[test]
fn a_store_comes_back_from_its_file() {
    let store = store();
    let text = serde_json::to_string(&store).unwrap();
    let back: KeyStore = serde_json::from_str(&text).unwrap();
    back.check().unwrap();
    assert_eq!(serde_json::to_string(&back).unwrap(), text);
    assert_eq!(back.keyring().unwrap().iter().count(), 4);
    let surprise = text.replacen('{', "{\"surprise\":1,", 1);
    assert!(serde_json::from_str::<KeyStore>(&surprise).is_err());
}

#[test]
fn an_edited_store_is_refused() {
    let store = store();
    let edited = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut value = serde_json::to_value(&store).unwrap();
        change(&mut value);
        serde_json::from_value::<KeyStore>(value).unwrap().check().unwrap_err()
    };
    let first = store.issuers[0].public.id;
    assert_eq!(edited(&|value| value["version"] = 2.into()), KeyError::Version(2));
    let other = store.issuers[1].secret.expose();
    let other = shared::text::hex(other);
    let found = edited(&|value| value["issuers"][0]["secret"] = other.clone().into());
    assert_eq!(found, KeyError::WrongId(first));
    let found = edited(&|value| value["issuers"][0]["public"]["id"] = "00000000".into());
    assert!(matches!(found, KeyError::WrongId(_)));
    let found = edited(&|value| value["issuers"][1] = value["issuers"][0].clone());
    assert_eq!(found, KeyError::Twice(first));
}

/// A key of small order verifies anything (RFC 8032 §8.9 leaves it open, `verify_strict` does not).
#[test]
fn weak_keys_are_refused() {
    let mut public = public(&store(), store().issuers[0].public.id).clone();
    // The neutral element, a point of order 8, and no point at all.
    let mut neutral = [0; 32];
    neutral[0] = 1;
    let order_8 =
        shared::text::unhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a");
    let mut off_curve = [0; 32];
    off_curve[0] = 2;
    for point in [neutral, order_8.unwrap(), off_curve] {
        public.public = point;
        public.id = PublicKey::id_of(&point);
        let ring = Keyring::new(store().deployment, [public.clone()]);
        assert!(matches!(ring, Err(KeyError::Invalid(_))), "{point:?}");
    }
}

#[test]
fn secrets_are_not_shown() {
    let store = store();
    let shown = format!("{store:?} {:?} {:?}", Signer::new(&store.issuers[0]), store.visitor_key());
    let value = serde_json::to_value(&store).unwrap();
    for secret in ["edge_secret", "price_secret", "visitor_secret"] {
        assert!(!shown.contains(value[secret].as_str().unwrap()));
    }
    assert!(shown.contains("Secret(…)"));
    assert!(!format!("{:?}", store.price_key(KeyId(1))).contains("["), "a price key is shown");
    assert_eq!(Timestamp(0).day(), 0);
}

/// A stolen edge signs as nobody else, and opens nobody else's prices; a collector signs nothing.
#[test]
fn a_part_holds_what_it_needs_and_no_more() {
    let store = store();
    let value = serde_json::to_value(&store).unwrap();
    let issuer = store.issuers[0].public.issuer;
    let edge = serde_json::to_string(&store.for_edge(issuer).unwrap()).unwrap();
    let centre = serde_json::to_string(&store.for_centre()).unwrap();
    for key in &store.issuers {
        let secret = shared::text::hex(key.secret.expose());
        assert_eq!(edge.contains(&secret), key.public.issuer == issuer);
        assert!(!centre.contains(&secret));
    }
    assert!(!edge.contains(value["price_secret"].as_str().unwrap()));
    // What an earlier build gave to every edge: it makes tokens that are believed for their signature.
    let shared_by_all = value["edge_secret"].as_str().unwrap();
    assert!(edge.contains(shared_by_all) && !centre.contains(shared_by_all));

    let edge: shared::keys::EdgeKeys = serde_json::from_str(&edge).unwrap();
    let centre: shared::keys::CentreKeys = serde_json::from_str(&centre).unwrap();
    let all: Vec<_> = store.keyring().unwrap().iter().cloned().collect();
    let of = |ring: Keyring| ring.iter().cloned().collect::<Vec<_>>();
    assert_eq!(of(centre.keyring().unwrap()), all);
    // What others may sign for is nobody else's business.
    let told: Vec<_> = all.iter().map(|key| key.told_to(issuer)).collect();
    assert_eq!(of(edge.keyring().unwrap()), told);
    assert!(all.iter().any(|key| !key.publishers.is_empty()));
    assert!(told.iter().all(|key| key.issuer == issuer || key.publishers.is_empty()));
    let (key, price) = &edge.own[0];
    let id = shared::ImpressionId { block: shared::BlockId([7; 10]), seq: 3 };
    let sealed = price.seal(id, shared::Money { micros: 5, currency: "EUR".parse().unwrap() });
    assert_eq!(centre.price_key(key.public.id).open(id, sealed).unwrap().micros, 5);
    assert!(!format!("{edge:?}{centre:?}").contains(&shared::text::hex(key.secret.expose())));

    let nobody = "nobody".parse().unwrap();
    assert_eq!(store.for_edge(nobody).unwrap_err(), KeyError::UnknownIssuer(nobody));
    let mut mixed = edge.clone();
    mixed.own[0].0.secret = shared::keys::Secret::from_bytes([9; 32]);
    assert_eq!(mixed.keyring().unwrap_err(), KeyError::WrongId(key.public.id));
}

#[test]
fn an_issuer_sells_what_the_operator_allows_and_goes_on_so_with_its_next_key() {
    let (mut store, mut random) = empty();
    let euros = |micros| Money { micros, currency: "EUR".parse().unwrap() };
    let limits = IssuerLimits {
        publishers: vec![id("p")],
        advertisers: vec![id("a")],
        price_max: Some(euros(5_000)),
    };
    store.create_limited(id("i"), limits.clone(), NOW, &mut random).unwrap();
    let next = store.rotate(id("i"), NOW.plus_ms(1), 0, &mut random).unwrap();
    let key = public(&store, next).clone();
    assert_eq!(key.limits(), limits);
    assert!(key.sells(id("a"), euros(5_000)) && key.sells(id("a"), Money::ZERO));
    assert!(!key.sells(id("a"), euros(5_001)) && !key.sells(id("b"), euros(1)));
    let dollars = Money { micros: 1, currency: "USD".parse().unwrap() };
    assert!(!key.sells(id("a"), dollars));
    // Nothing is said: nothing is forbidden. A file of an earlier build says nothing.
    let free = store.create(id("f"), Vec::new(), NOW, &mut random).unwrap();
    let text = serde_json::to_string(public(&store, free)).unwrap();
    assert!(!text.contains("advertisers") && !text.contains("price_max"), "{text}");
    let read: PublicKey = serde_json::from_str(&text).unwrap();
    assert!(read.sells(id("b"), dollars));
    let text = serde_json::to_string(&key).unwrap();
    assert_eq!(serde_json::from_str::<PublicKey>(&text).unwrap(), key);
}
