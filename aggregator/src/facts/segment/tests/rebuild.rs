//! What stands beside a file is made anew from it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::facts::segment::write::CHUNKS;

/// Makes what stands beside a file anew. `known`: its directory, where it is sound.
pub(super) fn rebuilt(
    file: &Bytes,
    rows: u64,
    known: Option<&Directory>,
) -> Result<Made, SegmentError> {
    let length = file.len() as u64;
    let part = |range: std::ops::Range<u64>| {
        let at = |byte: u64| usize::try_from(byte).unwrap();
        let part = file.get(at(range.start)..at(range.end));
        let part = part.ok_or_else(|| SegmentError::new("it has no such part"))?;
        Ok::<_, SegmentError>(file.slice_ref(part))
    };
    let tail = part(length.saturating_sub(Rebuild::TAIL_BYTES)..length)?;
    let first = Rebuild::metadata_at(&tail, length)?;
    let mut rebuild = Rebuild::new(part(first..length)?, first, length, rows)?;
    match known {
        Some(directory) => rebuild.know(directory),
        None => {
            for (number, group) in rebuild.groups().to_vec().into_iter().enumerate() {
                let parts = group.names.into_iter().map(|range| Ok((range.start, part(range)?)));
                rebuild.learn(number, parts.collect::<Result<_, SegmentError>>()?)?;
            }
        }
    }
    for group in rebuild.groups().to_vec() {
        rebuild.take(part(group.whole)?)?;
    }
    let footer = part(rebuild.footer_at()..length)?;
    rebuild.finish(&footer)
}

impl Written {
    pub(super) fn is_rebuilt(&self, known: Option<&Directory>) {
        let made = rebuilt(&self.file, self.directory.rows() as u64, known).unwrap();
        assert_eq!(made.bytes, self.file.len() as u64);
        assert_eq!(made.directory, self.directory);
        assert_eq!(made.directory.to_bytes(), self.directory.to_bytes());
        assert_eq!(made.sketches, self.sketches);
        assert_eq!(made.totals, self.totals);
    }
}

fn few() -> Written {
    let fact = |n: u32| Fact {
        minute: Minute(HOUR + n % 7),
        second: 3,
        kind: 1,
        reason: 0,
        ids: [n % 7, 1, 2, 3, 4],
        codes: Codes::nth(n),
        region: [0; 3],
        network: [4, 1, 2, 3, 0, 0, 0],
        visitor: n.into(),
        price: n % 3,
        age: Some(3),
    };
    let facts: Vec<Fact> = (0..50).map(fact).collect();
    Written::new(vec![vec![block(&facts)]])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_stands_beside_a_file_is_made_anew_byte_for_byte(
        parts in proptest::collection::vec(proptest::collection::vec(fact(), 1..60), 1..5),
    ) {
        let blocks = parts.iter().map(|facts| vec![block(facts)]).collect();
        let written = Written::new(blocks);
        written.is_rebuilt(None);
        written.is_rebuilt(Some(&written.directory));
        // Of segments that became one, too.
        let segments: Vec<Written> =
            parts.iter().map(|facts| Written::new(vec![vec![block(facts)]])).collect();
        Written::new(segments.iter().map(|one| vec![one.group(0)]).collect()).is_rebuilt(None);
    }

    #[test]
    fn a_file_with_other_bytes_gives_what_was_written_or_nothing(
        at in any::<proptest::sample::Index>(),
        flip in 1_u8..,
    ) {
        let written = few();
        let mut file = written.file.to_vec();
        let place = at.index(file.len());
        file[place] ^= flip;
        let file = Bytes::from(file);
        for known in [None, Some(&written.directory)] {
            let done = catch_unwind(AssertUnwindSafe(|| rebuilt(&file, 50, known)));
            // The decoder may panic, which whoever calls it takes for damage.
            let Ok(Ok(made)) = done else { continue };
            // A byte of what nobody reads: of the magic at the beginning, or of the footer.
            let footer = written.directory.footer();
            prop_assert!(place < 4 || place as u64 >= footer, "byte {place} of {footer}");
            let (was, is) = (&written.directory, &made.directory);
            prop_assert_eq!((&was.minutes, &was.ids, &was.prices), (&is.minutes, &is.ids, &is.prices));
            prop_assert_eq!((&was.runs, &was.nodes, &was.totals), (&is.runs, &is.nodes, &is.totals));
            prop_assert_eq!((&written.sketches, &*written.totals), (&made.sketches, &*made.totals));
        }
    }
}

#[test]
fn why_nothing_is_made_is_said() {
    let written = few();
    let refused = |file: &Bytes, rows| rebuilt(file, rows, None).unwrap_err().to_string();
    assert_eq!(refused(&written.file, 49), "its row groups have 50 rows, and 49 were written");
    let cut = written.file.slice(..written.file.len() - 1);
    assert!(refused(&cut, 50).contains("Corrupt footer"), "{}", refused(&cut, 50));
    let start = written.footer().unwrap().bytes_of(0, &[Name::Visitor])[0].start;
    let mut file = written.file.to_vec();
    file[usize::try_from(start).unwrap() + 1] ^= 1;
    let why = refused(&file.into(), 50);
    assert_eq!(why, "column visitor of row group 0 is not what was written");
}

#[test]
fn a_file_without_digests_of_its_own_is_rebuilt_and_said_to_be_unproved() {
    // An earlier build's: the same but for one key in the footer.
    let written = few();
    let mut file = written.file.to_vec();
    let at = file.windows(CHUNKS.len()).rposition(|bytes| bytes == CHUNKS.as_bytes()).unwrap();
    file[at] ^= 1;
    let file = Bytes::from(file);
    let made = rebuilt(&file, 50, None).unwrap();
    assert_eq!((made.directory.runs, made.totals.into()), (written.directory.runs, written.totals));
    let end = |file: &Bytes| {
        let length = file.len() as u64;
        let first = Rebuild::metadata_at(&file[file.len() - 8..], length).unwrap();
        let metadata = file.slice(usize::try_from(first).unwrap()..);
        Rebuild::new(metadata, first, length, 50).unwrap()
    };
    assert!(end(&written.file).is_proved() && !end(&file).is_proved());
}
