//! Looks up addresses in tables of MaxMind's form (`.mmdb`): the autonomous system (GeoLite2-ASN,
//! DB-IP ASN Lite) and the country (GeoLite2-Country or -City, DB-IP Country Lite). The tables are
//! read into memory at the start; a new table needs a restart.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;

use maxminddb::{LookupResult, PathElement, Reader};
use serde::de::{self, DeserializeOwned, Visitor};
use serde::{Deserialize, Deserializer};

use super::RimSettings;

/// At least one of the first so many networks must have the wanted field; else the file is a table
/// of another sort.
const LOOKED_AT: usize = 1_000;

/// The tables that the settings name.
#[derive(Debug)]
pub(super) struct Tables {
    systems: Option<Table>,
    countries: Option<Table>,
}

impl Tables {
    /// Reads the tables that the settings name.
    ///
    /// # Errors
    /// When a file cannot be read, or lacks the field that it is meant for.
    pub(super) fn open(settings: &RimSettings) -> Result<Self, String> {
        let systems = settings.networks.as_deref().map(|path| {
            let field = [PathElement::Key("autonomous_system_number")];
            Table::open::<Number>(path, Vec::from(field), "networks", "autonomous systems")
        });
        let countries = settings.countries.as_deref().map(|path| {
            let field = [PathElement::Key("country"), PathElement::Key("iso_code")];
            Table::open::<String>(path, Vec::from(field), "countries", "countries")
        });
        Ok(Self { systems: systems.transpose()?, countries: countries.transpose()? })
    }

    /// The number of the address's autonomous system; `None` when no table has it.
    pub(super) fn asn(&self, address: IpAddr) -> Option<u32> {
        self.systems.as_ref()?.lookup(address).map(|Number(asn)| asn)
    }

    /// The address's country, ISO 3166-1 alpha-2; `None` when no table has it.
    pub(super) fn country(&self, address: IpAddr) -> Option<&[u8]> {
        self.countries.as_ref()?.lookup(address).map(str::as_bytes)
    }
}

/// A number of any width: some tables write the narrowest integer that holds it.
struct Number(u32);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyWidth)
    }
}

struct AnyWidth;

impl Visitor<'_> for AnyWidth {
    type Value = Number;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the number of an autonomous system")
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Number, E> {
        u32::try_from(number).map(Number).map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Number, E> {
        u32::try_from(number).map(Number).map_err(E::custom)
    }
}

struct Table {
    reader: Reader<Vec<u8>>,
    field: Vec<PathElement<'static>>,
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Table").field(&self.reader.metadata().database_type).finish()
    }
}

impl Table {
    fn open<T: DeserializeOwned>(
        path: &Path,
        field: Vec<PathElement<'static>>,
        of: &str,
        what: &str,
    ) -> Result<Self, String> {
        let shown = path.display();
        let reader = Reader::open_readfile(path)
            .map_err(|error| format!("the table of {of} {shown} cannot be read: {error}"))?;
        let has_it = |network: LookupResult<'_, _>| {
            network.decode_path::<T>(&field).is_ok_and(|said| said.is_some())
        };
        let mut networks = reader.networks(Default::default()).into_iter().flatten();
        if !networks.by_ref().take(LOOKED_AT).flatten().any(has_it) {
            return Err(format!(
                "the table of {of} {shown} ({}) names no {what}",
                reader.metadata().database_type
            ));
        }
        drop(networks);
        Ok(Self { reader, field })
    }

    fn lookup<'a, T: Deserialize<'a>>(&'a self, address: IpAddr) -> Option<T> {
        self.reader.lookup(address).ok()?.decode_path(&self.field).ok()?
    }
}
