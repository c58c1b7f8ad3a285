//! Progress: a bar on a terminal, elsewhere a line now and then.

use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use shared::ambient::Stopwatch;

use super::open::{Seen, cannot_read};
use crate::failure::Failure;

const TERMINAL_TICK: Duration = Duration::from_millis(100);
const PLAIN_TICK: Duration = Duration::from_secs(10);

/// How far a file has been read.
pub(super) struct Progress {
    seen: Seen,
    bar: Option<ProgressBar>,
    task: tokio::task::JoinHandle<()>,
}

impl Progress {
    /// Starts to show progress, in bytes of the file as it lies on the disk.
    pub(super) fn start(path: &Path, verb: &'static str) -> Result<Self, Failure> {
        let bytes = std::fs::metadata(path).map_err(|error| cannot_read(path, &error))?.len();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let seen = Seen::default();
        let bar = std::io::stderr().is_terminal().then(|| bar(bytes, format!("{verb} {name}")));
        let (ticking, counted) = (bar.clone(), seen.clone());
        let task = tokio::spawn(async move {
            let watch = Stopwatch::start();
            loop {
                tokio::time::sleep(if ticking.is_some() { TERMINAL_TICK } else { PLAIN_TICK })
                    .await;
                let seen = counted.load(Ordering::Relaxed);
                match &ticking {
                    Some(bar) => bar.set_position(seen),
                    None => eprintln!(
                        "{verb} {name}: {} of {} MiB after {} s",
                        seen >> 20,
                        bytes >> 20,
                        watch.elapsed().as_secs()
                    ),
                }
            }
        });
        Ok(Self { seen, bar, task })
    }

    /// The counter for whoever reads the file.
    pub(super) fn seen(&self) -> Seen {
        self.seen.clone()
    }

    /// Takes the bar away.
    pub(super) fn finish(self) {
        self.task.abort();
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar(bytes: u64, message: String) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {eta}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(bytes).with_style(style).with_message(message)
}
