//! Makes the OpenAPI 3.1 document from [`crate::routes`]. It is checked in as `docs/openapi.json`,
//! and a test writes it or compares it, so that no binary has to contain this code.

use serde_json::{Map, Value, json};
use shared::name::NAME_BYTES_MAX;
use shared::problem::{CONTENT_TYPE, Problem};
use utoipa::openapi::{ComponentsBuilder, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::routes::{ALL, Key, Parameter, Role, Route, Shape};
use crate::{answers, export, letters, reconciliations, reports, restatements};

/// The document.
#[must_use]
pub fn document() -> Value {
    let mut paths = Map::new();
    for route in &ALL {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.to_lowercase()] = operation(route);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Countersign",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What a deployment is asked and answers. `up` has all of it at two addresses: the \
                            edge's routes at the edge's, the others at the API's. Errors are problems (RFC 9457): \
                            the name behind `urn:countersign:` is stable, the words are not.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "tags": [
            { "name": "edge", "description": "What pages, mails and visitors ask" },
            { "name": "collector", "description": "What comes in, and what could not be read" },
            { "name": "aggregator", "description": "What was counted" },
        ],
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "securitySchemes": {
                "operator": { "type": "http", "scheme": "bearer", "description": "The operator's key" },
                "signed": {
                    "type": "apiKey", "in": "header", "name": shared::keys::request::FIELD,
                    "description": "An edge's signature over path, body and time, with its issuer's key",
                },
            },
        },
    })
}

fn operation(route: &Route) -> Value {
    let tag = match route.role {
        Role::Edge => "edge",
        Role::Collector => "collector",
        Role::Aggregator => "aggregator",
    };
    let security = match route.key {
        Key::None => json!([]),
        Key::Operator => json!([{ "operator": [] }]),
        Key::OperatorOrSigned => json!([{ "operator": [] }, { "signed": [] }]),
        Key::Signed => json!([{ "signed": [] }]),
    };
    let mut operation = json!({
        "operationId": name_of(route),
        "summary": route.summary,
        "tags": [tag],
        "security": security,
        "parameters": route.parameters.iter().map(|one| parameter(route, one)).collect::<Vec<_>>(),
        "responses": responses(route),
    });
    if !route.body.is_empty() {
        let content: Map<_, _> =
            route.body.iter().map(|media| ((*media).to_owned(), json!({}))).collect();
        operation["requestBody"] = json!({ "content": content });
    }
    operation
}

/// The operation's id: unique, and the same as long as the path is.
fn name_of(route: &Route) -> String {
    let words = route.path.split('/').filter(|word| !word.is_empty() && *word != "v1");
    let words = words.map(|word| word.trim_matches(['{', '}']).replace(['-', '.'], "_"));
    let words: Vec<_> = std::iter::once(route.method.to_lowercase()).chain(words).collect();
    words.join("_")
}

fn parameter(route: &Route, parameter: &Parameter) -> Value {
    let is_in_path = route.path.contains(&format!("{{{}}}", parameter.name));
    let schema = match parameter.shape {
        Shape::Name => json!({
            "type": "string", "minLength": 1, "maxLength": NAME_BYTES_MAX,
            "description": "128 bytes of UTF-8 at most, without a space at either end",
        }),
        Shape::Minute => json!({
            "oneOf": [
                { "type": "integer", "minimum": 0, "multipleOf": 60, "description": "Unix seconds" },
                { "type": "string", "format": "date-time" },
            ],
        }),
        Shape::Number(least, most) => {
            json!({ "type": "integer", "minimum": least, "maximum": most })
        }
        Shape::OneOf(words) => json!({ "type": "string", "enum": words }),
        Shape::Hex(digits) => {
            json!({ "type": "string", "pattern": format!("^[0-9a-f]{{{digits}}}$") })
        }
        Shape::Text(most) => json!({ "type": "string", "minLength": 1, "maxLength": most }),
    };
    json!({
        "name": parameter.name,
        "in": if is_in_path { "path" } else { "query" },
        "required": parameter.is_needed,
        "description": parameter.what,
        "schema": schema,
    })
}

fn responses(route: &Route) -> Value {
    let (status, media, schema) = route.answer;
    let schema = schema.map_or_else(|| json!({}), reference);
    let content = Map::from_iter([(media.to_owned(), json!({ "schema": schema }))]);
    let mut all = Map::new();
    all.insert(status.to_string(), json!({ "description": "All is well", "content": content }));
    for (status, kinds) in route.refusals {
        let mut refusal = json!({
            "description": kinds.iter().map(|kind| format!("`{kind}`")).collect::<Vec<_>>().join(", "),
            "content": { CONTENT_TYPE: { "schema": reference("Problem") } },
        });
        if [429, 503].contains(status) {
            refusal["headers"] = json!({
                "Retry-After": { "description": "In seconds", "schema": { "type": "integer" } },
            });
        }
        all.insert(status.to_string(), refusal);
    }
    all.into()
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// The schemas of all bodies.
fn schemas() -> Value {
    let mut found: Vec<(String, RefOr<Schema>)> = Vec::new();
    macro_rules! add {
        ($($shape:ty),* $(,)?) => {$(
            found.push((<$shape as ToSchema>::name().into_owned(), <$shape as PartialSchema>::schema()));
            <$shape as ToSchema>::schemas(&mut found);
        )*};
    }
    add!(
        answers::Account,
        answers::Archived,
        answers::Counted,
        answers::Edges,
        reports::Segments,
        answers::Imported,
        answers::Popular,
        answers::Source,
        answers::Taken,
        export::Line,
        letters::Letters,
        letters::Resolved,
        letters::ResolvedAll,
        reconciliations::Reconciliation,
        reconciliations::Reconciliations,
        reconciliations::Wanted,
        reports::Breakdown,
        reports::Count,
        reports::Live,
        reports::Series,
        reports::StoredFilter,
        reports::StoredFilters,
        reports::Top,
        reports::Uniques,
        restatements::Answers,
        restatements::Credits,
        restatements::Effect,
        restatements::Restatements,
    );
    let components = ComponentsBuilder::new().schemas_from_iter(found).build();
    let mut all = serde_json::to_value(components).unwrap_or_default()["schemas"].take();
    all["Problem"] = problem();
    all["Ready"] = json!({
        "type": "object", "required": ["status"],
        "properties": {
            "status": { "type": "string", "enum": ["ready", "degraded", "unready"] },
            "reasons": { "type": "array", "items": { "type": "string" } },
        },
    });
    all["Served"] = served();
    all["Results"] = json!({
        "type": "object", "required": ["results"],
        "properties": { "results": {
            "type": "array", "items": { "type": "string" },
            "description": "For each element, in order: `accepted`, `queued`, or why it is rejected",
        } },
    });
    all
}

fn problem() -> Value {
    let example = Problem::new(400, "invalid_parameter", "from: …");
    let text = json!({ "type": "string" });
    json!({
        "type": "object", "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": text, "title": text, "status": { "type": "integer" },
            "detail": { "type": "string", "description": "What was wrong, where, and what to do" },
        },
        "examples": [example],
    })
}

fn served() -> Value {
    let (text, url) = (json!({ "type": "string" }), json!({ "type": "string", "format": "uri" }));
    json!({
        "type": "object",
        "required": [
            "ad", "campaign", "advertiser", "publisher", "placement", "creative", "impression_id", "token",
            "click_url", "beacon_url", "events_url",
        ],
        "properties": {
            "ad": text, "campaign": text, "advertiser": text, "publisher": text, "placement": text,
            "creative": {
                "type": "object", "required": ["width", "height"],
                "properties": {
                    "image": url, "html": text,
                    "width": { "type": "integer" }, "height": { "type": "integer" },
                },
            },
            "impression_id": text, "token": text, "click_url": url, "beacon_url": url, "events_url": url,
        },
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// With `COUNTERSIGN_WRITE_OPENAPI=1` it writes the file.
    #[test]
    fn the_document_that_is_checked_in_is_that_of_the_routes() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
        let text = serde_json::to_string_pretty(&document()).unwrap() + "\n";
        if std::env::var_os("COUNTERSIGN_WRITE_OPENAPI").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let there = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            there == text,
            "docs/openapi.json is not that of the routes: COUNTERSIGN_WRITE_OPENAPI=1"
        );
    }

    #[test]
    fn every_reference_is_there_and_every_name_is_given_once() {
        let document = document();
        let text = document.to_string();
        for reference in text.split("#/components/schemas/").skip(1) {
            let name = reference.split('"').next().unwrap();
            assert!(document["components"]["schemas"][name].is_object(), "{name}");
        }
        let names: BTreeSet<String> = ALL.iter().map(name_of).collect();
        assert_eq!(names.len(), ALL.len());
        for route in ALL {
            let holes = route.path.matches('{').count();
            let is_in_path = |one: &&Parameter| route.path.contains(&format!("{{{}}}", one.name));
            assert_eq!(route.parameters.iter().filter(is_in_path).count(), holes, "{}", route.path);
        }
    }

    #[test]
    fn words_are_those_of_the_shapes() {
        let kinds: Vec<String> = shared::Kind::ALL.iter().map(ToString::to_string).collect();
        assert_eq!(kinds, crate::routes::EVENTS);
        for ready in [
            shared::Ready::Ready,
            shared::Ready::Degraded { reasons: Vec::new() },
            shared::Ready::Unready { reasons: Vec::new() },
        ] {
            let word = serde_json::to_value(&ready).unwrap()["status"].clone();
            let words =
                &document()["components"]["schemas"]["Ready"]["properties"]["status"]["enum"];
            assert!(words.as_array().unwrap().contains(&word), "{word}");
        }
    }
}
