//! The files of an archive as a table: whole files, one after the other, in as many streams as
//! there are cores.

use std::fmt;
use std::sync::Arc;

use collector::archive::{Archive, Entry};
use datafusion::arrow::array::{RecordBatch, new_null_array};
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
    let (there, known) = (builder.schema().fields().len(), known.fields());
    let (same, later) = known.split_at_checked(there).unwrap_or((known, &[]));
    if **builder.schema().fields() != *same || !later.iter().all(|field| field.is_nullable()) {
        return Err("its columns are not those of an archive".into());
    }
    // The reader gives them in the file's order, and the plan wants them in its own.
    let mut order: Vec<usize> = columns.iter().copied().filter(|at| *at < there).collect();
    order.sort_unstable();
    let mask = ProjectionMask::roots(builder.parquet_schema(), order.iter().copied());
    for batch in builder.with_projection(mask).build()? {
        let batch = batch?;
        let array = |column: &usize| match order.binary_search(column) {
            Ok(at) => Arc::clone(batch.column(at)),
            Err(_) => new_null_array(known[*column].data_type(), batch.num_rows()),
        };
        let arrays = columns.iter().map(array).collect();
        let options = datafusion::arrow::array::RecordBatchOptions::new()
            .with_row_count(Some(batch.num_rows()));
        let batch = RecordBatch::try_new_with_options(Arc::clone(schema), arrays, &options)?;
        if sender.blocking_send(Ok(batch)).is_err() {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use datafusion::arrow::array::{Array as _, StringArray};
    use parquet::arrow::ArrowWriter;

    use super::*;

    /// A file with the first columns of an archive, all null or zero.
    fn file(columns: usize) -> bytes::Bytes {
        let schema = collector::archive::schema();
        let schema = Arc::new(schema.project(&(0..columns).collect::<Vec<_>>()).unwrap());
        let arrays = schema.fields().iter().map(|field| match field.name().as_str() {
            "verdict" => Arc::new(StringArray::from(vec!["bot"; 3])) as _,
            _ if field.is_nullable() => new_null_array(field.data_type(), 3),
            _ => {
                let zero = datafusion::common::ScalarValue::new_default(field.data_type()).unwrap();
                zero.to_array_of_size(3).unwrap()
            }
        });
        let batch = RecordBatch::try_new(Arc::clone(&schema), arrays.collect()).unwrap();
        let mut bytes = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut bytes, schema, None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        bytes.into()
    }

    /// What is read of it: the columns `rules` and `verdict`, in this order.
    fn read_two(bytes: bytes::Bytes) -> std::result::Result<RecordBatch, String> {
        let schema = collector::archive::schema();
        let columns = ["rules", "verdict"].map(|name| schema.index_of(name).unwrap());
        let two = Arc::new(schema.project(&columns).unwrap());
        let (sender, mut receiver) = tokio::sync::mpsc::channel(2);
        read(bytes, &columns, &two, &sender).map_err(|error| error.to_string())?;
        receiver.try_recv().unwrap().map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_of_before_lacks_the_last_columns_and_they_are_null() {
        let all = collector::archive::schema().fields().len();
        for columns in [all, all - 1] {
            let batch = read_two(file(columns)).unwrap();
            assert_eq!(batch.column(0).null_count(), 3, "{columns} columns");
            let verdicts = batch.column(1).as_any().downcast_ref::<StringArray>().unwrap();
            assert!(verdicts.iter().all(|verdict| verdict == Some("bot")));
        }
        // Nothing before them may be missing.
        let refused = read_two(file(10)).unwrap_err();
        assert!(refused.contains("not those of an archive"), "{refused}");
    }
}
