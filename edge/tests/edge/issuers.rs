//! The edge of one issuer redirects nobody by a token that another issuer made, whatever that
//! issuer has been given.

use std::sync::Arc;

use ed25519_dalek::SigningKey;
use edge::{Decision, Keys, Method, Request, handle};
use serde_json::Value;
use shared::id::IdAllocator;
use shared::keys::{EdgeKeys, IssuerKey, KeyStore, PublicKey, TagKeys};
use shared::name::literal;
use shared::random::Seeded;
use shared::token::{SIGNATURE_BYTES, Signer, TAG_BYTES, Token, sign, tag, to_text};
use shared::{BlockId, Fingerprint, Id, ImpressionId, IssuerId, Reason, Timestamp};

use crate::support::World;

/// When the golden tokens were issued: 2026-01-31T12:00:00Z.
const NOW: Timestamp = Timestamp(1_769_860_800_000);
const HOUSE: IssuerId = Id::literal("house");
const MALLORY: IssuerId = Id::literal("limited");

/// The golden deployment, which an earlier build made, whose issuers shared a secret; and the same
/// as a new build makes it.
fn stores() -> [KeyStore; 2] {
    let golden = include_str!("../../../shared/vectors/tokens.json");
    let mut keys = serde_json::from_str::<Value>(golden).unwrap()["keys"].take();
    let earlier = serde_json::from_value(keys.clone()).unwrap();
    keys.as_object_mut().unwrap().remove("edge_secret").unwrap();
    [earlier, serde_json::from_value(keys).unwrap()]
}

/// A good token of a key.
fn sealed(key: &IssuerKey) -> Vec<u8> {
    let token = Token {
        test: false,
        pass_query: false,
        deployment: stores()[0].deployment,
        key: key.public.id,
        id: ImpressionId { block: BlockId::open(NOW, &mut Seeded::new(1)), seq: 1 },
        issued_at: NOW,
        impression_life_s: 3_600,
        click_life_s: 3_600,
        price: [0; 11],
        visitor: Fingerprint::NONE,
        ad: literal("any"),
        campaign: literal("any"),
        advertiser: literal("any"),
        publisher: literal("pub-1"),
        placement: literal("any"),
        url: "https://shop.example/",
    };
    Signer::new(key).mint(&token).unwrap()
}

fn of_the_house() -> Vec<u8> {
    sealed(&house(&stores()[0]).own[0].0)
}

fn click(keys: &EdgeKeys, token: &[u8]) -> Decision {
    let mut policy = World::at(NOW).policy();
    policy.keys = Arc::new(Keys::new(keys).unwrap());
    let path = format!("/v1/c/{}", to_text(token));
    let request = Request::new(Method::Get, &path);
    handle(&request, &policy, &mut IdAllocator::default(), NOW, &mut Seeded::new(3))
}

fn house(store: &KeyStore) -> EdgeKeys {
    store.for_edge(HOUSE).unwrap()
}

/// All tags that a tenant can make from what `keys edge` gives.
fn tags_of(keys: &EdgeKeys) -> Vec<TagKeys> {
    let own = keys.own.iter().map(|(key, _)| Signer::new(key).tags().clone());
    own.chain(keys.earlier_tags()).collect()
}

/// The body of a token of the house with every seal that another issuer can give it: its own
/// signature, none, or the signature of another body of the house.
fn forged(mallory: &EdgeKeys) -> Vec<Vec<u8>> {
    let good = of_the_house();
    let signature = good.len() - TAG_BYTES - SIGNATURE_BYTES;
    let mut body = good[..signature].to_vec();
    let last = body.len() - 1;
    body[last] ^= 1;
    let seed = SigningKey::from_bytes(mallory.own[0].0.secret.expose());
    let mut his = body.clone();
    sign(&mut his, &seed);
    let none = [&body[..], &[0; SIGNATURE_BYTES]].concat();
    let borrowed = [&body[..], &good[signature..good.len() - TAG_BYTES]].concat();
    let sealed = |tags: &TagKeys| {
        [&his, &none, &borrowed].map(|signed| {
            let mut bytes = signed.clone();
            tag(&mut bytes, tags, NOW.day());
            bytes
        })
    };
    tags_of(mallory).iter().flat_map(sealed).collect()
}

#[test]
fn a_tenant_s_keys_make_no_redirect_at_another_s_edge() {
    for store in stores() {
        let good = click(&house(&store), &of_the_house());
        assert_eq!(good.reply.status, 302, "{:?}", good.reply);
        let forged = forged(&store.for_edge(MALLORY).unwrap());
        assert!(forged.len() >= 3);
        for bytes in forged {
            let decision = click(&house(&store), &bytes);
            assert_eq!((decision.reply.status, decision.reply.location), (403, None));
            assert_eq!(decision.tallies[0].reason, Reason::BadSeal);
        }
    }
}

#[test]
fn what_a_tenant_signs_himself_is_not_sent_on_by_another_s_edge() {
    for store in stores() {
        let keys = store.for_edge(MALLORY).unwrap();
        let key = &keys.own[0].0;
        let bytes = sealed(key);
        let decision = click(&house(&store), &bytes);
        assert_eq!((decision.reply.status, decision.reply.location), (403, None));
        assert_eq!(decision.tallies[0].reason, Reason::ForeignIssuer);
        assert_eq!(click(&keys, &bytes).reply.status, 302, "at his own it is good");
    }
}

/// Links that were issued before the deployment had this build still lead where they did.
#[test]
fn a_token_of_an_earlier_build_still_leads_on() {
    let [earlier, new] = stores();
    let mut token = of_the_house();
    token.truncate(token.len() - TAG_BYTES);
    tag(&mut token, &house(&earlier).earlier_tags().unwrap(), NOW.day());
    assert_eq!(click(&house(&earlier), &token).reply.status, 302);
    // A deployment that always had this build takes no such token.
    assert_eq!(click(&house(&new), &token).reply.status, 403);
}

/// After a rotation edges hear of the new key one after the other.
#[test]
fn a_token_of_the_issuer_s_next_key_leads_on_at_an_edge_that_has_not_got_it() {
    for mut store in stores() {
        let behind = house(&store);
        store.rotate(HOUSE, NOW.minus_ms(1), 60_000, &mut Seeded::new(4)).unwrap();
        let ahead = house(&store);
        let next = &ahead.own.last().unwrap().0;
        let mut bytes = sealed(next);
        assert_eq!(click(&ahead, &bytes).reply.status, 302);
        // A Worker's secret is put by hand; the public keys come by themselves.
        let public: Vec<PublicKey> = ahead.public.clone();
        let told = behind.clone().with_public(public);
        assert_eq!(click(&told, &bytes).reply.status, 302);
        assert_eq!(click(&behind, &bytes).tallies[0].reason, Reason::UnknownKey);
        let at = bytes.len() - TAG_BYTES - 1;
        bytes[at] ^= 1;
        assert_eq!(click(&told, &bytes).tallies[0].reason, Reason::BadSeal);
    }
}

#[test]
fn an_edge_knows_which_ads_its_keys_may_not_sign_for() {
    let mut policy = World::at(NOW).policy();
    let placed =
        policy.catalogue.placements().map(|placement| policy.catalogue.ads_of(placement).count());
    let placed: usize = placed.sum();
    assert!(placed > 1 && policy.unsold(NOW).is_empty());
    policy.keys = Arc::new(Keys::new(&stores()[0].for_edge(MALLORY).unwrap()).unwrap());
    let unsold = policy.unsold(NOW);
    assert!(!unsold.is_empty() && unsold.is_sorted(), "{unsold:?}");
    for (placement, ad) in &unsold {
        let publisher = policy.catalogue.placement(placement.name()).unwrap().publisher.name();
        let ad = policy.catalogue.ads().iter().find(|known| known.id == *ad).unwrap();
        assert!(policy.keys.signer(publisher, ad, NOW).is_none(), "{placement} {ad:?}");
    }
    // When no key signs at all, that is the reason that is given.
    assert_eq!(policy.unsold(Timestamp(0)), []);
}
