//! Why no traffic should be sent to an edge, as its `/readyz` says it ([`shared::Ready`]): a word that a
//! program can know, a colon, and what to do. Whether it is so the rims find out.

use shared::Timestamp;

/// The outbox, or the shard's, has no room.
#[must_use]
pub fn outbox_full() -> String {
    "outbox_full: beacons are refused, clicks are only tallied".to_owned()
}

/// No key signs, at an edge that is told of its keys.
#[must_use]
pub fn no_signing_key(now: Timestamp) -> String {
    format!(
        "no_signing_key: every key is retired, revoked or not in force yet by this machine's clock, \
         which says {now}; `countersign keys list` says which and from when on, and `keys new` \
         makes one"
    )
}

/// No key signs, at a Worker: its keys are a secret that somebody puts.
#[must_use]
pub fn no_signing_key_put() -> String {
    "no_signing_key: every key is retired, revoked or not in force; after a rotation put EDGE_KEYS again"
        .to_owned()
}

/// The centre takes nothing of this edge any more.
#[must_use]
pub fn edge_retired() -> String {
    "edge_retired: this edge's name is out of service, and nothing that it sends is counted: give \
     it another (edge.name), registered for its issuer"
        .to_owned()
}

/// A collector says that the clock is ahead of its own.
#[must_use]
pub fn clock_ahead(ahead_ms: u64) -> String {
    format!(
        "clock_ahead: by {ahead_ms} ms of a collector's; set the clock right, and this goes on by itself"
    )
}

/// The clock was set, and this process does not go by it.
#[must_use]
pub fn clock_set(why: &str) -> String {
    format!("clock_set: {why}")
}

/// A Worker's shard is away, or sends nothing on.
#[must_use]
pub fn outbox(why: &str) -> String {
    format!("outbox: {why}")
}

/// A Worker was never told which keys and ads are in force.
#[must_use]
pub fn no_policy(why: &str) -> String {
    format!("no_policy: the centre has told no keys and ads yet: {why}")
}

/// It was last told so long ago that it gives out no ad.
#[must_use]
pub fn policy_too_old(why: &str) -> String {
    format!("policy_too_old: no ad is given out: {why}")
}

/// It was told what it cannot read.
#[must_use]
pub fn policy_unusable(why: &str) -> String {
    format!("policy: what the centre tells cannot be used: {why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_begins_with_a_word_of_its_own_that_a_program_can_know() {
        let all = [
            outbox_full(),
            no_signing_key(Timestamp(1_768_046_400_000)),
            edge_retired(),
            clock_ahead(61_000),
            clock_set("why"),
            outbox("why"),
            no_policy("why"),
            policy_too_old("why"),
            policy_unusable("why"),
        ];
        let words = all.each_ref().map(|reason| reason.split_once(": ").unwrap().0);
        let known = [
            "outbox_full",
            "no_signing_key",
            "edge_retired",
            "clock_ahead",
            "clock_set",
            "outbox",
            "no_policy",
            "policy_too_old",
            "policy",
        ];
        assert_eq!(words, known);
        assert!(no_signing_key_put().starts_with("no_signing_key: "));
        assert!(all[1].contains("2026-01-10T12:00:00"), "{}", all[1]);
        assert!(all[3].starts_with("clock_ahead: by 61000 ms of a collector's"), "{}", all[3]);
    }
}
