//! Reads columns of a row group of a segment from bytes of its Parquet file.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use arrow_array::ArrayRef;
use bytes::{Buf as _, Bytes};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use parquet::file::reader::{ChunkReader, Length};

use super::table::Numbers;
use super::{Directory, GROUP_ROWS, SegmentError, table};
use crate::facts::column::{Column, Name};

/// Parts of a file.
#[derive(Clone, Debug)]
pub(crate) struct Ranges {
    /// Bytes of the whole file.
    length: u64,
    parts: Vec<(u64, Bytes)>,
}

impl Ranges {
    pub(crate) fn new(length: u64, parts: Vec<(u64, Bytes)>) -> Self {
        Self { length, parts }
    }

    /// The bytes of a chunk: where it begins, and how many.
    pub(super) fn of(&self, (start, length): (u64, u64)) -> Result<Bytes, ParquetError> {
        self.get_bytes(start, usize::try_from(length).unwrap_or(usize::MAX))
    }

    fn from(&self, start: u64) -> Result<Bytes, ParquetError> {
        let part = self.parts.iter().find_map(|(first, bytes)| {
            let skip = usize::try_from(start.checked_sub(*first)?).ok()?;
            (skip < bytes.len()).then(|| bytes.slice(skip..))
        });
        part.ok_or_else(|| ParquetError::General(format!("byte {start} was not fetched")))
    }
}

impl Length for Ranges {
    fn len(&self) -> u64 {
        self.length
    }
}

impl ChunkReader for Ranges {
    type T = bytes::buf::Reader<Bytes>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(self.from(start)?.reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let bytes = self.from(start)?;
        if bytes.len() < length {
            return Err(ParquetError::General(format!("byte {start} was not fetched whole")));
        }
        Ok(bytes.slice(..length))
    }
}

/// What stands at the end of the Parquet file: where its columns are.
#[derive(Clone, Debug)]
pub(crate) struct Footer(ArrowReaderMetadata);

impl Footer {
    /// `bytes`: the file's last bytes, from where its directory says that the footer begins;
    /// `length`: the bytes of the whole file.
    pub(crate) fn read(
        bytes: Bytes,
        length: u64,
        directory: &Directory,
    ) -> Result<Self, SegmentError> {
        if !directory.is_footer(&bytes) {
            return Err(SegmentError::new("its footer is not what was written"));
        }
        Self::parse(bytes, directory.footer(), length)
    }

    /// The same without a digest. `first`: where in the file these bytes begin.
    pub(super) fn parse(bytes: Bytes, first: u64, length: u64) -> Result<Self, SegmentError> {
        let end = Ranges::new(length, vec![(first, bytes)]);
        let metadata = ParquetMetaDataReader::new().parse_and_finish(&end)?;
        let options = ArrowReaderOptions::new().with_schema(Arc::new(table::schema()));
        Ok(Self(ArrowReaderMetadata::try_new(Arc::new(metadata), options)?))
    }

    pub(super) fn metadata(&self) -> &ParquetMetaData {
        self.0.metadata()
    }

    /// How many rows each row group has.
    pub(crate) fn groups(&self) -> impl Iterator<Item = u64> {
        let groups = self.0.metadata().row_groups().iter();
        groups.map(|group| u64::try_from(group.num_rows()).unwrap_or_default())
    }

    /// Where the columns of a row group are that these columns of facts are made of.
    pub(crate) fn bytes_of(&self, group: usize, names: &[Name]) -> Vec<Range<u64>> {
        let Some(group) = self.0.metadata().row_groups().get(group) else { return Vec::new() };
        let fields = names.iter().flat_map(|name| table::fields(*name));
        let columns = fields.filter_map(|at| group.columns().get(at));
        columns
            .map(|column| {
                let (start, length) = column.byte_range();
                start..start + length
            })
            .collect()
    }

    /// Where a row group is: from its first column to the end of its last one.
    pub(crate) fn bytes_of_group(&self, group: usize) -> Range<u64> {
        let names: Vec<Name> = Name::all().collect();
        let columns = self.bytes_of(group, &names);
        let start = columns.iter().map(|column| column.start).min().unwrap_or_default();
        start..columns.iter().map(|column| column.end).max().unwrap_or_default()
    }

    /// The names of the columns of a row group that are not what was written.
    pub(crate) fn damaged(&self, group: usize, bytes: &Ranges, directory: &Directory) -> Vec<&str> {
        let fields = self.0.schema().fields().iter().enumerate();
        let is_damaged = |field: usize| self.check(group, &[field], bytes, directory).is_err();
        fields.filter(|(field, _)| is_damaged(*field)).map(|(_, field)| &**field.name()).collect()
    }

    /// Columns of facts of a row group, from the bytes of it.
    pub(crate) fn columns(
        &self,
        group: usize,
        names: &[Name],
        bytes: &Ranges,
        directory: &Directory,
    ) -> Result<Vec<Column>, SegmentError> {
        let fields: Vec<usize> = names.iter().flat_map(|name| table::fields(*name)).collect();
        self.check(group, &fields, bytes, directory)?;
        let numbers = Numbers { ids: &directory.ids, prices: &directory.prices };
        self.decode((group, directory.group(group).len()), names, bytes, numbers)
    }

    /// The same of bytes that are not checked. `of`: the row group, and how many rows it has.
    pub(super) fn decode(
        &self,
        of: (usize, usize),
        names: &[Name],
        bytes: &Ranges,
        numbers: Numbers<'_>,
    ) -> Result<Vec<Column>, SegmentError> {
        let arrays = self.arrays(of, names, bytes)?;
        let column = |name: &Name| {
            let fields = table::fields(*name).into_iter();
            let own: Option<Vec<_>> = fields.map(|field| arrays.get(&field).cloned()).collect();
            let missing = || SegmentError::new(format!("row group {} has no {name:?}", of.0));
            table::column(*name, &own.ok_or_else(missing)?, numbers)
        };
        names.iter().map(column).collect()
    }

    /// The columns of the file that these columns of facts are made of, by their numbers.
    pub(super) fn arrays(
        &self,
        (group, rows): (usize, usize),
        names: &[Name],
        bytes: &Ranges,
    ) -> Result<BTreeMap<usize, ArrayRef>, SegmentError> {
        let fields: BTreeSet<usize> = names.iter().flat_map(|name| table::fields(*name)).collect();
        let mask = ProjectionMask::leaves(self.0.parquet_schema(), fields.iter().copied());
        let builder =
            ParquetRecordBatchReaderBuilder::new_with_metadata(bytes.clone(), self.0.clone());
        let mut reader = builder
            .with_row_groups(vec![group])
            .with_projection(mask)
            .with_batch_size(GROUP_ROWS)
            .build()?;
        let none = || SegmentError::new(format!("row group {group} is missing or empty"));
        let batch = reader.next().ok_or_else(none)??;
        if batch.num_rows() != rows {
            return Err(SegmentError::new(format!("row group {group} has other rows")));
        }
        Ok(fields.into_iter().zip(batch.columns().iter().cloned()).collect())
    }

    /// Whether the bytes of these columns are what was written: nothing else is decoded.
    fn check(
        &self,
        group: usize,
        fields: &[usize],
        bytes: &Ranges,
        directory: &Directory,
    ) -> Result<(), SegmentError> {
        let missing = || SegmentError::new(format!("row group {group} is missing"));
        let columns = self.0.metadata().row_groups().get(group).ok_or_else(missing)?.columns();
        for field in fields {
            let chunk = bytes.of(columns.get(*field).ok_or_else(missing)?.byte_range())?;
            if !directory.is_chunk(group * columns.len() + field, &chunk) {
                let what = format!("column {field} of row group {group} is not what was written");
                return Err(SegmentError::new(what));
            }
        }
        Ok(())
    }
}
