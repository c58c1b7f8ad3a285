//! Facts as the columns of a Parquet file, and back.

use std::sync::{Arc, LazyLock};

use arrow_array::cast::AsArray as _;
use arrow_array::types::{
    ArrowPrimitiveType, Int32Type, Int64Type, TimestampMillisecondType, UInt8Type, UInt64Type,
};
use arrow_array::{
    Array as _, ArrayRef, DictionaryArray, Int64Array, PrimitiveArray, RecordBatch, StringArray,
    UInt8Array, UInt64Array,
};
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use foldhash::fast::FixedState;
use hashbrown::{HashMap, HashSet};
use shared::name::Any;
use shared::{AnyId, Codes, Currency, Kind, Money, NameBuf, Reason, Region};

use super::SegmentError;
use crate::facts::block::{Block, joined, split, unzigzag, zigzag};
use crate::facts::column::{Column, Name, code_count, code_text};

const MINUTE_MS: i64 = 60_000;
/// The columns before the codes, with those that can be null.
const FIELDS: [(&str, bool); 15] = [
    ("minute", false),
    ("second", false),
    ("kind", false),
    ("verdict", true),
    ("ad", true),
    ("publisher", true),
    ("placement", true),
    ("campaign", true),
    ("advertiser", true),
    ("region", true),
    ("network", false),
    ("visitor", false),
    ("price_micros", false),
    ("currency", true),
    ("issued", true),
];

/// The columns of the file, in their order.
pub(super) fn schema() -> Schema {
    let text = || DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    let time = || DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
    let field = |(name, nullable): (&str, bool)| {
        let kind = match name {
            "minute" | "issued" => time(),
            "second" => DataType::UInt8,
            "network" | "visitor" => DataType::UInt64,
            "price_micros" => DataType::Int64,
            _ => text(),
        };
        Field::new(name, kind, nullable)
    };
    let codes = Codes::NAMES.iter().map(|name| (*name, false));
    Schema::new(FIELDS.into_iter().chain(codes).map(field).collect::<Vec<_>>())
}

/// The columns of the file that a column of facts is made of.
pub(super) fn fields(name: Name) -> Vec<usize> {
    match name {
        Name::Price => vec![12, 13],
        Name::Age => vec![0, 14],
        Name::Code(at) => vec![FIELDS.len() + at],
        name => vec![name.index()],
    }
}

/// Facts as columns of the file. `name`: the name of an id that is a digest.
pub(super) fn table(
    schema: &Arc<Schema>,
    block: &Block,
    name: &dyn Fn(AnyId) -> Option<NameBuf<Any>>,
) -> Result<RecordBatch, SegmentError> {
    let rows = block.rows();
    let numbers = |name: Name| (0..rows).map(move |row| block.column(name).get(row));
    let minute = |row| block.column(Name::Minute).get(row).cast_signed();
    let issued = |row| {
        let age = block.column(Name::Age).get(row).checked_sub(1)?;
        Some((minute(row) - i64::from(unzigzag(age))) * MINUTE_MS)
    };
    let time = |times: PrimitiveArray<TimestampMillisecondType>| -> ArrayRef {
        Arc::new(times.with_timezone("UTC"))
    };
    let minutes = (0..rows).map(|row| Some(minute(row) * MINUTE_MS));
    let second = |number: u64| u8::try_from(number).unwrap_or(u8::MAX);
    let price = |number: u64| block.price(number);
    let currency = |number: u64| Ok(Some(price(number).currency.to_string()));
    let mut arrays: Vec<ArrayRef> = vec![
        time(minutes.collect()),
        Arc::new(UInt8Array::from_iter_values(numbers(Name::Second).map(second))),
        texts(numbers(Name::Kind), |number| text(Name::Kind, number))?,
        texts(numbers(Name::Reason), |number| text(Name::Reason, number))?,
    ];
    for column in Name::IDS {
        arrays.push(texts(numbers(column), |number| named(block.id(number), name))?);
    }
    arrays.push(texts(numbers(Name::Region), |number| text(Name::Region, number))?);
    arrays.push(Arc::new(UInt64Array::from_iter_values(numbers(Name::Network))));
    arrays.push(Arc::new(UInt64Array::from_iter_values(numbers(Name::Visitor))));
    let micros = numbers(Name::Price).map(|number| price(number).micros);
    arrays.push(Arc::new(Int64Array::from_iter_values(micros)));
    let costs = |number: u64| if number == 0 { Ok(None) } else { currency(number) };
    arrays.push(texts(numbers(Name::Price), costs)?);
    arrays.push(time((0..rows).map(issued).collect()));
    for at in 0..Codes::NAMES.len() {
        let column = Name::Code(at);
        arrays.push(texts(numbers(column), |number| text(column, number))?);
    }
    Ok(RecordBatch::try_new(Arc::clone(schema), arrays)?)
}

/// The name of an id; none of none.
fn named(
    id: AnyId,
    name: &dyn Fn(AnyId) -> Option<NameBuf<Any>>,
) -> Result<Option<String>, SegmentError> {
    if id.is_none() {
        return Ok(None);
    }
    let known = id.text().map(str::to_owned).or_else(|| name(id).map(|name| name.to_string()));
    let missing = || SegmentError::new(format!("the name of {id:?} is missing"));
    known.ok_or_else(missing).map(Some)
}

/// The text that stands for a number of a column; none for the number that says nothing.
fn text(column: Name, number: u64) -> Result<Option<String>, SegmentError> {
    let byte = u8::try_from(number).ok();
    let text = match column {
        Name::Reason | Name::Region if number == 0 => return Ok(None),
        Name::Kind => byte.and_then(Kind::from_code).map(|kind| kind.to_string()),
        Name::Reason => byte.and_then(Reason::from_code).map(|reason| reason.to_string()),
        Name::Region => Region::from_bytes(split(number)).map(|region| region.to_string()),
        Name::Code(at) => code_text(at, number),
        _ => None,
    };
    text.ok_or_else(|| SegmentError::new(format!("no {column:?} has the number {number}")))
        .map(Some)
}

/// Texts of numbers, each looked up once.
fn texts(
    numbers: impl Iterator<Item = u64>,
    text: impl Fn(u64) -> Result<Option<String>, SegmentError>,
) -> Result<ArrayRef, SegmentError> {
    let mut known: HashMap<u64, Option<i32>, FixedState> = HashMap::default();
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    let mut last = None;
    for number in numbers {
        let key = match (last, known.get(&number)) {
            (Some((same, key)), _) if same == number => key,
            (_, Some(key)) => *key,
            _ => {
                let key = text(number)?.map(|text| {
                    values.push(text);
                    i32::try_from(values.len() - 1).unwrap_or(i32::MAX)
                });
                known.insert(number, key);
                key
            }
        };
        last = Some((number, key));
        keys.push(key);
    }
    let values = Arc::new(StringArray::from(values));
    Ok(Arc::new(DictionaryArray::<Int32Type>::try_new(keys.into_iter().collect(), values)?))
}

/// What the numbers of ids and prices are of: ids in order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers<'a> {
    pub(super) ids: &'a [AnyId],
    pub(super) prices: &'a [Money],
}

impl Numbers<'_> {
    fn id(&self, id: AnyId) -> Option<u64> {
        self.ids.binary_search(&id).ok().map(|at| at as u64)
    }
}

/// A column of facts from the columns of the file that it is made of ([`fields`]).
pub(super) fn column(
    name: Name,
    arrays: &[ArrayRef],
    numbers: Numbers<'_>,
) -> Result<Column, SegmentError> {
    let [first, others @ ..] = arrays else { return Err(SegmentError::new("a column is missing")) };
    let of = |text: &str| numbers.id(shared::Name::<Any>::new(text).ok()?.id());
    match name {
        Name::Minute => {
            let minutes = values::<TimestampMillisecondType>(first)?;
            Ok(Column::new(minutes.iter().map(|ms| (ms / MINUTE_MS).cast_unsigned())))
        }
        Name::Second => {
            Ok(Column::new(values::<UInt8Type>(first)?.iter().map(|second| u64::from(*second))))
        }
        Name::Network | Name::Visitor => {
            Ok(Column::new(values::<UInt64Type>(first)?.iter().copied()))
        }
        Name::Kind | Name::Reason | Name::Region | Name::Code(_) => {
            numbered(first, Some(0), |text| number(name, text))
        }
        Name::Ad | Name::Publisher | Name::Placement | Name::Campaign | Name::Advertiser => {
            numbered(first, numbers.id(AnyId::NONE), of)
        }
        Name::Price => price(first, others, numbers.prices),
        Name::Age => {
            let minutes = values::<TimestampMillisecondType>(first)?;
            let missing = || SegmentError::new("the column `issued` is missing");
            let issued = others.first().ok_or_else(missing)?;
            let issued = issued.as_primitive_opt::<TimestampMillisecondType>();
            let issued = issued.ok_or_else(|| SegmentError::new("`issued` is no time"))?;
            let age = |(minute, issued): (&i64, Option<i64>)| {
                let Some(issued) = issued else { return 0 };
                let age = i16::try_from((minute - issued) / MINUTE_MS).unwrap_or_default();
                1 + zigzag(age)
            };
            let ages: Vec<u64> = minutes.iter().zip(issued.iter()).map(age).collect();
            Ok(Column::new(ages.iter().copied()))
        }
    }
}

fn price(micros: &ArrayRef, others: &[ArrayRef], prices: &[Money]) -> Result<Column, SegmentError> {
    let known: HashMap<(Currency, i64), u64, FixedState> =
        (0..).zip(prices).map(|(number, price)| ((price.currency, price.micros), number)).collect();
    let mut numbers = Vec::new();
    for price in amounts(micros, others)? {
        let number = known.get(&(price.currency, price.micros)).copied();
        numbers.push(number.ok_or_else(|| SegmentError::new("a price that it does not have"))?);
    }
    Ok(Column::new(numbers.iter().copied()))
}

/// The price in each row.
fn amounts(micros: &ArrayRef, others: &[ArrayRef]) -> Result<Vec<Money>, SegmentError> {
    let micros = values::<Int64Type>(micros)?;
    let missing = || SegmentError::new("the column `currency` is missing");
    let currencies = others.first().ok_or_else(missing)?;
    let code = |text: &str| text.parse::<Currency>().ok().map(|code| joined(&code.bytes()));
    let currencies = numbered(currencies, Some(0), code)?;
    let price = |(row, micros): (usize, &i64)| {
        let currency = Currency::from_bytes(split(currencies.get(row)));
        Money { micros: *micros, currency: currency.unwrap_or(Currency::NONE) }
    };
    Ok(micros.iter().enumerate().map(price).collect())
}

/// The prices of some rows, each once, from the columns that [`Name::Price`] is made of.
pub(super) fn prices(arrays: &[ArrayRef]) -> Result<Vec<Money>, SegmentError> {
    let [micros, others @ ..] = arrays else { return Err(SegmentError::new("no prices")) };
    let mut known: HashSet<(Currency, i64), FixedState> = HashSet::default();
    let mut all = amounts(micros, others)?;
    all.retain(|price| known.insert((price.currency, price.micros)));
    Ok(all)
}

/// The ids of the names in a column.
pub(super) fn ids(array: &ArrayRef) -> Result<Vec<AnyId>, SegmentError> {
    let other = || SegmentError::new("a column of another kind");
    let texts = array.as_dictionary_opt::<Int32Type>().ok_or_else(other)?;
    let values = texts.values().as_string_opt::<i32>().ok_or_else(other)?;
    let id = |text: Option<&str>| {
        let text = text.unwrap_or_default();
        let name = shared::Name::<Any>::new(text);
        name.map(|name| name.id()).map_err(|_| SegmentError::new(format!("{text:?} is no name")))
    };
    values.iter().map(id).collect()
}

/// The values of a column without nulls.
fn values<T: ArrowPrimitiveType>(array: &ArrayRef) -> Result<&[T::Native], SegmentError> {
    let values = array.as_primitive_opt::<T>().filter(|values| values.null_count() == 0);
    Ok(values.ok_or_else(|| SegmentError::new("a column of another kind"))?.values())
}

/// Numbers for texts, each looked up once. `null`: the number of no text.
fn numbered(
    array: &ArrayRef,
    null: Option<u64>,
    number: impl Fn(&str) -> Option<u64>,
) -> Result<Column, SegmentError> {
    let other = || SegmentError::new("a column of another kind");
    let texts = array.as_dictionary_opt::<Int32Type>().ok_or_else(other)?;
    let values = texts.values().as_string_opt::<i32>().ok_or_else(other)?;
    let mut numbers = Vec::with_capacity(values.len());
    for text in values {
        let text = text.unwrap_or_default();
        let unknown = || SegmentError::new(format!("{text:?} is not a value of its column"));
        numbers.push(number(text).ok_or_else(unknown)?);
    }
    let keys = texts.keys();
    let at = |key: i32| usize::try_from(key).ok().and_then(|at| numbers.get(at).copied());
    if keys.null_count() == 0 {
        // The keys are within the values: the array was checked when it was made.
        return Ok(Column::new(keys.values().iter().map(|key| at(*key).unwrap_or_default())));
    }
    let null = null.ok_or_else(|| SegmentError::new("a name is missing"))?;
    let number = |key: Option<i32>| key.map_or(null, |key| at(key).unwrap_or_default());
    let all: Vec<u64> = keys.iter().map(number).collect();
    Ok(Column::new(all.iter().copied()))
}

/// The number of a text of a column: the inverse of [`text`].
fn number(column: Name, text: &str) -> Option<u64> {
    match column {
        Name::Kind => text.parse::<Kind>().ok().map(|kind| u64::from(kind.code())),
        Name::Reason => text.parse::<Reason>().ok().map(|reason| u64::from(reason.code())),
        Name::Region => text.parse::<Region>().ok().map(|region| joined(&region.bytes())),
        Name::Code(at) => CODES.get(at)?.get(text).copied(),
        _ => None,
    }
}

/// By code, the number of each text.
static CODES: LazyLock<Vec<HashMap<String, u64, FixedState>>> = LazyLock::new(|| {
    let texts = |at: usize| {
        (0..code_count(at)).filter_map(move |number| Some((code_text(at, number)?, number)))
    };
    (0..Codes::NAMES.len()).map(|at| texts(at).collect()).collect()
});
