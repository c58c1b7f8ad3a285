//! A call that many need at the same time, and one makes.

use std::cell::Cell;
use std::time::Duration;

use shared::Timestamp;
use wasm_bindgen::JsValue;
use worker::js_sys::Array;
use worker::js_sys::futures::JsFuture;

use super::glue::{tell, wait};
use super::platform::{age_ms, now};

/// Whoever has not ended a call for so long never will: the platform may drop a request, and with it
/// what it was doing. Longer than any of these calls may take.
const GIVEN_UP_MS: u64 = 5_000;

/// The call, and who waits for it.
#[derive(Debug, Default)]
pub(super) struct Once {
    /// Since when somebody makes it.
    since: Cell<Option<Timestamp>>,
    /// For `glue::wait`.
    waiting: Array,
}

impl Once {
    /// Whether it is the asker who must make the call, and say that it is over. Nobody else does then.
    pub(super) fn begin(&self) -> bool {
        let is_free = self.since.get().is_none_or(|since| age_ms(since) > GIVEN_UP_MS);
        if is_free {
            self.since.set(Some(now()));
        }
        is_free
    }

    /// The call is over: everybody goes on.
    pub(super) fn end(&self) {
        self.since.set(None);
        tell(&self.waiting, true);
    }

    /// Until the call is over, or for so long; at once when nobody makes it.
    pub(super) async fn wait(&self, most: Duration) {
        if self.since.get().is_some() {
            let told = wait(&self.waiting, most, &JsValue::TRUE, &JsValue::FALSE);
            // It says nothing but that it is time to go on, and cannot fail.
            let _ = JsFuture::from(told).await;
        }
    }
}
