//! The count, in SQL. What is decided here is decided in the engine by other code: which batches
//! are repeated, which events too late, which seen before, what a cell adds up to.

use std::ops::Range;
use std::sync::Arc;

use collector::archive::{Archive, ArchiveError};
use datafusion::arrow::array::{Array, AsArray, Int64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Int64Type, Schema};
use datafusion::common::DataFusionError;
use datafusion::datasource::MemTable;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::TryStreamExt as _;
use shared::Minute;
use shared::limits::HORIZON_MS;

use super::archive_failure;
use super::engine::{Counted, Fact};
use super::files::Scope;
use super::progress::Progress;
use super::table::Files;
use crate::failure::Failure;

/// What deciding on repeats may hold in memory before it goes to disk.
const MEMORY_BYTES: usize = 1 << 30;

/// What came of a partition.
#[derive(Debug, Default)]
pub(super) struct Compared {
    /// Names under which either side has a number.
    pub(super) facts: u64,
    /// One line each.
    pub(super) differences: Vec<String>,
}

/// The records up to the engine's position, numbers as one type.
const LOG: &str = r#"
CREATE VIEW log AS SELECT
  record, CAST(sequence AS BIGINT) AS sequence, CAST("row" AS BIGINT) AS event_row,
  CAST(entry AS BIGINT) AS entry, edge, CAST(epoch AS BIGINT) AS epoch,
  CAST("number" AS BIGINT) AS batch_number, source, CAST(source_row AS BIGINT) AS source_row,
  CAST(source_end AS BIGINT) AS source_end, CAST(clock AS BIGINT) AS clock_ms,
  CAST(opened AS BIGINT) AS opened_ms, CAST("at" AS BIGINT) / 60000 AS minute,
  kind, outcome, verdict, issuer, block, CAST(seq AS BIGINT) AS seq,
  ad, publisher, country, device, price_micros, currency, CAST("count" AS BIGINT) AS n
FROM archive WHERE CAST(sequence AS BIGINT) <= {position}"#;

/// A batch that came before, or of which an operator has said that it never comes, is skipped with
/// all that it brings.
const REPEATED: &str = "
SELECT log.sequence, log.entry
FROM (
  SELECT edge, epoch, batch_number, min(sequence * 65536 + coalesce(entry, 0)) AS earliest
  FROM log WHERE record IN ('batch', 'resolved')
  GROUP BY edge, epoch, batch_number HAVING count(*) > 1
) again JOIN log ON log.edge = again.edge AND log.epoch = again.epoch
  AND log.batch_number = again.batch_number
WHERE log.record = 'batch' AND log.sequence * 65536 + log.entry > again.earliest";

const CHUNKS: &str = "
SELECT sequence, source, source_row, source_end FROM log WHERE record = 'chunk'
ORDER BY sequence, source, source_row, source_end";

const FRESH: &str = "
CREATE VIEW fresh AS SELECT log.*,
  opened_ms IS NOT NULL AND opened_ms + 60000 + {horizon} < clock_ms AS is_late,
  coalesce(verdict, 'test') = 'test' AS is_valid
FROM repeated RIGHT ANTI JOIN log
  ON repeated.sequence = log.sequence AND repeated.entry = log.entry
WHERE record IN ('event', 'tally', 'declared')";

/// The first of what is accepted of an impression and kind counts, valid ones apart from others; what
/// a test's would have been is the valid one.
const SEEN: &str = "
SELECT issuer, block, seq, kind, is_valid,
  min(sequence * 65536 + event_row) AS earliest
FROM fresh
WHERE record = 'event' AND outcome = 'accepted' AND block IS NOT NULL AND NOT is_late
GROUP BY issuer, block, seq, kind, is_valid HAVING count(*) > 1";

const JUDGED: &str = "
CREATE VIEW judged AS SELECT fresh.*,
  CASE
    WHEN record = 'declared' THEN 'declared'
    WHEN outcome <> 'accepted' THEN outcome
    WHEN fresh.block IS NULL THEN 'malformed'
    WHEN is_late THEN 'too_late'
    WHEN source_row < taken THEN 'duplicate'
    WHEN sequence * 65536 + event_row > earliest THEN 'duplicate'
    ELSE 'new'
  END AS fate
FROM seen RIGHT JOIN (
  SELECT log.*, taken FROM progress RIGHT JOIN fresh AS log
    ON progress.at_sequence = log.sequence AND progress.of_source = log.source
) fresh
  ON seen.issuer = fresh.issuer AND seen.block = fresh.block AND seen.seq = fresh.seq
  AND seen.kind = fresh.kind AND seen.is_valid = fresh.is_valid
WHERE minute >= {from} AND minute < {to} AND NOT (record = 'declared' AND source IS NOT NULL)";

/// Everything that the facts are sums of. A test is in the accounts alone.
const SUMS: &str = "
SELECT minute, fate, is_counted, coalesce(verdict, '') AS verdict, source IS NOT NULL AS is_imported,
  CASE WHEN is_counted THEN coalesce(ad, '') ELSE '' END AS ad,
  CASE WHEN is_counted THEN coalesce(publisher, '') ELSE '' END AS publisher,
  CASE WHEN is_counted THEN country ELSE '' END AS country,
  CASE WHEN is_counted THEN device ELSE '' END AS device,
  CASE WHEN is_counted THEN kind ELSE '' END AS kind,
  CASE WHEN fate = 'new' AND verdict IS NULL AND kind = 'impression' THEN coalesce(currency, '')
    ELSE '' END AS currency,
  sum(n) AS n, sum(price_micros) AS micros
FROM (SELECT judged.*, fate = 'new' AND coalesce(verdict, '') <> 'test' AS is_counted FROM judged)
GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11";

const FACTS: &str = "
SELECT minute, ad, publisher, country, device, kind, what, sum(part) AS n FROM (
  SELECT minute, ad, publisher, country, device, kind, n AS part,
    CASE WHEN verdict = '' THEN 'valid' ELSE 'invalid' END AS what
  FROM sums WHERE is_counted
  UNION ALL
  SELECT minute, ad, publisher, country, device, kind, micros AS part,
    'spend ' || currency AS what
  FROM sums WHERE currency <> ''
  UNION ALL
  SELECT minute, '', '', '', '', '', n AS part,
    CASE WHEN fate <> 'new' THEN fate WHEN verdict <> '' THEN verdict ELSE 'counted' END AS what
  FROM sums
  UNION ALL
  SELECT minute, '', '', '', '', '', n AS part, 'imported' AS what FROM sums WHERE is_imported
) GROUP BY 1, 2, 3, 4, 5, 6, 7 HAVING sum(part) <> 0";

const COMPARED: &str = "
SELECT coalesce(a.minute, e.minute) AS minute, coalesce(a.ad, e.ad) AS ad,
  coalesce(a.publisher, e.publisher) AS publisher, coalesce(a.country, e.country) AS country,
  coalesce(a.device, e.device) AS device, coalesce(a.kind, e.kind) AS kind,
  coalesce(a.what, e.what) AS what, coalesce(a.n, 0) AS archived, coalesce(e.n, 0) AS counted
FROM facts a FULL OUTER JOIN (
  SELECT minute, ad, publisher, country, device, kind, what, sum(part) AS n FROM engine
  GROUP BY 1, 2, 3, 4, 5, 6, 7 HAVING sum(part) <> 0
) e ON a.minute = e.minute AND a.ad = e.ad AND a.publisher = e.publisher
  AND a.country = e.country AND a.device = e.device AND a.kind = e.kind AND a.what = e.what";

/// Counts the files, and compares with what the engine says.
///
/// # Errors
/// When a file cannot be read.
pub(super) async fn compare(
    archive: &Archive,
    scope: Scope,
    counted: Counted,
    range: &Range<Minute>,
    progress: &Progress,
) -> Result<Compared, Failure> {
    compared(archive, scope, counted, range, progress).await.map_err(|error| failure(&error))
}

async fn compared(
    archive: &Archive,
    scope: Scope,
    counted: Counted,
    range: &Range<Minute>,
    progress: &Progress,
) -> Result<Compared, DataFusionError> {
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(FairSpillPool::new(MEMORY_BYTES)))
        .build_arc()?;
    let config = SessionConfig::new();
    let streams = config.target_partitions();
    let sql = SessionContext::new_with_config_rt(config, runtime);
    let files = scope.files.into_iter().map(|(entry, _)| entry).collect();
    let files = Files::new(archive.clone(), files, streams, progress.clone());
    sql.register_table("archive", Arc::new(files))?;
    sql.sql(&LOG.replace("{position}", &counted.sequence.to_string())).await?;
    keep(&sql, "repeated", REPEATED).await?;
    let chunks = sql.sql(CHUNKS).await?.collect().await?;
    register(&sql, "progress", vec![taken(&chunks)?])?;
    sql.sql(&FRESH.replace("{horizon}", &HORIZON_MS.to_string())).await?;
    keep(&sql, "seen", SEEN).await?;
    let judged = JUDGED.replace("{from}", &range.start.0.to_string());
    sql.sql(&judged.replace("{to}", &range.end.0.to_string())).await?;
    keep(&sql, "sums", SUMS).await?;
    keep(&sql, "facts", FACTS).await?;
    register(&sql, "engine", vec![table(&counted.facts)?])?;
    drop(counted);
    keep(&sql, "compared", COMPARED).await?;
    let facts = sql.sql("SELECT count(*) FROM compared").await?.collect().await?;
    let facts = facts.first().map_or(0, |row| row.column(0).as_primitive::<Int64Type>().value(0));
    let order = "SELECT * FROM compared WHERE archived <> counted ORDER BY 1, 2, 3, 4, 5, 6, 7";
    let mut different = sql.sql(order).await?.execute_stream().await?;
    let mut differences = Vec::new();
    while let Some(batch) = different.try_next().await? {
        differences.extend((0..batch.num_rows()).map(|row| describe(&batch, row)));
    }
    Ok(Compared { facts: u64::try_from(facts).unwrap_or(0), differences })
}

/// Runs a query, and keeps its answer as a table.
async fn keep(sql: &SessionContext, name: &str, query: &str) -> Result<(), DataFusionError> {
    let answer = sql.sql(query).await?;
    let schema = Arc::new(answer.schema().as_arrow().clone());
    let batches = answer.collect().await?;
    sql.register_table(name, Arc::new(MemTable::try_new(schema, vec![batches])?))?;
    Ok(())
}

fn register(
    sql: &SessionContext,
    name: &str,
    batches: Vec<RecordBatch>,
) -> Result<(), DataFusionError> {
    let schema = batches[0].schema();
    sql.register_table(name, Arc::new(MemTable::try_new(schema, vec![batches])?))?;
    Ok(())
}

/// For each message that lists a chunk: up to which row its log was taken before. A log is taken as
/// far as its chunks follow each other from its first row on.
fn taken(chunks: &[RecordBatch]) -> Result<RecordBatch, DataFusionError> {
    let mut progress = std::collections::BTreeMap::new();
    let mut rows: Vec<(i64, String, i64)> = Vec::new();
    for batch in chunks {
        let number = |column: usize| batch.column(column).as_primitive::<Int64Type>().clone();
        let (sequences, firsts, ends) = (number(0), number(2), number(3));
        for at in 0..batch.num_rows() {
            let (sequence, source) = (sequences.value(at), text(batch, 1, at).to_owned());
            let upto = progress.entry(source.clone()).or_insert(0_i64);
            // The message's other chunks of this log are judged by what was taken before it.
            if rows.last().is_none_or(|(s, of, _)| (*s, of) != (sequence, &source)) {
                rows.push((sequence, source, *upto));
            }
            if (firsts.value(at)..ends.value(at)).contains(upto) {
                *upto = ends.value(at);
            }
        }
    }
    let schema = Schema::new(vec![
        Field::new("at_sequence", DataType::Int64, false),
        Field::new("of_source", DataType::Utf8, false),
        Field::new("taken", DataType::Int64, false),
    ]);
    let sequences = Int64Array::from_iter_values(rows.iter().map(|row| row.0));
    let sources = StringArray::from_iter_values(rows.iter().map(|row| &row.1));
    let taken = Int64Array::from_iter_values(rows.iter().map(|row| row.2));
    let columns: Vec<Arc<dyn Array>> =
        vec![Arc::new(sequences), Arc::new(sources), Arc::new(taken)];
    Ok(RecordBatch::try_new(Arc::new(schema), columns)?)
}

fn table(facts: &[Fact]) -> Result<RecordBatch, DataFusionError> {
    let names = ["ad", "publisher", "country", "device", "kind", "what"];
    let texts: [fn(&Fact) -> &str; 6] = [
        |fact| &fact.cell.ad,
        |fact| &fact.cell.publisher,
        |fact| &fact.cell.country,
        |fact| &fact.cell.device,
        |fact| &fact.cell.kind,
        |fact| &fact.what,
    ];
    let number = |name| Field::new(name, DataType::Int64, false);
    let mut fields = vec![number("minute")];
    fields.extend(names.map(|name| Field::new(name, DataType::Utf8, false)));
    fields.push(number("part"));
    let minutes = facts.iter().map(|fact| i64::from(fact.minute.0));
    let mut columns: Vec<Arc<dyn Array>> = vec![Arc::new(Int64Array::from_iter_values(minutes))];
    for text in texts {
        columns.push(Arc::new(StringArray::from_iter_values(facts.iter().map(text))));
    }
    columns.push(Arc::new(Int64Array::from_iter_values(facts.iter().map(|fact| fact.n))));
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

fn text(batch: &RecordBatch, column: usize, row: usize) -> &str {
    match batch.column(column).data_type() {
        DataType::Utf8View => batch.column(column).as_string_view().value(row),
        _ => batch.column(column).as_string::<i32>().value(row),
    }
}

/// One line.
fn describe(batch: &RecordBatch, row: usize) -> String {
    let number = |column: usize| batch.column(column).as_primitive::<Int64Type>().value(row);
    let minute = u32::try_from(number(0)).map_or(Minute(u32::MAX), Minute);
    let mut line = minute.start().to_string();
    for (column, name) in (1..).zip(["ad", "publisher", "country", "device", "kind"]) {
        match text(batch, column, row) {
            "" => {}
            value => line.push_str(&format!(" {name}={value}")),
        }
    }
    let (archived, counted) = (number(7), number(8));
    format!("{line} {}: engine {counted}, archive {archived}", text(batch, 6, row))
}

fn failure(error: &DataFusionError) -> Failure {
    let mut inner: &dyn std::error::Error = error;
    while let Some(source) = inner.source() {
        if let Some(error) = source.downcast_ref::<ArchiveError>() {
            return archive_failure(error);
        }
        inner = source;
    }
    Failure::data(format!("the archive cannot be counted: {inner}"))
}
