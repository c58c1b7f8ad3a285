//! The routes of reports.

use super::{
    EVENT, FROM, JSON, Key, Parameter, Role, Route, Shape, TO, UNANSWERED, VALIDITY, maybe, needed,
};

/// The steps of a series.
pub const STEPS: &[&str] = &["minute", "quarter", "hour", "day", "week", "month", "year"];
/// The refusals of questions that read facts.
pub(super) const OF_FACTS: [(u16, &[&str]); 6] = {
    let [one, two, three, four] = UNANSWERED;
    let too_much: (u16, &[&str]) =
        (422, &["no_facts", "too_much_to_read", "too_many_groups", "no_such_sketch"]);
    [one, two, (404, &["unknown_filter"]), too_much, three, four]
};
/// The refusals of what is done with stored filters.
const OF_FILTERS: [(u16, &[&str]); 8] = {
    let [_, two, three, four] = UNANSWERED;
    [
        (400, &["invalid_parameter", "invalid_filter", "body_unreadable"]),
        two,
        (404, &["unknown_filter"]),
        (409, &["filter_exists", "too_many_filters"]),
        (413, &["body_unreadable"]),
        (415, &["body_unreadable"]),
        three,
        four,
    ]
};
/// A filter.
pub(super) const WHERE: Parameter = maybe(
    "where",
    Shape::Text(8_192),
    "which events, such as `country!=US;device=phone,tablet`; all when it is not said",
);
/// A stored filter.
pub(super) const FILTER_ID: Parameter =
    maybe("filter", Shape::Number(1, 4_294_967_295), "the number of a stored filter");
const FORMAT: Parameter = maybe(
    "format",
    Shape::OneOf(&["json", "csv"]),
    "as JSON or as CSV (text/csv, how complete it is in headers); JSON when it is not said",
);
const METRICS: Parameter = maybe(
    "metrics",
    Shape::Text(256),
    "what to tell, with commas: served, impressions, viewable, clicks, click_rate, viewable_rate, \
     spend, ecpm, ecpc, flagged, uniques; all but uniques when it is not said",
);
const SKETCH: Parameter = maybe(
    "sketch",
    Shape::OneOf(&["cpc", "hll"]),
    "a sketch of Apache DataSketches too: cpc, or hll of at most 65 536 visitors",
);
const STEP: Parameter =
    needed("step", Shape::OneOf(STEPS), "how long each point is; a quarter is of an hour");
const ZONE: Parameter =
    maybe("tz", Shape::Text(64), "an IANA time zone, such as Asia/Kathmandu; UTC when not said");
const BY: Parameter = needed(
    "by",
    Shape::Text(256),
    "one to three columns, with commas: country, region, network, device, ad, publisher, \
     placement, campaign, advertiser, reason, event",
);
const GROUPS: Parameter =
    maybe("count", Shape::Number(1, 10_000), "how many groups; 100 when it is not said");

const fn report(
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
        refusals: &OF_FACTS,
    }
}

/// The reports of one kind of thing.
#[derive(Clone, Copy, Debug)]
pub struct Reports {
    /// How many events.
    pub count: Route,
    /// How many different visitors.
    pub uniques: Route,
    /// What happened step by step.
    pub series: Route,
    /// What happened, by some columns.
    pub breakdown: Route,
}

macro_rules! reports {
    ($things:literal, $thing:literal) => {{
        const ID: Parameter = needed("id", Shape::Name, concat!("the ", $thing));
        Reports {
            count: report(
                concat!("/v1/", $things, "/{id}/count"),
                concat!("How many events the ", $thing, " has in a range of minutes"),
                &[ID, FROM, TO, EVENT, VALIDITY, FILTER_ID, WHERE],
                "Count",
            ),
            uniques: report(
                concat!("/v1/", $things, "/{id}/uniques"),
                concat!("How many different visitors the ", $thing, " has in a range of minutes"),
                &[ID, FROM, TO, EVENT, VALIDITY, SKETCH, FILTER_ID, WHERE],
                "Uniques",
            ),
            series: report(
                concat!("/v1/", $things, "/{id}/series"),
                concat!("What happened to the ", $thing, ", step by step"),
                &[ID, FROM, TO, STEP, ZONE, METRICS, FORMAT, FILTER_ID, WHERE],
                "Series",
            ),
            breakdown: report(
                concat!("/v1/", $things, "/{id}/breakdown"),
                concat!("What happened to the ", $thing, ", by country, device, …"),
                &[ID, FROM, TO, BY, EVENT, GROUPS, METRICS, FORMAT, FILTER_ID, WHERE],
                "Breakdown",
            ),
        }
    }};
}

/// The reports of ads.
pub const ADS: Reports = reports!("ads", "ad");
/// The reports of campaigns.
pub const CAMPAIGNS: Reports = reports!("campaigns", "campaign");
/// The reports of advertisers.
pub const ADVERTISERS: Reports = reports!("advertisers", "advertiser");
/// The reports of publishers.
pub const PUBLISHERS: Reports = reports!("publishers", "publisher");
/// The reports of placements.
pub const PLACEMENTS: Reports = reports!("placements", "placement");

/// Where the facts lie.
pub const SEGMENTS: Route = super::question(
    "/v1/segments",
    "The segments of facts that count just now: Parquet files beside the checkpoints",
    &[],
    "Segments",
);

const fn filters(
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    parameters: &'static [Parameter],
    answer: (u16, &'static str, Option<&'static str>),
) -> Route {
    let body: &[&str] = match method.as_bytes() {
        b"POST" | b"PUT" => &[JSON],
        _ => &[],
    };
    let plain = report(path, summary, parameters, "");
    Route { method, body, answer, refusals: &OF_FILTERS, ..plain }
}

const ID_OF_FILTER: Parameter =
    needed("filter_id", Shape::Number(1, 4_294_967_295), "the filter; 0012 and 12 are the same");

/// The stored filters.
pub const FILTERS: Route =
    filters("GET", "/v1/filters", "The stored filters", &[], (200, JSON, Some("StoredFilters")));
/// Makes a stored filter.
pub const MAKE_FILTER: Route = filters(
    "POST",
    "/v1/filters",
    "Stores a filter: {\"name\", \"where\"}, or the row of a table, {\"filter_id\", \"country\", …}",
    &[],
    (201, JSON, Some("StoredFilter")),
);
/// One stored filter.
pub const FILTER: Route = filters(
    "GET",
    "/v1/filters/{filter_id}",
    "A stored filter",
    &[
        ID_OF_FILTER,
        maybe("version", Shape::Number(1, 1_000), "which version; the newest when not said"),
    ],
    (200, JSON, Some("StoredFilter")),
);
/// Changes a stored filter.
pub const CHANGE_FILTER: Route = filters(
    "PUT",
    "/v1/filters/{filter_id}",
    "Writes the next version of a stored filter: {\"name\", \"where\"}, or one of them",
    &[ID_OF_FILTER],
    (200, JSON, Some("StoredFilter")),
);
/// Deletes a stored filter.
pub const DELETE_FILTER: Route = filters(
    "DELETE",
    "/v1/filters/{filter_id}",
    "Deletes a stored filter; its number is never used again",
    &[ID_OF_FILTER],
    (204, JSON, None),
);

/// Many questions at once.
pub const QUERY: Route = Route {
    method: "POST",
    body: &[JSON],
    refusals: &[
        (400, &["invalid_query", "body_unreadable"]),
        (401, &["unauthorized"]),
        (413, &["body_unreadable"]),
        (415, &["body_unreadable"]),
        UNANSWERED[2],
        UNANSWERED[3],
    ],
    ..report(
        "/v1/query",
        "Answers several questions, all of one moment: {\"questions\": [\"/v1/top?of=ads&…\", …]}",
        &[],
        "Answers",
    )
};

/// The refusals of what is done with restatements.
const OF_RESTATEMENTS: [(u16, &[&str]); 9] = {
    let [_, two, _, too_much, three, four] = OF_FACTS;
    [
        (400, &["invalid_parameter", "invalid_restatement", "body_unreadable"]),
        two,
        (404, &["unknown_restatement"]),
        (409, &["restatement_changed", "restatement_taken_back", "too_many_restatements"]),
        (413, &["body_unreadable"]),
        (415, &["body_unreadable"]),
        too_much,
        three,
        four,
    ]
};
/// The restatements.
pub const RESTATEMENTS: Route =
    super::question("/v1/restatements", "Events that were judged again", &[], "Restatements");
/// Judges events again.
pub const RESTATE: Route = Route {
    method: "POST",
    body: &[JSON],
    answer: (201, JSON, Some("Effect")),
    refusals: &OF_RESTATEMENTS,
    ..report(
        "/v1/restatements",
        "Judges counted events again: {\"where\", \"from\", \"to\", \"verdict\", \"why\"}, or {\"takes_back\", \
         \"why\"}. Without the \"confirm\" of a dry run it is one, with status 200",
        &[],
        "Effect",
    )
};
/// What restatements give back.
pub const CREDITS: Route = report(
    "/v1/credits",
    "What campaigns get back because events were judged again",
    &[FROM, TO],
    "Credits",
);

/// What is being counted.
pub const LIVE: Route = Route {
    answer: (200, "text/event-stream", Some("Live")),
    refusals: &[
        (400, &["invalid_parameter"]),
        (401, &["unauthorized"]),
        (500, &["damaged_checkpoint"]),
        (503, &["not_ready", "partition_stopped", "standby", "lease_lost", "busy"]),
    ],
    ..report(
        "/v1/live",
        "What is being counted: an event each second, which has the whole state of the last minutes",
        &[
            maybe("window", Shape::Number(1, 60), "how many minutes; 5 when it is not said"),
            maybe("count", Shape::Number(1, 100), "how many ads; 10 when it is not said"),
            EVENT,
        ],
        "Live",
    )
};

/// The things that have most events.
pub const TOP: Route = report(
    "/v1/top",
    "The ads, campaigns, advertisers, publishers or placements with most events in a range",
    &[
        needed(
            "of",
            Shape::OneOf(&["ads", "campaigns", "advertisers", "publishers", "placements"]),
            "of what",
        ),
        FROM,
        TO,
        GROUPS,
        EVENT,
        VALIDITY,
        FORMAT,
        FILTER_ID,
        WHERE,
    ],
    "Top",
);
