//! Request bodies while they arrive, and a bound on what they take together of an isolate's memory,
//! which is 128 MB for everything. The same scheme as in [`crate::native`], but without a share for
//! each network, for an isolate sees few networks.

use std::cell::Cell;
use std::time::Duration;

use futures::StreamExt as _;
use shared::limits::EDGE_BODY_BYTES_MAX;
use worker::worker_sys::web_sys;

use super::platform::within;

/// How long a body may take to arrive.
const PATIENCE: Duration = Duration::from_secs(10);
/// Every request may hold this much of a body …
const FREE_BYTES: usize = 16 << 10;
/// … and all together this much beyond that.
const ALL_BYTES: usize = 16 << 20;

/// What was read of a body.
pub(super) enum Read {
    /// All of it; `None` when it is longer than the limit.
    Body(Option<Vec<u8>>),
    /// The other bodies under way have taken the whole shared amount.
    Busy,
}

/// What the bodies under way have taken of the shared amount, in bytes.
#[derive(Default)]
pub(super) struct Bodies(Cell<usize>);

impl Bodies {
    /// Reads a body of this declared length. `None` when it broke off or did not arrive in time.
    pub(super) async fn read(&self, request: web_sys::Request, length: usize) -> Option<Read> {
        let room = Room { all: &self.0, bytes: 0 };
        within(PATIENCE, room.read(request, length)).await?.ok()
    }
}

/// What one body has taken of [`ALL_BYTES`]; given back on drop.
struct Room<'a> {
    all: &'a Cell<usize>,
    bytes: usize,
}

impl Room<'_> {
    async fn read(mut self, request: web_sys::Request, length: usize) -> worker::Result<Read> {
        if length > EDGE_BODY_BYTES_MAX {
            return Ok(Read::Body(None));
        }
        if request.body().is_none() {
            return Ok(Read::Body(Some(Vec::new())));
        }
        let mut stream = worker::Request::from(request).stream()?;
        let mut body = Vec::new();
        while let Some(part) = stream.next().await {
            let part = part?;
            let bytes = body.len() + part.len();
            if bytes > EDGE_BODY_BYTES_MAX {
                return Ok(Read::Body(None));
            }
            if bytes > FREE_BYTES && !self.take(bytes.next_power_of_two()) {
                return Ok(Read::Busy);
            }
            body.extend(part);
        }
        Ok(Read::Body(Some(body)))
    }

    /// Makes the room this large; false when the shared amount does not suffice.
    fn take(&mut self, bytes: usize) -> bool {
        let all = self.all.get() + bytes.saturating_sub(self.bytes);
        let is_there = all <= ALL_BYTES;
        if is_there {
            self.all.set(all);
            self.bytes = self.bytes.max(bytes);
        }
        is_there
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.all.set(self.all.get() - self.bytes);
    }
}
