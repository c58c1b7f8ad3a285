//! Bounds, and the relations between them that must hold, checked when the program is compiled.

use crate::name::NAME_BYTES_MAX;

/// How long a block may be open: one hour.
pub const BLOCK_LIFE_MS: u64 = HOUR_MS;
/// The longest that a token may be valid: 24 hours after it was issued.
pub const TOKEN_LIFE_MS_MAX: u64 = DAY_MS;
/// How long an outbox may hold an event and still have it counted.
pub const OUTBOX_DELAY_MS_MAX: u64 = 5 * DAY_MS;
/// Dedup state is kept this long after a block was opened: 7 days.
pub const HORIZON_MS: u64 = 7 * DAY_MS;
/// How far an edge's clock may be ahead of the collector's, and how far two edges' may differ.
pub const CLOCK_AHEAD_MS_MAX: u64 = 60_000;
/// How far an outbox's epoch, the time of its start, may be ahead of the collector's clock: a
/// machine whose clock was set back goes on above its last epoch.
pub const EPOCH_AHEAD_MS_MAX: u64 = DAY_MS;
/// The most by which one message may move the log's clock: ten minutes. A stamp that is further
/// ahead is believed only when later stamps have gone on by as much and none has come from before
/// it, so that a collector with a wrong clock cannot make the engine forget
/// ([`crate::clock::LogClock`]).
pub const CLOCK_JUMP_MS_MAX: u64 = 600_000;
/// How long a wall clock that was set back must go on evenly until it is believed: ten minutes
/// ([`crate::clock::Steady`]).
pub const CLOCK_BACK_STAYS_MS: u64 = 600_000;
/// How far ahead of the log's clock a collector's may be when it starts. If it is further ahead,
/// dedup state would be forgotten, and an operator has to confirm that the time is right.
pub const CLOCK_START_AHEAD_MS_MAX: u64 = HORIZON_MS;
/// How long an edge holds back a batch that was sealed ahead of its clock, at most.
pub const CLOCK_HOLD_MS_MAX: u64 = DAY_MS;

/// The longest landing URL, in bytes.
pub const URL_BYTES_MAX: usize = 2_048;
/// The longest token, in bytes: fixed part, five names, URL, both seals.
pub const TOKEN_BYTES_MAX: usize = 52 + 5 * (1 + NAME_BYTES_MAX) + 2 + URL_BYTES_MAX + 64 + 16;
/// The longest token as text (base64url without padding).
pub const TOKEN_CHARS_MAX: usize = TOKEN_BYTES_MAX.div_ceil(3) * 4;

/// The most events in one request to the edge.
pub const EVENTS_PER_REQUEST_MAX: usize = 500;
/// The largest request body that an edge reads.
pub const EDGE_BODY_BYTES_MAX: usize = 2 << 20;
/// The largest number of events that a page view may claim. A larger number is refused, which
/// bounds how much one visitor can falsify the comparison with what was counted.
pub const PAGE_SEQ_MAX: u16 = 4_096;
/// The most events in one outbox batch.
pub const BATCH_EVENTS_MAX: usize = 4_096;
/// An outbox's batches are numbered below this: at a million a second it lasts for 292 000 years.
pub const BATCH_NUMBERS_MAX: u64 = 1 << 63;
/// The most tallies in one outbox batch.
pub const BATCH_TALLIES_MAX: usize = 4_096;
/// The largest outbox batch, in bytes. An outbox seals a batch before it would pass this.
pub const BATCH_BYTES_MAX: usize = 384 << 10;
/// The most batches that an edge puts into the work queue as one message.
pub const BUNDLE_BATCHES_MAX: usize = 256;
/// The most events in one chunk of an imported log.
pub const CHUNK_EVENTS_MAX: usize = 4_096;
/// The most bytes that names which are not their own ids have in one chunk. An importer ends the
/// chunk before there are more.
pub const CHUNK_NAMES_BYTES_MAX: usize = 256 << 10;
/// The largest body that the collector's gateway reads.
pub const GATEWAY_BODY_BYTES_MAX: usize = 8 << 20;

/// A collector sends what it has coalesced when a partition's part reaches this many bytes …
pub const FLUSH_BYTES: usize = 160 << 10;
/// … or after this many milliseconds.
pub const FLUSH_MS: u64 = 50;
/// The largest partition message, in bytes: 1 MiB less what the log may put around it.
pub const MESSAGE_BYTES_MAX: usize = (1 << 20) - (1 << 10);
/// The most events, and the most distinct ids or blocks or minutes or prices, that one partition
/// message can hold: its tables are indexed with 16 bits.
pub const MESSAGE_ROWS_MAX: usize = u16::MAX as usize;
/// The most batches and chunks that one partition message lists.
pub const MESSAGE_ENTRIES_MAX: usize = 4_096;

/// Partitions of a new deployment.
pub const PARTITIONS_DEFAULT: u16 = 16;
/// The most partitions of a deployment.
pub const PARTITIONS_MAX: u16 = 1_024;

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

const _: () = {
    // An event that an outbox may still deliver never finds its block's dedup state gone.
    assert!(BLOCK_LIFE_MS + TOKEN_LIFE_MS_MAX + OUTBOX_DELAY_MS_MAX <= HORIZON_MS);
    // An epoch is over a horizon after it was closed: batches of it and of earlier epochs are then
    // skipped as known. Even if it was as far ahead as it may be, no outbox holds a batch of an
    // earlier epoch by then.
    assert!(EPOCH_AHEAD_MS_MAX + OUTBOX_DELAY_MS_MAX < HORIZON_MS);
    // A message fits into what a NATS server takes by default, whatever its last batch was. An
    // event with a token that is believed has at least 177 bytes in a batch of version 1, and takes
    // at most 145 bytes more in the message, including the entries in tables that no other event
    // needs. One that a page view numbers has 10 bytes more in the batch, and 6 more than these in
    // the message. One with five of the longest names has 820 bytes in a batch of today, and takes
    // 796 more. The 100 000 bytes are for tallies and minutes of one batch.
    assert!(
        FLUSH_BYTES + BATCH_BYTES_MAX + BATCH_BYTES_MAX / 177 * 145 + 100_000 < MESSAGE_BYTES_MAX
    );
    assert!(
        FLUSH_BYTES + BATCH_BYTES_MAX + BATCH_BYTES_MAX / 187 * 151 + 100_000 < MESSAGE_BYTES_MAX
    );
    assert!(
        FLUSH_BYTES + BATCH_BYTES_MAX + BATCH_BYTES_MAX / 820 * 796 + 100_000 < MESSAGE_BYTES_MAX
    );
    // The same when the last is a chunk: a row has 55 bytes, and may be alone in naming three ids
    // (16 bytes each), a minute (4) and a declared minute (8). A name has 3 bytes beside its text.
    assert!(
        FLUSH_BYTES + CHUNK_EVENTS_MAX * (55 + 3 * (16 + 3) + 4 + 8) + CHUNK_NAMES_BYTES_MAX
            < MESSAGE_BYTES_MAX
    );
    // One request always fits into one batch.
    assert!(EVENTS_PER_REQUEST_MAX <= BATCH_EVENTS_MAX);
    // One more batch or chunk always fits into the tables of a message that is not yet due by its
    // size. A row has at least 55 bytes and at most five ids; the row of a page view has 16 bytes
    // and one id.
    assert!(5 * (FLUSH_BYTES / 55 + CHUNK_EVENTS_MAX) < MESSAGE_ROWS_MAX);
    assert!(5 * (FLUSH_BYTES / 55 + BATCH_EVENTS_MAX) < MESSAGE_ROWS_MAX);
};
