//! A store in memory, with a crash switch, for tests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use object_store::ObjectStore;
use object_store::memory::InMemory;
use parking_lot::Mutex;

use super::{Change, CheckpointStore, Stop, StoreError, Stores, TakeRow, View, codec};

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Debug, Default)]
struct State {
    now: Arc<Rows>,
    durable: Arc<Rows>,
    /// Grows with each opening and each crash: a store that was opened at another number is closed.
    opened: u64,
    /// How many of the next writes and flushes are to fail.
    failing: u32,
    /// How long a write waits, before it is visible and again after.
    pause: Duration,
}

/// The fake's disk: what survives. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct MemStores(Arc<Mutex<BTreeMap<u16, State>>>, Arc<InMemory>);

/// The fake of one partition.
#[derive(Debug)]
pub struct MemStore {
    disk: MemStores,
    partition: u16,
    opened: u64,
}

impl MemStores {
    /// Nothing saved yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The process dies: what was not flushed is lost, and every open store fails from now on.
    pub fn crash(&self) {
        for state in self.0.lock().values_mut() {
            state.now = Arc::clone(&state.durable);
            state.opened += 1;
            state.failing = 0;
        }
    }

    /// Makes the next so many writes and flushes of a partition fail without doing anything.
    pub fn fail(&self, partition: u16, times: u32) {
        self.0.lock().entry(partition).or_default().failing = times;
    }

    /// Makes each write of a partition wait for this time, before it is visible and again after.
    pub fn slow(&self, partition: u16, pause: Duration) {
        self.0.lock().entry(partition).or_default().pause = pause;
    }

    /// The durable rows of a partition.
    #[must_use]
    pub fn rows(&self, partition: u16) -> BTreeMap<Vec<u8>, Vec<u8>> {
        self.0.lock().get(&partition).map_or_else(Rows::new, |state| (*state.durable).clone())
    }

    /// Replaces a durable row behind the store's back.
    pub fn damage(&self, partition: u16, key: &[u8], value: &[u8]) {
        let mut disk = self.0.lock();
        let state = disk.entry(partition).or_default();
        Arc::make_mut(&mut state.durable).insert(key.to_vec(), value.to_vec());
        state.now = Arc::clone(&state.durable);
    }
}

impl MemStore {
    fn with<T>(
        &self,
        work: impl FnOnce(&mut State) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut disk = self.disk.0.lock();
        match disk.get_mut(&self.partition) {
            Some(state) if state.opened == self.opened => work(state),
            _ => Err(StoreError::Closed("fake: opened anew, or crashed".into())),
        }
    }
}

fn try_to(state: &mut State) -> Result<(), StoreError> {
    if state.failing == 0 {
        return Ok(());
    }
    state.failing -= 1;
    Err(StoreError::Unavailable("fake: told to fail".into()))
}

impl Stores for MemStores {
    type Store = MemStore;

    async fn open(&self, partition: u16) -> Result<MemStore, StoreError> {
        let mut disk = self.0.lock();
        let state = disk.entry(partition).or_default();
        state.opened += 1;
        Ok(MemStore { disk: self.clone(), partition, opened: state.opened })
    }

    fn objects(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.1) as Arc<dyn ObjectStore>
    }
}

impl CheckpointStore for MemStore {
    type View = MemView;

    async fn write(&self, batch: Vec<Change>) -> Result<(), StoreError> {
        let pause = self.with(|state| Ok(state.pause))?;
        tokio::time::sleep(pause).await;
        self.with(|state| {
            try_to(state)?;
            let mut rows = Arc::clone(&state.now);
            let now = Arc::make_mut(&mut rows);
            for change in batch {
                match change {
                    Change::Put(key, value) => now.insert(key, value),
                    Change::Delete(key) => now.remove(&key),
                    Change::Add(key, value) => {
                        let before = now.get(&key).map(Vec::as_slice);
                        let sum = codec::add(&key, before.into_iter().chain([&value[..]]))?;
                        now.insert(key, sum)
                    }
                };
            }
            state.now = rows;
            Ok(())
        })?;
        tokio::time::sleep(pause).await;
        Ok(())
    }

    async fn flush(&self) -> Result<(), StoreError> {
        self.with(|state| {
            try_to(state)?;
            state.durable = Arc::clone(&state.now);
            Ok(())
        })
    }

    fn view(&self) -> Result<MemView, StoreError> {
        self.with(|state| Ok(MemView(Arc::clone(&state.now))))
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.flush().await
    }
}

/// The rows of one moment.
#[derive(Debug)]
pub struct MemView(Arc<Rows>);

impl View for MemView {
    async fn scan(&self, from: &[u8], to: &[u8], take: &mut TakeRow<'_>) -> Result<(), StoreError> {
        if from >= to {
            return Ok(());
        }
        let mut rows = self.0.range(from.to_vec()..to.to_vec());
        match rows.try_for_each(|(key, value)| take(key, value)) {
            Ok(()) | Err(Stop::Enough) => Ok(()),
            Err(Stop::Failed(error)) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests;
