//! The demo: a catalogue with one advertiser, and a publisher's page that shows its ads. Only with
//! `--demo`; the page and its counts need no key, and show the demo's ads only. With `--sdk` the
//! page uses the SDK, as a publisher's would; without it, plain HTTP requests to the edge.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{Request, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use shared::{Clock as _, Kind, Minute, ambient};
use tower::ServiceExt as _;

use crate::assemble::parts::STARTER;
use crate::data::{Mode, read_if_there, write_file};
use crate::failure::Failure;

/// The demo's catalogue; `{site}` is where the landing page is.
const CATALOGUE: &str = include_str!("demo/catalogue.toml");
/// The demo's page when there is no SDK.
const PAGE: &str = include_str!("demo/page.html");
const SDK_PAGE: &str = include_str!("../../../sdk-js/demo/index.html");
const LANDING: &str = include_str!("demo/landing.html");
/// The demo's ads, as in its catalogue.
const ADS: [&str; 3] = ["demo-red", "demo-green", "demo-blue"];
/// How many minutes the page's counts cover, the current one included.
const MINUTES: u32 = 60;

/// Writes the demo's catalogue if there is none, or one that nobody has changed: the address of the
/// demo's site in it may be another now.
///
/// # Errors
/// When the file cannot be read or written.
pub(super) fn write_catalogue(path: &Path, site: &str) -> Result<(), Failure> {
    let text = demo_catalogue(site);
    match read_if_there(path)? {
        Some(there) if there == text || !is_untouched(&there) => Ok(()),
        _ => write_file(path, text.as_bytes(), Mode::Plain),
    }
}

fn demo_catalogue(site: &str) -> String {
    CATALOGUE.replace("{site}", site)
}

/// Whether a catalogue is the demo's, for whatever address, or the starter, and nobody has changed
/// it.
fn is_untouched(text: &str) -> bool {
    let site = text.lines().find_map(|line| {
        let (_, rest) = line.split_once("url = \"")?;
        rest.split_once("/demo/landing").map(|(site, _)| site)
    });
    text == STARTER || site.is_some_and(|site| text == demo_catalogue(site))
}

/// The SDK's files with their types.
const SDK_FILES: [(&str, &str); 5] = [
    ("countersign.js", "text/javascript; charset=utf-8"),
    ("index.js", "text/javascript; charset=utf-8"),
    ("markup.js", "text/javascript; charset=utf-8"),
    ("core.js", "text/javascript; charset=utf-8"),
    ("core_bg.wasm", "application/wasm"),
];

/// What the demo shows.
#[derive(Debug)]
pub(crate) struct Demo {
    /// The SDK's files by name ([`SDK_FILES`]); without them the page uses HTTP alone.
    sdk: Option<HashMap<&'static str, Bytes>>,
}

struct DemoState {
    page: String,
    answers: Router,
    sdk: HashMap<&'static str, Bytes>,
}

impl Demo {
    /// Reads the SDK's files from a folder, if one is named.
    ///
    /// # Errors
    /// When a file of it cannot be read.
    pub(crate) fn read(sdk: Option<&Path>) -> Result<Self, Failure> {
        let read = |folder: &Path, name: &'static str| match std::fs::read(folder.join(name)) {
            Ok(bytes) => Ok((name, Bytes::from(bytes))),
            Err(error) => Err(Failure::usage(format!(
                "--sdk: {}: {error}; `cargo xtask sdk` makes sdk-js/dist",
                folder.join(name).display()
            ))),
        };
        let files = |folder| SDK_FILES.iter().map(|(name, _)| read(folder, name)).collect();
        Ok(Self { sdk: sdk.map(files).transpose()? })
    }

    /// The demo's routes. `answers` are the aggregator's, which are asked for the counts.
    pub(super) fn router(self, edge: &str, answers: Router) -> Router {
        let page = if self.sdk.is_some() { SDK_PAGE } else { PAGE };
        let page = page.replace("{edge}", edge).replace("{sdk}", "/sdk");
        let state = DemoState { page, answers, sdk: self.sdk.unwrap_or_default() };
        Router::new()
            .route("/", get(|| async { axum::response::Redirect::temporary("/demo") }))
            .route("/demo", get(demo_page))
            .route("/demo/landing", get(|| async { Html(LANDING) }))
            .route("/demo/counts", get(counts))
            .route("/sdk/{file}", get(sdk_file))
            .with_state(Arc::new(state))
    }
}

async fn demo_page(State(state): State<Arc<DemoState>>) -> Html<String> {
    Html(state.page.clone())
}

/// A file of the SDK; any page may take it.
async fn sdk_file(
    State(state): State<Arc<DemoState>>,
    name: axum::extract::Path<String>,
) -> Response {
    let known = SDK_FILES.iter().find(|(known, _)| *known == name.0);
    let file = known.and_then(|(name, kind)| Some((*kind, state.sdk.get(name)?.clone())));
    let Some((kind, bytes)) = file else { return StatusCode::NOT_FOUND.into_response() };
    let fields = [
        (header::CONTENT_TYPE, kind),
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (fields, bytes).into_response()
}

/// The counts of the demo's ads, as `aggregated_count` answers them: by ad, then by kind.
async fn counts(State(state): State<Arc<DemoState>>) -> Response {
    let now = ambient::SystemClock.now().minute();
    let (from, to) = (Minute(now.0.saturating_sub(MINUTES - 1)), Minute(now.0 + 1));
    let range = format!("from={}&to={}", from.start().seconds(), to.start().seconds());
    let mut all = serde_json::Map::new();
    for ad in ADS {
        let mut kinds = serde_json::Map::new();
        for kind in Kind::ALL {
            let uri = format!("{}?{range}&event={kind}", api::routes::AD_COUNT.at(&[&ad]));
            match count(&state.answers, &uri).await {
                Ok(count) => drop(kinds.insert(kind.name().to_owned(), count.into())),
                Err(response) => return response,
            }
        }
        all.insert(ad.to_owned(), kinds.into());
    }
    ([(header::CACHE_CONTROL, "no-store")], axum::Json(all)).into_response()
}

async fn count(answers: &Router, uri: &str) -> Result<u64, Response> {
    let request = Request::builder().uri(uri).body(Body::empty());
    let Ok(request) = request else {
        return Err(StatusCode::INTERNAL_SERVER_ERROR.into_response());
    };
    let response = match answers.clone().oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    if !response.status().is_success() {
        return Err(response);
    }
    let body = axum::body::to_bytes(response.into_body(), 64 << 10).await.unwrap_or_default();
    let answer: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    answer["count"].as_u64().ok_or_else(|| StatusCode::BAD_GATEWAY.into_response())
}

#[cfg(test)]
mod tests {
    use super::*;
    use catalogue::Catalogue;

    #[test]
    fn both_catalogues_are_good() {
        let demo = Catalogue::from_toml(&demo_catalogue("http://127.0.0.1:1")).unwrap();
        let ads: Vec<&str> = demo.ads().iter().map(|ad| ad.id.as_str()).collect();
        assert_eq!(ads, ADS);
        assert!(demo.placement(shared::Name::literal("demo-top")).is_some());
        assert_eq!(Catalogue::from_toml(STARTER).unwrap().ads().len(), 0);
    }

    #[test]
    fn the_starter_s_example_is_good_when_it_is_taken_in() {
        let setting = |line: &&str| line.starts_with('#') && !line.starts_with("# ");
        let lines = STARTER.lines().map(|line| if setting(&line) { &line[1..] } else { line });
        let text = lines.collect::<Vec<_>>().join("\n");
        assert_eq!(Catalogue::from_toml(&text).unwrap().ads().len(), 1);
    }

    #[test]
    fn a_catalogue_that_was_changed_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("catalogue.toml");
        let text = || std::fs::read_to_string(&path).unwrap();
        write_catalogue(&path, "http://127.0.0.1:1").unwrap();
        assert_eq!(text(), demo_catalogue("http://127.0.0.1:1"));
        write_catalogue(&path, "http://127.0.0.1:2").unwrap();
        assert_eq!(text(), demo_catalogue("http://127.0.0.1:2"));
        std::fs::write(&path, STARTER).unwrap();
        write_catalogue(&path, "http://127.0.0.1:2").unwrap();
        assert_eq!(text(), demo_catalogue("http://127.0.0.1:2"));
        let mine = text().replace("weight = 3", "weight = 4");
        std::fs::write(&path, &mine).unwrap();
        write_catalogue(&path, "http://127.0.0.1:3").unwrap();
        assert_eq!(text(), mine);
    }
}
