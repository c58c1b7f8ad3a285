//! The reasons why an edge should get no traffic, as its `/readyz` gives them ([`shared::Ready`]):
//! a word that programs can match, a colon, and what to do about it. Whether a reason applies is
//! for the rims to find out.

use shared::Timestamp;

/// The outbox (of a Worker: its shard) has no room.
#[must_use]
pub fn outbox_full() -> String {
    "outbox_full: beacons are refused, clicks are only tallied".to_owned()
}

/// No key signs, at an edge whose keys come from the centre or a key store.
#[must_use]
pub fn no_signing_key(now: Timestamp) -> String {
    format!(
        "no_signing_key: every key is retired, revoked or not in force yet by this machine's clock, \
         which says {now}; `countersign keys list` says which and from when on, and `keys new` \
         makes one"
    )
}

/// No key signs, at a Worker, whose keys are a secret that an operator puts.
#[must_use]
pub fn no_signing_key_put() -> String {
    "no_signing_key: every key is retired, revoked or not in force; after a rotation put EDGE_KEYS again"
        .to_owned()
}

/// The centre accepts nothing from this edge any more.
#[must_use]
pub fn edge_retired() -> String {
    "edge_retired: this edge's name is out of service, and nothing that it sends is counted: give \
     it another (edge.name), registered for its issuer"
        .to_owned()
}

/// A collector says that this edge's clock is ahead of its own.
#[must_use]
pub fn clock_ahead(ahead_ms: u64) -> String {
    format!(
        "clock_ahead: by {ahead_ms} ms of a collector's; set the clock right, and this goes on by itself"
    )
}

/// The clock was set while this process ran, and the process does not follow it.
#[must_use]
pub fn clock_set(why: &str) -> String {
    format!("clock_set: {why}")
}

/// A Worker's shard does not answer, or cannot send its batches on.
#[must_use]
pub fn outbox(why: &str) -> String {
    format!("outbox: {why}")
}

/// A Worker has never been told which keys and ads are in force.
#[must_use]
pub fn no_policy(why: &str) -> String {
    format!("no_policy: the centre has told no keys and ads yet: {why}")
}

/// A Worker was last told which keys and ads are in force so long ago that it serves no ads.
#[must_use]
pub fn policy_too_old(why: &str) -> String {
    format!("policy_too_old: no ad is given out: {why}")
}

/// A Worker cannot read what the centre told it.
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
