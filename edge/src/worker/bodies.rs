//! Bodies of requests while they come: how much of them lies in an isolate's memory at the same time, which
//! is 128 MB for all. As [`crate::native`] has it, without a share for each network: an isolate sees few.

use std::cell::Cell;
use std::time::Duration;

use futures::StreamExt as _;
use shared::limits::EDGE_BODY_BYTES_MAX;
use worker::worker_sys::web_sys;

use super::platform::within;

/// A body has to come in this time.
const PATIENCE: Duration = Duration::from_secs(10);
/// Each may have so much of a body …
const FREE_BYTES: usize = 16 << 10;
/// … and all together so much beyond that.
const ALL_BYTES: usize = 16 << 20;

/// What there is of a body.
pub(super) enum Read {
    /// All of it; `None` when it is longer than may be.
    Body(Option<Vec<u8>>),
    /// Too much of others lies in memory.
    Busy,
}

/// What all that are read have, beyond what each may have.
#[derive(Default)]
pub(super) struct Bodies(Cell<usize>);

impl Bodies {
    /// The body of a request that says to be so long; `None` when it broke off, or did not come in time.
    pub(super) async fn read(&self, request: web_sys::Request, length: usize) -> Option<Read> {
        let room = Room { all: &self.0, bytes: 0 };
        within(PATIENCE, room.read(request, length)).await?.ok()
    }
}

/// The part of [`ALL_BYTES`] that one body has; given back when it is dropped.
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
