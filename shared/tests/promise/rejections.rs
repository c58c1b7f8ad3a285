//! `rejections.json`: what is not a token that we believe, and why.

use serde_json::{Value, json};
use shared::keys::{DeploymentId, KeyStore, Keyring};
use shared::token::{self, Signer, Token, Unverified};
use shared::{Kind, Reason, Timestamp};

use super::vectors::compare;
use super::world::{DAY_MS, HOUR_MS, MINUTE_MS, NOW, URL_60, id, key, mint, store, token};

/// What a collector finds: text, form, signature, key, times.
fn judge(keyring: &Keyring, text: &str, kind: Kind, at: Timestamp) -> Result<(), Reason> {
    let bytes = token::from_text(text.as_bytes())?;
    let unverified = Unverified::read(&bytes, keyring.deployment())?;
    let (token, _) = unverified.verify(keyring, at)?;
    token.check_time(kind, at)
}

struct Cases {
    keyring: Keyring,
    cases: Vec<Value>,
}

impl Cases {
    fn text(&mut self, name: &str, text: &str, at: Timestamp, kind: Kind, reason: Option<Reason>) {
        let found = judge(&self.keyring, text, kind, at).err();
        assert_eq!(found, reason, "{name}");
        self.cases.push(json!({
            "name": name, "kind": kind, "received_at": at, "reason": reason, "text": text,
        }));
    }

    fn bytes(&mut self, name: &str, bytes: &[u8], reason: Reason) {
        self.text(name, &token::to_text(bytes), NOW, Kind::Click, Some(reason));
    }
}

#[test]
fn rejections() {
    let store = store();
    let mut cases = Cases { keyring: store.keyring().unwrap(), cases: Vec::new() };
    forms(&store, &mut cases);
    spellings(&store, &mut cases);
    keys(&store, &mut cases);
    times(&store, &mut cases);
    let file = json!({
        "what": "Texts that came as tokens of the deployment of tokens.json, and the reason that they get when received at that time with that kind of event; null: none, for comparison.",
        "rejections": cases.cases,
    });
    compare("rejections.json", &file);
}

/// The bytes are no token, or not one of ours.
fn forms(store: &KeyStore, cases: &mut Cases) {
    let good = mint(store, "house", |_| ());
    let altered = |at: usize, with: u8| {
        let mut bytes = good.clone();
        bytes[at] = with;
        bytes
    };
    cases.text("as it was signed", &token::to_text(&good), NOW, Kind::Click, None);
    cases.text("empty", "", NOW, Kind::Click, Some(Reason::Malformed));
    cases.bytes("one byte", &good[..1], Reason::Malformed);
    cases.bytes("cut in the body", &good[..60], Reason::Malformed);
    cases.bytes("the last byte is missing", &good[..good.len() - 1], Reason::Malformed);
    cases.bytes("a byte too many", &[&good[..], &[0]].concat(), Reason::Malformed);
    cases.bytes("longer than any", &[good[0]; 2_300], Reason::Malformed);
    cases.bytes("version 0", &altered(0, 0), Reason::UnknownVersion);
    cases.bytes("version 2", &altered(0, 2), Reason::UnknownVersion);
    cases.bytes("version 2, one byte", &[2], Reason::UnknownVersion);
    cases.bytes("an id of no characters", &altered(52, 0), Reason::Malformed);
    cases.bytes("an id of 17 characters", &altered(52, 17), Reason::Malformed);
    cases.bytes("an id with a space", &altered(53, b' '), Reason::Malformed);
    cases.bytes("a URL that is no UTF-8", &altered(good.len() - 81, 0xff), Reason::Malformed);
    cases.bytes("another deployment", &altered(4, good[4] ^ 1), Reason::WrongDeployment);
    cases.bytes("the block was altered", &altered(9, good[9] ^ 1), Reason::BadSeal);
    cases.bytes("the price was altered", &altered(35, good[35] ^ 1), Reason::BadSeal);
    cases.bytes("the URL was altered", &altered(good.len() - 81, b'y'), Reason::BadSeal);
    let signature = good.len() - 80;
    cases.bytes(
        "the signature was altered",
        &altered(signature, !good[signature]),
        Reason::BadSeal,
    );
    let mut zero = good.clone();
    zero[signature..signature + 64].fill(0);
    cases.bytes("made a test by who has it", &altered(0, 0x81), Reason::BadSeal);
    let mut test = mint(store, "house", |token| token.test = true);
    cases.text("a test", &token::to_text(&test), NOW, Kind::Click, None);
    test[0] = 1;
    cases.bytes("a test without its mark", &test, Reason::BadSeal);
    test[0] = 0x82;
    cases.bytes("a test of version 2", &test, Reason::UnknownVersion);
    cases.bytes("a signature of zeros", &zero, Reason::BadSeal);
    cases.bytes("a malleable signature: s + the group's order", &malleable(&good), Reason::BadSeal);
}

/// The same signature with `s + L` for `s`: a lax verifier takes it (RFC 8032 §5.1.7, §8.4).
fn malleable(token: &[u8]) -> Vec<u8> {
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde,
        0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let mut bytes = token.to_vec();
    let s = bytes.len() - 48;
    let mut carry = 0;
    for (byte, order) in bytes[s..s + 32].iter_mut().zip(ORDER) {
        let sum = u16::from(*byte) + u16::from(order) + carry;
        (*byte, carry) = (sum.to_le_bytes()[0], sum >> 8);
    }
    assert_eq!(carry, 0);
    bytes
}

/// The same bytes, spelled in another way.
fn spellings(store: &KeyStore, cases: &mut Cases) {
    // One byte longer or shorter: the text ends in two, three or four characters of a quantum.
    let with_url = |url: &str| {
        let signer = Signer::new(key(store, "house"));
        let bytes = signer.mint(&token(store, &signer, url)).unwrap();
        (bytes.len() % 3, token::to_text(&bytes))
    };
    let texts = [URL_60, &URL_60[..59], &URL_60[..58]].map(with_url);
    let of = |rest: usize| &texts.iter().find(|(bytes, _)| *bytes == rest).unwrap().1;
    let (two, three, four) = (of(1), of(2), of(0));
    let mut bad = |name: &str, text: String| {
        cases.text(name, &text, NOW, Kind::Click, Some(Reason::Malformed));
    };
    bad("padded with one =", format!("{three}="));
    bad("padded with two =", format!("{two}=="));
    bad("a = without need", format!("{four}="));
    bad("trailing bits after two characters", next_last(two));
    bad("trailing bits after three characters", next_last(three));
    bad("a character too many", format!("{four}A"));
    bad("standard alphabet, +", four.replacen(['A', 'B', 'C'], "+", 1));
    bad("standard alphabet, /", four.replacen(['A', 'B', 'C'], "/", 1));
    bad("a space before", format!(" {four}"));
    bad("a line break after", format!("{four}\n"));
    bad("a dot within", format!("{}.{}", &four[..8], &four[8..]));
    bad("percent-encoded", format!("%{:02X}{}", four.as_bytes()[0], &four[1..]));
    bad("not ASCII", format!("{}é", &four[..four.len() - 2]));
    bad("longer than any", "A".repeat(token_chars_max() + 1));
}

fn token_chars_max() -> usize {
    shared::limits::TOKEN_CHARS_MAX
}

/// The same text but for the lowest bit of its last character, which no byte holds.
fn next_last(text: &str) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let last = *text.as_bytes().last().unwrap();
    let at = ALPHABET.iter().position(|c| *c == last).unwrap();
    format!("{}{}", &text[..text.len() - 1], char::from(ALPHABET[at ^ 1]))
}

/// Signed well, by whom we do not believe.
fn keys(store: &KeyStore, cases: &mut Cases) {
    let mut others = KeyStore::generate(&mut shared::random::Seeded::new(1));
    others
        .create(id("house"), Vec::new(), Timestamp(0), &mut shared::random::Seeded::new(2))
        .unwrap();
    let foreign = mint(&others, "house", |token| token.deployment = store.deployment);
    cases.bytes("an unknown key", &foreign, Reason::UnknownKey);
    let claimed = mint(&others, "house", |token| {
        (token.deployment, token.key) = (store.deployment, key(store, "house").public.id);
    });
    cases.bytes("an unknown key that names a known one", &claimed, Reason::BadSeal);
    let elsewhere = mint(&others, "house", |_| ());
    cases.bytes("another deployment's own", &elsewhere, Reason::WrongDeployment);
    let none = mint(store, "house", |token| token.deployment = DeploymentId(0));
    cases.bytes("no deployment", &none, Reason::WrongDeployment);
    cases.bytes("a revoked key", &mint(store, "leaked", |_| ()), Reason::RevokedKey);
    cases.bytes(
        "issued after its key was retired",
        &mint(store, "old", |_| ()),
        Reason::RetiredKey,
    );
    let early = mint(store, "house", |token| token.issued_at = NOW.minus_ms(31 * DAY_MS));
    cases.bytes("issued before its key was made", &early, Reason::RetiredKey);
    let before = mint(store, "old", |token| token.issued_at = NOW.minus_ms(DAY_MS + HOUR_MS));
    let before = token::to_text(&before);
    let click =
        |cases: &mut Cases, name, at, reason| cases.text(name, &before, at, Kind::Click, reason);
    click(cases, "issued before its key was retired", NOW.minus_ms(HOUR_MS), None);
    let later = NOW.plus_ms(6 * DAY_MS);
    click(cases, "the same, expired, at the horizon", later, Some(Reason::Expired));
    click(cases, "the same behind the horizon", later.plus_ms(1), Some(Reason::RetiredKey));
    let other = mint(store, "limited", |token| token.publisher = id("pub-3"));
    cases.bytes("a publisher that its key may not sign for", &other, Reason::PublisherNotAllowed);
}

/// Believed, and too early or too late.
fn times(store: &KeyStore, cases: &mut Cases) {
    let text = token::to_text(&mint(store, "house", |_| ()));
    let mut at = |name: &str, kind, at, reason| cases.text(name, &text, at, kind, reason);
    let (impression, click) = (NOW.plus_ms(HOUR_MS), NOW.plus_ms(DAY_MS));
    at("the last impression", Kind::Impression, impression, None);
    at("an impression 1 ms later", Kind::Impression, impression.plus_ms(1), Some(Reason::Expired));
    at("a view 1 ms later", Kind::Viewable, impression.plus_ms(1), Some(Reason::Expired));
    at("the last click", Kind::Click, click, None);
    at("a click 1 ms later", Kind::Click, click.plus_ms(1), Some(Reason::Expired));
    at("a minute before its issue", Kind::Click, NOW.minus_ms(MINUTE_MS), None);
    let early = NOW.minus_ms(MINUTE_MS + 1);
    at("more than a minute before its issue", Kind::Click, early, Some(Reason::NotYetValid));
}

/// An edge with the tag key finds an altered token without looking at the signature.
#[test]
fn an_edge_refuses_every_altered_bit() {
    let store = store();
    let tags = Signer::new(key(&store, "house")).tags().clone();
    let good = mint(&store, "house", |_| ());
    let sealed = |bytes: &[u8], now| {
        Unverified::read(bytes, store.deployment)
            .and_then(|t| t.check_tag(&tags, now).map(|_| true))
    };
    assert_eq!(sealed(&good, NOW), Ok(true));
    for bit in 0..good.len() * 8 {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert_ne!(sealed(&bytes, NOW), Ok(true), "bit {bit}");
    }
    // The key is that of the token's day, whatever day it is now.
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    for days in [0, 1, 2, 30, 194] {
        for now in [NOW.minus_ms(days * DAY_MS), NOW.plus_ms(days * DAY_MS)] {
            assert_eq!(sealed(&good, now), Ok(true), "{days} days");
            assert_eq!(sealed(&bad, now), Err(Reason::BadSeal), "{days} days");
        }
    }
    // Another issuer's key.
    let others = Signer::new(key(&store, "limited"));
    let token = Unverified::read(&good, store.deployment).unwrap();
    assert_eq!(token.check_tag(others.tags(), NOW), Err(Reason::BadSeal));
}

/// What no edge issues is not believed, whoever signed it.
#[test]
fn a_life_that_no_edge_gives_is_refused() {
    let store = store();
    let signer = Signer::new(key(&store, "house"));
    let opened = |minutes_ago: u64| {
        let at = NOW.minus_ms(minutes_ago * MINUTE_MS);
        let block = shared::BlockId::open(at, &mut shared::random::Seeded::new(1));
        shared::ImpressionId { block, seq: 0 }
    };
    let plain = Token { id: opened(0), ..token(&store, &signer, "https://a.example/") };
    assert_eq!(plain.check_life(), Ok(()));
    let day_s = 86_400;
    for (token, expected) in [
        (Token { impression_life_s: day_s, click_life_s: day_s, ..plain }, Ok(())),
        (Token { impression_life_s: day_s + 1, ..plain }, Err(Reason::Malformed)),
        (Token { click_life_s: day_s + 1, ..plain }, Err(Reason::Malformed)),
        (Token { click_life_s: 0x00ff_ffff, ..plain }, Err(Reason::Malformed)),
        // A block names its minute, is open for an hour, and clocks differ by a minute.
        (Token { id: opened(62), ..plain }, Ok(())),
        (Token { id: opened(63), ..plain }, Err(Reason::Malformed)),
        (Token { id: opened(7 * 24 * 60), ..plain }, Err(Reason::Malformed)),
        (Token { issued_at: NOW.minus_ms(MINUTE_MS), ..plain }, Ok(())),
        (Token { issued_at: NOW.minus_ms(MINUTE_MS + 1), ..plain }, Err(Reason::Malformed)),
        (Token { issued_at: NOW.minus_ms(DAY_MS), ..plain }, Err(Reason::Malformed)),
    ] {
        assert_eq!(token.check_life(), expected, "{token:?}");
    }
}
