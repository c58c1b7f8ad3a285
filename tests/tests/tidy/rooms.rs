//! Rules about rooms: who may depend on whom, and on what.

use std::process::Command;

use crate::tree::{File, Tree, root};

/// Each room, and the rooms that it may depend on. What two rooms need belongs in one to their left.
const ARROWS: [(&str, &[&str]); 12] = [
    ("shared", &[]),
    ("api", &["shared"]),
    ("catalogue", &["shared"]),
    ("eventlog", &["shared"]),
    ("sdk-js", &["shared"]),
    ("edge", &["shared", "catalogue", "eventlog"]),
    ("collector", &["shared", "api", "eventlog"]),
    ("archive", &["shared", "eventlog"]),
    ("aggregator", &["shared", "api", "eventlog"]),
    (
        "countersign",
        &["shared", "api", "catalogue", "eventlog", "edge", "collector", "archive", "aggregator"],
    ),
    (
        "tests",
        &["shared", "api", "catalogue", "eventlog", "edge", "collector", "archive", "aggregator"],
    ),
    ("xtask", &[]),
];

/// Crates that no room may depend on directly, and what to use instead.
const UNWANTED: [(&str, &str); 5] = [
    ("chrono", "jiff"),
    ("time", "jiff"),
    ("rand", "shared::Random"),
    ("fastrand", "shared::Random"),
    ("lazy_static", "std::sync::LazyLock"),
];

/// Exceptions: the clock of SlateDB's databases has to name a type of `chrono`.
const WANTED: [(&str, &str); 1] = [("aggregator", "chrono")];

/// A room with all that its manifest depends on, dev-dependencies included.
pub(crate) struct Package {
    name: String,
    dependencies: Vec<String>,
}

/// The workspace's members as cargo reads them: renamed and target-gated dependencies too.
pub(crate) fn packages() -> Vec<Package> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(root()).args([
        "metadata",
        "--no-deps",
        "--offline",
        "--format-version",
        "1",
    ]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages
        .map(|package| Package {
            name: text(&package["name"]),
            dependencies: package["dependencies"]
                .as_array()
                .unwrap()
                .iter()
                .map(|dependency| text(&dependency["name"]))
                .collect(),
        })
        .collect()
}

pub(crate) fn arrows(packages: &[Package]) -> Vec<String> {
    let rooms: Vec<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    let mut breaches = Vec::new();
    for Package { name, dependencies } in packages {
        let Some((_, allowed)) = ARROWS.iter().find(|(room, _)| room == name) else {
            breaches.push(format!("{name} has no place in the list of arrows"));
            continue;
        };
        for dependency in dependencies.iter().map(String::as_str) {
            if rooms.contains(&dependency) && !allowed.contains(&dependency) {
                breaches.push(format!("{name} must not depend on {dependency}"));
            }
            if let Some((_, instead)) =
                UNWANTED.iter().find(|(unwanted, _)| *unwanted == dependency)
                && !WANTED.iter().any(|(room, wanted)| room == name && *wanted == dependency)
            {
                breaches.push(format!("{name} depends on {dependency}: use {instead}"));
            }
        }
    }
    breaches
}

/// Crates that do I/O, threads or ambient state.
const PLATFORM_CRATES: [&str; 13] = [
    "tokio",
    "axum",
    "tower",
    "hyper",
    "reqwest",
    "slatedb",
    "object_store",
    "rayon",
    "moka",
    "getrandom",
    "tracing_subscriber",
    "prometheus_client",
    "figment",
];
/// Parts of `std` that reach the machine. The addresses of `std::net` are mere values.
const PLATFORM_STD: [&str; 4] = ["fs", "env", "process", "thread"];
const PLATFORM_TYPES: [&str; 5] =
    ["TcpListener", "TcpStream", "UdpSocket", "ToSocketAddrs", "ambient"];

/// The files that must be pure: values in, values out.
fn pure_files(tree: &Tree) -> Vec<&File> {
    let rims: Vec<_> = ["edge", "catalogue"].iter().flat_map(|room| rims(tree, room)).collect();
    let mut files: Vec<&File> = Vec::new();
    let not_ambient =
        |file: &&File| !["shared/src/ambient.rs", "shared/src/lib.rs"].contains(&&*file.path);
    files.extend(tree.rust("shared/src/").filter(not_ambient));
    let is_rim = |file: &&File| {
        rims.iter().any(|rim| {
            let rest = file.path.strip_prefix(rim.as_str());
            rest.is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
        })
    };
    for room in ["edge/src/", "catalogue/src/"] {
        files.extend(tree.rust(room).filter(|file| !is_rim(file)));
    }
    let not_rim = |file: &&File| file.path != "sdk-js/src/rim.rs";
    files.extend(tree.rust("sdk-js/src/").filter(not_rim));
    for (room, modules) in [
        ("eventlog/src/", &["position"][..]),
        ("collector/src/", &["judge", "coalesce"]),
        ("archive/src/", &["columns", "records"]),
        ("aggregator/src/", &["count"]),
        ("api/src/", &["routes", "answers", "export"]),
    ] {
        let is_one = |file: &&File| {
            let path = file.path.strip_prefix(room).unwrap_or_default();
            let rests = modules.iter().filter_map(|module| path.strip_prefix(module));
            rests.into_iter().any(|rest| rest == ".rs" || rest.starts_with('/'))
        };
        files.extend(tree.rust(room).filter(is_one));
    }
    files.retain(|file| !file.is_test());
    files
}

/// The modules of a room that are compiled into one shell alone, or for tests, as paths without
/// `.rs`; all others are pure.
fn rims(tree: &Tree, room: &str) -> Vec<String> {
    let mut rims = Vec::new();
    for file in tree.rust(&format!("{room}/src/")) {
        let module = file.path.trim_end_matches(".rs");
        let folder =
            ["lib", "mod"].iter().find_map(|name| module.strip_suffix(&format!("/{name}")));
        let lines: Vec<&str> = file.text.lines().map(str::trim).collect();
        let gates =
            [r#"feature = "native""#, r#"feature = "testing""#, r#"target_arch = "wasm32""#]
                .map(|gate| format!("#[cfg({gate})]"));
        let gated = lines.windows(2).filter(|pair| gates.iter().any(|gate| gate == pair[0]));
        let names = gated.filter_map(|pair| pair[1].strip_suffix(';')?.rsplit_once("mod "));
        rims.extend(names.map(|(_, name)| format!("{}/{name}", folder.unwrap_or(module))));
    }
    rims
}

pub(crate) fn pure(tree: &Tree) -> Vec<String> {
    let mut breaches = Vec::new();
    for file in pure_files(tree) {
        for (number, line) in file.code() {
            if let Some(word) = platform_word(line) {
                breaches.push(format!("{}:{number}: {word}", file.path));
            }
        }
    }
    breaches
}

fn platform_word(line: &str) -> Option<&'static str> {
    let words: Vec<&str> =
        line.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|w| !w.is_empty()).collect();
    let path =
        |name: &str| line.contains(&format!("{name}::")) || line.trim() == format!("use {name};");
    let named = |name: &&&str| words.contains(*name);
    let from_std = |name: &&&str| {
        line.contains(&format!("std::{name}")) || (line.contains("std::{") && words.contains(*name))
    };
    let crates = PLATFORM_CRATES.iter().filter(named).find(|name| path(name));
    let std = PLATFORM_STD.iter().filter(named).find(from_std);
    crates.or(std).or_else(|| PLATFORM_TYPES.iter().find(named)).copied()
}

pub(crate) fn manifests(tree: &Tree) -> Vec<String> {
    let mut breaches = Vec::new();
    let members = tree.files.iter().filter(|f| f.path.ends_with("/Cargo.toml"));
    for file in members {
        let manifest: toml::Table = match file.text.parse() {
            Ok(manifest) => manifest,
            Err(error) => {
                breaches.push(format!("{}: {error}", file.path));
                continue;
            }
        };
        let lints = manifest.get("lints").and_then(|lints| lints.get("workspace"));
        if lints.and_then(toml::Value::as_bool) != Some(true) {
            breaches.push(format!("{}: no `[lints] workspace = true`", file.path));
        }
        let targets = manifest.get("target").and_then(toml::Value::as_table);
        let gated =
            targets.into_iter().flat_map(toml::Table::values).filter_map(toml::Value::as_table);
        for table in gated.chain([&manifest]) {
            for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
                let Some(dependencies) = table.get(kind).and_then(toml::Value::as_table) else {
                    continue;
                };
                for (name, dependency) in dependencies {
                    let shared = dependency.get("workspace").and_then(toml::Value::as_bool);
                    if shared != Some(true) {
                        breaches.push(format!("{}: {name} has a version of its own", file.path));
                    }
                }
            }
        }
    }
    breaches
}

/// The ban on clocks and randomness may be set aside only in one file, in tests and in xtask.
pub(crate) fn ambient(tree: &Tree) -> Vec<String> {
    let mut breaches = Vec::new();
    for file in tree.files.iter().filter(|file| file.has_extension(&["rs"]) && !file.is_test()) {
        if ["shared/src/ambient.rs", "xtask/src/main.rs"].contains(&&*file.path) {
            continue;
        }
        for (number, line) in file.code() {
            if line.contains("disallowed_methods") || line.contains("clippy::all") {
                breaches.push(format!("{}:{number}: {}", file.path, line.trim()));
            }
        }
    }
    breaches
}

pub(crate) fn readme(tree: &Tree) -> Vec<String> {
    let readme = tree.get("README.md").map_or("", |file| &file.text);
    let rooms = tree.files.iter().filter_map(|file| file.path.strip_suffix("/Cargo.toml"));
    let mut breaches: Vec<String> = rooms
        .map(|room| format!("{room}/"))
        .filter(|room| !readme.contains(room.as_str()))
        .map(|room| format!("{room} is not in the code map"))
        .collect();
    for command in ["cargo xtask up", "cargo xtask test"] {
        if !readme.contains(command) {
            breaches.push(format!("`{command}` is not named"));
        }
    }
    breaches
}

#[cfg(test)]
mod can_fail {
    use super::*;

    fn package(name: &str, dependencies: &[&str]) -> Package {
        let dependencies = dependencies.iter().map(|&name| name.to_owned()).collect();
        Package { name: name.to_owned(), dependencies }
    }

    #[test]
    fn an_arrow_the_wrong_way() {
        let good = [package("shared", &["serde"]), package("edge", &["shared", "tokio"])];
        assert_eq!(arrows(&good), [""; 0]);
        let bad = [package("shared", &["edge"]), package("edge", &["rand"]), package("attic", &[])];
        assert_eq!(
            arrows(&bad),
            [
                "shared must not depend on edge",
                "edge depends on rand: use shared::Random",
                "attic has no place in the list of arrows",
            ]
        );
    }

    #[test]
    fn a_platform_crate_in_the_core() {
        let lib = "pub mod handle;\n#[cfg(feature = \"native\")]\npub mod native;\n";
        let platform = "use tokio::time;\n";
        let tree = Tree::from_files(&[
            ("edge/src/lib.rs", lib),
            ("edge/src/handle.rs", "use std::net::IpAddr;\n// tokio::spawn\nuse std::{env, io};"),
            ("edge/src/handle/tests.rs", platform),
            ("edge/src/native/rim.rs", platform),
            ("edge/src/native.rs", platform),
            ("edge/src/outbox.rs", "#[cfg(feature = \"native\")]\nmod drain;\nmod seal;\n"),
            ("edge/src/outbox/drain.rs", platform),
            ("edge/src/outbox/seal.rs", platform),
            ("shared/src/ambient.rs", "use getrandom::fill;"),
            ("shared/src/id.rs", "let now = crate::ambient::SystemClock;"),
            ("collector/src/judge.rs", "    std::fs::read(path);"),
            ("collector/src/gateway.rs", platform),
            ("aggregator/src/count/dedup.rs", "fn f(s: TcpStream) {}\nlet environment = 1;"),
            ("aggregator/src/store.rs", platform),
        ]);
        assert_eq!(
            pure(&tree),
            [
                "shared/src/id.rs:1: ambient",
                "edge/src/handle.rs:3: env",
                "edge/src/outbox/seal.rs:1: tokio",
                "collector/src/judge.rs:1: fs",
                "aggregator/src/count/dedup.rs:1: TcpStream",
            ]
        );
    }

    #[test]
    fn a_manifest_of_its_own_mind() {
        let good = "[lints]\nworkspace = true\n[dependencies]\nserde.workspace = true\n";
        let bad =
            "[dependencies]\nserde = \"1\"\n[target.x.dev-dependencies]\nedge = { path = \"e\" }";
        let tree =
            Tree::from_files(&[("a/Cargo.toml", good), ("b/Cargo.toml", bad), ("Cargo.toml", "")]);
        assert_eq!(
            manifests(&tree),
            [
                "b/Cargo.toml: no `[lints] workspace = true`",
                "b/Cargo.toml: edge has a version of its own",
                "b/Cargo.toml: serde has a version of its own",
            ]
        );
    }

    #[test]
    fn a_second_file_with_a_clock() {
        let exception = "#![allow(clippy::disallowed_methods)]";
        let tree = Tree::from_files(&[
            ("shared/src/ambient.rs", exception),
            ("eventlog/src/lib.rs", exception),
            ("eventlog/src/fake/tests.rs", exception),
            ("tests/src/lib.rs", exception),
        ]);
        assert_eq!(ambient(&tree), [format!("eventlog/src/lib.rs:1: {exception}")]);
    }

    #[test]
    fn a_room_that_is_not_on_the_map() {
        let tree = Tree::from_files(&[
            ("README.md", "`cargo xtask up`\nedge/  the edge"),
            ("edge/Cargo.toml", ""),
            ("attic/Cargo.toml", ""),
        ]);
        assert_eq!(
            readme(&tree),
            ["attic/ is not in the code map", "`cargo xtask test` is not named"]
        );
    }
}
