//! What holds for every token.

use std::ops::RangeInclusive;
use std::sync::LazyLock;

use proptest::prelude::*;
use shared::keys::{KeyStore, Keyring};
use shared::name::{Any, Name, Short};
use shared::token::{self, Signer, Token, Unverified};
use shared::{BlockId, Fingerprint, Id, ImpressionId, Reason, Timestamp};

use super::world::{DAY_MS, NOW, id, key, store};

static STORE: LazyLock<(KeyStore, Keyring, Signer)> = LazyLock::new(|| {
    let store = store();
    let keyring = store.keyring().unwrap();
    let signer = Signer::new(key(&store, "house"));
    (store, keyring, signer)
});

pub(super) fn any_id<T: Short>() -> impl Strategy<Value = Id<T>> {
    proptest::collection::vec(
        proptest::sample::select(
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-".to_vec(),
        ),
        1..=16,
    )
    .prop_map(|bytes| Id::new(&bytes).unwrap())
}

/// A name of so many bytes that is any name.
pub(super) fn any_name(bytes: RangeInclusive<usize>) -> impl Strategy<Value = String> {
    let cut = move |mut text: String| {
        text.truncate(text.floor_char_boundary(*bytes.end()));
        text.trim().to_owned()
    };
    let any = prop_oneof!["[A-Za-z0-9_-]{1,16}", "[ -~]{1,130}", "\\PC{1,40}"].prop_map(cut);
    any.prop_filter("no name", |text| Name::<Any>::new(text).is_ok())
}

/// All that a token says but for whose it is, with its URL.
fn any_token() -> impl Strategy<Value = (Token<'static>, String)> {
    let numbers = (any::<[u8; 10]>(), any::<u16>(), 0..=DAY_MS, 0..=86_400_u32, 0..=86_400_u32);
    let any_name = || any_name(1..=128);
    let names = [any_name(), any_name(), any_name(), any_name(), any_name()];
    let url = "https?://[a-z]{1,20}(/[a-zA-Z0-9%&=._-]{0,200})?";
    (numbers, any::<[u8; 11]>(), any::<u64>(), names, url).prop_map(
        |((block, seq, age, impression_life_s, click_life_s), price, visitor, names, url)| {
            let (store, _, signer) = &*STORE;
            let [ad, campaign, advertiser, publisher, placement] = names.map(|name| &*name.leak());
            let token = Token {
                test: seq % 2 == 1,
                pass_query: seq % 4 > 1,
                deployment: store.deployment,
                key: signer.id(),
                id: ImpressionId { block: BlockId(block), seq },
                issued_at: NOW.minus_ms(age),
                impression_life_s,
                click_life_s,
                price,
                visitor: Fingerprint(visitor),
                ad: id(ad),
                campaign: id(campaign),
                advertiser: id(advertiser),
                publisher: id(publisher),
                placement: id(placement),
                url: "",
            };
            (token, url)
        },
    )
}

fn verify(bytes: &[u8]) -> Result<(), Reason> {
    let (store, keyring, _) = &*STORE;
    Unverified::read(bytes, store.deployment)?.verify(keyring, NOW).map(drop)
}

fn tagged(bytes: &[u8], now: Timestamp) -> Result<bool, Reason> {
    let (store, _, signer) = &*STORE;
    let token = Unverified::read(bytes, store.deployment)?;
    token.check_tag(signer.tags(), now).map(|_| true)
}

proptest! {
    #[test]
    fn a_token_comes_back((token, url) in any_token()) {
        let (store, keyring, signer) = &*STORE;
        let token = Token { url: &url, ..token };
        let bytes = signer.mint(&token).unwrap();
        let text = token::to_text(&bytes);
        prop_assert_eq!(token::from_text(text.as_bytes()).unwrap(), bytes.as_slice());
        let unverified = Unverified::read(&bytes, store.deployment).unwrap();
        prop_assert_eq!(unverified.claim(), (token.key, token.id));
        prop_assert_eq!(unverified.proof(), &bytes[..bytes.len() - token::TAG_BYTES]);
        prop_assert_eq!(unverified.verify(keyring, NOW).unwrap().0, token);
        prop_assert_eq!(unverified.verify_again(keyring, NOW).unwrap().0, token);
        prop_assert_eq!(unverified.check_tag(signer.tags(), NOW), Ok(token));
    }

    #[test]
    fn no_altered_bit_is_believed((token, url) in any_token(), bits: [proptest::sample::Index; 8]) {
        let (_, _, signer) = &*STORE;
        let token = Token { url: &url, ..token };
        let bytes = signer.mint(&token).unwrap();
        for bit in bits.map(|bit| bit.index(bytes.len() * 8)) {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            prop_assert_ne!(tagged(&bad, NOW), Ok(true), "bit {}", bit);
            // The tag is the edges' own; the signature covers all before it.
            let of_tag = bit / 8 >= bytes.len() - token::TAG_BYTES;
            prop_assert_eq!(verify(&bad).is_ok(), of_tag, "bit {}", bit);
        }
    }

    #[test]
    fn no_shortened_token_is_read((token, url) in any_token(), at: proptest::sample::Index) {
        let (_, _, signer) = &*STORE;
        let bytes = signer.mint(&Token { url: &url, ..token }).unwrap();
        let short = &bytes[..at.index(bytes.len())];
        prop_assert_eq!(verify(short), Err(Reason::Malformed));
    }

    #[test]
    fn any_bytes_are_refused_without_a_panic(mut bytes: Vec<u8>, header: bool) {
        if header {
            let deployment = STORE.0.deployment.0.to_be_bytes();
            bytes.splice(0..0, [&[1][..], &deployment].concat());
        }
        prop_assert!(verify(&bytes).is_err());
        prop_assert!(tagged(&bytes, NOW) != Ok(true));
    }

    /// One spelling for each token: what is read is what would be written.
    #[test]
    fn only_the_canonical_text_is_read(text in "[A-Za-z0-9_=+/ -]{0,90}") {
        if let Ok(bytes) = token::from_text(text.as_bytes()) {
            prop_assert_eq!(token::to_text(&bytes), text);
        }
    }

    /// What a mail program takes along: letters that are a token's, and none of this one.
    #[test]
    fn a_link_ends_where_its_token_does((token, url) in any_token(), tail in "[A-Za-z0-9_-]{0,40}") {
        let bytes = STORE.2.mint(&Token { url: &url, ..token }).unwrap();
        let text = token::to_text(&bytes) + &tail;
        prop_assert_eq!(token::from_link(text.as_bytes()), Ok(bytes));
    }

    #[test]
    fn any_link_is_read_or_refused_without_a_panic(text in "[A-Za-z0-9_-]{0,600}|.{0,90}") {
        if let Ok(bytes) = token::from_link(text.as_bytes()) {
            prop_assert!(text.starts_with(&token::to_text(&bytes)));
        }
    }

    #[test]
    fn any_text_is_read_or_refused_without_a_panic(text: Vec<u8>) {
        if let Ok(bytes) = token::from_text(&text) {
            prop_assert_eq!(token::to_text(&bytes).into_bytes(), text);
        }
    }

    #[test]
    fn any_url_is_signed_or_refused_without_a_panic(url: String) {
        prop_assert_eq!(token::check_url(&url).is_ok(), STORE.2.mint(
            &Token { url: &url, ..super::world::token(&STORE.0, &STORE.2, "") },
        ).is_ok());
    }
}

/// The whole of one token, bit by bit.
#[test]
fn every_altered_bit_of_one_token_is_refused() {
    let good = super::world::mint(&STORE.0, "house", |_| ());
    assert_eq!(verify(&good), Ok(()));
    for bit in 0..(good.len() - token::TAG_BYTES) * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(verify(&bad).is_err(), "bit {bit}");
    }
}
