//! How many descriptors the process may have, and how connections share them.

use edge::native::doors::DoorSettings;
use rustix::process::{Resource, getrlimit};

use crate::settings::Settings;

/// Descriptors for files of the log, the outbox, the state and the archive, and for connections that the
/// process makes; a quarter where there are few.
const KEPT: u64 = 1_024;

/// The most connections at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConnectionLimits {
    /// Of the edge.
    pub(crate) edge: usize,
    /// Of the API.
    pub(crate) api: usize,
}

impl ConnectionLimits {
    /// As the settings say, or fewer, where the process has not so many descriptors.
    pub(crate) fn from_settings(settings: &Settings) -> Self {
        let wanted =
            Self { edge: settings.edge.connections_max, api: settings.api.connections_max };
        wanted.within(getrlimit(Resource::Nofile).current)
    }

    /// The API has at most a quarter of what is free for connections: what it is asked for can wait, and
    /// a visitor cannot.
    fn within(self, limit: Option<u64>) -> Self {
        let Some(limit) = limit else { return self };
        let free = limit - KEPT.min(limit / 4);
        let free = usize::try_from(free).unwrap_or(usize::MAX);
        let api = self.api.min(free / 4).max(1);
        // An edge without any place is refused elsewhere: that is a setting.
        let edge = self.edge.min((free - api.min(free)).max(1));
        Self { edge, api }
    }

    /// Tells what was chosen.
    pub(crate) fn tell(self, settings: &Settings) {
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let Self { edge, api } = self;
        tracing::info!(descriptors, edge, api, "so many connections may be open at once");
        if edge < settings.edge.connections_max || api < settings.api.connections_max {
            tracing::warn!(
                "fewer connections than edge.connections_max and api.connections_max say: allow more \
                 open files (ulimit -n, LimitNOFILE=)"
            );
        }
    }

    /// The API's doors: one network has at most a quarter.
    pub(crate) fn api_doors(self) -> DoorSettings {
        DoorSettings {
            connections_max: self.api,
            network_max: self.api.div_ceil(4),
            exempt: edge::address::Range::LOOPBACK.to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_edge_has_what_the_api_may_not_take() {
        let wanted = ConnectionLimits { edge: 4_096, api: 1_024 };
        for (limit, edge, api) in [
            (None, 4_096, 1_024),
            (Some(1 << 20), 4_096, 1_024),
            // 1 024 are kept, and the API has a quarter of the rest.
            (Some(4_096), 2_304, 768),
            (Some(1_024), 576, 192),
            (Some(256), 144, 48),
            (Some(4), 2, 1),
            (Some(0), 1, 1),
        ] {
            assert_eq!(wanted.within(limit), ConnectionLimits { edge, api }, "{limit:?}");
        }
        let more = ConnectionLimits { edge: 1_000_000, api: 1_000_000 }.within(Some(100_000));
        assert_eq!(more, ConnectionLimits { edge: 74_232, api: 24_744 });
    }
}
