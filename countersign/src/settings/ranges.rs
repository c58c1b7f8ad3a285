//! The ranges of numbers, and checks of the prefix and the log's filter. A value with which a part
//! of the process could only fail later is refused, by name, before anything starts.

use std::ops::RangeInclusive;

use edge::outbox::DISK_BYTES_LEAST;
use edge::settings::NUMBERS;
use shared::wire::dead::LETTER_BYTES_MAX;

use super::Settings;
use crate::failure::Failure;

/// An hour, ms. A longer time between checkpoints would surprise: what is not saved must be counted
/// again after a crash.
const HOUR_MS: u64 = 3_600_000;
/// The most days that are counted again at once: fewer than a question may be about.
const DAYS_MAX: u64 = 366;
const ANY: u64 = u64::MAX;
/// Levels of log lines.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

impl Settings {
    /// Each number with its name and its range.
    fn numbers(&self) -> [(&'static str, u64, RangeInclusive<u64>); 16] {
        let Self { edge, outbox, collector, eventlog, aggregator, archive, api, .. } = self;
        let reconcile = &aggregator.reconcile;
        let wide = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        [
            ("edge.connections_max", wide(edge.connections_max), 1..=1_000_000),
            ("api.connections_max", wide(api.connections_max), 1..=1_000_000),
            ("outbox.disk_bytes_max", outbox.disk_bytes_max, DISK_BYTES_LEAST..=ANY),
            ("collector.verify_threads", wide(collector.verify_threads), 0..=256),
            ("collector.verified_tokens_max", collector.verified_tokens_max, 0..=100_000_000),
            ("collector.flush_ms", collector.flush_ms, 0..=60_000),
            (
                "collector.dead_letter_bytes_per_hour",
                collector.dead_letter_bytes_per_hour,
                2 * wide(LETTER_BYTES_MAX)..=ANY,
            ),
            ("eventlog.replicas", wide(eventlog.replicas), 1..=5),
            ("aggregator.checkpoint_ms", aggregator.checkpoint_ms, 10..=HOUR_MS),
            ("aggregator.facts_days", aggregator.facts_days.into(), 0..=36_500),
            ("aggregator.reconcile.hour", reconcile.hour, 0..=23),
            ("aggregator.reconcile.days", reconcile.days, 1..=DAYS_MAX),
            ("aggregator.reconcile.delay_s", reconcile.delay_s, 0..=86_400),
            ("aggregator.reconcile.memory_bytes", reconcile.memory_bytes, 16 << 20..=ANY),
            ("archive.every_ms", archive.every_ms, 10..=24 * HOUR_MS),
            ("archive.file_bytes", wide(archive.file_bytes), 1_024..=1 << 30),
        ]
    }

    /// Checks that `eventlog.prefix` can be the beginning of the names of streams and subjects.
    ///
    /// # Errors
    /// When it does not.
    pub(super) fn check_prefix(&self) -> Result<(), Failure> {
        let prefix = &self.eventlog.prefix;
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        if prefix.len() <= 64 && prefix.bytes().all(fits) {
            return Ok(());
        }
        Err(Failure::usage(format!(
            "eventlog.prefix: at most 64 characters of A-Z a-z 0-9 _ -, for names of streams and \
             subjects begin with it, and not {prefix:?}"
        )))
    }

    /// Checks `log.filter`. A misspelt level would be taken for the name of a part of the program
    /// and would silence all other parts, which nobody means. (`RUST_LOG` is taken as it is.)
    ///
    /// # Errors
    /// When a word without `=` is no level; names it.
    pub(super) fn check_filter(&self) -> Result<(), Failure> {
        let filter = &self.log.filter;
        let words = filter.split(',').map(str::trim).filter(|word| !word.contains(['=', '[']));
        let level = |word: &str| LEVELS.iter().any(|level| word.eq_ignore_ascii_case(level));
        match words.into_iter().find(|word| !level(word)) {
            None => Ok(()),
            Some(word) => Err(Failure::usage(format!(
                "log.filter: {filter:?}: {word:?} is no level; there are: {}; of one part alone: \
                 edge=debug",
                LEVELS.join(", ")
            ))),
        }
    }

    /// The range of the number with this name, in brackets; `None` when there is no such number, or
    /// any will do.
    pub(super) fn range_of(name: &str) -> Option<String> {
        let last = name.rsplit('.').next().unwrap_or_default().to_uppercase();
        let told = NUMBERS.iter().find(|number| name.starts_with("edge.") && number.name == last);
        if let Some(number) = told {
            return Some(format!(" ({})", said(&(number.least..=number.most))));
        }
        let other = [("partitions", 1..=u64::from(shared::limits::PARTITIONS_MAX))];
        let named = Self::default().numbers().map(|(name, _, range)| (name, range));
        let found = named.into_iter().chain(other).find(|(known, _)| *known == name);
        found.map(|(_, range)| format!(" ({})", said(&range)))
    }

    /// Checks all numbers.
    ///
    /// # Errors
    /// The first that is out of its range.
    pub(super) fn check_numbers(&self) -> Result<(), Failure> {
        for (name, value, range) in self.numbers() {
            if range.contains(&value) {
                continue;
            }
            return Err(Failure::usage(format!("{name}: {}, and not {value}", said(&range))));
        }
        Ok(())
    }
}

fn said(range: &RangeInclusive<u64>) -> String {
    match (range.start(), *range.end()) {
        (least, ANY) => format!("at least {least}"),
        (least, most) => format!("from {least} to {most}"),
    }
}
