//! The archive is counted again once a day by itself, by whoever counts, and compared with the
//! counts; an operator may ask for other minutes.
//!
//! [`schedule`] says when one is due, and [`run`] what becomes of one; both are pure. [`kept`] keeps
//! them beside the checkpoints, [`metrics`] and [`routes`] show them. There is one at a time. After
//! each partition it is kept how far it is, so a restart goes on there and repeats nothing.
//! Each partition is compared at one position, by [`crate::recount`], which asks this process's own
//! routes.

mod kept;
mod metrics;
mod routes;
mod run;
mod schedule;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use api::answers::Account;
use api::reconciliations::{Reconciliation, State};
use api::routes::ACCOUNTING;
use archive::Archive;
use axum::Router;
use object_store::ObjectStore;
use prometheus_client::registry::Registry;
use shared::ambient::Stopwatch;
use shared::{Clock, Minute, Timestamp};
use tokio::sync::{Mutex, Notify};

use crate::failure::Failure;
use crate::recount::{Asked, Limits, Recount};
use crate::settings::Reconcile;
use kept::{KEPT_MAX, Kept};
use metrics::Metrics;
use run::{NAMED_MAX, Run, Then};
use schedule::Schedule;

/// How often it is looked whether one is due.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How soon what failed is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(60);
/// How soon minutes that are not final are looked at again.
const FINAL_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// How long minutes are waited for that are not final. Then those that are final are compared, and
/// the next one begins where this one ends.
const FINAL_WAIT_MS: u64 = 6 * 3_600_000;
/// How long the archive may take to have what is counted; it is asked to write it.
const ARCHIVE_PATIENCE: Duration = Duration::from_secs(120);
/// Bytes of memory for a record, and for a count, when tables have just grown.
const RECORD_BYTES: u64 = 66;
const FACT_BYTES: u64 = 130;

/// What it is made of.
pub(crate) struct Parts<'a> {
    /// The routes of this process's aggregator and archive.
    pub(crate) routes: Router,
    /// How many partitions there are.
    pub(crate) partitions: u16,
    /// The archive; none when nothing is archived.
    pub(crate) archive: Option<Archive>,
    /// Where checkpoints lie.
    pub(crate) objects: Arc<dyn ObjectStore>,
    /// For the schedule.
    pub(crate) clock: Arc<dyn Clock>,
    /// When, and with how much memory.
    pub(crate) settings: &'a Reconcile,
    /// Where the metrics are registered.
    pub(crate) registry: &'a mut Registry,
}

/// The job, which works while [`Reconciler::run`] is polled.
pub(crate) struct Reconciler(Arc<Core>);

/// Why none was begun.
#[derive(Debug)]
enum Unbegun {
    NoArchive(&'static str),
    Running(u64),
    NotFinal(String),
    Away(String),
}

impl std::fmt::Display for Unbegun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoArchive(why) => f.write_str(why),
            Self::Running(id) => {
                write!(
                    f,
                    "reconciliation {id} runs, and there is one at a time; ask again when it has ended"
                )
            }
            Self::NotFinal(why) | Self::Away(why) => f.write_str(why),
        }
    }
}

const NO_ARCHIVE: &str = "nothing is archived here (archive.enabled = false)";
const TURNED_OFF: &str = "it is turned off (aggregator.reconcile.enabled = false)";

/// All comparisons that are kept, by their numbers; none until they were read.
type Runs = BTreeMap<u64, Run>;

struct Core {
    routes: Router,
    partitions: u16,
    archive: Option<Archive>,
    kept: Kept,
    clock: Arc<dyn Clock>,
    schedule: Option<Schedule>,
    limits: Limits,
    delay: Duration,
    metrics: Metrics,
    runs: Mutex<Option<Runs>>,
    /// Why one that is due has not begun.
    waits: Mutex<Option<String>>,
    /// An operator has asked for one.
    asked: Notify,
}

impl Reconciler {
    /// Makes it ready; nothing is read before it runs or is asked.
    pub(crate) fn new(parts: Parts<'_>) -> Self {
        let Parts { routes, partitions, archive, objects, clock, settings, registry } = parts;
        let is_on = settings.enabled && archive.is_some();
        let days = u32::try_from(settings.days).unwrap_or(u32::MAX);
        let schedule = is_on.then_some(Schedule { hour: settings.hour, days });
        let metrics = Metrics::new(registry);
        metrics.enabled.set(i64::from(is_on));
        // Half for what the engine has counted, half for what the archive has.
        let half = settings.memory_bytes / 2;
        Self(Arc::new(Core {
            routes: api::Principal::Operator.asks(routes),
            partitions,
            archive,
            kept: Kept(objects),
            clock,
            schedule,
            limits: Limits {
                records: half / RECORD_BYTES,
                facts: usize::try_from(half / FACT_BYTES).unwrap_or(usize::MAX),
                named: NAMED_MAX,
                is_paced: true,
            },
            delay: Duration::from_secs(settings.delay_s),
            metrics,
            runs: Mutex::new(None),
            waits: Mutex::new(None),
            asked: Notify::new(),
        }))
    }

    /// The routes, for an operator.
    pub(crate) fn router(&self) -> Router {
        routes::router(Arc::clone(&self.0))
    }

    /// Looks whether one is due, and makes it, until the task is ended.
    pub(crate) async fn run(self) {
        let core = self.0;
        let since_start = Stopwatch::start();
        loop {
            let has_settled = since_start.elapsed() >= core.delay;
            let pause = core.turn(has_settled).await.unwrap_or_else(|why| {
                tracing::warn!(%why, "archive and counts are not compared; it is tried again");
                AGAIN_AFTER
            });
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = core.asked.notified() => {}
            }
        }
    }
}

impl Core {
    /// Goes on with the one that has not ended, or begins one that is due. Says how soon it is to be
    /// looked again.
    async fn turn(&self, has_settled: bool) -> Result<Duration, String> {
        let open = self.with(|runs| {
            let open = runs.values().find(|run| run.is_open());
            open.filter(|run| run.is_ours || has_settled).cloned()
        });
        if let Some(run) = open.await? {
            self.work(run).await?;
        } else if has_settled && let Some(schedule) = self.schedule {
            return self.look(schedule).await;
        }
        Ok(LOOK_EVERY)
    }

    /// Reads what is kept, if that was not done before, and hands it to `work`.
    async fn with<T>(&self, work: impl FnOnce(&mut Runs) -> T) -> Result<T, String> {
        let mut runs = self.runs.lock().await;
        if runs.is_none() {
            let kept = self.kept.all().await?;
            self.show(&kept);
            *runs = Some(kept);
        }
        Ok(work(runs.get_or_insert_default()))
    }

    fn show(&self, runs: &Runs) {
        let last = runs.values().rev().find(|run| !run.is_open());
        let agreed = runs.values().rev().find(|run| run.told.state == State::Agrees);
        self.metrics.show(last.map(|run| &run.told), agreed.map(|run| &run.told));
        self.metrics.running.set(i64::from(runs.values().any(Run::is_open)));
    }

    /// Begins the one that is due, if its minutes are final.
    async fn look(&self, schedule: Schedule) -> Result<Duration, String> {
        let now = self.clock.now();
        let (begun, until) = self.with(|runs| (begun(runs), until(runs))).await?;
        let Some(slot) = schedule.due(now, begun) else {
            return Ok(LOOK_EVERY);
        };
        let range = schedule.range(slot, until);
        let (to, behind) = self.final_until(&range).await.map_err(|failure| failure.message)?;
        let is_late = now >= slot.plus_ms(FINAL_WAIT_MS);
        if to <= range.start || (to < range.end && !is_late) {
            let why = not_final(&range, to, behind);
            *self.waits.lock().await = Some(format!("the one of {slot}: {why}"));
            return Ok(FINAL_AGAIN_AFTER);
        }
        *self.waits.lock().await = None;
        match self.begin(range.start..to, Some(slot)).await {
            Ok(_) | Err(Unbegun::Running(_)) => Ok(Duration::ZERO),
            Err(why) => Err(why.to_string()),
        }
    }

    /// Up to which minute a range is final, and how many outboxes are behind.
    async fn final_until(&self, range: &Range<Minute>) -> Result<(Minute, usize), Failure> {
        let asked = Asked::Routes(&self.routes);
        let ask = async |minute: u32| {
            let (from, to) = (Minute(minute).start(), Minute(minute).end());
            let (from, to) = (from.seconds(), to.seconds());
            let path = format!("{}?from={from}&to={to}", ACCOUNTING.path);
            asked.require::<Account>(&path).await
        };
        let last = ask(range.end.0.saturating_sub(1)).await?;
        if last.is_final {
            return Ok((range.end, 0));
        }
        // Every minute before one that is final is final too.
        let (mut low, mut high) = (range.start.0, range.end.0.saturating_sub(1));
        while low < high {
            let middle = low.midpoint(high);
            match ask(middle).await?.is_final {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        Ok((Minute(low), last.behind.unwrap_or_default()))
    }

    /// Begins the one that an operator asks for.
    async fn asked(&self, range: Range<Minute>) -> Result<Reconciliation, Unbegun> {
        if self.archive.is_none() {
            return Err(Unbegun::NoArchive(NO_ARCHIVE));
        }
        let away = |failure: Failure| Unbegun::Away(failure.message);
        let (to, behind) = self.final_until(&range).await.map_err(away)?;
        if to < range.end {
            return Err(Unbegun::NotFinal(not_final(&range, to, behind)));
        }
        let told = self.begin(range, None).await?;
        self.asked.notify_one();
        Ok(told)
    }

    /// Begins one, unless another runs.
    async fn begin(
        &self,
        range: Range<Minute>,
        slot: Option<Timestamp>,
    ) -> Result<Reconciliation, Unbegun> {
        self.with(|_| ()).await.map_err(Unbegun::Away)?;
        let mut runs = self.runs.lock().await;
        let runs = runs.get_or_insert_default();
        if let Some(open) = runs.values().find(|run| run.is_open()) {
            return Err(Unbegun::Running(open.told.id));
        }
        let id = runs.last_key_value().map_or(1, |(last, _)| last + 1);
        let run = Run::new(id, &range, slot, self.partitions, self.clock.now());
        self.kept.create(&run).await.map_err(Unbegun::Away)?;
        let told = run.told.clone();
        tracing::info!(id, from = told.from, to = told.to, "archive and counts are compared");
        runs.insert(id, run);
        self.show(runs);
        Ok(told)
    }

    /// Goes on with one, until it ends or has to wait.
    async fn work(&self, mut run: Run) -> Result<(), String> {
        let Some(archive) = &self.archive else { return Ok(()) };
        let recount = Recount {
            asked: Asked::Routes(&self.routes),
            archive,
            range: run.range(),
            patience: ARCHIVE_PATIENCE,
            limits: self.limits,
            is_shown: false,
        };
        // Each turn begins a partition, and some end the loop: a partition is not begun for ever.
        loop {
            let then = run.begin(self.clock.now());
            self.keep(&run).await?;
            if then == Then::Ended {
                return Ok(());
            }
            let watch = Stopwatch::start();
            let result = recount.partition(run.told.partitions_done).await;
            let took_ms = u64::try_from(watch.elapsed().as_millis()).unwrap_or(u64::MAX);
            let then = run.take(result, took_ms, self.clock.now());
            match then {
                Then::On => {}
                Then::Later => {
                    self.keep(&run).await?;
                    return Err(run.last_error().to_owned());
                }
                Then::Ended => return self.keep(&run).await,
            }
        }
    }

    /// Keeps what has become of one. Of one that has ended it is told, and the oldest are forgotten.
    async fn keep(&self, run: &Run) -> Result<(), String> {
        // In the store first: what is told is not forgotten by a restart.
        self.kept.replace(run).await?;
        let too_old: Vec<u64> = self
            .with(|runs| {
                runs.insert(run.told.id, run.clone());
                self.show(runs);
                let too_many = runs.len().saturating_sub(KEPT_MAX);
                runs.keys().copied().take(too_many).collect()
            })
            .await?;
        if !run.is_open() {
            tell(&run.told);
            self.metrics.count(&run.told);
            for id in too_old {
                self.kept.delete(id).await?;
                self.with(|runs| runs.remove(&id)).await?;
            }
        }
        Ok(())
    }

    /// All that are kept, the newest first.
    async fn told(&self) -> Result<Vec<Reconciliation>, Unbegun> {
        let told = self.with(|runs| runs.values().rev().map(|run| run.told.clone()).collect());
        told.await.map_err(Unbegun::Away)
    }

    /// When the next one is due, and why one that is due does not begin.
    async fn next(&self) -> Result<(Option<String>, Option<String>), Unbegun> {
        let Some(schedule) = self.schedule else {
            let why = if self.archive.is_none() { NO_ARCHIVE } else { TURNED_OFF };
            return Ok((None, Some(why.to_owned())));
        };
        let begun = self.with(|runs| begun(runs)).await.map_err(Unbegun::Away)?;
        let next = schedule.next(self.clock.now(), begun).to_string();
        Ok((Some(next), self.waits.lock().await.clone()))
    }
}

/// The time of the schedule for which one was begun last.
fn begun(runs: &Runs) -> Option<Timestamp> {
    runs.values().filter_map(|run| run.slot).max()
}

/// The minute up to which the schedule has compared everything.
fn until(runs: &Runs) -> Option<Minute> {
    let scheduled = runs.values().filter(|run| run.slot.is_some());
    scheduled.filter_map(Run::compared_until).max()
}

fn not_final(range: &Range<Minute>, to: Minute, behind: usize) -> String {
    let upto = match to > range.start {
        true => format!("minutes before {} are final", to.start()),
        false => "no minute is final".to_owned(),
    };
    let last = range.end.start();
    format!(
        "{upto}, and those up to {last} are not: {behind} outboxes of edges are behind (GET /v1/edges)"
    )
}

/// Says in the log what came of it.
fn tell(told: &Reconciliation) {
    let Reconciliation { id, from, to, cells, events, seconds, differences, .. } = told;
    match told.state {
        State::Agrees => {
            tracing::info!(id, from, to, cells, events, seconds, "archive and counts agree");
        }
        State::Differs => tracing::error!(
            id, from, to, cells, differences, conflicts = told.conflicts.len(), errors = ?told.errors,
            "archive and counts differ: GET /v1/reconciliations/{id} names the cells"
        ),
        State::Failed => {
            tracing::error!(id, from, to, errors = ?told.errors, "archive and counts could not be compared");
        }
        State::Running => {}
    }
}
