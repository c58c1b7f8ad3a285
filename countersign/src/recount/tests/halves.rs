//! A partition is asked for at the routes of this process, and in halves where it has too much.

use std::sync::atomic::{AtomicUsize, Ordering};

use api::export::{Cell, Line, Position};
use api::routes::CELLS;
use axum::Router;
use axum::extract::Query;
use axum::routing::get;
use shared::text::hex;

use super::*;

/// The lines of `GET /v1/partitions/0/cells`, from the engine.
fn lines(engine: &Engine, range: &Range<Minute>) -> Vec<Line> {
    let at = engine.position().unwrap();
    let position = Position {
        partition: 0,
        partitions: 1,
        sequence: at.sequence,
        log: hex(&at.identity),
        digest: hex(&at.digest),
        cut_off: Vec::new(),
    };
    let mut lines = vec![Line::Position(position)];
    for (minute, account) in engine.account(range.start, range.end) {
        let reasons = Reason::ALL.iter().map(|reason| (reason, account.reason(*reason)));
        let reasons = reasons.filter(|(_, n)| *n > 0);
        lines.push(Line::Account {
            minute,
            declared: account.declared,
            imported: account.imported,
            counted: account.counted,
            duplicate: account.duplicate,
            reasons: reasons.map(|(reason, n)| (reason.name().to_owned(), n)).collect(),
        });
        let cell = |of: &Dimensions| Cell::new(of, |id| id.own_name().ok_or(())).unwrap();
        engine.cells(minute, &mut |c| {
            lines.push(Line::Cell { minute, cell: cell(&c.dimensions), count: c.count });
        });
        engine.amounts(minute, &mut |row| {
            let (cell, currency) = (cell(&row.dimensions), row.currency);
            lines.push(Line::Amount {
                minute,
                cell,
                amount: row.amount,
                currency,
                micros: row.micros,
            });
        });
    }
    lines.push(Line::End { end: true });
    lines
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_with_too_many_counts_is_compared_in_halves() {
    let Both { engine, archive, files: _, _dir } = both(11, 60).await;
    let (asked, engine) = (Arc::new(AtomicUsize::new(0)), Arc::new(engine));
    let counter = Arc::clone(&asked);
    let cells = move |Query(query): Query<BTreeMap<String, u32>>| async move {
        counter.fetch_add(1, Ordering::Relaxed);
        let range = Minute(query["from"] / 60)..Minute(query["to"] / 60);
        let lines = lines(&engine, &range).into_iter();
        lines.map(|line| serde_json::to_string(&line).unwrap() + "\n").collect::<String>()
    };
    let routes = Router::new().route(CELLS.path, get(cells));
    let compare = async |facts: usize| {
        asked.store(0, Ordering::Relaxed);
        let recount = Recount {
            asked: Asked::Routes(&routes),
            archive: &archive,
            range: ALL,
            patience: Duration::ZERO,
            limits: Limits { facts, ..Limits::NONE },
            is_shown: false,
        };
        (recount.partition(0).await, asked.load(Ordering::Relaxed))
    };
    let (whole, once) = compare(usize::MAX).await;
    let whole = whole.unwrap();
    assert!(once == 1 && whole.differences.is_empty() && whole.facts > 500, "{whole:?}");
    let (parts, often) = compare(usize::try_from(whole.facts / 4).unwrap()).await;
    let parts = parts.unwrap();
    assert!(often > 7 && parts.differences.is_empty(), "{often}: {:?}", parts.differences);
    assert_eq!(parts.facts, whole.facts);
    // A minute cannot be halved.
    let (refused, _) = compare(1).await;
    assert!(refused.unwrap_err().message.contains("has more than 1 counts"));
}
