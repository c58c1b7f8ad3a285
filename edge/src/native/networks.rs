//! Which autonomous system an address belongs to, by a table in MaxMind's form (`.mmdb`: GeoLite2-ASN,
//! DB-IP's ASN Lite, and others of the same fields). It is read into memory at the start; a new table
//! needs a new start.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;

use maxminddb::{PathElement, Reader};

/// The field that has the number.
const NUMBER: [PathElement<'static>; 1] = [PathElement::Key("autonomous_system_number")];
/// One of so many networks must have it, or it is another sort of table.
const LOOKED_AT: usize = 1_000;

/// A table of networks.
pub(super) struct Networks(Reader<Vec<u8>>);

impl fmt::Debug for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Networks").field(&self.0.metadata().database_type).finish()
    }
}

impl Networks {
    /// Reads a table.
    ///
    /// # Errors
    /// When it cannot be read, or names no autonomous systems.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        let table = Reader::open_readfile(path)
            .map_err(|error| format!("the table of networks {shown} cannot be read: {error}"))?;
        let table = Self(table);
        let mut networks = table.0.networks(Default::default()).into_iter().flatten();
        let has_number = |network: maxminddb::LookupResult<'_, _>| {
            network.decode_path::<u32>(&NUMBER).is_ok_and(|number| number.is_some())
        };
        if !networks.by_ref().take(LOOKED_AT).flatten().any(has_number) {
            return Err(format!(
                "the table of networks {shown} ({}) names no autonomous systems",
                table.0.metadata().database_type
            ));
        }
        drop(networks);
        Ok(table)
    }

    /// The number of the address's system; `None` when the table does not have it.
    pub(super) fn asn(&self, address: IpAddr) -> Option<u32> {
        self.0.lookup(address).ok()?.decode_path(&NUMBER).ok()?
    }
}
