//! The work queue between edges and collectors: a message stays until somebody says that it is
//! done. When whoever took it says nothing, it is given out again in the end.

use std::collections::BTreeMap;

use bytes::Bytes;
use shared::EdgeId;

/// The queue.
#[derive(Default)]
pub(super) struct Queue {
    /// The messages, with the edge that put each in.
    messages: BTreeMap<usize, (EdgeId, Bytes)>,
    /// To be taken, in the order in which they are given out.
    waiting: Vec<usize>,
    /// Given out, and nothing was heard since.
    taken: Vec<usize>,
    next: usize,
}

impl Queue {
    /// A batch is durable from here on, whether its sender hears of it or not.
    pub(super) fn put(&mut self, edge: EdgeId, bytes: &[u8]) {
        self.messages.insert(self.next, (edge, Bytes::copy_from_slice(bytes)));
        self.waiting.push(self.next);
        self.next += 1;
    }

    /// Gives out the first that waits, or one after it.
    pub(super) fn take(&mut self, ahead: usize) -> Option<(usize, EdgeId, Bytes)> {
        let at = ahead.min(self.waiting.len().checked_sub(1)?);
        let number = self.waiting.remove(at);
        self.taken.push(number);
        let (edge, bytes) = self.messages[&number].clone();
        Some((number, edge, bytes))
    }

    /// Puts a message that was given out back, although whoever has it may still be working on it.
    pub(super) fn redeliver(&mut self, nth: usize) {
        if !self.taken.is_empty() {
            let number = self.taken.remove(nth % self.taken.len());
            self.waiting.push(number);
        }
    }

    /// Somebody who had it is done with it.
    pub(super) fn done(&mut self, number: usize) {
        self.messages.remove(&number);
        self.taken.retain(|taken| *taken != number);
        self.waiting.retain(|waiting| *waiting != number);
    }

    /// Whether nothing is left, neither given out nor waiting.
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}
