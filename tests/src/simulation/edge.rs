//! An edge: the real decisions, numbers and tallies, on a disk that is a list. The list survives a
//! crash; the queue in memory does not.

use edge::outbox::seal::{BatchHead, Sealer, next_epoch};
use edge::outbox::tallies::{Slot, TallyTable};
use edge::request::Body;
use edge::{Decision, Draft, Method, Policy, Request};
use shared::clock::{Reading, Steady};
use shared::id::IdAllocator;
use shared::limits::{CLOCK_AHEAD_MS_MAX, CLOCK_HOLD_MS_MAX};
use shared::random::Seeded;
use shared::wire::Batch;
use shared::{EdgeId, Kind, OutboxId, Timestamp};

/// The visitors' user agent: events of one that names a program would not be counted.
const BROWSER: &[u8] = b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";

/// Where a group commit is cut off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cut {
    /// Before the batch is on disk: nobody was told anything.
    BeforeWrite,
    /// After the batch is on disk, before anybody was told.
    AfterWrite,
}

/// A batch that declares something.
#[derive(Debug)]
pub(super) struct Declared {
    /// Its outbox.
    pub(super) outbox: OutboxId,
    /// Its number.
    pub(super) number: u64,
    /// How many events, by minute.
    pub(super) minutes: shared::wire::Declared,
}

/// One edge.
pub(super) struct Edge {
    /// Its name.
    pub(super) name: EdgeId,
    /// All batches that were ever durable, in order.
    pub(super) disk: Vec<Vec<u8>>,
    /// Those of the batches that declare anything.
    pub(super) declared: Vec<Declared>,
    /// The batches before this one were acknowledged.
    pub(super) acked: usize,
    /// Events whose sender was told that they are accepted.
    pub(super) accepted: u64,
    /// How many events were tallied: in memory, in slots and in batches.
    pub(super) tallied: u64,
    /// How far its clock is off, in ms.
    pub(super) skew_ms: i64,
    /// How far its wall clock was set off, in ms.
    pub(super) step_ms: i64,
    /// Whether it was started while its clock was wrong, or believed a wrong clock later.
    pub(super) started_wrong: bool,
    steady: Steady,
    /// Whether it reaches nobody.
    pub(super) cut: bool,
    slots: Vec<Option<Slot>>,
    table: TallyTable,
    sealer: Sealer,
    queue: Vec<Draft>,
    ids: IdAllocator,
}

impl Edge {
    /// A new edge, started.
    pub(super) fn new(name: EdgeId, now: Timestamp) -> Self {
        let mut edge = Self {
            name,
            disk: Vec::new(),
            declared: Vec::new(),
            acked: 0,
            accepted: 0,
            tallied: 0,
            skew_ms: 0,
            step_ms: 0,
            started_wrong: false,
            steady: Steady::new(Reading { wall: now, elapsed_ms: now.0 }),
            cut: false,
            slots: vec![None; edge::outbox::tallies::SLOTS],
            table: TallyTable::default(),
            sealer: Sealer::new(next_epoch(name, now, None)),
            queue: Vec::new(),
            ids: IdAllocator::default(),
        };
        edge.seal(now, None);
        edge
    }

    /// The edge's own time.
    pub(super) fn clock(&mut self, now: Timestamp) -> Timestamp {
        let reading = reading(now, self.skew_ms + self.step_ms);
        let read = self.steady.read(reading);
        // A wrong clock that stays so is believed in the end, as if the process had started with
        // it.
        self.started_wrong |= self.step_ms != 0 && read.is_ok();
        read.unwrap_or_else(|step| step.expected)
    }

    /// The batch at this place on the disk, unless it is held back.
    pub(super) fn batch(&mut self, at: usize, now: Timestamp) -> Option<Vec<u8>> {
        let now = self.clock(now);
        let bytes = self.disk.get(at)?.clone();
        let watermark = Batch::read(&bytes).expect("we sealed it").watermark;
        let ahead_ms = watermark.0.saturating_sub(now.0);
        let held = CLOCK_AHEAD_MS_MAX < ahead_ms && ahead_ms <= CLOCK_HOLD_MS_MAX;
        (!held).then_some(bytes)
    }

    /// Asks for an ad, perhaps as a test; the token as text.
    pub(super) fn serve(
        &mut self,
        test: bool,
        policy: &Policy,
        now: Timestamp,
        random: &mut Seeded,
    ) -> String {
        let query = if test { "placement=top&test=1" } else { "placement=top&consent=1" };
        let request = Request { query, ..get("/v1/serve") };
        let decision = self.decide(&request, policy, now, random);
        let served: serde_json::Value =
            serde_json::from_slice(&decision.reply.body).expect("an ad is served as JSON");
        served["token"].as_str().expect("with its token").to_owned()
    }

    /// Sends a click, or a HEAD of it.
    pub(super) fn click(
        &mut self,
        token: &str,
        head: bool,
        policy: &Policy,
        now: Timestamp,
        random: &mut Seeded,
    ) -> Decision {
        let path = format!("/v1/c/{token}");
        let method = if head { Method::Head } else { Method::Get };
        self.decide(&Request { method, ..get(&path) }, policy, now, random)
    }

    /// Sends a beacon with one event.
    pub(super) fn beacon(
        &mut self,
        token: &str,
        kind: Kind,
        policy: &Policy,
        now: Timestamp,
        random: &mut Seeded,
    ) -> Decision {
        let body = format!(r#"{{"events":[{{"token":"{token}","kind":"{kind}"}}]}}"#);
        let request = Request {
            method: Method::Post,
            content_type: b"text/plain",
            body: Body::Whole(body.as_bytes()),
            ..get("/v1/events")
        };
        self.decide(&request, policy, now, random)
    }

    fn decide(
        &mut self,
        request: &Request<'_>,
        policy: &Policy,
        now: Timestamp,
        random: &mut Seeded,
    ) -> Decision {
        let now = self.clock(now);
        let now = if self.sealer.is_ahead_of(now) { now } else { self.sealer.stamp(now) };
        let decision = edge::handle(request, policy, &mut self.ids, now, random);
        for loss in &decision.tallies {
            self.tallied += u64::from(loss.count);
            let at = self.table.add(now, loss.kind, loss.reason, loss.count);
            self.slots[at] = self.table.slot(at).copied();
        }
        self.queue.extend(decision.events.iter().cloned());
        decision
    }

    /// A group commit; cut off, the edge is down and must be restarted.
    pub(super) fn seal(&mut self, now: Timestamp, cut: Option<Cut>) {
        let now = self.clock(now);
        if self.sealer.is_ahead_of(now) {
            let old = self.sealer.clone();
            let (tallies, _) = self.table.mark(old.outbox().epoch, old.next());
            self.keep(&old.close(&tallies).batches);
            self.reported();
            self.table.lower_floor(now);
            let last = self.disk.last().map(|bytes| BatchHead::read(bytes).expect("we wrote it"));
            self.sealer = Sealer::new(next_epoch(self.name, now, last.as_ref()));
        }
        let sealer = &self.sealer;
        let (tallies, changed) = self.table.mark(sealer.outbox().epoch, sealer.next());
        changed.into_iter().for_each(|at| self.slots[at] = self.table.slot(at).copied());
        if cut == Some(Cut::BeforeWrite) {
            return;
        }
        let sealed = sealer.seal(now, &self.queue, &tallies);
        self.keep(&sealed.batches);
        if cut == Some(Cut::AfterWrite) {
            return;
        }
        self.reported();
        self.table.raise_floor(sealed.watermark);
        self.sealer.commit(&sealed);
        self.accepted += self.queue.len() as u64;
        self.queue.clear();
    }

    /// kill -9 and a new start: the old epoch is closed, a new one begun.
    pub(super) fn restart(&mut self, now: Timestamp) {
        let truth = now;
        self.started_wrong |= self.step_ms != 0;
        self.steady = Steady::new(reading(now, self.skew_ms + self.step_ms));
        let now = self.clock(now);
        let last = self.disk.last().map(|bytes| BatchHead::read(bytes).expect("we wrote it"));
        let reported = last.map(|last| (last.outbox.epoch, last.number));
        let (table, _) = TallyTable::recover(self.slots.clone(), reported);
        self.table = table;
        self.slots = (0..self.slots.len()).map(|at| self.table.slot(at).copied()).collect();
        self.queue.clear();
        self.ids = IdAllocator::default();
        if let Some(old) = last.and_then(|last| last.unclosed()) {
            let (tallies, _) = self.table.mark(old.outbox().epoch, old.next());
            self.keep(&old.close(&tallies).batches);
            self.reported();
        }
        let last = self.disk.last().map(|bytes| BatchHead::read(bytes).expect("we wrote it"));
        self.sealer = Sealer::new(next_epoch(self.name, now, last.as_ref()));
        self.seal(truth, None);
    }

    /// Notes that the batch at this place on the disk was acknowledged. Batches are forgotten only
    /// in order; those behind a gap are sent again.
    pub(super) fn acknowledged(&mut self, batch: usize) {
        if batch == self.acked {
            self.acked += 1;
        }
    }

    fn keep(&mut self, batches: &[Vec<u8>]) {
        for bytes in batches {
            let batch = Batch::read(bytes).expect("we sealed it");
            let Batch { outbox, number, .. } = batch;
            let minutes = batch.declared();
            if !minutes.is_empty() {
                self.declared.push(Declared { outbox, number, minutes });
            }
            self.disk.push(bytes.clone());
        }
    }

    /// How many tallied events are in no batch yet.
    pub(super) fn untold(&self) -> u64 {
        self.table.total()
    }

    fn reported(&mut self) {
        let changed = self.table.reported();
        changed.into_iter().for_each(|at| self.slots[at] = self.table.slot(at).copied());
    }
}

/// A reading of the clocks of a machine whose wall clock is off.
pub(super) fn reading(now: Timestamp, off_ms: i64) -> Reading {
    Reading { wall: Timestamp(now.0.saturating_add_signed(off_ms)), elapsed_ms: now.0 }
}

fn get(path: &str) -> Request<'_> {
    let client = Some(std::net::IpAddr::from([203, 0, 113, 7]));
    Request { user_agent: BROWSER, client, ..Request::new(Method::Get, path) }
}
