//! The bytes of a token's body: what both seals cover.

use super::{QUERY_MARK, TEST_MARK, Token, VERSION};
use crate::event::{Fingerprint, Reason};
use crate::id::ImpressionId;
use crate::keys::{DeploymentId, KeyId};
use crate::limits::URL_BYTES_MAX;
use crate::name::{Any, Name, Named};
use crate::time::Timestamp;

/// Bytes before the first name: version, deployment, key, impression, time, two lives, price,
/// visitor.
const FIXED_BYTES: usize = 1 + 4 + 4 + 12 + 6 + 3 + 3 + 11 + 8;

/// Appends the body.
pub(super) fn write(token: &Token<'_>, out: &mut Vec<u8>) {
    out.push(VERSION | mark(token.test, TEST_MARK) | mark(token.pass_query, QUERY_MARK));
    out.extend(token.deployment.0.to_be_bytes());
    out.extend(token.key.0.to_be_bytes());
    out.extend(token.id.to_bytes());
    out.extend(&token.issued_at.0.to_be_bytes()[2..]);
    out.extend(&token.impression_life_s.to_be_bytes()[1..]);
    out.extend(&token.click_life_s.to_be_bytes()[1..]);
    out.extend(token.price);
    out.extend(token.visitor.0.to_be_bytes());
    for name in token.names() {
        out.push(u8::try_from(name.len()).expect("a name has at most 128 bytes"));
        out.extend(name.as_bytes());
    }
    let length = u16::try_from(token.url.len()).expect("the signer checked the URL's length");
    out.extend(length.to_be_bytes());
    out.extend(token.url.as_bytes());
}

const fn mark(is_set: bool, mark: u8) -> u8 {
    if is_set { mark } else { 0 }
}

/// Checks the version, which stands first, before anything else is looked at.
pub(super) fn check_version(version: u8) -> Result<(), Reason> {
    let known = version & !(TEST_MARK | QUERY_MARK) == VERSION;
    if known { Ok(()) } else { Err(Reason::UnknownVersion) }
}

/// The length in bytes of the body that begins here, whatever follows it; `None` when the bytes end
/// before its length is known.
pub(super) fn length(bytes: &[u8]) -> Option<usize> {
    let mut rest = bytes.get(FIXED_BYTES..)?;
    for _ in 0..5 {
        let [length] = take(&mut rest).ok()?;
        slice(&mut rest, usize::from(length)).ok()?;
    }
    let url = usize::from(u16::from_be_bytes(take(&mut rest).ok()?));
    Some(bytes.len() - rest.len() + url)
}

/// Reads a body that must end where `bytes` end.
pub(super) fn read(bytes: &[u8]) -> Result<Token<'_>, Reason> {
    let mut rest = bytes;
    let [version] = take(&mut rest)?;
    check_version(version)?;
    let deployment = DeploymentId(u32::from_be_bytes(take(&mut rest)?));
    let key = KeyId(u32::from_be_bytes(take(&mut rest)?));
    let id = ImpressionId::from_bytes(take(&mut rest)?);
    let [a, b, c, d, e, f] = take(&mut rest)?;
    let issued_at = Timestamp(u64::from_be_bytes([0, 0, a, b, c, d, e, f]));
    let [a, b, c] = take(&mut rest)?;
    let impression_life_s = u32::from_be_bytes([0, a, b, c]);
    let [a, b, c] = take(&mut rest)?;
    let click_life_s = u32::from_be_bytes([0, a, b, c]);
    let price = take(&mut rest)?;
    let visitor = Fingerprint(u64::from_be_bytes(take(&mut rest)?));
    let (ad, campaign, advertiser) = (name(&mut rest)?, name(&mut rest)?, name(&mut rest)?);
    let (publisher, placement) = (name(&mut rest)?, name(&mut rest)?);
    let length = usize::from(u16::from_be_bytes(take(&mut rest)?));
    if length > URL_BYTES_MAX || length != rest.len() {
        return Err(Reason::Malformed);
    }
    let url = std::str::from_utf8(rest).map_err(|_| Reason::Malformed)?;
    Ok(Token {
        test: version & TEST_MARK != 0,
        pass_query: version & QUERY_MARK != 0,
        deployment,
        key,
        id,
        issued_at,
        impression_life_s,
        click_life_s,
        price,
        visitor,
        ad,
        campaign,
        advertiser,
        publisher,
        placement,
        url,
    })
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Reason> {
    let (head, tail) = rest.split_first_chunk().ok_or(Reason::Malformed)?;
    *rest = tail;
    Ok(*head)
}

fn name<'a, T: Named>(rest: &mut &'a [u8]) -> Result<Name<'a, T>, Reason> {
    any_name(rest).map(|name| Name::from_checked(name.as_str()))
}

fn any_name<'a>(rest: &mut &'a [u8]) -> Result<Name<'a, Any>, Reason> {
    let [length] = take(rest)?;
    let text = std::str::from_utf8(slice(rest, usize::from(length))?);
    Name::new(text.map_err(|_| Reason::Malformed)?).map_err(|_| Reason::Malformed)
}

fn slice<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], Reason> {
    let (head, tail) = rest.split_at_checked(length).ok_or(Reason::Malformed)?;
    *rest = tail;
    Ok(head)
}
