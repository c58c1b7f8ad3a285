//! `cargo xtask sdk`: the publisher's SDK (`sdk-js/`) as files for a page and as an npm package; and
//! its tests. Of the machine it needs cargo, Node 20 with npm, and Chromium for the tests; everything
//! else is pinned in package-lock.json or comes into `.tools/`.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Failure;
use crate::process::{build_as_tests, cargo, exe, output, root, run, target_dir};
use crate::tools;

const TARGET: &str = "wasm32-unknown-unknown";
/// Flags for the compiler, for what is compiled for Wasm alone.
const FLAGS: &str = "CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS";
/// The oldest Node whose test runner and fetch we use.
const NODE_MAJOR_MIN: u32 = 20;

/// Builds `sdk-js/dist/`, which checks the sizes, and packs it.
pub(crate) fn pack() -> Result<(), Failure> {
    build()?;
    let packed = target_dir()?.join("sdk-js");
    run(npm().arg("pack").arg(root().join("sdk-js")).arg("--pack-destination").arg(packed))
}

/// All that can be wrong with it: clippy for its browser half, sizes, types, units, pages.
pub(crate) fn test() -> Result<(), Failure> {
    tools::ensure_wasm_target()?;
    run(cargo()
        .args(["clippy", "--locked", "-p", "sdk-js", "--target", TARGET])
        .args(["--", "-D", "warnings"]))?;
    pack()?;
    run(node().arg("node_modules/typescript/bin/tsc").args(["-p", "sdk-js"]))?;
    let countersign = match env::var_os("COUNTERSIGN_BIN") {
        Some(binary) => PathBuf::from(binary),
        None => build_as_tests()?.join(exe("countersign")),
    };
    // One file after the other: each plays on a browser and a `countersign` of its own, and looks at
    // seconds.
    let files = ["units", "pages", "delivery", "readme", "demo"]
        .map(|name| format!("sdk-js/tests/{name}.test.mjs"));
    run(node()
        .args(["--test", "--test-concurrency=1", "--test-reporter=spec"])
        .args(files)
        .env("COUNTERSIGN_BIN", countersign)
        .env("CHROMIUM_BIN", chromium()?))
}

fn build() -> Result<(), Failure> {
    tools::ensure_wasm_target()?;
    install_modules()?;
    run(cargo().env(FLAGS, without_paths()).args([
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
    run(node().arg("sdk-js/build.mjs").arg(&core))
}

/// The places of panics are in what visitors download: they shall not name this machine's folders.
fn without_paths() -> String {
    let home = env::var("HOME").or_else(|_| env::var("USERPROFILE")).unwrap_or_default();
    let cargo = env::var("CARGO_HOME").unwrap_or_else(|_| format!("{home}/.cargo"));
    format!("--remap-path-prefix={cargo}=cargo --remap-path-prefix={}=.", root().display())
}

/// `npm ci`, where what is installed is not what the lock file says.
fn install_modules() -> Result<(), Failure> {
    check_node()?;
    let stamp = root().join("node_modules/.countersign-lock");
    let lock = read(&root().join("package-lock.json"))?;
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == lock) {
        return Ok(());
    }
    // Nothing of ours needs a script of a package to run at its installation.
    run(npm().args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"]))?;
    fs::write(&stamp, lock).map_err(|error| format!("{}: {error}", stamp.display()))
}

fn check_node() -> Result<(), Failure> {
    let wanted = format!("the SDK is built with Node {NODE_MAJOR_MIN} or newer, and npm");
    let version = output(node().arg("--version")).map_err(|why| format!("{wanted}: {why}"))?;
    let major = version.trim().trim_start_matches('v').split('.').next();
    match major.and_then(|major| major.parse::<u32>().ok()) {
        Some(major) if major >= NODE_MAJOR_MIN => Ok(()),
        _ => Err(format!("{wanted}; this one is {}", version.trim())),
    }
}

fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn node() -> Command {
    let mut command = Command::new("node");
    command.current_dir(root());
    command
}

fn npm() -> Command {
    let mut command = Command::new(if cfg!(windows) { "npm.cmd" } else { "npm" });
    command.current_dir(root());
    command
}

/// `CHROMIUM_BIN`, or where packages put it.
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
