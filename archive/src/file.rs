//! One file: the messages of a range of positions of one partition. Pure.
//!
//! The footer says what the file holds, so that an archiver can go on behind it without reading its
//! records. All its fields are text:
//!
//! | field | |
//! |---|---|
//! | `countersign.archive` | version of this form: 1 |
//! | `countersign.log` | identity of the log, 32 hexadecimal digits |
//! | `countersign.partition` | of which partition |
//! | `countersign.first`, `.last` | the sequences of its first and last message |
//! | `countersign.digest` | digest of its last message, 32 hexadecimal digits |
//! | `countersign.clock` | the log's clock after its last message, ms since 1970 |
//! | `countersign.ahead` | where stamps that are too far ahead of this clock began, ms since 1970; left out when there are none, and by earlier builds |
//! | `countersign.stamps` | the least and the greatest stamp, ms since 1970 |
//! | `countersign.minutes` | the least and the greatest minute of a record since 1970, or `none` |
//! | `countersign.events` | how many events it holds |
//! | `countersign.chunks` | how many chunks of imported logs it lists |

use std::sync::Arc;

use eventlog::{Delivered, Position};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::{KeyValue, ParquetMetaData};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use shared::clock::LogClock;
use shared::text::{hex, unhex};
use shared::{Minute, Timestamp};

use super::columns::{schema, table};
use super::records::{Sorted, Source};

/// The version of the footer's fields.
const VERSION: &str = "1";
/// Records of a row group, the unit that readers load and that statistics are of.
const ROW_GROUP_RECORDS: usize = 128 << 10;
/// Records that are made into columns at once, which bounds the memory for it.
const TABLE_RECORDS: usize = 16 << 10;
/// A little slower than the default of 1, with files a tenth smaller.
const ZSTD_LEVEL: i32 = 3;
/// The last instant that has a date: 9999-12-30T22:00:00Z.
const DATE_MAX: Timestamp = Timestamp(253_402_207_200_000);

/// What a file holds, as its footer says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileInfo {
    /// The partition.
    pub partition: u16,
    /// Sequence of its first message.
    pub first: u64,
    /// Position of its last message in the log.
    pub last: Position,
    /// The log's clock after its last message.
    pub clock: LogClock,
    /// The least and the greatest stamp of its messages.
    pub stamps: (Timestamp, Timestamp),
    /// The least and the greatest minute of an event, tally or declaration; none when it has none of these.
    pub minutes: Option<(Minute, Minute)>,
    /// Number of events, tallies not counted.
    pub events: u64,
    /// Number of all records, events among them.
    pub records: u64,
    /// Number of chunks of imported logs.
    pub chunks: u64,
}

/// A file that is made and not yet written.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) path: String,
    pub(super) bytes: Vec<u8>,
    pub(super) info: FileInfo,
}

/// Whether a message must begin a new file: the log's clock is in a later hour than at the file's first
/// message.
pub(super) fn is_later_hour(first: Timestamp, clock: Timestamp) -> bool {
    const HOUR_MS: u64 = 3_600_000;
    clock.0 / HOUR_MS > first.0 / HOUR_MS
}

/// The folder of a partition's files.
pub(super) fn folder(partition: u16) -> String {
    format!("partition={partition:04}")
}

/// The path of a file. Its hour is that of the log's clock at the first message, so the name depends only on
/// the log up to there: two archivers of the same log give the same name, and folders are in the order of
/// the messages, whatever the collectors' clocks say.
fn path(partition: u16, clock: Timestamp, first: u64) -> String {
    let time = clock.min(DATE_MAX).to_string();
    let (date, hour) = (&time[..10], &time[11..13]);
    format!("{}/date={date}/hour={hour}/{first:020}.parquet", folder(partition))
}

/// The first sequence, as a file's name says; none when the name is not one of ours.
pub(super) fn first_sequence(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".parquet")?;
    let digits = Some(digits).filter(|digits| digits.len() == 20)?;
    digits.parse().ok()
}

/// Makes a file of consecutive messages of one partition; `clock` is the log's clock before them. None
/// without messages.
///
/// # Errors
/// When the Parquet library refuses to write, which is a bug of ours.
pub(super) fn make(
    partition: u16,
    clock: LogClock,
    messages: &[Delivered],
) -> Result<Option<Made>, ParquetError> {
    let (Some(first), Some(last)) = (messages.first(), messages.last()) else { return Ok(None) };
    let mut sources = Vec::with_capacity(messages.len());
    let mut now = clock;
    for message in messages {
        let source = Source::read(message, partition, now);
        now = source.clock();
        sources.push(source);
    }
    let sorted = Sorted::new(&sources);
    let stamps = sources.iter().map(Source::stamp);
    let info = FileInfo {
        partition,
        first: first.position.sequence,
        last: last.position,
        clock: now,
        stamps: stamps.fold((Timestamp::MAX, Timestamp(0)), |(low, high), stamp| {
            (low.min(stamp), high.max(stamp))
        }),
        minutes: sorted.minutes(),
        events: sorted.events() as u64,
        records: sorted.len() as u64,
        chunks: sources.iter().map(|source| source.chunks() as u64).sum(),
    };
    let path = path(partition, sources[0].clock().now, info.first);
    let bytes = encode(&sorted, &info)?;
    Ok(Some(Made { path, bytes, info }))
}

fn encode(sorted: &Sorted<'_, '_>, info: &FileInfo) -> Result<Vec<u8>, ParquetError> {
    let schema = Arc::new(schema());
    let properties = WriterProperties::builder()
        .set_created_by(concat!("countersign ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL)?))
        .set_max_row_group_row_count(Some(ROW_GROUP_RECORDS))
        .set_column_statistics_enabled(ColumnPath::from("proof"), EnabledStatistics::None)
        .set_column_dictionary_enabled(ColumnPath::from("proof"), false)
        .set_key_value_metadata(Some(info.fields()))
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), Arc::clone(&schema), Some(properties))?;
    for start in (0..sorted.len()).step_by(TABLE_RECORDS) {
        let end = sorted.len().min(start + TABLE_RECORDS);
        writer.write(&table(&schema, &sorted.records(start..end))?)?;
    }
    writer.into_inner()
}

impl FileInfo {
    fn fields(&self) -> Vec<KeyValue> {
        let minutes = match self.minutes {
            Some((low, high)) => format!("{} {}", low.0, high.0),
            None => "none".to_owned(),
        };
        let ahead = self.clock.ahead.map(|ahead| ("ahead", ahead.0.to_string()));
        let fields = [
            ("archive", VERSION.to_owned()),
            ("log", hex(&self.last.identity)),
            ("partition", self.partition.to_string()),
            ("first", self.first.to_string()),
            ("last", self.last.sequence.to_string()),
            ("digest", hex(&self.last.digest)),
            ("clock", self.clock.now.0.to_string()),
            ("stamps", format!("{} {}", self.stamps.0.0, self.stamps.1.0)),
            ("minutes", minutes),
            ("events", self.events.to_string()),
            ("chunks", self.chunks.to_string()),
        ];
        let named = fields.into_iter().chain(ahead);
        named.map(|(name, value)| KeyValue::new(format!("countersign.{name}"), value)).collect()
    }

    /// Reads the fields of a footer.
    ///
    /// # Errors
    /// Text that names the field that is missing or wrong.
    pub(super) fn from_footer(footer: &ParquetMetaData) -> Result<Self, String> {
        let fields = footer.file_metadata().key_value_metadata();
        let text = |name: &str| {
            let full = format!("countersign.{name}");
            let field = fields.and_then(|fields| fields.iter().find(|field| field.key == full));
            let value = field.and_then(|field| field.value.as_deref());
            value.ok_or_else(|| format!("its footer has no {full}: it is no file of an archive"))
        };
        let wrong = |name: &str, text: &str| {
            let shown: String = text.chars().take(64).collect();
            format!("its footer says countersign.{name} = {shown:?}, which cannot be")
        };
        let number = |name: &str| {
            let text = text(name)?;
            text.parse::<u64>().map_err(|_| wrong(name, text))
        };
        let pair = |name: &str| {
            let text = text(name)?;
            let pair = text.split_once(' ').and_then(|(a, b)| a.parse().ok().zip(b.parse().ok()));
            pair.ok_or_else(|| wrong(name, text))
        };
        let bytes = |name: &str| text(name).and_then(|t| unhex(t).ok_or_else(|| wrong(name, t)));
        let version = text("archive")?;
        if version != VERSION {
            return Err(format!("it has version {version} of the form, and this build reads 1"));
        }
        let minute = |n: u64| u32::try_from(n).map(Minute).map_err(|_| wrong("minutes", "large"));
        let minutes = match text("minutes")? {
            "none" => None,
            _ => {
                let (low, high) = pair("minutes")?;
                Some((minute(low)?, minute(high)?))
            }
        };
        let ahead = text("ahead").is_ok().then(|| number("ahead")).transpose()?;
        let clock = LogClock { now: Timestamp(number("clock")?), ahead: ahead.map(Timestamp) };
        let (low, high) = pair("stamps")?;
        let (first, sequence) = (number("first")?, number("last")?);
        if first == 0 || sequence < first {
            return Err(wrong("last", &sequence.to_string()));
        }
        let partition = number("partition")?;
        Ok(Self {
            partition: u16::try_from(partition).map_err(|_| wrong("partition", "large"))?,
            first,
            last: Position { identity: bytes("log")?, sequence, digest: bytes("digest")? },
            clock,
            stamps: (Timestamp(low), Timestamp(high)),
            minutes,
            events: number("events")?,
            records: u64::try_from(footer.file_metadata().num_rows())
                .map_err(|_| "its footer says less than no rows".to_owned())?,
            chunks: number("chunks")?,
        })
    }
}
