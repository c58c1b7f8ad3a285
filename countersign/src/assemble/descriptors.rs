//! How many file descriptors the process may have, and how the edge's and the API's connections
//! share them.

use edge::native::doors::DoorSettings;
use rustix::process::{Resource, getrlimit};

use crate::settings::Settings;

/// Descriptors that are kept back for the files of the log, the outbox, the state and the archive,
/// and for connections that the process opens itself; at most a quarter of all.
const KEPT: u64 = 1_024;

/// The most connections that may be open at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConnectionLimits {
    /// Of the edge.
    pub(crate) edge: usize,
    /// Of the API.
    pub(crate) api: usize,
}

impl ConnectionLimits {
    /// What the settings ask for, or less when the process may not open so many descriptors.
    pub(crate) fn from_settings(settings: &Settings) -> Self {
        let wanted =
            Self { edge: settings.edge.connections_max, api: settings.api.connections_max };
        wanted.within(getrlimit(Resource::Nofile).current)
    }

    /// Fits the limits to so many descriptors. The API gets at most a quarter of those that are
    /// free for connections: an operator's request can wait, a visitor's cannot.
    fn within(self, limit: Option<u64>) -> Self {
        let Some(limit) = limit else { return self };
        let free = limit - KEPT.min(limit / 4);
        let free = usize::try_from(free).unwrap_or(usize::MAX);
        let api = self.api.min(free / 4).max(1);
        // At least one: a setting of 0 is refused when the settings are read.
        let edge = self.edge.min((free - api.min(free)).max(1));
        Self { edge, api }
    }

    /// Logs the limits, and warns when they are lower than the settings.
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

    /// How the API admits connections: one network gets at most a quarter of them.
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
