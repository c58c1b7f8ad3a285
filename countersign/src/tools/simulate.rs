//! `countersign simulate`: sends visitors through the real edge, then compares what was sent with
//! what was counted.
//!
//! [`visitor`] decides from the seed who does what, [`forge`] makes tokens that must not count,
//! [`edge`] sends and tries again, [`ledger`] adds up what must and what may be counted, [`compare`]
//! asks the API and explains.
//!
//! A request without an answer may have been taken or not. So the ledger holds bounds, which are
//! exact when every request was answered. An event is sent again until it is answered, which is
//! safe because its identity makes it count once.

mod compare;
mod edge;
mod forge;
mod ledger;
mod visitor;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use shared::ambient::{Stopwatch, SystemClock};
use shared::random::Seeded;
use shared::{Clock as _, PlacementName};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::cli::SimulateArgs;
use crate::client::Api;
use crate::failure::{self, Failure};
use compare::Counts;
use edge::Edge;
use forge::Forger;
use ledger::Ledger;

/// How many visitors may be busy at the same time; beyond that new ones come late.
const VISITORS_MAX: usize = 4_096;
const PACE: Duration = Duration::from_millis(2);
/// How many visitors ahead of the pace one step may start, so that a stall is not made up at once.
const BURST_MAX: u64 = 512;

/// Runs the command.
///
/// # Errors
/// When the edge or the API does not answer in time.
pub(crate) fn run(args: &SimulateArgs) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::fatal(format!("cannot start: {error}")))?;
    runtime.block_on(simulate(args))
}

/// What all visitors share.
struct World {
    edge: Edge,
    forger: Forger,
    placements: Vec<PlacementName>,
    plain: bool,
    /// After how many seconds a click expires, if that is soon enough to wait for.
    brief_s: Option<u32>,
    seed: u64,
}

async fn simulate(args: &SimulateArgs) -> Result<ExitCode, Failure> {
    let edge = Edge::new(&args.edge, args.api.patience)?;
    let api = Api::new(&args.api)?;
    let patience = args.api.patience;
    let start = SystemClock.now().minute();
    let minutes = (args.seconds + u32::try_from(patience.as_secs()).unwrap_or(3_600)) / 60;
    let range = start..shared::Minute(start.0 + minutes + 5);
    let received = Counts::received(&api, &range, patience).await?;
    let sample = edge.sample(&args.placements[0]).await?;
    let world = Arc::new(World {
        edge,
        forger: Forger::new(&sample, args.seed).map_err(Failure::server)?,
        placements: args.placements.clone(),
        plain: args.plain,
        brief_s: forge::click_life_s(&sample).filter(|seconds| *seconds <= forge::BRIEF_S_MAX),
        seed: args.seed,
    });
    // The sample is a served ad too, so one more must come.
    let before = Counts::before(&api, &range, patience, received + 1).await?;
    eprintln!("playing {} visitors", u64::from(args.rate) * u64::from(args.seconds));
    let watch = Stopwatch::start();
    let (ledger, late) = play(args, &world).await;
    let took = watch.elapsed();
    eprintln!(
        "{} visitors in {:.1} s, {} requests, {} without an answer{}",
        ledger.visitors,
        took.as_secs_f64(),
        ledger.requests,
        ledger.lost,
        if late > 0 {
            format!("; {late} visitors came late: all places were taken")
        } else {
            String::new()
        },
    );
    let after = Counts::after(&api, &before, &ledger, &range, patience).await?;
    let explained = compare::print(&ledger, &before, &after, &world);
    Ok(if explained { ExitCode::SUCCESS } else { ExitCode::from(failure::DIFFERENT) })
}

/// Starts visitors at their pace, whether or not earlier ones have ended (an open loop).
async fn play(args: &SimulateArgs, world: &Arc<World>) -> (Ledger, u64) {
    let all = u64::from(args.rate) * u64::from(args.seconds);
    let room = Arc::new(Semaphore::new(VISITORS_MAX));
    let watch = Stopwatch::start();
    let mut visitors = JoinSet::new();
    let (mut ledger, mut started, mut late) = (Ledger::default(), 0, 0);
    // Each turn starts the visitors that are due by now, but not many at once after a stall.
    while started < all {
        let due = (watch.elapsed().as_secs_f64() * f64::from(args.rate)) as u64;
        let upto = due.min(all).min(started + BURST_MAX);
        while started < upto {
            if room.available_permits() == 0 {
                late += 1;
            }
            // The semaphore is never closed.
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else { break };
            let (world, number) = (Arc::clone(world), started);
            visitors.spawn(async move {
                let ledger = visitor::visit(&world, number).await;
                drop(permit);
                ledger
            });
            started += 1;
        }
        while let Some(done) = visitors.try_join_next() {
            ledger.add(done);
        }
        tokio::time::sleep(PACE).await;
    }
    while let Some(done) = visitors.join_next().await {
        ledger.add(done);
    }
    (ledger, late)
}

/// The random source of one visitor.
fn seeded(seed: u64, visitor: u64) -> Seeded {
    Seeded::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(visitor))
}
