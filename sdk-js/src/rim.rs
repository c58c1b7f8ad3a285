//! The browser's side: the functions that JavaScript calls, and the page's storage. It decides
//! nothing.
//!
//! Numbers are passed as JavaScript has them (`f64` milliseconds of `performance.now()`).

use alloc::string::String;
use alloc::vec::Vec;
use core::panic::PanicInfo;

use wasm_bindgen::prelude::wasm_bindgen;
use web_sys::Storage;

use crate::queue::{self, Answer, Kind};
use crate::viewability::{self, Look};

#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

/// Traps: JavaScript gets an exception without a message, for messages would cost more bytes than
/// everything else here.
#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    core::arch::wasm32::unreachable()
}

/// The beginning of the names of all stored entries. Each page has an entry of its own, so that
/// pages do not overwrite each other's.
const STORAGE_PREFIX: &str = "countersign.q.";

/// The viewability of one impression.
#[wasm_bindgen]
#[derive(Default)]
pub struct Meter(viewability::Meter);

#[wasm_bindgen]
impl Meter {
    /// A new meter.
    #[wasm_bindgen(constructor)]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a look at the ad; true when it has just become viewable.
    pub fn look(
        &mut self,
        now_ms: f64,
        per_mille: u16,
        area_px: u32,
        visible: bool,
        focused: bool,
    ) -> bool {
        self.0.look(whole(now_ms), Look { per_mille, area_px, visible, focused })
    }

    /// Whether another look is wanted soon.
    #[wasm_bindgen(getter)]
    pub fn running(&self) -> bool {
        self.0.is_running()
    }
}

/// The queue of this page, and its place in storage.
#[wasm_bindgen]
pub struct Queue {
    queue: queue::Queue,
    page: String,
    taken: u32,
    storage: Option<Storage>,
}

#[wasm_bindgen]
impl Queue {
    /// An empty queue that stores nothing.
    #[wasm_bindgen(constructor)]
    pub fn new(page: String) -> Self {
        Self { queue: queue::Queue::default(), page, taken: 0, storage: None }
    }

    /// Takes an event; false when it is not taken.
    pub fn push(&mut self, kind: &str, id: &str, token: &str) -> bool {
        let Some(kind) = Kind::from_name(kind) else { return false };
        let taken = self.queue.push(kind, id, token).is_ok();
        self.save();
        taken
    }

    /// The next body to send, or nothing.
    pub fn take(&mut self, now_ms: f64, at_once: bool) -> Option<String> {
        let batch = self.queue.take(whole(now_ms), at_once)?;
        self.taken = batch.number;
        Some(batch.body)
    }

    /// The number of the body that was taken last.
    #[wasm_bindgen(getter)]
    pub fn taken(&self) -> u32 {
        self.taken
    }

    /// Takes the answer to a body: its status (0: none came; 1: it went as a beacon), `Retry-After`
    /// in seconds, and the results with commas between.
    pub fn settle(
        &mut self,
        number: u32,
        now_ms: f64,
        status: u16,
        retry_after_s: f64,
        results: &str,
    ) {
        let answer = match status {
            1 => Answer::Unknown,
            _ => Answer::from_status(status, whole(retry_after_s), results),
        };
        self.queue.settle(number, whole(now_ms), answer);
        self.save();
    }

    /// Makes everything that waits due.
    pub fn wake(&mut self) {
        self.queue.wake();
    }

    /// In how many milliseconds something is due; -1 when nothing waits.
    pub fn wait(&self, now_ms: f64) -> f64 {
        self.queue.wait_ms(whole(now_ms)).map_or(-1.0, |wait_ms| wait_ms as f64)
    }

    /// With consent, what waits is stored, and what earlier pages have left is taken. Without it
    /// nothing is read, and what was stored is removed.
    pub fn consent(&mut self, given: bool) {
        if given == self.storage.is_some() {
            return;
        }
        if !given {
            self.forget();
            return;
        }
        // Storage may be switched off, which is an exception, or missing.
        let storage = web_sys::window().and_then(|window| window.local_storage().ok().flatten());
        let Some(storage) = storage else { return };
        let others = self.others(&storage);
        for name in &others {
            if let Ok(Some(text)) = storage.get_item(name) {
                self.queue.load(&text);
            }
        }
        self.storage = Some(storage);
        // Our copy is stored before the others are removed: a page that ends in between leaves two
        // copies, not none.
        if self.save() {
            self.remove(&others);
        }
    }
}

impl Queue {
    fn name(&self) -> String {
        [STORAGE_PREFIX, &self.page].concat()
    }

    fn others(&self, storage: &Storage) -> Vec<String> {
        let names =
            (0..storage.length().unwrap_or(0)).filter_map(|n| storage.key(n).ok().flatten());
        let own = self.name();
        names.filter(|name| name.starts_with(STORAGE_PREFIX) && *name != own).collect()
    }

    fn remove(&self, names: &[String]) {
        let Some(storage) = &self.storage else { return };
        for name in names {
            // Removing fails only when storage was switched off meanwhile, and then nothing is left
            // to remove.
            let _ = storage.remove_item(name);
        }
    }

    /// Removes all that any page of this site has stored.
    fn forget(&mut self) {
        let Some(storage) = &self.storage else { return };
        let mut names = self.others(storage);
        names.push(self.name());
        self.remove(&names);
        self.storage = None;
    }

    /// Stores what waits. False when nothing is stored, or the storage is full: events then live as
    /// long as the page.
    fn save(&self) -> bool {
        let Some(storage) = &self.storage else { return false };
        let text = self.queue.dump();
        let name = self.name();
        if text.is_empty() {
            storage.remove_item(&name).is_ok()
        } else {
            storage.set_item(&name, &text).is_ok()
        }
    }
}

/// Whole milliseconds or seconds; a conversion by `as` saturates, and makes 0 of NaN.
const fn whole(number: f64) -> u64 {
    number as u64
}
