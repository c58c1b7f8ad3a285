//! The engine equals the model after every step, however often it is stopped.

use eventlog::Position;
use proptest::prelude::*;
use shared::Timestamp;

use super::oracle::Oracle;
use super::script::{MessageOp, Op, START, ops, sources};
use super::store::Store;
use super::{answers, read};
use crate::count::{Engine, Settings};

const SETTINGS: Settings = Settings { resident_minutes: 10 };

/// One partition: its log, an engine that runs straight, and one that is stopped.
struct World {
    log: Vec<Vec<u8>>,
    stamp: Timestamp,
    oracle: Oracle,
    straight: Engine,
    stopped: Engine,
    store: Store,
}

impl World {
    fn new() -> Self {
        Self {
            log: Vec::new(),
            stamp: START.start(),
            oracle: Oracle::default(),
            straight: Engine::new(3, SETTINGS),
            stopped: Engine::new(3, SETTINGS),
            store: Store::default(),
        }
    }

    fn append(&mut self, op: &MessageOp) {
        self.stamp = self.stamp.plus_ms(op.ms);
        let bytes = op.bytes(self.stamp);
        let message = read(&bytes);
        self.oracle.apply(&message);
        let position = position(self.log.len());
        let applied = self.straight.apply(&message, position).unwrap();
        assert_eq!(applied, self.oracle.applied);
        assert_eq!(self.stopped.apply(&message, position).unwrap(), applied);
        self.log.push(bytes);
    }

    fn run(&mut self, op: &Op) {
        match op {
            Op::Message(op) => self.append(op),
            Op::Pass(hours) => (0..*hours).for_each(|_| self.append(&MessageOp::empty(3_600_000))),
            Op::Checkpoint => self.store.write(&self.stopped.checkpoint()),
            Op::Restart => {
                self.store.write(&self.stopped.checkpoint());
                self.restart();
            }
            Op::Crash => self.restart(),
        }
    }

    /// Restores the engine from the store, and applies the rest of the log again.
    fn restart(&mut self) {
        self.stopped = Engine::restore(3, SETTINGS, self.store.snapshot()).unwrap();
        let from = self.stopped.position().map_or(0, |position| position.sequence as usize);
        for (number, bytes) in self.log.iter().enumerate().skip(from) {
            self.stopped.apply(&read(bytes), position(number)).unwrap();
        }
    }

    fn check(&self) {
        let expected = self.oracle.answers();
        assert_eq!(answers(&self.straight, &Store::default(), &sources()), expected);
        assert_eq!(answers(&self.stopped, &self.store, &sources()), expected);
        let account = expected.accounts.values();
        let (outcomes, declared): (u64, u64) =
            account.map(|a| (a.outcomes(), a.declared + a.imported)).fold((0, 0), add);
        // In these histories all events of a batch are of this partition.
        assert_eq!(outcomes, declared);
    }

    /// The engine that never stopped writes the same to its store in the end.
    fn finish(&mut self) {
        self.store.write(&self.stopped.checkpoint());
        let mut store = Store::default();
        store.write(&self.straight.checkpoint());
        assert_eq!(store, self.store);
        assert_eq!(self.straight.checkpoint().minutes, []);
    }
}

fn add(a: (u64, u64), b: (u64, u64)) -> (u64, u64) {
    (a.0 + b.0, a.1 + b.1)
}

fn position(number: usize) -> Position {
    Position { identity: [1; 16], sequence: number as u64 + 1, digest: [0; 16] }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    #[test]
    fn equals_the_model_straight_and_stopped(ops in ops()) {
        let mut world = World::new();
        for op in &ops {
            world.run(op);
            world.check();
        }
        world.finish();
    }
}
