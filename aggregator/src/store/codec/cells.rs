//! The value of the row that holds all cells of an ad in a minute.

use shared::bytes::{Reader, put_id, put_number, put_signed};
use shared::counted::{Amount, Packed};
use shared::{AdId, AnyId, Codes, Country, Currency, Device, Dimensions, Kind};

use super::super::row_values::{Unreadable, in_order, sum, versioned};
use super::{VERSION, add_number};

/// The version of this value. Version 1 has, instead of the packed codes, the country (2 bytes) and
/// one byte for device, kind and validity; and its amounts are spend, without a code.
const CELLS_VERSION: u8 = 2;
/// Stands for a name's length when the name is that of the cell before.
const SAME: u8 = 0xff;

/// How many names a cell has beside the ad.
const OTHERS: usize = Dimensions::NAMES.len() - 1;

/// What tells the cells of one ad and minute apart: the other names, then the codes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct CellKey {
    names: [AnyId; OTHERS],
    packed: Packed,
}

impl CellKey {
    /// What tells a cell of these dimensions from the other cells of its ad.
    #[must_use]
    pub fn from_dimensions(dimensions: &Dimensions) -> Self {
        let [_, names @ ..] = dimensions.names();
        Self { names, packed: dimensions.packed() }
    }

    /// The dimensions of the cell, which is one of this ad.
    #[must_use]
    pub fn dimensions(&self, ad: AdId) -> Dimensions {
        let (codes, kind, valid) = Packed::read(self.packed.number()).expect("made of known codes");
        let mut names = [ad.any(); OTHERS + 1];
        names[1..].copy_from_slice(&self.names);
        Dimensions::new(names, codes, kind, valid)
    }

    /// What happened.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.packed.kind()
    }

    /// Whether its events have no verdict.
    #[must_use]
    pub const fn is_valid(&self) -> bool {
        self.packed.is_valid()
    }
}

/// Count and amounts of a cell.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CellValue {
    /// How many events.
    pub count: u64,
    /// Amounts in millionths of one unit of the currency, in the order of their keys.
    pub amounts: Vec<((Amount, Currency), i64)>,
}

pub(super) fn add_cell(total: &mut CellValue, cell: CellValue) -> Result<(), Unreadable> {
    add_number(&mut total.count, cell.count)?;
    total.amounts.extend(cell.amounts);
    total.amounts = sum(std::mem::take(&mut total.amounts), |a: &mut i64, b| {
        *a = a.saturating_add(b);
        Ok(())
    })?;
    Ok(())
}

/// The cells of an ad in a minute, in the order of their keys.
#[must_use]
pub fn cells_value(cells: &[(CellKey, CellValue)]) -> Vec<u8> {
    let mut out = vec![CELLS_VERSION];
    let mut last: [Option<AnyId>; OTHERS] = [None; OTHERS];
    for (key, value) in cells {
        for (name, last) in key.names.iter().zip(&mut last) {
            if *last == Some(*name) {
                out.push(SAME);
            } else {
                put_id(&mut out, *name);
                *last = Some(*name);
            }
        }
        put_number(&mut out, key.packed.number().into());
        put_number(&mut out, value.count);
        put_number(&mut out, value.amounts.len() as u64);
        for ((amount, currency), micros) in &value.amounts {
            out.push(amount.code());
            out.extend(currency.bytes());
            put_signed(&mut out, *micros);
        }
    }
    out
}

/// The inverse of [`cells_value`].
///
/// # Errors
/// Says what was expected.
pub fn read_cells(value: &[u8]) -> Result<Vec<(CellKey, CellValue)>, &'static str> {
    let version = *value.first().unwrap_or(&CELLS_VERSION);
    let mut reader = versioned(value, version.clamp(VERSION, CELLS_VERSION))?;
    let mut cells = Vec::new();
    let mut last: [Option<AnyId>; OTHERS] = [None; OTHERS];
    while !reader.is_empty() {
        // When version 1 was written there was one name beside the ad.
        let of_version = if version == VERSION { 1 } else { OTHERS };
        for last in last.iter_mut().take(of_version) {
            *last = Some(match reader.u8()? {
                SAME => last.ok_or("a cell without a publisher")?,
                length => reader.short_id(length)?,
            });
        }
        let names = last.map(|name| name.unwrap_or(AnyId::NONE));
        let packed = match version {
            VERSION => packed_1(&mut reader)?,
            _ => {
                let number = u32::try_from(reader.number()?).ok();
                let read =
                    number.and_then(Packed::read).ok_or("a country, device or other code")?;
                Packed::new(read.0.pack(), read.1, read.2)
            }
        };
        let count = reader.number()?;
        let mut amounts = Vec::new();
        for _ in 0..reader.number()? {
            let amount = match version {
                VERSION => Amount::Spend,
                _ => Amount::from_code(reader.u8()?).ok_or("an unknown amount")?,
            };
            let currency = Currency::from_bytes(reader.array()?).ok_or("an unknown currency")?;
            amounts.push(((amount, currency), reader.signed()?));
        }
        cells.push((CellKey { names, packed }, CellValue { count, amounts }));
    }
    in_order(cells)
}

/// Reads codes, kind and validity as version 1 has them.
fn packed_1(reader: &mut Reader<'_>) -> Result<Packed, Unreadable> {
    let country = Country::from_index(reader.u16()?).ok_or("an unknown country")?;
    let code = reader.u8()?;
    let device = Device::from_code(code >> 4).ok_or("an unknown class of device")?;
    let kind = Kind::from_code(code >> 1 & 7).ok_or("an unknown kind of event")?;
    Ok(Packed::new(Codes::new(country, device).pack(), kind, code & 1 == 1))
}
