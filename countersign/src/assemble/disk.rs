//! Warns of little room on the data directory's disk before there is none.
//!
//! On a full disk nothing is lost and the process does not stop: the outbox refuses beacons and new
//! ads (503), redirects go on and are tallied, the log's appends are tried again, a checkpoint
//! waits. Everything resumes by itself when there is room again.

use std::path::PathBuf;
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Measures a file system, and warns when there is little room on it.
pub(crate) struct Disk {
    dir: PathBuf,
    alarm: Alarm,
    free: Gauge,
    total: Gauge,
    low: Gauge,
    degraded: watch::Sender<Option<String>>,
}

/// Bytes of a file system.
struct Room {
    /// Bytes that this process may still write.
    free: u64,
    total: u64,
}

impl Disk {
    /// Watches the file system of `dir`. The alarm is on below `warn_free_bytes`; 0 turns it off.
    pub(crate) fn new(dir: PathBuf, warn_free_bytes: u64, registry: &mut Registry) -> Self {
        let disk = Self {
            dir,
            alarm: Alarm { least: warn_free_bytes, on: false },
            free: Gauge::default(),
            total: Gauge::default(),
            low: Gauge::default(),
            degraded: watch::Sender::new(None),
        };
        let r = registry.sub_registry_with_prefix("countersign_disk");
        let help = "Room left on the data directory's disk";
        r.register_with_unit("free", help, Unit::Bytes, disk.free.clone());
        let help = "Size of the data directory's disk";
        r.register_with_unit("total", help, Unit::Bytes, disk.total.clone());
        let help = "1 while less than disk.warn_free_bytes is left";
        r.register("low", help, disk.low.clone());
        disk
    }

    /// Why this process works, but not as it should; `None` when all is well.
    pub(crate) fn degraded(&self) -> watch::Receiver<Option<String>> {
        self.degraded.subscribe()
    }

    /// Measures every [`LOOK_EVERY`], until the task is ended.
    pub(crate) async fn watch(mut self) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let dir = self.dir.clone();
            // A file system that does not answer holds up this task alone.
            match tokio::task::spawn_blocking(move || room(&dir)).await {
                Ok(Ok(room)) => self.show(&room),
                Ok(Err(error)) => {
                    tracing::debug!(%error, "the disk's room cannot be asked for");
                }
                // The runtime is going down.
                Err(_) => return,
            }
        }
    }

    fn show(&mut self, room: &Room) {
        let gauge = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.free.set(gauge(room.free));
        self.total.set(gauge(room.total));
        let (dir, free) = (self.dir.display(), room.free);
        match self.alarm.look(free) {
            None => {}
            Some(true) => tracing::warn!(
                free_bytes = free,
                total_bytes = room.total,
                "there is little room left on the disk of {dir}: make room or take a larger disk; \
                 when it is full, beacons and new ads are refused (503), redirects go on and are \
                 only tallied, and counting waits"
            ),
            Some(false) => {
                tracing::info!(free_bytes = free, "there is room again on the disk of {dir}");
            }
        }
        self.low.set(i64::from(self.alarm.on));
        let why = format!("disk_low: {free} bytes are left; make room or take a larger disk");
        self.degraded.send_replace(self.alarm.on.then_some(why));
    }
}

fn room(dir: &std::path::Path) -> std::io::Result<Room> {
    let stat = rustix::fs::statvfs(dir)?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Ok(Room { free: bytes(stat.f_bavail), total: bytes(stat.f_blocks) })
}

/// On below `least` bytes, and off again only an eighth above them, so that it does not flutter.
struct Alarm {
    least: u64,
    on: bool,
}

impl Alarm {
    /// Takes a measurement; `Some` is the new state when it has changed.
    fn look(&mut self, free: u64) -> Option<bool> {
        let on = match self.on {
            false => free < self.least,
            true => free < self.least.saturating_add(self.least / 8),
        };
        (std::mem::replace(&mut self.on, on) != on).then_some(on)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alarm_does_not_flutter() {
        let mut alarm = Alarm { least: 800, on: false };
        let looks = [900, 800, 799, 800, 899, 0, 900, 800].map(|free| alarm.look(free));
        assert_eq!(
            looks,
            [None, None, Some(true), None, None, None, Some(false), None],
            "on at 799, off at 900"
        );
        let mut never = Alarm { least: 0, on: false };
        assert_eq!(never.look(0), None);
    }

    #[test]
    fn the_room_of_a_directory_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let room = room(dir.path()).unwrap();
        assert!(room.free <= room.total && room.total > 0);
        assert!(super::room(&dir.path().join("none")).is_err());
    }
}
