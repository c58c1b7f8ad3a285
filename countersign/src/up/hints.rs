//! What a person at the terminal sees first: where it listens, with which key, and what to do next.

use crate::admin::{Origin, VARIABLE};
use crate::settings::{Settings, is_default_data};
use crate::terminal::line;

/// Prints them. The first two lines are for machines too, and do not change.
pub(super) fn print(settings: &Settings, edge: &str, api: &str, origin: &Origin, demo: bool) {
    line(format!("edge listening on {edge}"));
    line(format!("api listening on {api}"));
    let data = settings.data.display();
    let export = match origin {
        Origin::Made(key) => {
            line(format!("operator's key (shown this once, only its hash is kept): {key}"));
            Some(key.as_str())
        }
        Origin::Environment => {
            line(format!("operator's key: the one in {VARIABLE}"));
            None
        }
        Origin::Kept => {
            line(format!(
                "operator's key: printed at the first start; lost? remove {data}/admin.key, start \
                 again"
            ));
            Some("KEY")
        }
    };
    line("");
    line("Next:");
    if demo {
        line(format!("  open {api}/demo in a browser: see the ad, click it, watch the count"));
    } else {
        let catalogue = settings.catalogue();
        line(format!(
            "  put ads and placements into {} (read again on change; fields: docs/catalogue.md)",
            catalogue.display()
        ));
    }
    let placement = if demo { "demo-top" } else { "PLACEMENT" };
    line(format!("  curl '{edge}/v1/serve?placement={placement}'"));
    line(
        "    (curl says that it is a program: what it does is counted as `bot`, a browser's clicks count)",
    );
    if let Some(key) = export {
        line(format!("  export {VARIABLE}={key}"));
    }
    line(format!("  countersign import LOG.csv --api {api}"));
    let query = "v1/ads/popular_ads?count=10&window=10";
    line(format!("  curl -H \"Authorization: Bearer ${VARIABLE}\" '{api}/{query}'"));
    line(
        "    (of the last ten whole minutes: this minute's clicks are in it from the next one on)",
    );
    if demo {
        line(format!("  countersign simulate --edge {edge} --api {api} --rate 50 --seconds 10"));
    }
    let name =
        if is_default_data(&settings.data) { String::new() } else { format!(" --data {data}") };
    line(format!("  countersign keys list{name}"));
    line("  Ctrl-C ends it in order; kill -9 loses nothing that was accepted");
    line("");
}
