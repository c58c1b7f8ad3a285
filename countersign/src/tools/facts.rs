//! `countersign facts check` and `countersign facts rebuild`: whether the segments of facts are what
//! was written, and makes anew what stands beside their Parquet files. Both may run beside the
//! process that counts: its stores are read without opening them, and a segment that was replaced
//! meanwhile, and deleted, is no fault.

use std::process::ExitCode;

use aggregator::store::StoreError;
use aggregator::upkeep::{Fault, NotMade, Rebuilt, SegmentRow, Upkeep};
use indicatif::HumanBytes;
use shared::ambient::Stopwatch;

use crate::assemble::objects;
use crate::cli::{FactsArgs, FactsCommand, StateArgs};
use crate::data::DataDir;
use crate::failure::{self, Failure};
use crate::process;
use crate::progress::Progress;
use crate::settings::Settings;
use crate::terminal::line;

/// How often the stores are asked for segments that came meanwhile.
const LOOKS_MAX: usize = 8;

/// Runs the command.
///
/// # Errors
/// When the place is not one of counts, or cannot be read or written.
pub(crate) fn run(args: &FactsArgs) -> Result<ExitCode, Failure> {
    let (place, work) = match &args.command {
        FactsCommand::Check(place) => (place, Work::Check),
        FactsCommand::Rebuild(place) => (place, Work::Rebuild),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::fatal(format!("cannot start: {error}")))?;
    runtime.block_on(all(place, work))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    Check,
    Rebuild,
}

/// What was looked at, and what was found.
#[derive(Default)]
struct Total {
    partitions: usize,
    segments: usize,
    facts: u64,
    bytes: u64,
    /// Objects that are damaged or missing, and stay so.
    faults: usize,
    rebuilt: usize,
    unnamed: (u64, u64),
}

/// Segments of one deployment, and whose fault it is when they cannot be read.
struct Place {
    upkeep: Upkeep,
    is_local: bool,
}

async fn all(args: &StateArgs, work: Work) -> Result<ExitCode, Failure> {
    let place = open(args, work).await?;
    let watch = Stopwatch::start();
    let partitions = place.done(place.upkeep.partitions().await)?;
    let mut total = Total { partitions: partitions.len(), ..Total::default() };
    for (at, partition) in (0_u16..).zip(&partitions) {
        let count = u16::try_from(partitions.len()).unwrap_or(u16::MAX);
        place.partition(work, *partition, (at, count), &mut total).await?;
    }
    Ok(total.tell(work, watch.elapsed().as_secs_f64()))
}

impl Total {
    fn tell(&self, work: Work, seconds: f64) -> ExitCode {
        let Self { partitions, segments, facts, bytes, faults, rebuilt, unnamed } = self;
        if unnamed.0 > 0 {
            line(format!(
                "objects that no store names: {}, {}: just made, just replaced, or left behind by a \
                 process that was killed; the next start deletes those",
                unnamed.0,
                HumanBytes(unnamed.1)
            ));
        }
        let looked = format!(
            "{segments} segments of {partitions} partitions with {facts} facts, {} read, {seconds:.1} s",
            HumanBytes(*bytes)
        );
        if *rebuilt > 0 {
            line(format!("{rebuilt} objects were made anew"));
        }
        if *faults == 0 {
            line(format!("all is what was written: {looked}"));
            return ExitCode::SUCCESS;
        }
        let left = if work == Work::Rebuild { "still " } else { "" };
        line(format!("{faults} objects are {left}damaged or missing: {looked}"));
        ExitCode::from(failure::DIFFERENT)
    }
}

impl Place {
    /// Looks at the segments of a partition, and at those that take their place meanwhile.
    async fn partition(
        &self,
        work: Work,
        partition: u16,
        (at, count): (u16, u16),
        total: &mut Total,
    ) -> Result<(), Failure> {
        let mut seen: Vec<SegmentRow> = Vec::new();
        let mut found: Vec<(SegmentRow, Vec<Fault>)> = Vec::new();
        let mut named = self.named(partition).await?;
        for _ in 0..LOOKS_MAX {
            let new: Vec<_> = named.iter().filter(|row| !seen.contains(row)).cloned().collect();
            if new.is_empty() {
                break;
            }
            let bytes = new.iter().map(|row| row.bytes).sum();
            let progress = Progress::start(at, count, bytes, true);
            for row in new {
                let faults = self.upkeep.check(&row, &|bytes| progress.read(bytes)).await;
                let faults = self.done(faults)?;
                if !faults.is_empty() {
                    found.push((row.clone(), faults));
                }
                seen.push(row);
            }
            progress.finish();
            named = self.named(partition).await?;
        }
        // What was replaced meanwhile may be deleted.
        found.retain(|(row, _)| named.contains(row));
        total.segments += named.len();
        total.facts += named.iter().map(|row| row.rows).sum::<u64>();
        total.bytes += seen.iter().map(|row| row.bytes).sum::<u64>();
        for (row, faults) in found {
            match work {
                Work::Check => total.faults += tell(partition, &faults),
                Work::Rebuild => self.rebuild(&row, faults, total).await?,
            }
        }
        seen.extend(named);
        let unnamed = self.done(self.upkeep.unnamed(partition, &seen).await)?;
        total.unnamed = (total.unnamed.0 + unnamed.0, total.unnamed.1 + unnamed.1);
        Ok(())
    }

    /// Mends a segment, and looks at it again.
    async fn rebuild(
        &self,
        row: &SegmentRow,
        faults: Vec<Fault>,
        total: &mut Total,
    ) -> Result<(), Failure> {
        if faults.iter().any(|fault| !fault.can_be_rebuilt) {
            total.faults += tell(row.partition, &faults);
            return Ok(());
        }
        let Rebuilt { objects, is_proved } = match self.upkeep.rebuild(row, &|_| {}).await {
            Ok(rebuilt) => rebuilt,
            Err(NotMade::Store(error)) => return Err(self.failure(error)),
            Err(NotMade::Segment(why)) => {
                let lost = |fault| Fault { can_be_rebuilt: false, ..fault };
                line(format!("partition {}: {}: {why}", row.partition, row.name()));
                total.faults +=
                    tell(row.partition, &faults.into_iter().map(lost).collect::<Vec<_>>());
                return Ok(());
            }
        };
        let doubt = match is_proved {
            true => "",
            false => {
                ", of a Parquet file that an earlier build wrote: no digest says that it is what was \
                 written, but it has all facts, in their order"
            }
        };
        total.rebuilt += objects.len();
        for object in objects {
            line(format!("partition {}: {object}: made anew{doubt}", row.partition));
        }
        let left = self.done(self.upkeep.check(row, &|_| {}).await)?;
        if !left.is_empty() && self.named(row.partition).await?.contains(row) {
            total.faults += tell(row.partition, &left);
        }
        Ok(())
    }

    async fn named(&self, partition: u16) -> Result<Vec<SegmentRow>, Failure> {
        self.done(self.upkeep.segments(partition).await)
    }

    fn done<T>(&self, result: Result<T, StoreError>) -> Result<T, Failure> {
        result.map_err(|error| self.failure(error))
    }

    fn failure(&self, error: StoreError) -> Failure {
        match error {
            StoreError::Damaged(_) => Failure::data(error),
            StoreError::Unusable(_) => Failure::usage(error),
            _ if self.is_local => Failure::files(error),
            _ => Failure::server(error),
        }
    }
}

/// A line for each object: which, what is wrong, and what to do. Returns how many.
fn tell(partition: u16, faults: &[Fault]) -> usize {
    for Fault { object, what, can_be_rebuilt } in faults {
        let remedy = match can_be_rebuilt {
            true => "`countersign facts rebuild` makes it anew",
            false => {
                "it cannot be rebuilt: bring back a backup (`countersign restore`); the archive has \
                 the events, but nothing makes segments of it"
            }
        };
        line(format!("partition {partition}: {object}: {what}; {remedy}"));
    }
    faults.len()
}

async fn open(args: &StateArgs, work: Work) -> Result<Place, Failure> {
    let settings = Settings::load(&args.given(), process::environment())?;
    let url = &settings.aggregator.state_url;
    let (upkeep, name) = if url.is_empty() {
        let dir = DataDir::new(&settings.data);
        let state = dir.path("state");
        if !state.is_dir() {
            return Err(none_at(&settings.data.display().to_string()));
        }
        if work == Work::Rebuild {
            dir.refuse_copy()?;
        }
        (Upkeep::local(&state).map_err(Failure::usage)?, state.display().to_string())
    } else {
        let objects = objects::open(url, process::environment()).await;
        let objects =
            objects.map_err(|why| Failure::usage(format!("aggregator.state_url: {why}")))?;
        (Upkeep::new(objects, url.clone()), url.clone())
    };
    let place = Place { upkeep, is_local: url.is_empty() };
    match place.done(place.upkeep.partitions().await)?.is_empty() {
        true => Err(none_at(&name)),
        false => Ok(place),
    }
}

fn none_at(name: &str) -> Failure {
    Failure::usage(format!(
        "there are no counts in {name}: name the data directory of `up` or of an aggregator with --data, \
         or with --config its settings, if aggregator.state_url says where they are"
    ))
}
