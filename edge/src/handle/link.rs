//! The pixel and the click link: routes with a token in the path.

use std::borrow::Cow;

use shared::token::{self, Token};
use shared::{Kind, Reason, Timestamp};

use super::check::{Asker, believe};
use super::{State, reply};
use crate::decision::{Decision, Loss, Reply, WhenFull};
use crate::policy::Policy;
use crate::request::Request;
use crate::verdict::{self, is_ahead};
use catalogue::landing::with_query;

const DAY_MS: u64 = 24 * 3_600_000;

/// `GET /v1/c/{token}`: sends the visitor to the advertiser's page, whatever becomes of the event.
pub(super) fn click(
    text: &str,
    request: &Request<'_>,
    policy: &Policy,
    state: &mut dyn State,
    now: Timestamp,
) -> Decision {
    follow(text, Kind::Click, request, policy, state, now)
}

/// `GET /v1/i/{token}`: a picture of one pixel, whose request reports an impression.
pub(super) fn pixel(
    text: &str,
    request: &Request<'_>,
    policy: &Policy,
    state: &mut dyn State,
    now: Timestamp,
) -> Decision {
    follow(text, Kind::Impression, request, policy, state, now)
}

fn follow(
    text: &str,
    kind: Kind,
    request: &Request<'_>,
    policy: &Policy,
    state: &mut dyn State,
    now: Timestamp,
) -> Decision {
    let bytes = match token::from_link(&token_of(text)) {
        Ok(bytes) => bytes,
        Err(reason) => return refused(kind, reason),
    };
    let token = match believe(&bytes, policy, now) {
        Ok(token) => token,
        Err(reason) => return refused(kind, reason),
    };
    if let Err(reason) = token.check_time(kind, now) {
        // An expired click link no longer counts, but for `link_days` it still leads to its page.
        let leads = kind == Kind::Click && reason == Reason::Expired;
        let leads = leads && now <= token.issued_at.plus_ms(u64::from(policy.link_days) * DAY_MS);
        let decision = refused(kind, reason);
        return match leads {
            true => Decision { reply: onward(&token, request), ..decision },
            false => decision,
        };
    }
    let (reply, durability, when_full) = match kind {
        Kind::Click => {
            let lost = Loss { kind, reason: Reason::OutboxFull, count: 1 };
            (onward(&token, request), policy.clicks, WhenFull::Proceed(lost))
        }
        _ => (reply::pixel(), policy.beacons, WhenFull::Refuse),
    };
    let asker = Asker::new(request, policy, now);
    let event = asker.event(kind, &token, &bytes, |_| false, state, now);
    let event = match kind {
        Kind::Click => event,
        _ => verdict::judge_picture(event, request, &policy.verdicts),
    };
    if state.is_repeat(&event) {
        let tallies = vec![Loss { kind, reason: Reason::Repeated, count: 1 }];
        return Decision { tallies, ..Decision::reply(reply) };
    }
    let events = vec![event];
    Decision { events, tallies: Vec::new(), durability, when_full, reply }
}

/// The redirect to the advertiser's page. A browser that asks ahead of the visitor (speculation
/// rules, `<link rel="prefetch">`) is not redirected: it would keep the redirect for the visitor's
/// click, which then would never reach us. After an error it asks again (HTML, speculative loading:
/// a failed prefetch is not used).
fn onward(token: &Token<'_>, request: &Request<'_>) -> Reply {
    if is_ahead(request.purpose) {
        return reply::ahead();
    }
    reply::redirect(match token.pass_query && token.url.starts_with("http") {
        true => with_query(token.url, request.query),
        false => token.url.to_owned(),
    })
}

/// The token at the start of a path: the characters up to the first that no token has, since
/// scripts and mail clients append to links (`.`, `)`, `&_ga=1`, `;jsessionid=1`, `%20`). Any
/// character may be written as `%XX` (RFC 3986, §6.2.2.2). Whether the token is complete shows in
/// its seal.
fn token_of(path: &str) -> Cow<'_, [u8]> {
    let is_of_token = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let bytes = path.as_bytes();
    let plain = bytes.iter().take_while(|byte| is_of_token(byte)).count();
    if bytes.get(plain) != Some(&b'%') {
        return Cow::Borrowed(&bytes[..plain]);
    }
    let digit =
        |at: usize| char::from(*bytes.get(at)?).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let (mut text, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(byte) = bytes.get(at).copied() {
        let escaped = (byte == b'%').then(|| Some(digit(at + 1)? << 4 | digit(at + 2)?)).flatten();
        let Some(byte) = escaped.or(Some(byte)).filter(is_of_token) else { break };
        text.push(byte);
        at += if escaped.is_some() { 3 } else { 1 };
    }
    Cow::Owned(text)
}

/// A plain page and a tally of the reason; never an event.
fn refused(kind: Kind, reason: Reason) -> Decision {
    let tallies = vec![Loss { kind, reason, count: 1 }];
    Decision { tallies, ..Decision::reply(page(reason)) }
}

fn page(reason: Reason) -> Reply {
    match reason {
        Reason::Malformed | Reason::UnknownVersion => {
            reply::page(400, "This link is damaged or incomplete.\n")
        }
        Reason::Expired => reply::page(410, "This link has expired.\n"),
        _ => reply::page(403, "This link is not valid.\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_however_its_letters_are_written_and_to_its_end() {
        let cases = [
            ("Ab-_9", "Ab-_9"),
            ("%41b%2D_9", "Ab-_9"),
            ("A%62", "Ab"),
            ("A%6", "A"),
            ("A%", "A"),
            ("A%%42", "A"),
            ("A%2", "A"),
            ("A%3D%3D", "A"),
            ("A%2542", "A"),
            ("Ab/../c", "Ab"),
            ("", ""),
            ("é", ""),
        ];
        for (path, token) in cases {
            assert_eq!(token_of(path).as_ref(), token.as_bytes(), "{path}");
        }
    }
}
