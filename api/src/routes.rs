//! The routes: the path of each, who may ask it, with what parameters, and what it answers. The
//! rooms that answer mount a route by its path here, clients take the path from here, and
//! `docs/openapi.json` is made from these rows.
//!
//! To add a route: a row here and in [`ALL`], its handler in the room that answers, its body in
//! [`crate::answers`].

pub mod reports;

use std::fmt;

use reports::{
    ADS, ADVERTISERS, CAMPAIGNS, CHANGE_FILTER, CREDITS, DELETE_FILTER, FILTER, FILTER_ID, FILTERS,
    LIVE, MAKE_FILTER, OF_FACTS, PLACEMENTS, PUBLISHERS, QUERY, RESTATE, RESTATEMENTS, SEGMENTS,
    TOP, WHERE,
};
use shared::limits::TOKEN_CHARS_MAX;
use shared::text::escaped;

/// A route.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// `GET` or `POST`.
    pub method: &'static str,
    /// The path, with the names of its parameters in braces, as axum and OpenAPI write it.
    pub path: &'static str,
    /// The role that answers. `up` answers the routes of all roles, the edge's at the edge's
    /// address.
    pub role: Role,
    /// Who may ask.
    pub key: Key,
    /// What the route does, in one line.
    pub summary: &'static str,
    /// The parameters in the path and the query.
    pub parameters: &'static [Parameter],
    /// The media types that the request's body may have; empty when there is no body.
    pub body: &'static [&'static str],
    /// The answer when all is well: its status, its media type, and the name of its schema when it
    /// is JSON.
    pub answer: (u16, &'static str, Option<&'static str>),
    /// The problems with which it may refuse: the status, and the kinds of problem with it.
    pub refusals: &'static [(u16, &'static [&'static str])],
}

impl Route {
    /// The path with these values, in their order and percent-encoded, in place of the names in
    /// braces.
    #[must_use]
    pub fn at(&self, parts: &[&dyn fmt::Display]) -> String {
        let mut parts = parts.iter();
        let fill = |word: &str| match word.starts_with('{') {
            true => parts.next().map_or_else(String::new, |part| escaped(&part.to_string())),
            false => word.to_owned(),
        };
        self.path.split('/').map(fill).collect::<Vec<_>>().join("/")
    }

    /// The role that answers a path: that of the route whose fixed beginning is the longest that
    /// the path begins with.
    #[must_use]
    pub fn role_of(path: &str) -> Option<Role> {
        let fixed = |route: &Self| route.path.split('{').next().unwrap_or_default();
        let found = ALL.iter().filter(|route| path.starts_with(fixed(route)));
        found.max_by_key(|route| fixed(route).len()).map(|route| route.role)
    }
}

/// Who answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the roles' names")]
pub enum Role {
    Edge,
    Collector,
    Aggregator,
}

/// Who may ask.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Key {
    /// Everybody: no key is needed.
    None,
    /// `Authorization: Bearer KEY`.
    Operator,
    /// The operator, or an edge that signs the request with its issuer's key.
    OperatorOrSigned,
    /// An edge that signs the request.
    Signed,
}

/// A parameter of a route, in the path or the query.
#[derive(Clone, Copy, Debug)]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// What it may be.
    pub shape: Shape,
    /// Whether it must be there.
    pub is_needed: bool,
    /// What it means.
    pub what: &'static str,
}

/// The values that a parameter may have.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// A name: 1 to 128 bytes of UTF-8 that can be seen.
    Name,
    /// A whole minute: Unix seconds, or RFC 3339.
    Minute,
    /// A whole number from the first to the second, both included.
    Number(u64, u64),
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// So many hexadecimal digits.
    Hex(usize),
    /// Text of at most so many characters.
    Text(usize),
}

const fn needed(name: &'static str, shape: Shape, what: &'static str) -> Parameter {
    Parameter { name, shape, is_needed: true, what }
}

const fn maybe(name: &'static str, shape: Shape, what: &'static str) -> Parameter {
    Parameter { name, shape, is_needed: false, what }
}

/// The kinds of events.
pub const EVENTS: &[&str] = &["served", "impression", "viewable", "click"];
const JSON: &str = "application/json";
const FROM: Parameter = needed("from", Shape::Minute, "the first minute");
const TO: Parameter =
    needed("to", Shape::Minute, "the minute behind the last, at most 400 days later");
const EVENT: Parameter =
    maybe("event", Shape::OneOf(EVENTS), "which events; click when it is not said");
const VALIDITY: Parameter = maybe(
    "validity",
    Shape::OneOf(&["valid", "invalid", "all"]),
    "events that count for money, those that are flagged, or both; valid when it is not said",
);
const SEQUENCE: Parameter = needed("sequence", Shape::Number(1, u64::MAX), "a letter's number");
/// The refusals of every question to an aggregator.
const UNANSWERED: [(u16, &[&str]); 4] = [
    (400, &["invalid_parameter"]),
    (401, &["unauthorized"]),
    (500, &["damaged_checkpoint"]),
    (503, &["not_ready", "partition_stopped", "standby", "lease_lost", "store_unavailable"]),
];
/// The refusals of batches at a collector.
const NOT_TAKEN: [(u16, &[&str]); 8] = [
    (400, &["malformed", "body_unreadable"]),
    (401, &["unauthorized"]),
    (403, &["foreign_edge", "unregistered_edge", "epoch_ahead"]),
    (408, &["body_timeout"]),
    (413, &["body_too_large", "batch_too_large"]),
    (415, &["unsupported_media_type"]),
    (429, &["over_quota", "too_many_dead_letters"]),
    (503, &["log_away", "busy"]),
];
const LETTERS: [(u16, &[&str]); 3] =
    [(400, &["invalid_parameter", "malformed"]), (401, &["unauthorized"]), (503, &["log_away"])];

const fn question(
    path: &'static str,
    summary: &'static str,
    parameters: &'static [Parameter],
    answer: &'static str,
) -> Route {
    Route {
        method: "GET",
        path,
        role: Role::Aggregator,
        key: Key::Operator,
        summary,
        parameters,
        body: &[],
        answer: (200, JSON, Some(answer)),
        refusals: &UNANSWERED,
    }
}

/// How many events an ad has.
pub const AD_COUNT: Route = Route {
    refusals: &OF_FACTS,
    ..question(
        "/v1/ads/{ad_id}/aggregated_count",
        "How many events an ad has in a range of minutes",
        &[needed("ad_id", Shape::Name, "the ad"), FROM, TO, EVENT, VALIDITY, FILTER_ID, WHERE],
        "Counted",
    )
};
/// The same by its short name.
pub const AD_CNT: Route = Route { path: "/v1/ads/{ad_id}/aggregated_cnt", ..AD_COUNT };
/// The ads that have the most events.
pub const POPULAR_ADS: Route = Route {
    refusals: &OF_FACTS,
    ..question(
        "/v1/ads/popular_ads",
        "The ads with most events in the last minutes",
        &[
            maybe("count", Shape::Number(1, 10_000), "how many ads; 100 when it is not said"),
            maybe("window", Shape::Number(1, 576_000), "how many minutes; 1 when it is not said"),
            maybe("at", Shape::Minute, "the minute after the last; this one when it is not said"),
            maybe(
                "running",
                Shape::OneOf(&["true", "false"]),
                "this minute too, as far as it goes",
            ),
            EVENT,
            VALIDITY,
            FILTER_ID,
            WHERE,
        ],
        "Popular",
    )
};
/// What became of what was received.
pub const ACCOUNTING: Route = question(
    "/v1/accounting",
    "What became of everything that was received, and whether it adds up",
    &[FROM, TO, maybe("publisher", Shape::Name, "the pages of this one alone")],
    "Account",
);
/// The edges.
pub const EDGES: Route =
    question("/v1/edges", "The edges, and how far each of their outboxes is counted", &[], "Edges");
/// An imported log.
pub const SOURCE: Route = question(
    "/v1/import/sources/{source}",
    "How far an imported log is counted",
    &[needed("source", Shape::Hex(32), "the log's identity, as `import` prints it")],
    "Source",
);
/// Everything that a partition has counted.
pub const CELLS: Route = Route {
    answer: (200, "application/x-ndjson", Some("Line")),
    ..question(
        "/v1/partitions/{partition}/cells",
        "Everything that a partition has counted in a range, at one position: lines of JSON",
        &[needed("partition", Shape::Number(0, 65_534), "which partition"), FROM, TO],
        "Line",
    )
};
/// Archives what is in a partition's log.
pub const ARCHIVE: Route = Route {
    method: "POST",
    refusals: &[
        (401, &["unauthorized"]),
        (404, &["not_found"]),
        (409, &["archive_halted"]),
        (503, &["not_archived"]),
    ],
    ..question(
        "/v1/archive/{partition}",
        "Archives what is in a partition's log now",
        &[needed("partition", Shape::Number(0, 65_534), "which partition")],
        "Archived",
    )
};
/// The comparisons of archive and counts.
pub const RECONCILIATIONS: Route = question(
    "/v1/reconciliations",
    "The archive, counted again and compared with the counts: what came of it, the newest first",
    &[],
    "Reconciliations",
);
/// One of them.
pub const RECONCILIATION: Route = Route {
    refusals: &[
        (400, &["invalid_parameter"]),
        (401, &["unauthorized"]),
        (404, &["unknown_reconciliation"]),
        (503, &["standby", "lease_lost"]),
    ],
    ..question(
        "/v1/reconciliations/{id}",
        "One comparison of archive and counts",
        &[needed("id", Shape::Number(1, u64::MAX), "its number")],
        "Reconciliation",
    )
};
/// Begins one.
pub const RECONCILE: Route = Route {
    method: "POST",
    body: &[JSON],
    answer: (202, JSON, Some("Reconciliation")),
    refusals: &[
        (400, &["malformed", "invalid_parameter", "body_unreadable"]),
        (401, &["unauthorized"]),
        (409, &["reconciliation_running", "not_final", "no_archive"]),
        (413, &["body_unreadable"]),
        (503, &["not_ready", "partition_stopped", "standby", "lease_lost", "store_unavailable"]),
    ],
    ..question(
        "/v1/reconciliations",
        "Begins to compare archive and counts of some minutes; `Location` says where to look",
        &[],
        "",
    )
};
/// A batch of an edge.
pub const BATCHES: Route = Route {
    method: "POST",
    role: Role::Collector,
    key: Key::OperatorOrSigned,
    body: &["application/vnd.countersign.batch", "application/octet-stream", JSON],
    answer: (202, JSON, Some("Taken")),
    refusals: &NOT_TAKEN,
    ..question("/v1/batches", "Takes a numbered batch of an edge, durably", &[], "Taken")
};
/// A chunk of a log.
pub const IMPORT: Route = Route {
    method: "POST",
    role: Role::Collector,
    body: &[JSON],
    refusals: &[
        (400, &["malformed", "invalid_parameter", "body_unreadable"]),
        (401, &["unauthorized"]),
        (408, &["body_timeout"]),
        (409, &["import_taken_over"]),
        (413, &["body_too_large", "batch_too_large"]),
        (415, &["unsupported_media_type"]),
        (503, &["log_away", "busy", "import_busy"]),
    ],
    ..question(
        "/v1/import",
        "Takes a chunk of a log, durably; sent again it counts nothing twice",
        &[
            maybe("run", Shape::Text(64), "an importer's run, in letters and digits"),
            maybe("end", Shape::OneOf(&["true"]), "nothing more of this run comes"),
        ],
        "Imported",
    )
};
/// The dead letters: what could not be decoded.
pub const DEAD_LETTERS: Route = Route {
    role: Role::Collector,
    refusals: &LETTERS,
    answer: (200, JSON, Some("Letters")),
    ..question(
        "/v1/deadletters",
        "What a collector could not decode, oldest first",
        &[
            maybe("after", Shape::Number(0, u64::MAX), "those behind this number"),
            maybe("limit", Shape::Number(1, 1_000), "how many; 1000 when it is not said"),
            maybe("sender", Shape::Text(64), "`operator`, `issuer:NAME`, `edge:NAME` or `unknown`"),
        ],
        "",
    )
};
/// One dead letter.
pub const DEAD_LETTER: Route = Route {
    role: Role::Collector,
    refusals: &[(401, &["unauthorized"]), (404, &["not_found"]), (503, &["log_away"])],
    answer: (200, "application/octet-stream", None),
    ..question("/v1/deadletters/{sequence}", "One letter, as it came", &[SEQUENCE], "")
};
/// Notes that a dead letter was looked at.
pub const RESOLVE: Route = Route {
    method: "POST",
    role: Role::Collector,
    body: &[JSON],
    refusals: &[
        (400, &["malformed"]),
        (401, &["unauthorized"]),
        (403, &["foreign_edge"]),
        (404, &["not_found"]),
        (503, &["log_away"]),
    ],
    answer: (200, JSON, Some("Resolved")),
    ..question(
        "/v1/deadletters/{sequence}/resolve",
        "A letter was looked at: its batch is waited for no more",
        &[SEQUENCE],
        "",
    )
};
/// Notes that all dead letters of a sender were looked at.
pub const RESOLVE_ALL: Route = Route {
    method: "POST",
    role: Role::Collector,
    body: &[JSON],
    refusals: &LETTERS,
    answer: (200, JSON, Some("ResolvedAll")),
    ..question(
        "/v1/deadletters/resolve",
        "The same of each letter of a sender",
        &[
            needed(
                "sender",
                Shape::Text(64),
                "`operator`, `issuer:NAME`, `edge:NAME` or `unknown`",
            ),
            maybe("after", Shape::Number(0, u64::MAX), "those behind this number"),
            maybe("until", Shape::Number(0, u64::MAX), "and up to this one"),
        ],
        "",
    )
};
/// Keys and catalogue, for edges elsewhere.
pub const EDGE_POLICY: Route = Route {
    role: Role::Collector,
    key: Key::Signed,
    answer: (200, JSON, None),
    refusals: &[(401, &["unauthorized"]), (503, &["keys_unseen", "catalogue_unreadable"])],
    ..question("/v1/edge/policy", "Keys and catalogue, for an edge elsewhere", &[], "")
};
/// Whether a process takes work.
pub const READY: Route = Route {
    key: Key::None,
    refusals: &[],
    ..question(
        shared::Ready::PATH,
        "Whether this process takes work; every role has it",
        &[],
        "Ready",
    )
};

/// The OpenAPI document of these routes.
pub const OPENAPI: Route = Route {
    key: Key::None,
    refusals: &[],
    answer: (200, JSON, None),
    ..question("/v1/openapi.json", "This document; every role has it", &[], "")
};

const fn visit(
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    parameters: &'static [Parameter],
    answer: (u16, &'static str, Option<&'static str>),
    refusals: &'static [(u16, &'static [&'static str])],
) -> Route {
    let (role, key, body): (_, _, &[&str]) = (Role::Edge, Key::None, &[]);
    Route { method, path, role, key, summary, parameters, body, answer, refusals }
}

const TOKEN: Parameter =
    needed("token", Shape::Text(TOKEN_CHARS_MAX), "a token that we have signed");
const FLAG: Shape = Shape::OneOf(&["0", "1"]);
/// An ad for a placement.
pub const SERVE: Route = visit(
    "GET",
    "/v1/serve",
    "An ad for a placement, signed; 204 where it has none",
    &[
        needed("placement", Shape::Name, "which placement"),
        maybe("test", Shape::OneOf(&["1"]), "a token of which nothing is counted"),
        maybe("consent", FLAG, "whether the visitor allows that something is stored and compared"),
        maybe("gdpr", FLAG, "whether the GDPR applies"),
        maybe("gdpr_consent", Shape::Text(13_000), "a TCF string"),
        maybe("gpp", Shape::Text(13_000), "a GPP string"),
        maybe("gpp_sid", Shape::Text(64), "which of its sections apply"),
    ],
    (200, JSON, Some("Served")),
    &[
        (
            400,
            &[
                "placement_missing",
                "placement_malformed",
                "parameter_repeated",
                "consent_malformed",
                "test_malformed",
            ],
        ),
        (404, &["unknown_placement"]),
        (429, &["too_many_requests"]),
        (503, &["outbox_full", "no_signing_key", "no_ids", "clock_wrong", "policy_too_old"]),
    ],
);
/// Events that a page tells.
pub const EVENTS_OF_PAGES: Route = Route {
    body: &[JSON, "text/plain"],
    ..visit(
        "POST",
        "/v1/events",
        "Takes impressions, viewable impressions and clicks, durably",
        &[
            maybe("page", Shape::Text(64), "a page view's own name"),
            maybe("seq", Shape::Number(0, u32::MAX as u64), "how many events it has made so far"),
        ],
        (202, JSON, Some("Results")),
        &[
            (400, &["malformed_body", "body_unreadable"]),
            (408, &["body_timeout"]),
            (413, &["body_too_large"]),
            (415, &["unsupported_media_type"]),
            (429, &["too_many_requests"]),
            (503, &["busy", "outbox_full"]),
        ],
    )
};
/// The pixel.
pub const PIXEL: Route = visit(
    "GET",
    "/v1/i/{token}",
    "An impression, as a picture",
    &[TOKEN],
    (200, "image/gif", None),
    &[],
);
/// The click.
pub const CLICK: Route = visit(
    "GET",
    "/v1/c/{token}",
    "A click: leads to the ad's page",
    &[TOKEN],
    (302, "text/plain", None),
    &[],
);

/// All routes.
pub const ALL: [Route; 56] = [
    SERVE,
    EVENTS_OF_PAGES,
    PIXEL,
    CLICK,
    AD_COUNT,
    AD_CNT,
    POPULAR_ADS,
    ADS.count,
    ADS.uniques,
    ADS.series,
    ADS.breakdown,
    CAMPAIGNS.count,
    CAMPAIGNS.uniques,
    CAMPAIGNS.series,
    CAMPAIGNS.breakdown,
    ADVERTISERS.count,
    ADVERTISERS.uniques,
    ADVERTISERS.series,
    ADVERTISERS.breakdown,
    PUBLISHERS.count,
    PUBLISHERS.uniques,
    PUBLISHERS.series,
    PUBLISHERS.breakdown,
    PLACEMENTS.count,
    PLACEMENTS.uniques,
    PLACEMENTS.series,
    PLACEMENTS.breakdown,
    TOP,
    SEGMENTS,
    FILTERS,
    MAKE_FILTER,
    FILTER,
    CHANGE_FILTER,
    DELETE_FILTER,
    QUERY,
    RESTATEMENTS,
    RESTATE,
    CREDITS,
    LIVE,
    ACCOUNTING,
    EDGES,
    SOURCE,
    CELLS,
    ARCHIVE,
    RECONCILIATIONS,
    RECONCILIATION,
    RECONCILE,
    BATCHES,
    IMPORT,
    DEAD_LETTERS,
    DEAD_LETTER,
    RESOLVE,
    RESOLVE_ALL,
    EDGE_POLICY,
    READY,
    OPENAPI,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_filled_in_their_order_and_paths_have_a_role() {
        assert_eq!(AD_COUNT.at(&[&"shoes-1"]), "/v1/ads/shoes-1/aggregated_count");
        assert_eq!(RESOLVE.at(&[&7]), "/v1/deadletters/7/resolve");
        for (path, role) in [
            ("/v1/import", Some(Role::Collector)),
            ("/v1/import/sources/ab", Some(Role::Aggregator)),
            ("/v1/edges", Some(Role::Aggregator)),
            ("/v1/edge/policy", Some(Role::Collector)),
            ("/v1/deadletters/7/resolve", Some(Role::Collector)),
            ("/v1/c/token", Some(Role::Edge)),
            ("/v2", None),
        ] {
            assert_eq!(Route::role_of(path), role, "{path}");
        }
    }
}
