//! Trims the log: messages go that are older than the retention, saved by their partition, and
//! archived.

use std::sync::Arc;

use eventlog::Log;
use tokio::sync::watch;

use super::{Core, asked};
use crate::store::Stores;

pub(super) async fn run<L: Log, S: Stores>(core: Arc<Core<L, S>>, mut stop: watch::Receiver<bool>) {
    loop {
        let pause = tokio::time::sleep(core.settings.trim_every);
        tokio::select! {
            () = pause => {}
            () = asked(&mut stop) => return,
        }
        trim(&core).await;
    }
}

/// Trims each partition as far as it may be. A partition that has saved nothing since the start, or
/// of which nothing is archived, is not trimmed.
async fn trim<L: Log, S: Stores>(core: &Core<L, S>) {
    let archived = |partition: usize| match &core.archived {
        Some(archived) => archived.borrow().get(partition).copied().unwrap_or(0),
        None => u64::MAX,
    };
    let applied: Vec<(u16, u64)> = {
        let trimmable = core.trimmable.lock();
        let upto = trimmable.iter().enumerate().map(|(at, upto)| upto.map(|n| n.min(archived(at))));
        let upto = (0..).zip(upto.map(|upto| upto.filter(|upto| *upto > 0)));
        upto.filter_map(|(partition, upto)| Some((partition, upto?))).collect()
    };
    if applied.is_empty() {
        return;
    }
    match core.log.trim(&applied).await {
        Ok(0) => {}
        Ok(bytes) => tracing::info!(bytes, "the log was trimmed"),
        Err(error) => tracing::warn!(%error, "the log was not trimmed, it is tried again"),
    }
}
