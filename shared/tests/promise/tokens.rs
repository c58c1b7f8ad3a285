//! `tokens.json`: valid tokens, field by field and byte by byte.

use serde_json::{Value, json};
use shared::keys::KeyStore;
use shared::text::hex;
use shared::token::{self, Signer, Token, Unverified};
use shared::{BlockId, Currency, Fingerprint, ImpressionId, Money, Name, Reason, Timestamp};

use super::vectors::{Parts, compare};
use super::world::{NOW, URL_60, id, key, price, store, token};

/// 128 bytes.
const LONGEST: &str = "/19968336/header-bid-tag-0/abcdefghijklmnopqrstuvwxyz/abcdefghijklmnopqrstuvwxyz/abcdefghijklmnopqrstuvwxyz/abcdefghijklmnopq/ÿ";

fn names_of_others(plain: Token<'_>) -> Token<'_> {
    Token {
        ad: id("550e8400-e29b-41d4-a716-446655440000"),
        campaign: id("summer sale.2026"),
        advertiser: id("广告主"),
        publisher: id("example.com"),
        placement: id(LONGEST),
        ..plain
    }
}

#[test]
fn tokens() {
    let store = store();
    let long = format!("http://a.example/{}", "x".repeat(2_048 - 17));
    let house = Signer::new(key(&store, "house"));
    let limited = Signer::new(key(&store, "limited"));
    let plain = token(&store, &house, URL_60);
    let least = ImpressionId { block: BlockId([0; 10]), seq: 0 };
    let most = ImpressionId { block: BlockId([0xff; 10]), seq: u16::MAX };
    let free = Money::ZERO;
    let dear = Money { micros: i64::MAX, currency: "USD".parse::<Currency>().unwrap() };
    let one = "a";
    let sixteen = "Az09_-Az09_-Az09";
    let tokens = [
        vector("a URL of 60 characters", &store, &house, plain, price()),
        vector(
            "the least: no consent, no price, ids of one character",
            &store,
            &limited,
            Token {
                key: limited.id(),
                id: least,
                issued_at: Timestamp(0),
                impression_life_s: 0,
                click_life_s: 0,
                price: store.price_key(limited.id()).seal(least, free),
                visitor: Fingerprint::NONE,
                ad: id(one),
                campaign: id(one),
                advertiser: id(one),
                publisher: id(one),
                placement: id(one),
                url: "http://a",
                ..plain
            },
            free,
        ),
        vector(
            "the most: a URL of 2 048 characters, ids of sixteen, the last of all times",
            &store,
            &house,
            Token {
                id: most,
                issued_at: Timestamp((1 << 48) - 1),
                impression_life_s: 86_400,
                click_life_s: 86_400,
                price: store.price_key(house.id()).seal(most, dear),
                visitor: Fingerprint(u64::MAX),
                ad: id(sixteen),
                campaign: id(sixteen),
                advertiser: id(sixteen),
                publisher: id(sixteen),
                placement: id(sixteen),
                url: &long,
                ..plain
            },
            dear,
        ),
        vector(
            "names of other systems, one of them as long as any",
            &store,
            &house,
            names_of_others(plain),
            price(),
        ),
        vector("a test", &store, &house, Token { test: true, ..plain }, price()),
        vector(
            "a query that goes along",
            &store,
            &house,
            Token { pass_query: true, ..plain },
            price(),
        ),
    ];
    let file = json!({
        "what": "Valid tokens of the deployment `keys` (test keys: never use them). `parts` are the bytes in hex, in order; `text` is the base64url of all of them. The price is what is under the cover. `earlier` is the first one as builds wrote it whose tags were made with the `edge_secret` that all issuers had.",
        "keys": store,
        "tokens": tokens,
        "earlier": token::to_text(&as_an_earlier_build(&house.mint(&plain).unwrap(), &store)),
    });
    compare("tokens.json", &file);
}

/// The same token with the tag that any edge of the deployment could make.
fn as_an_earlier_build(bytes: &[u8], store: &KeyStore) -> Vec<u8> {
    let mut bytes = bytes[..bytes.len() - token::TAG_BYTES].to_vec();
    let tags = store.for_edge(id("house")).unwrap().earlier_tags().unwrap();
    token::tag(&mut bytes, &tags, NOW.day());
    let unverified = Unverified::read(&bytes, store.deployment).unwrap();
    assert!(unverified.check_tag(&tags, NOW).is_ok());
    let of_key = Signer::new(key(store, "house"));
    assert_eq!(unverified.check_tag(of_key.tags(), NOW), Err(Reason::BadSeal));
    bytes
}

fn vector(name: &str, store: &KeyStore, signer: &Signer, token: Token<'_>, price: Money) -> Value {
    let bytes = signer.mint(&token).unwrap();
    let text = token::to_text(&bytes);

    // What was written is what is read, by text, by signature and by tag.
    let bytes = token::from_text(text.as_bytes()).unwrap();
    let unverified = Unverified::read(&bytes, store.deployment).unwrap();
    let keyring = store.keyring().unwrap();
    let received = token.issued_at.max(NOW.minus_ms(1));
    if token.issued_at >= NOW {
        assert_eq!(unverified.verify(&keyring, received).unwrap().0, token, "{name}");
    }
    assert_eq!(unverified.check_tag(signer.tags(), token.issued_at), Ok(token), "{name}");
    let cover = store.price_key(token.key);
    assert_eq!(cover.open(token.id, token.price), Some(price), "{name}");

    let mut vector = json!({
        "name": name,
        "deployment": token.deployment,
        "key": token.key,
        "block": hex(&token.id.block.0),
        "seq": token.id.seq,
        "issued_at": token.issued_at,
        "impression_life_s": token.impression_life_s,
        "click_life_s": token.click_life_s,
        "price_micros": price.micros,
        "price_currency": price.currency.to_string(),
        "visitor": format!("{:016x}", token.visitor.0),
        "ad": token.ad,
        "campaign": token.campaign,
        "advertiser": token.advertiser,
        "publisher": token.publisher,
        "placement": token.placement,
        "url": token.url,
        "parts": parts(&bytes),
        "text_characters": text.len(),
        "text": text,
    });
    for (name, is_set) in [("test", token.test), ("pass_query", token.pass_query)] {
        if is_set {
            vector[name] = true.into();
        }
    }
    vector
}

pub(super) fn parts(bytes: &[u8]) -> Value {
    let mut parts = Parts::new(bytes);
    for (what, length) in [
        ("version", 1),
        ("deployment", 4),
        ("key id", 4),
        ("block", 10),
        ("sequence", 2),
        ("issued at, ms", 6),
        ("impression expiry, s", 3),
        ("click expiry, s", 3),
        ("covered price", 11),
        ("visitor", 8),
    ] {
        parts.take(what, length);
    }
    for what in ["ad", "campaign", "advertiser", "publisher", "placement"] {
        let length = parts.take(&format!("length of {what}"), 1)[0];
        parts.take(what, usize::from(length));
    }
    let length = parts.take("length of URL", 2);
    parts.take("URL", usize::from(u16::from_be_bytes([length[0], length[1]])));
    parts.take("signature", token::SIGNATURE_BYTES);
    parts.take("tag", token::TAG_BYTES);
    parts.end()
}

#[test]
fn a_token_with_a_60_character_url_has_about_320_characters() {
    assert_eq!(URL_60.len(), 60);
    let store = store();
    let signer = Signer::new(key(&store, "house"));
    let bytes = signer.mint(&token(&store, &signer, URL_60)).unwrap();
    let characters = token::to_text(&bytes).len();
    assert!((300..=340).contains(&characters), "{characters}");
}

#[test]
fn what_no_token_can_carry_is_not_signed() {
    let store = store();
    let signer = Signer::new(key(&store, "house"));
    let plain = token(&store, &signer, URL_60);

    let long = format!("https://a/{}", "x".repeat(2_039));
    for (token, why) in [
        (Token { url: &long, ..plain }, "at most 2048 bytes"),
        (Token { url: "/a", ..plain }, "starts with"),
        (Token { url: "file:///a", ..plain }, "no link leads to file:"),
        (Token { click_life_s: 86_401, ..plain }, "24 hours"),
        (Token { impression_life_s: u32::MAX, ..plain }, "24 hours"),
        (Token { issued_at: Timestamp(1 << 48), ..plain }, "48 bits"),
        (Token { ad: Name::NONE, ..plain }, "all five names"),
        (Token { placement: Name::NONE, ..plain }, "all five names"),
    ] {
        let error = signer.mint(&token).unwrap_err();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn landing_urls() {
    for good in [
        "http://a",
        "https://shop.example",
        "https://shop.example:8443/a/b?c=%20&d=e#f",
        "https://[2001:db8::1]/",
        "https://a/?u=https://b/@c",
        // What an operator may allow.
        "ftp://a/",
        "mailto:a@e.example?subject=a%20b",
        "tel:+4930",
        "my-app.x+1://open?a",
    ] {
        assert_eq!(token::check_url(good), Ok(()), "{good}");
    }
    for bad in [
        "",
        "/a",
        "a",
        "//a/",
        "HTTP://a/",
        "http:a",
        "https:",
        "javascript:alert(1)",
        "data:text/html,a",
        "vbscript:a",
        "file:///etc/passwd",
        "blob:https://a/1",
        "Mailto:a@e.example",
        "mailto:",
        "1app:a",
        ":a",
        "https://",
        "https:///a",
        "https://?a",
        "https://#a",
        "https://:80/",
        "https://user@a/",
        "https://user:pass@a/",
        "https://a/ b",
        "https://a/\n",
        "https://a/\"",
        "https://a/<",
        "https://a/\\",
        "https://ä/",
        "https://a/\u{7f}",
        "https://a/{b}",
    ] {
        assert!(token::check_url(bad).is_err(), "{bad:?}");
    }
}
