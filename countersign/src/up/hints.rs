//! Prints what a person at the terminal sees first: where the process listens, with which key, and
//! what to do next.

use std::path::PathBuf;

use crate::admin::{Origin, VARIABLE};
use crate::settings::{Settings, is_default_data};
use crate::terminal::line;

/// Prints the hints. Machines read the first two lines too, so these do not change.
///
/// `demo` is `Some` when the demo's page is served, and true when the catalogue has its ads: a
/// catalogue that was there before stays, and may not.
pub(super) fn print(
    settings: &Settings,
    edge: &str,
    api: &str,
    origin: &Origin,
    demo: Option<bool>,
) {
    let (has_pages, demo) = (demo.is_some(), demo == Some(true));
    line(format!("edge listening on {edge}"));
    line(format!("api listening on {api}"));
    let (data, program) = (settings.data.display(), program());
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
        if has_pages {
            line(
                "  (--demo leaves the catalogue as it is that was there: it has no placement demo-top to show)",
            );
        }
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
    line(format!("  {program} import LOG.csv --api {api}"));
    let query = "v1/ads/popular_ads?count=10&window=10&running=true";
    line(format!("  curl -H \"Authorization: Bearer ${VARIABLE}\" '{api}/{query}'"));
    line("    (clicks of the last ten minutes, this one too)");
    if demo {
        line(format!("  {program} simulate --edge {edge} --api {api} --rate 50 --seconds 10"));
    }
    let name = match is_default_data(&settings.data) {
        true => String::new(),
        false => format!(" --data {}", quoted(&data.to_string())),
    };
    line(format!("  {program} keys list{name}"));
    line("  Ctrl-C ends it in order; kill -9 loses nothing that was accepted");
    line("");
}

/// The program as it was called, so that the printed commands work where they are printed.
fn program() -> String {
    let called = std::env::args_os().next().map(PathBuf::from);
    let called = called.filter(|path| !path.as_os_str().is_empty());
    called.map_or_else(|| "countersign".to_owned(), |path| quoted(&path.display().to_string()))
}

/// A word, quoted for a shell when it must be.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:=@%".contains(c);
    match word.chars().all(is_plain) && !word.is_empty() {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}
