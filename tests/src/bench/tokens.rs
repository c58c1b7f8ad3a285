//! Minting, checking and verifying tokens on one thread, per second.

use std::hint::black_box;
use std::time::Duration;

use shared::ambient::Stopwatch;
use shared::keys::{KeyStore, Keyring};
use shared::name::literal;
use shared::random::Seeded;
use shared::token::{Signer, Token, Unverified};
use shared::{Fingerprint, Id, ImpressionId, Minute, Money, Timestamp};

use super::{Measured, Size};

pub(super) const NOW: Timestamp = Timestamp(1_790_000_000_000);
pub(super) const URL: &str = "https://shop.example/landing/autumn?campaign=boots&src=count";

pub(super) struct Mint {
    pub(super) store: KeyStore,
    pub(super) signer: Signer,
    pub(super) keyring: Keyring,
}

impl Mint {
    pub(super) fn new() -> Result<Self, String> {
        let mut random = Seeded::new(1);
        let mut store = KeyStore::generate(&mut random);
        let issuer = Id::literal("bench");
        store.create(issuer, Vec::new(), NOW, &mut random).map_err(|e| e.to_string())?;
        store.register_edge(Id::literal("bench"), issuer, NOW).map_err(|e| e.to_string())?;
        let signer = Signer::new(store.signing(issuer, NOW).map_err(|e| e.to_string())?);
        let keyring = store.keyring().map_err(|e| e.to_string())?;
        Ok(Self { store, signer, keyring })
    }

    pub(super) fn token(&self, n: u32) -> Result<Vec<u8>, String> {
        self.token_at(n, NOW)
    }

    pub(super) fn token_at(&self, n: u32, issued_at: Timestamp) -> Result<Vec<u8>, String> {
        let mut id = [7; 12];
        let minute = issued_at.minute().0 - Minute::BLOCK_EPOCH.0;
        id[..3].copy_from_slice(&minute.to_be_bytes()[1..]);
        id[8..].copy_from_slice(&n.to_be_bytes());
        let token = Token {
            test: false,
            pass_query: false,
            deployment: self.store.deployment,
            key: self.signer.id(),
            id: ImpressionId::from_bytes(id),
            issued_at,
            impression_life_s: 3_600,
            click_life_s: 86_400,
            price: self
                .store
                .price_key(self.signer.id())
                .seal(ImpressionId::from_bytes(id), Money::ZERO),
            visitor: Fingerprint(u64::from(n)),
            ad: literal("ad-00042"),
            campaign: literal("autumn26"),
            advertiser: literal("bootshop"),
            publisher: literal("newsroom"),
            placement: literal("sidebar1"),
            url: URL,
        };
        self.signer.mint(&token)
    }
}

pub(super) fn measure(size: Size) -> Result<Vec<Measured>, String> {
    let mint = Mint::new()?;
    let count = size.choose(20_000, 50);
    let watch = Stopwatch::start();
    let tokens: Vec<_> = (0..count)
        .map(|n| mint.token(u32::try_from(n).unwrap_or(u32::MAX)))
        .collect::<Result<_, _>>()?;
    let minted = watch.elapsed();
    let mut digest = blake3::Hasher::new();
    tokens.iter().for_each(|token| {
        digest.update(token);
    });
    let digest = digest.finalize();

    let texts: Vec<_> = tokens.iter().map(|token| shared::token::to_text(token)).collect();
    let (tagged, good) = timed(&texts, |text| {
        let bytes = shared::token::from_text(text.as_bytes()).ok()?;
        let read = Unverified::read(&bytes, mint.store.deployment).ok()?;
        read.check_tag(mint.signer.tags(), NOW).ok().map(|token| token.url.len())
    });
    check(good, count, "tags")?;
    let (verified, good) = timed(&tokens, |bytes| {
        let read = Unverified::read(bytes, mint.store.deployment).ok()?;
        read.verify(&mint.keyring, NOW).ok().map(|(token, _)| token.url.len())
    });
    check(good, count, "signatures")?;

    let chars = texts.first().map_or(0, String::len);
    let rate = |spent| per_second(count, spent);
    Ok(vec![
        Measured::new("tokens/mint", "mint: sign and tag, one thread", rate(minted), "tokens/s")
            .hash(digest),
        Measured::new(
            "tokens/tag",
            "read the text and check the tag, one thread",
            rate(tagged),
            "tokens/s",
        )
        .peer("tokens/verify"),
        Measured::new(
            "tokens/verify",
            "check the signature (verify_strict), one thread",
            rate(verified),
            "tokens/s",
        ),
        #[expect(clippy::cast_precision_loss, reason = "a few hundred characters")]
        Measured::new(
            "tokens/chars",
            format!("characters of a token with a URL of {}", URL.len()),
            chars as f64,
            "characters",
        ),
    ])
}

fn timed<T>(items: &[T], mut work: impl FnMut(&T) -> Option<usize>) -> (Duration, usize) {
    let watch = Stopwatch::start();
    let good = items.iter().filter(|item| black_box(work(item)).is_some()).count();
    (watch.elapsed(), good)
}

fn check(good: usize, count: usize, what: &str) -> Result<(), String> {
    if good == count { Ok(()) } else { Err(format!("only {good} of {count} {what} were good")) }
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
pub(super) fn per_second(count: usize, spent: Duration) -> f64 {
    count as f64 / spent.as_secs_f64().max(1e-9)
}
