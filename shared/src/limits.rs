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
/// How far an outbox's epoch, the time of its start, may be ahead of the collector's clock: a machine
/// whose clock was set back goes on above its last epoch.
pub const EPOCH_AHEAD_MS_MAX: u64 = DAY_MS;
/// The most by which one message may move the log's clock: ten minutes. What is further ahead is
/// believed when later stamps have gone on by as much and none has come from before it: a collector
/// with a wild clock cannot make the engine forget ([`crate::clock::LogClock`]).
pub const CLOCK_JUMP_MS_MAX: u64 = 600_000;
/// A wall clock that was set back is believed after ten minutes in which it went on evenly
/// ([`crate::clock::Steady`]).
pub const CLOCK_BACK_STAYS_MS: u64 = 600_000;
/// A collector that starts believes its clock when it is at most so far ahead of the log's. Beyond
/// it dedup state would be forgotten, and an operator has to say that the time is right.
pub const CLOCK_START_AHEAD_MS_MAX: u64 = HORIZON_MS;
/// An edge holds a batch back that was sealed ahead of its clock, for as long as this at most.
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
/// The most events of one page view that are compared with what was counted: a page that says more is
/// not believed, so that one visitor can falsify so much of the comparison and no more.
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
/// The most bytes that names without an id of their own have in one chunk: an importer ends the chunk
/// before.
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
    // An epoch is over (what comes of it or an earlier one is skipped as known) a horizon after it was
    // closed. By then an epoch as far ahead as it may be lies before any that an outbox still holds.
    assert!(EPOCH_AHEAD_MS_MAX + OUTBOX_DELAY_MS_MAX < HORIZON_MS);
    // A message fits into what a NATS server takes by default, whatever the last batch was: an event
    // whose token is believed (177 bytes in a batch of the first version at least, with the token)
    // takes at most 145 bytes more there, with the entries of the tables that it alone names (one of a
    // page that numbers what it tells: 10 more in the batch, and 4 more than that there). With five of
    // the longest names it is 820 bytes in a batch of today, and takes 792 more. 100 000 bytes are for
    // the tallies and minutes of one batch.
    assert!(
        FLUSH_BYTES + BATCH_BYTES_MAX + BATCH_BYTES_MAX / 177 * 145 + 100_000 < MESSAGE_BYTES_MAX
    );
    assert!(
        FLUSH_BYTES + BATCH_BYTES_MAX + BATCH_BYTES_MAX / 187 * 151 + 100_000 < MESSAGE_BYTES_MAX
    );
    assert!(
        FLUSH_BYTES + BATCH_BYTES_MAX + BATCH_BYTES_MAX / 820 * 796 + 100_000 < MESSAGE_BYTES_MAX
    );
    // Nor is it larger by a chunk: a row has 55 bytes and names three ids of 16, a minute of 4 and a
    // declared minute of 8 that no other does, and a name has 3 bytes beside its text, which may be one.
    assert!(
        FLUSH_BYTES + CHUNK_EVENTS_MAX * (55 + 3 * (16 + 3) + 4 + 8) + CHUNK_NAMES_BYTES_MAX
            < MESSAGE_BYTES_MAX
    );
    // One request always fits into one batch.
    assert!(EVENTS_PER_REQUEST_MAX <= BATCH_EVENTS_MAX);
    // One more batch or chunk always fits into a message that is not yet due by its size: a row
    // has at least 55 bytes and at most five distinct ids, and what a page says that it has sent 16
    // and one.
    assert!(5 * (FLUSH_BYTES / 55 + CHUNK_EVENTS_MAX) < MESSAGE_ROWS_MAX);
    assert!(5 * (FLUSH_BYTES / 55 + BATCH_EVENTS_MAX) < MESSAGE_ROWS_MAX);
};
