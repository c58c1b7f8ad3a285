//! A shard's rows in the Durable Object's SQLite.

use js_sys::{Function, Reflect};
use shared::Timestamp;
use shared::id::IdRange;
use wasm_bindgen::closure::Closure;
use wasm_bindgen::{JsCast as _, JsValue};
use worker::{SqlStorage, SqlStorageValue, State};

use super::platform::now;
use crate::outbox::seal::BatchHead;
use crate::outbox::shard::{Rows, Shard};
use crate::outbox::tallies::{SLOTS, Slot};

const TABLES: [&str; 3] = [
    "CREATE TABLE IF NOT EXISTS batches (
        sequence INTEGER PRIMARY KEY, bytes BLOB NOT NULL, acked INTEGER NOT NULL DEFAULT 0)",
    "CREATE TABLE IF NOT EXISTS slots (place INTEGER PRIMARY KEY, bytes BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, bytes BLOB NOT NULL)",
];
/// The row with what is left of the open block of ids.
const IDS: &str = "ids";
/// The row with the shard's name.
const EDGE: &str = "edge";
/// The rows with the policy (keys and ads) that the centre sent last, and its entity tag.
const POLICY: &str = "policy";
const POLICY_TAG: &str = "policy-tag";
/// The row with the time at which the centre last confirmed that policy: milliseconds, big-endian.
const POLICY_AT: &str = "policy-at";

/// A shard's tables, and what is known of them without a query.
#[derive(Debug)]
pub(super) struct Database {
    sql: SqlStorage,
    /// For `transactionSync`, which the crate does not bind.
    storage: JsValue,
    /// The sequence of the last batch. Its row stays even when it is acknowledged, for it has the
    /// last number.
    last: i64,
    /// The bytes of the batches that are not acknowledged.
    bytes: u64,
}

/// The policy that the centre sent last, as it is stored.
#[derive(Debug)]
pub(super) struct StoredPolicy {
    /// Its entity tag.
    pub(super) tag: String,
    pub(super) text: String,
    /// When the centre last confirmed it.
    pub(super) at: Timestamp,
}

/// A batch that is not acknowledged.
#[derive(Clone, Debug)]
pub(super) struct Unsent {
    pub(super) sequence: i64,
    pub(super) bytes: Vec<u8>,
}

impl Database {
    /// Opens the tables, and makes them when they are missing.
    pub(super) fn open(state: &State) -> worker::Result<Self> {
        let storage = state.storage();
        let sql = storage.sql();
        for table in TABLES {
            sql.exec(table, None)?;
        }
        let storage = JsValue::from(storage.as_raw());
        let query = "SELECT coalesce(max(sequence), 0), \
                     coalesce(sum(length(bytes) * (1 - acked)), 0) FROM batches";
        let rows = rows(&sql, query, Vec::new())?;
        let number = |at: usize| match rows.first().and_then(|row| row.get(at)) {
            Some(SqlStorageValue::Integer(number)) => *number,
            Some(SqlStorageValue::Float(number)) => *number as i64,
            _ => 0,
        };
        let (last, bytes) = (number(0), u64::try_from(number(1)).unwrap_or(0));
        Ok(Self { sql, storage, last, bytes })
    }

    /// Bytes of batches that are not acknowledged.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The name that the shard was given first; it never changes.
    pub(super) fn edge(&self) -> worker::Result<Option<String>> {
        let name = self.meta(EDGE)?;
        Ok(name.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    pub(super) fn set_edge(&self, name: &str) -> worker::Result<()> {
        self.set_meta(EDGE, name.as_bytes().to_vec())
    }

    /// The shard as its rows describe it.
    pub(super) fn shard(&self, edge: shared::EdgeId) -> worker::Result<Shard> {
        let damaged =
            |what: &str| worker::Error::RustError(format!("the outbox is damaged: {what}"));
        let query = "SELECT bytes FROM batches WHERE sequence = ?";
        let last = rows(&self.sql, query, vec![SqlStorageValue::Integer(self.last)])?;
        let last = last.into_iter().next().and_then(|row| row.into_iter().next());
        let last = match last {
            Some(SqlStorageValue::Blob(bytes)) => {
                Some(BatchHead::read(&bytes).map_err(|error| damaged(&error.to_string()))?)
            }
            _ => None,
        };
        let mut slots = vec![None; SLOTS];
        for row in rows(&self.sql, "SELECT place, bytes FROM slots", Vec::new())? {
            let (place, bytes) = place_and_bytes(row).ok_or_else(|| damaged("a slot's row"))?;
            let bytes = bytes.try_into().map_err(|_| damaged("a slot's size"))?;
            let slot = slots.get_mut(place as usize).ok_or_else(|| damaged("a slot's place"))?;
            *slot = Slot::from_bytes(&bytes).map_err(damaged)?;
        }
        let ids = self.meta(IDS)?.and_then(|bytes| IdRange::from_bytes(&bytes));
        Ok(Shard::recover(edge, last, slots, ids))
    }

    /// Writes rows, all or nothing. They are durable by the time the object's next reply goes out.
    pub(super) fn write(&mut self, rows: Rows) -> worker::Result<()> {
        let (batches, slots) = (rows.batches.len(), rows.slots.len());
        let bytes: u64 = rows.batches.iter().map(|batch| batch.len() as u64).sum();
        let (sql, first) = (self.sql.clone(), self.last + 1);
        let write = move || insert(&sql, first, rows);
        // One statement is atomic by itself.
        if batches + slots > 1 {
            self.transaction(write)?
        } else {
            write()?
        }
        self.last += batches as i64;
        self.bytes += bytes;
        Ok(())
    }

    /// Writes what is left of the block of ids.
    pub(super) fn write_ids(&self, ids: Option<IdRange>) -> worker::Result<()> {
        let bytes = ids.map(|ids| ids.to_bytes().to_vec()).unwrap_or_default();
        self.set_meta(IDS, bytes)
    }

    /// At most `count` batches that are not acknowledged, oldest first, with sequences above
    /// `after`.
    pub(super) fn unsent(&self, after: i64, count: i64) -> worker::Result<Vec<Unsent>> {
        let query = "SELECT sequence, bytes FROM batches WHERE acked = 0 AND sequence > ? \
                     ORDER BY sequence LIMIT ?";
        let arguments = vec![SqlStorageValue::Integer(after), SqlStorageValue::Integer(count)];
        let found = rows(&self.sql, query, arguments)?.into_iter().filter_map(place_and_bytes);
        Ok(found.map(|(sequence, bytes)| Unsent { sequence, bytes }).collect())
    }

    /// Records that the collector has this batch: deletes it, or marks it when it is the last one.
    pub(super) fn acknowledge(&mut self, batch: &Unsent) -> worker::Result<()> {
        let sequence = vec![SqlStorageValue::Integer(batch.sequence)];
        if batch.sequence == self.last {
            self.sql.exec("UPDATE batches SET acked = 1 WHERE sequence = ?", sequence)?;
        } else {
            self.sql.exec("DELETE FROM batches WHERE sequence = ?", sequence)?;
        }
        self.bytes = self.bytes.saturating_sub(batch.bytes.len() as u64);
        Ok(())
    }

    /// Deletes batches that were acknowledged while they were the last one and are so no longer.
    pub(super) fn trim(&self) -> worker::Result<()> {
        let last = vec![SqlStorageValue::Integer(self.last)];
        self.sql.exec("DELETE FROM batches WHERE acked = 1 AND sequence < ?", last).map(drop)
    }

    /// The policy that the centre sent last. An earlier build did not store when it was confirmed;
    /// now, is then the best guess.
    pub(super) fn policy(&self) -> worker::Result<Option<StoredPolicy>> {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let told_at = self.meta(POLICY_AT)?.and_then(|bytes| bytes.try_into().ok());
        let told_at = told_at.map_or_else(now, |bytes| Timestamp(u64::from_be_bytes(bytes)));
        let told = self.meta(POLICY_TAG)?.zip(self.meta(POLICY)?);
        let told = told.map(|(tag, policy)| StoredPolicy {
            tag: text(tag),
            text: text(policy),
            at: told_at,
        });
        Ok(told)
    }

    pub(super) fn set_policy(&self, told: &StoredPolicy) -> worker::Result<()> {
        self.set_meta(POLICY, told.text.as_bytes().to_vec())?;
        self.set_meta(POLICY_TAG, told.tag.as_bytes().to_vec())?;
        self.set_policy_at(told.at)
    }

    pub(super) fn set_policy_at(&self, at: Timestamp) -> worker::Result<()> {
        self.set_meta(POLICY_AT, at.0.to_be_bytes().to_vec())
    }

    fn meta(&self, name: &str) -> worker::Result<Option<Vec<u8>>> {
        let name = vec![SqlStorageValue::String(name.to_owned())];
        let found = rows(&self.sql, "SELECT bytes FROM meta WHERE name = ?", name)?;
        let value = found.into_iter().next().and_then(|row| row.into_iter().next());
        Ok(match value {
            Some(SqlStorageValue::Blob(bytes)) => Some(bytes),
            _ => None,
        })
    }

    fn set_meta(&self, name: &str, bytes: Vec<u8>) -> worker::Result<()> {
        let arguments =
            vec![SqlStorageValue::String(name.to_owned()), SqlStorageValue::Blob(bytes)];
        self.sql.exec("INSERT OR REPLACE INTO meta VALUES (?, ?)", arguments).map(drop)
    }

    /// Runs `work` in a transaction (`transactionSync`), which is undone when it fails.
    fn transaction(
        &self,
        work: impl FnOnce() -> worker::Result<()> + 'static,
    ) -> worker::Result<()> {
        let run = Closure::once(move || work().map_err(JsValue::from));
        let begin: Function = Reflect::get(&self.storage, &"transactionSync".into())?.dyn_into()?;
        begin.call1(&self.storage, run.as_ref())?;
        Ok(())
    }
}

fn insert(sql: &SqlStorage, first: i64, rows: Rows) -> worker::Result<()> {
    for (sequence, batch) in (first..).zip(rows.batches) {
        let row = vec![SqlStorageValue::Integer(sequence), SqlStorageValue::Blob(batch)];
        sql.exec("INSERT INTO batches (sequence, bytes) VALUES (?, ?)", row)?;
    }
    for (place, slot) in rows.slots {
        let place = SqlStorageValue::Integer(place as i64);
        match slot {
            Some(bytes) => {
                let row = vec![place, SqlStorageValue::Blob(bytes.to_vec())];
                sql.exec("INSERT OR REPLACE INTO slots VALUES (?, ?)", row)?;
            }
            None => drop(sql.exec("DELETE FROM slots WHERE place = ?", vec![place])?),
        }
    }
    Ok(())
}

fn rows(
    sql: &SqlStorage,
    query: &str,
    arguments: Vec<SqlStorageValue>,
) -> worker::Result<Vec<Vec<SqlStorageValue>>> {
    sql.exec(query, arguments)?.raw().collect()
}

fn place_and_bytes(row: Vec<SqlStorageValue>) -> Option<(i64, Vec<u8>)> {
    let mut values = row.into_iter();
    let place = match values.next()? {
        SqlStorageValue::Integer(place) => place,
        SqlStorageValue::Float(place) => place as i64,
        _ => return None,
    };
    match values.next()? {
        SqlStorageValue::Blob(bytes) => Some((place, bytes)),
        _ => None,
    }
}
