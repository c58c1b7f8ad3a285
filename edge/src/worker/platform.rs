//! The platform's clock, timers and randomness.

use std::future::Future;
use std::time::Duration;

use futures::future::{Either, select};
use js_sys::{Function, Reflect, Uint8Array};
use shared::{Random, Timestamp};
use wasm_bindgen::{JsCast as _, JsValue};
use worker::Delay;

/// The time of the last I/O: on Workers the clock stands still in between.
pub(super) fn now() -> Timestamp {
    // Whole milliseconds since 1970, far below 2^53.
    Timestamp(js_sys::Date::now() as u64)
}

/// The age of a time, in ms. A time in the future counts as older than anything: the clock was set
/// back, and nobody knows by how much.
pub(super) fn age_ms(since: Timestamp) -> u64 {
    now().0.checked_sub(since.0).unwrap_or(u64::MAX)
}

/// The output of `work`; `None` when it takes longer.
pub(super) async fn within<T>(patience: Duration, work: impl Future<Output = T>) -> Option<T> {
    match select(Box::pin(work), Delay::from(patience)).await {
        Either::Left((done, _)) => Some(done),
        Either::Right(_) => None,
    }
}

/// `crypto.getRandomValues`.
#[derive(Debug)]
pub(super) struct SystemRandom;

impl Random for SystemRandom {
    /// # Panics
    /// When the platform gives no random bytes: nothing that we sign would be safe.
    fn fill(&mut self, bytes: &mut [u8]) {
        // At most 65 536 bytes a call (Web Crypto, §10.1.1).
        for part in bytes.chunks_mut(65_536) {
            let length = u32::try_from(part.len()).expect("a part is no longer than that");
            let array = Uint8Array::new_with_length(length);
            draw(&array).expect("the platform gives random bytes");
            array.copy_to(part);
        }
    }
}

fn draw(array: &Uint8Array) -> Result<(), JsValue> {
    let crypto = Reflect::get(&js_sys::global(), &"crypto".into())?;
    let draw: Function = Reflect::get(&crypto, &"getRandomValues".into())?.dyn_into()?;
    draw.call1(&crypto, array).map(drop)
}
