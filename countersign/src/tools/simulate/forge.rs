//! Makes tokens that must not count, with the reason under which each must appear.

use shared::keys::{DeploymentId, KeyStore};
use shared::limits::TOKEN_CHARS_MAX;
use shared::random::{Seeded, below};
use shared::token::{self, SIGNATURE_BYTES, Signer, TAG_BYTES, Token};
use shared::{
    AdName, BlockId, Fingerprint, ImpressionId, IssuerId, Name, Random, Reason, Timestamp,
};

/// The longest lifetime of a click, in seconds, whose end a visitor waits for.
pub(super) const BRIEF_S_MAX: u32 = 30;

/// Where fields begin in a token, see [`shared::token`].
const DEPLOYMENT: usize = 1;
const IMPRESSION: usize = 9;
const CLICK_LIFE: usize = 30;
const PRICE: usize = 33;
const VISITOR: usize = 44;
/// Marks that share a byte with the version.
const MARKS: u8 = token::TEST_MARK | token::QUERY_MARK;
const SEALS: usize = SIGNATURE_BYTES + TAG_BYTES;

/// For how many seconds after its issue a click of this token counts.
pub(super) fn click_life_s(text: &str) -> Option<u32> {
    let bytes = token::from_text(text.as_bytes()).ok()?;
    let [a, b, c] = bytes.get(CLICK_LIFE..CLICK_LIFE + 3)?.try_into().ok()?;
    Some(u32::from_be_bytes([0, a, b, c]))
}

/// Makes bad tokens.
pub(super) struct Forger {
    deployment: DeploymentId,
    /// Signs with a key that the edge does not know.
    signer: Signer,
}

impl Forger {
    /// Learns from a real token what everybody can see in it.
    pub(super) fn new(sample: &str, seed: u64) -> Result<Self, String> {
        let bytes = token::from_text(sample.as_bytes()).map_err(|reason| reason.to_string())?;
        let field = bytes.get(DEPLOYMENT..DEPLOYMENT + 4).and_then(|field| field.try_into().ok());
        let field = field.ok_or("the edge gave a token that is none")?;
        let deployment = DeploymentId(u32::from_be_bytes(field));
        let mut random = Seeded::new(seed ^ 0xf0f0);
        let mut store = KeyStore::generate(&mut random);
        store.deployment = deployment;
        let id = IssuerId::literal("edge");
        store
            .create(id, Vec::new(), Timestamp(0), &mut random)
            .map_err(|error| error.to_string())?;
        let signer = Signer::new(store.signing(id, Timestamp(1)).map_err(|e| e.to_string())?);
        Ok(Self { deployment, signer })
    }

    /// A token that looks right and is signed with a key of our own.
    pub(super) fn forged(
        &self,
        ad: &AdName,
        now: Timestamp,
        random: &mut dyn Random,
    ) -> (String, Reason) {
        let block = BlockId::open(now, random);
        let token = Token {
            test: false,
            pass_query: false,
            deployment: self.deployment,
            key: self.signer.id(),
            id: ImpressionId { block, seq: 0 },
            issued_at: now,
            impression_life_s: 3_600,
            click_life_s: 3_600,
            price: [0; 11],
            visitor: Fingerprint::NONE,
            ad: ad.name(),
            campaign: Name::literal("forged"),
            advertiser: Name::literal("forged"),
            publisher: Name::literal("forged"),
            placement: Name::literal("forged"),
            url: "https://forged.example/",
        };
        let bytes = self.signer.mint(&token).unwrap_or_default();
        (token::to_text(&bytes), Reason::UnknownKey)
    }

    /// Spoils a real token in one of many ways. Returns what was done, the token, and the reason
    /// that must follow.
    pub(super) fn spoiled(text: &str, random: &mut dyn Random) -> (&'static str, String, Reason) {
        let bytes = token::from_text(text.as_bytes()).unwrap_or_default();
        let seals = bytes.len().saturating_sub(SEALS);
        let mut flip = |what, at: usize, length: u64, reason| {
            let mut bytes = bytes.clone();
            let place = at + usize::try_from(below(random, length)).unwrap_or(0);
            let bit = below(random, 8);
            if let Some(byte) = bytes.get_mut(place) {
                *byte ^= 1 << bit;
            }
            // The version's highest bits are marks: with one of them changed the version is still
            // known, but the seals do not match.
            let reason = match reason {
                Reason::UnknownVersion if MARKS & (1 << bit) != 0 => Reason::BadSeal,
                reason => reason,
            };
            (what, token::to_text(&bytes), reason)
        };
        let spoils = 12;
        match below_of(text, spoils) {
            0 => flip("altered", 0, 1, Reason::UnknownVersion),
            1 => flip("altered", DEPLOYMENT, 4, Reason::WrongDeployment),
            2 => flip("altered", IMPRESSION, 12, Reason::BadSeal),
            3 => flip("altered", CLICK_LIFE, 3, Reason::BadSeal),
            4 => flip("altered", PRICE, 11, Reason::BadSeal),
            5 => flip("altered", VISITOR, 8, Reason::BadSeal),
            6 => flip("altered", seals, 64, Reason::BadSeal),
            7 => flip("altered", seals + SIGNATURE_BYTES, 16, Reason::BadSeal),
            8 => {
                let keep = usize::try_from(below(random, text.len() as u64)).unwrap_or(0).max(1);
                // The first bytes stay, or the token would have no version that is known.
                let keep = keep.clamp(4, text.len().saturating_sub(1));
                ("truncated", text[..keep].to_owned(), Reason::Malformed)
            }
            9 => ("another spelling", format!("={text}"), Reason::Malformed),
            10 => ("extended", format!("{text}AAAA"), Reason::Malformed),
            _ => ("oversized", format!("{text}{}", "A".repeat(TOKEN_CHARS_MAX)), Reason::Malformed),
        }
    }
}

/// A number below `bound` from the token's digest, which differs from token to token.
fn below_of(text: &str, bound: u64) -> u64 {
    let digest = blake3::hash(text.as_bytes());
    u64::from(digest.as_bytes()[0]) % bound
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::keys::{Keyring, PublicKey};
    use shared::name::literal;
    use shared::token::Unverified;

    const NOW: Timestamp = Timestamp(1_700_000_000_000);

    fn real(seed: u64) -> (KeyStore, String) {
        let mut random = Seeded::new(seed);
        let mut store = KeyStore::generate(&mut random);
        let id = IssuerId::literal("edge");
        store.create(id, vec![], Timestamp(0), &mut random).unwrap();
        let maker = Forger {
            deployment: store.deployment,
            signer: Signer::new(store.signing(id, NOW).unwrap()),
        };
        let (text, _) = maker.forged(&literal("ad"), NOW, &mut random);
        (store, text)
    }

    fn check(store: &KeyStore, text: &str) -> Result<(), Reason> {
        let bytes = token::from_text(text.as_bytes())?;
        let token = Unverified::read(&bytes, store.deployment)?;
        let key = store.issuers.iter().find(|key| key.public.id == token.claim().0);
        token.check_tag(Signer::new(key.ok_or(Reason::UnknownKey)?).tags(), NOW)?;
        let ring: Keyring = store.keyring().unwrap();
        let (_, key): (_, &PublicKey) = token.verify(&ring, NOW)?;
        assert_eq!(key.issuer, IssuerId::literal("edge"));
        Ok(())
    }

    #[test]
    fn every_spoiled_token_is_refused_for_the_reason_that_is_told() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..300 {
            let (store, text) = real(seed);
            assert_eq!(check(&store, &text), Ok(()));
            assert_eq!(click_life_s(&text), Some(3_600));
            let (what, spoiled, reason) = Forger::spoiled(&text, &mut Seeded::new(seed));
            assert_eq!(check(&store, &spoiled), Err(reason), "{what} {seed}");
            seen.insert((what, reason));
            let forger = Forger::new(&text, seed + 1).unwrap();
            let (forged, reason) = forger.forged(&literal("ad"), NOW, &mut Seeded::new(seed));
            assert_eq!(check(&store, &forged), Err(reason));
        }
        assert_eq!(seen.len(), 7, "{seen:?}");
    }
}
