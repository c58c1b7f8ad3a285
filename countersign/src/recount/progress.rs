//! How much of a partition's files has been read: a bar on a terminal, nothing elsewhere.

use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressStyle};

/// A bar; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Progress(ProgressBar);

impl Progress {
    pub(super) fn start(partition: u16, partitions: u16, bytes: u64, shown: bool) -> Self {
        if !shown || !std::io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let style = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {eta}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let message = format!("partition {partition} of {partitions}");
        Self(ProgressBar::new(bytes).with_style(style).with_message(message))
    }

    pub(super) fn read(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    pub(super) fn finish(&self) {
        self.0.finish_and_clear();
    }
}
