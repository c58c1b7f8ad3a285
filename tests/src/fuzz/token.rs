//! A token that opens was sealed by a key of ours, over exactly these bytes; and there is one
//! spelling of each.

use ed25519_dalek::SigningKey;
use shared::keys::IssuerKey;
use shared::limits::{TOKEN_BYTES_MAX, TOKEN_LIFE_MS_MAX};
use shared::random::{Random, below};
use shared::token::{
    SIGNATURE_BYTES, Signer, TAG_BYTES, Token, Unverified, check_url, from_text, sign, tag, to_text,
};
use shared::{Kind, Reason, Timestamp};

use super::vectors::{DEPLOYMENT, Deployment, NOW};
use super::{Outcome, hold};

const SEALS: usize = SIGNATURE_BYTES + TAG_BYTES;

pub(super) fn judge(input: &[u8]) -> Outcome {
    if let Ok(bytes) = from_text(input) {
        hold(to_text(&bytes).as_bytes() == input, || "a second spelling was read".to_owned())?;
    }
    let text = to_text(input);
    match from_text(text.as_bytes()) {
        Ok(bytes) => hold(bytes == input, || "the text form is of other bytes".to_owned())?,
        Err(_) => hold(input.len() > TOKEN_BYTES_MAX - 3, || "its text is not read".to_owned())?,
    }
    let world = &*DEPLOYMENT;
    let read = match Unverified::read(input, world.store.deployment) {
        Ok(read) => read,
        Err(reason @ (Reason::Malformed | Reason::UnknownVersion | Reason::WrongDeployment)) => {
            return Ok(format!("refused: {reason}"));
        }
        Err(reason) => return Err(format!("a token that cannot be read is {reason}")),
    };
    let tagged = world.check_tag(&read);
    let signed = read.verify(&world.keyring, NOW).map(|(token, _)| token);
    let tag_word = match &tagged {
        Ok(token) => {
            opened(token, input, signed.is_ok())?;
            "good"
        }
        Err(_) => "bad",
    };
    hold(read.proof() == &input[..input.len() - TAG_BYTES], || "not its proof".to_owned())?;
    let signature_word = match &signed {
        Ok(token) => {
            let again = read.verify_again(&world.keyring, NOW).map(|(token, _)| token);
            hold(again == Ok(*token), || "opens once and not again".to_owned())?;
            hold(tagged.is_err() || tagged == Ok(*token), || {
                "the two seals say two things".to_owned()
            })?;
            opened(token, input, tagged.is_ok())?;
            "good"
        }
        Err(reason) => reason.name(),
    };
    altered(input, world, [tagged.is_ok(), signed.is_ok()])?;
    Ok(format!("read: tag {tag_word}, signature {signature_word}"))
}

/// What was opened is written in one way only: sealed again it is the same bytes.
fn opened(token: &Token<'_>, input: &[u8], both: bool) -> Result<(), String> {
    let world = &*DEPLOYMENT;
    let Some(key) = world.store.issuers.iter().find(|key| key.public.id == token.key) else {
        return hold(!both, || "a key that nobody has signs".to_owned());
    };
    match Signer::new(key).mint(token) {
        Ok(again) => {
            let body = input.len() - SEALS;
            hold(again[..body.min(again.len())] == input[..body], || {
                "other bytes say the same".to_owned()
            })?;
            hold(!both || again == input, || "other seals are taken".to_owned())?;
        }
        Err(why) => {
            let life_s = u64::from(token.impression_life_s.max(token.click_life_s));
            let unsignable = check_url(token.url).is_err()
                || life_s * 1000 > TOKEN_LIFE_MS_MAX
                || token.names().contains(&"");
            hold(unsignable, || format!("a token that opens cannot be signed: {why}"))?;
        }
    }
    for kind in Kind::ALL {
        let before = Timestamp(token.issued_at.0.saturating_sub(60_001));
        let early = token.check_time(*kind, before);
        hold(early == Err(Reason::NotYetValid) || token.issued_at.0 <= 60_000, || {
            "good before it was issued".to_owned()
        })?;
    }
    Ok(())
}

/// With one bit altered, no seal holds any more that held before and covers the bit. A seal that
/// did not hold may hold now: perhaps that bit was what was wrong.
fn altered(input: &[u8], world: &Deployment, held: [bool; 2]) -> Result<(), String> {
    let digest = blake3::hash(input);
    let [a, b, c, d, ..] = *digest.as_bytes();
    let bit = u32::from_le_bytes([a, b, c, d]) as usize % (input.len() * 8);
    let mut bytes = input.to_vec();
    bytes[bit / 8] ^= 1 << (bit % 8);
    let Ok(read) = Unverified::read(&bytes, world.store.deployment) else { return Ok(()) };
    let tagged = world.check_tag(&read).is_ok();
    hold(!(tagged && held[0]), || format!("the tag holds with bit {bit} altered"))?;
    let signed = read.verify(&world.keyring, NOW).is_ok();
    let of_tag = bit / 8 >= input.len() - TAG_BYTES;
    hold(!(signed && held[1]) || of_tag, || format!("the signature holds with bit {bit} altered"))
}

/// Seals the body anew, mostly with a key that the body then names.
pub(super) fn seal(mut bytes: Vec<u8>, random: &mut dyn Random) -> Vec<u8> {
    let world = &*DEPLOYMENT;
    let mut n = |bound: usize| below(random, bound as u64) as usize;
    if bytes.len() < 9 + SEALS {
        return bytes;
    }
    bytes.truncate(bytes.len() - SEALS);
    let issuers = &world.store.issuers;
    let key: &IssuerKey = &issuers[n(issuers.len() * 2) % issuers.len()];
    if n(4) > 0 {
        bytes[1..5].copy_from_slice(&world.store.deployment.0.to_be_bytes());
        bytes[5..9].copy_from_slice(&key.public.id.0.to_be_bytes());
    }
    sign(&mut bytes, &SigningKey::from_bytes(key.secret.expose()));
    tag(&mut bytes, Signer::new(key).tags(), NOW.day());
    bytes
}
