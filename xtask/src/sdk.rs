//! `cargo xtask sdk`: the publisher's SDK (`sdk-js/`) as files for a page and as an npm package; and
//! its tests. Of the machine it needs cargo, Node 20 with npm, and Chromium for the tests; everything
//! else is pinned in package-lock.json or comes into `.tools/`.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::Failure;
use crate::process::{build_as_tests, cargo, exe, root, run, run_tests, target_dir};
use crate::tools;

const TARGET: &str = "wasm32-unknown-unknown";
/// All tests of pages together take two or three minutes.
const TESTS_MAX: Duration = Duration::from_secs(15 * 60);

/// Builds `sdk-js/dist/`, which checks the sizes, and packs it.
pub(crate) fn pack() -> Result<(), Failure> {
    build()?;
    let packed = target_dir()?.join("sdk-js");
    run(tools::npm().arg("pack").arg(root().join("sdk-js")).arg("--pack-destination").arg(packed))
}

/// Tests everything about the SDK: clippy for its browser half, sizes, types, units, pages.
pub(crate) fn test() -> Result<(), Failure> {
    tools::ensure_wasm_target()?;
    run(cargo()
        .args(["clippy", "--locked", "-p", "sdk-js", "--target", TARGET])
        .args(["--", "-D", "warnings"]))?;
    pack()?;
    run(tools::node().arg("node_modules/typescript/bin/tsc").args(["-p", "sdk-js"]))?;
    let countersign = match env::var_os("COUNTERSIGN_BIN") {
        Some(binary) => PathBuf::from(binary),
        None => build_as_tests()?.join(exe("countersign")),
    };
    // One file after the other: each uses a browser and a `countersign` of its own, and measures
    // seconds.
    let chromium = chromium()?;
    let tests = |names: &[&str]| {
        let files = names.iter().map(|name| format!("sdk-js/tests/{name}.test.mjs"));
        let mut node = tools::node();
        node.args(["--test", "--test-concurrency=1", "--test-reporter=spec"]).args(files);
        node.env("COUNTERSIGN_BIN", &countersign).env("CHROMIUM_BIN", &chromium);
        node
    };
    crate::worker::build()?;
    let mut native = tests(&["units", "pages", "delivery", "readme", "demo"]);
    // The same pages against the Wasm edge.
    let mut worker = tests(&["pages", "delivery", "demo"]);
    worker.env("WORKERD", tools::workerd()?);
    // At the same time, since both wait most of the time.
    let (native, worker) = thread::scope(|scope| {
        let worker = scope.spawn(|| run_tests(TESTS_MAX, &mut worker));
        (run_tests(TESTS_MAX, &mut native), worker.join())
    });
    native.and(worker.map_err(|_| "the tests of the Wasm edge panicked".to_owned())?)
}

/// The folder of the SDK's files, if they have been built.
pub(crate) fn built() -> Option<PathBuf> {
    let dist = root().join("sdk-js/dist");
    dist.join("core_bg.wasm").exists().then_some(dist)
}

/// Builds `sdk-js/dist/`, which checks the sizes.
pub(crate) fn build() -> Result<(), Failure> {
    tools::ensure_wasm_target()?;
    tools::modules()?;
    let (flags, value) = tools::wasm_flags();
    run(cargo().env(flags, value).args([
        "build",
        "--locked",
        "--profile",
        "wasm",
        "--target",
        TARGET,
        "-p",
        "sdk-js",
    ]))?;
    let target = target_dir()?;
    let core = target.join("sdk-js");
    run(tools::WASM_BINDGEN
        .command()?
        .args(["--target", "web", "--no-typescript", "--out-name", "core", "--out-dir"])
        .arg(&core)
        .arg(target.join(TARGET).join("wasm").join("sdk_js.wasm")))?;
    run(tools::node().arg("sdk-js/build.mjs").arg(&core))
}

/// Chromium: `CHROMIUM_BIN`, or where packages put it.
fn chromium() -> Result<OsString, Failure> {
    if let Some(binary) = env::var_os("CHROMIUM_BIN") {
        return Ok(binary);
    }
    let places = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
    places.iter().find(|place| Path::new(place).exists()).map(OsString::from).ok_or_else(|| {
        "no Chromium: install it (Debian: apt-get install chromium), or say where it is in \
         CHROMIUM_BIN"
            .to_owned()
    })
}
