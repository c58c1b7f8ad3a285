//! How much of the files of a partition has been read: a bar on a terminal, nothing elsewhere.

use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressStyle};

/// A bar; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// `is_shown`: somebody looks at the terminal.
    pub(crate) fn start(partition: u16, partitions: u16, bytes: u64, is_shown: bool) -> Self {
        if !is_shown || !std::io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let style = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {eta}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let message = format!("partition {partition} of {partitions}");
        Self(ProgressBar::new(bytes).with_style(style).with_message(message))
    }

    pub(crate) fn read(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    pub(crate) fn finish(&self) {
        self.0.finish_and_clear();
    }
}
