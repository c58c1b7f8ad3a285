//! Request bodies while they arrive, and a bound on the memory that they take together.
//!
//! Every connection may use a small amount freely, which is enough for what pages send. More than
//! that is taken from an amount that all share, of which one network gets at most a part. So
//! connections that each hold back the end of a large body use up no more than the shared amount,
//! and never keep a small body out.

use std::collections::HashMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::Body;
use parking_lot::Mutex;
use shared::Network;
use shared::limits::EDGE_BODY_BYTES_MAX;

/// Every connection may hold this much of a body.
const FREE_BYTES: usize = 16 << 10;
/// All bodies together may hold this much beyond that …
const ALL_BYTES: usize = 64 << 20;
/// … of which the bodies of one network may hold this much.
const NETWORK_BYTES: usize = 8 << 20;

const _: () = assert!(2 * EDGE_BODY_BYTES_MAX <= NETWORK_BYTES, "a large one always has room");
const _: () = assert!(NETWORK_BYTES < ALL_BYTES, "one network never has all");

/// Why a body was not read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unread {
    /// It has more than [`EDGE_BODY_BYTES_MAX`] bytes.
    TooLarge,
    /// It did not come in time.
    TimedOut,
    /// It broke off, or is framed wrongly.
    Broken,
    /// The bodies under way, in all or of this network, have taken the whole shared amount.
    Busy,
}

/// What the bodies under way have taken of the shared amount, in bytes.
#[derive(Default)]
pub(super) struct Bodies(Mutex<Taken>);

#[derive(Default)]
struct Taken {
    all: usize,
    networks: HashMap<Network, usize>,
}

/// What one body has taken of the shared amount; given back on drop.
struct Room<'a> {
    bodies: &'a Bodies,
    network: Option<Network>,
    bytes: usize,
}

/// A whole body, which still occupies its room.
pub(super) struct Whole<'a> {
    bytes: BytesMut,
    _room: Room<'a>,
}

impl std::ops::Deref for Whole<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Bodies {
    /// Reads a body. `network` is that of the client, `None` when it is not known.
    pub(super) async fn read(
        &self,
        network: Option<Network>,
        body: impl Body<Data = Bytes>,
        patience: Duration,
    ) -> Result<Whole<'_>, Unread> {
        // A declared length is believed only when it is too large.
        if body.size_hint().lower() > EDGE_BODY_BYTES_MAX as u64 {
            return Err(Unread::TooLarge);
        }
        let room = Room { bodies: self, network, bytes: 0 };
        tokio::time::timeout(patience, room.fill(body)).await.unwrap_or(Err(Unread::TimedOut))
    }
}

impl<'a> Room<'a> {
    async fn fill(mut self, body: impl Body<Data = Bytes>) -> Result<Whole<'a>, Unread> {
        let mut body = std::pin::pin!(body);
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            // Trailers carry nothing that we use.
            let Ok(data) = frame.map_err(|_| Unread::Broken)?.into_data() else { continue };
            let length = bytes.len() + data.len();
            if length > EDGE_BODY_BYTES_MAX {
                return Err(Unread::TooLarge);
            }
            // The buffer grows to powers of two, so that is what it takes.
            if length > FREE_BYTES && !self.take(length.next_power_of_two()) {
                return Err(Unread::Busy);
            }
            bytes.extend_from_slice(&data);
        }
        Ok(Whole { bytes, _room: self })
    }

    /// Makes the room this large; false when the shared amount does not suffice.
    fn take(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        let mut taken = self.bodies.0.lock();
        if taken.all + more > ALL_BYTES {
            return false;
        }
        if let Some(network) = self.network {
            let of_network = taken.networks.entry(network).or_default();
            if *of_network + more > NETWORK_BYTES {
                return false;
            }
            *of_network += more;
        }
        taken.all += more;
        self.bytes += more;
        true
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        let mut taken = self.bodies.0.lock();
        taken.all -= self.bytes;
        if let Some(network) = self.network
            && let Some(of_network) = taken.networks.get_mut(&network)
        {
            *of_network -= self.bytes;
            if *of_network == 0 {
                taken.networks.remove(&network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use futures::StreamExt as _;
    use http_body_util::StreamBody;
    use hyper::body::Frame;

    use super::*;

    const SOON: Duration = Duration::from_secs(2);
    const PART: usize = 8 << 10;

    fn network(number: u8) -> Option<Network> {
        Some(Network([4, 203, 0, number, 0, 0, 0]))
    }

    /// A body of so many parts, and then silence or its end.
    fn parts(count: usize, ends: bool) -> impl Body<Data = Bytes, Error = std::io::Error> {
        let part = || Ok(Frame::data(Bytes::from(vec![b'x'; PART])));
        let parts = futures::stream::repeat_with(part).take(count);
        let rest = futures::stream::pending().take(usize::from(!ends));
        StreamBody::new(parts.chain(rest))
    }

    #[tokio::test]
    async fn unfinished_bodies_have_what_they_may_and_no_more() {
        let bodies = Bodies::default();
        let unfinished = |number, count| {
            let body = parts(count, false);
            bodies.read(network(number), body, SOON)
        };
        // 1.9 MiB each, of three networks with more than their shares, and of many others.
        let mut all = futures::stream::FuturesUnordered::new();
        for number in 0..3 {
            (0..40).for_each(|_| all.push(unfinished(number, 240)));
        }
        for number in 3..=255 {
            all.push(unfinished(number, 240));
        }
        let mut said = Vec::new();
        while let Ok(Some(read)) =
            tokio::time::timeout(Duration::from_millis(300), all.next()).await
        {
            said.push(read.err().unwrap());
        }
        assert!(said.iter().all(|why| *why == Unread::Busy));
        assert_eq!(all.len(), ALL_BYTES / EDGE_BODY_BYTES_MAX, "as many as have room");
        let (taken, most) = {
            let taken = bodies.0.lock();
            (taken.all, taken.networks.values().copied().max())
        };
        assert_eq!(taken, ALL_BYTES);
        assert_eq!(most, Some(NETWORK_BYTES));
        // What pages send comes through all the same.
        let small = bodies.read(network(0), parts(2, true), SOON).await.unwrap();
        assert_eq!(small.len(), FREE_BYTES);
        // Their time ends, and all is given back.
        while let Some(read) = all.next().await {
            assert_eq!(read.err(), Some(Unread::TimedOut));
        }
        assert_eq!(bodies.0.lock().all, 0);
        assert!(bodies.0.lock().networks.is_empty());
        let whole = bodies.read(network(0), parts(256, true), SOON).await.unwrap();
        assert_eq!(whole.len(), EDGE_BODY_BYTES_MAX);
        let larger = bodies.read(network(0), parts(257, true), SOON).await;
        assert_eq!(larger.err(), Some(Unread::TooLarge));
    }
}
