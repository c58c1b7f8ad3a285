//! The files of an archive as a table: whole files, one after the other, in as many streams as
//! there are cores.

use std::fmt;
use std::sync::Arc;

use collector::archive::{Archive, Entry};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchReceiverStream;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tokio::sync::mpsc::Sender;

use super::progress::Progress;

/// Batches that wait in a stream.
const WAITING_MAX: usize = 2;

/// The table.
#[derive(Debug)]
pub(super) struct Files {
    archive: Archive,
    files: Vec<Entry>,
    schema: SchemaRef,
    streams: usize,
    progress: Progress,
}

impl Files {
    pub(super) fn new(
        archive: Archive,
        files: Vec<Entry>,
        streams: usize,
        progress: Progress,
    ) -> Self {
        let schema = Arc::new(collector::archive::schema());
        Self { archive, files, schema, streams: streams.max(1), progress }
    }
}

#[async_trait::async_trait]
impl TableProvider for Files {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let all: Vec<usize> = (0..self.schema.fields().len()).collect();
        let columns = projection.unwrap_or(&all).clone();
        let schema = Arc::new(self.schema.project(&columns)?);
        let stream = |number| {
            let files = self.files.iter().skip(number).step_by(self.streams).cloned();
            Arc::new(Stream {
                archive: self.archive.clone(),
                files: files.collect(),
                columns: columns.clone(),
                schema: Arc::clone(&schema),
                progress: self.progress.clone(),
            }) as Arc<dyn PartitionStream>
        };
        let streams = (0..self.streams).map(stream).collect();
        Ok(Arc::new(StreamingTableExec::try_new(schema, streams, None, [], false, limit)?))
    }
}

/// Some of the files, one after the other.
#[derive(Clone)]
struct Stream {
    archive: Archive,
    files: Vec<Entry>,
    /// Of the archive's schema, in order.
    columns: Vec<usize>,
    schema: SchemaRef,
    progress: Progress,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("files", &self.files.len()).finish_non_exhaustive()
    }
}

impl PartitionStream for Stream {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let mut builder = RecordBatchReceiverStream::builder(Arc::clone(&self.schema), WAITING_MAX);
        let (stream, sender) = (self.clone(), builder.tx());
        builder.spawn(async move { stream.run(sender).await });
        builder.build()
    }
}

impl Stream {
    async fn run(self, sender: Sender<Result<RecordBatch>>) -> Result<()> {
        for entry in &self.files {
            let bytes = self.archive.read(entry).await.map_err(external)?;
            let (columns, schema) = (self.columns.clone(), Arc::clone(&self.schema));
            let (name, sender) = (self.archive.name(&entry.path), sender.clone());
            let read = tokio::task::spawn_blocking(move || {
                read(bytes, &columns, &schema, &sender)
                    .map_err(|error| external(format!("{name}: damaged: {error}")))
            });
            let goes_on = read.await.map_err(external)??;
            self.progress.read(entry.bytes);
            if !goes_on {
                break;
            }
        }
        Ok(())
    }
}

fn external(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> DataFusionError {
    DataFusionError::External(error.into())
}

/// Sends a file's batches; false when nobody wants more.
fn read(
    bytes: bytes::Bytes,
    columns: &[usize],
    schema: &SchemaRef,
    sender: &Sender<Result<RecordBatch>>,
) -> std::result::Result<bool, Box<dyn std::error::Error + Send + Sync>> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes)?;
    let known = collector::archive::schema();
    if builder.schema().fields() != known.fields() {
        return Err("its columns are not those of an archive".into());
    }
    let mask = ProjectionMask::roots(builder.parquet_schema(), columns.iter().copied());
    // The reader gives them in the file's order, and the plan wants them in its own.
    let mut order: Vec<usize> = columns.to_vec();
    order.sort_unstable();
    for batch in builder.with_projection(mask).build()? {
        let batch = batch?;
        let arrays = columns.iter().filter_map(|column| order.binary_search(column).ok());
        let arrays = arrays.map(|at| Arc::clone(batch.column(at))).collect();
        let options = datafusion::arrow::array::RecordBatchOptions::new()
            .with_row_count(Some(batch.num_rows()));
        let batch = RecordBatch::try_new_with_options(Arc::clone(schema), arrays, &options)?;
        if sender.blocking_send(Ok(batch)).is_err() {
            return Ok(false);
        }
    }
    Ok(true)
}
