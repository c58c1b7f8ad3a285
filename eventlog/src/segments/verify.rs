use std::fs::File;
use std::path::Path;

use super::format::Streams;
use super::recover::{Cut, Scan, chain, list};
use super::{Result, SegmentsError};

/// What [`super::Segments::verify`] has checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Segment files.
    pub segments: usize,
    /// Commit groups.
    pub groups: u64,
    /// Records.
    pub records: u64,
    /// Bytes of all segments, without a torn tail.
    pub bytes: u64,
    /// The last group, if it is incomplete: torn by a crash (the next open cuts
    /// it), or being written right now.
    pub torn: Option<Cut>,
}

pub(super) fn verify(dir: &Path) -> Result<Verified> {
    let files = list(dir)?;
    let mut out = Verified::default();
    let mut before: Option<(Streams, u64)> = None;
    chain(&files, |header, segment| {
        let file = File::open(&segment.path)
            .map_err(|error| SegmentsError::io(&segment.path, "open", error))?;
        if let Some((ends, next)) = &before
            && (*ends != header.starts || *next != header.first_group)
        {
            let what = "its header does not continue the segment before it";
            return Err(SegmentsError::damaged(&segment.path, 0, what));
        }
        let scan = Scan::run(&file, &segment, &header.identity, true)?;
        out.segments += 1;
        out.groups += scan.group - header.first_group;
        out.records += scan.records;
        out.bytes += scan.offset;
        if out.segments < files.len() {
            scan.refuse_bad(&segment)?;
        } else {
            out.torn = scan.torn(&file, &segment, &header.identity)?;
        }
        before = Some((scan.ends, scan.group));
        Ok(())
    })?;
    Ok(out)
}
