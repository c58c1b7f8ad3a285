//! A call that many requests need at the same time and one of them makes.

use std::cell::Cell;
use std::time::Duration;

use shared::Timestamp;
use wasm_bindgen::JsValue;
use worker::js_sys::Array;
use worker::js_sys::futures::JsFuture;

use super::glue::{tell, wait};
use super::platform::{age_ms, now};

/// A call that takes longer than this never ends: the platform may drop a request, and with it what
/// it was doing. Every call that is made this way takes less time.
const GIVEN_UP_MS: u64 = 5_000;

/// The call, and the requests that wait for it.
#[derive(Debug, Default)]
pub(super) struct SingleFlight {
    /// Since when a request makes the call; `None` when none does.
    since: Cell<Option<Timestamp>>,
    /// The list of waiting requests, for `glue::wait`.
    waiting: Array,
}

impl SingleFlight {
    /// Whether the caller must make the call, and then [`SingleFlight::end`] it; until then
    /// everybody else gets false.
    pub(super) fn begin(&self) -> bool {
        let is_free = self.since.get().is_none_or(|since| age_ms(since) > GIVEN_UP_MS);
        if is_free {
            self.since.set(Some(now()));
        }
        is_free
    }

    /// Ends the call: everybody who waits goes on.
    pub(super) fn end(&self) {
        self.since.set(None);
        tell(&self.waiting, true);
    }

    /// Waits until the call is over, for `most` at most; returns at once when nobody makes it.
    pub(super) async fn wait(&self, most: Duration) {
        if self.since.get().is_some() {
            let told = wait(&self.waiting, most, &JsValue::TRUE, &JsValue::FALSE);
            // The promise only says that it is time to go on, and cannot fail.
            let _ = JsFuture::from(told).await;
        }
    }
}
