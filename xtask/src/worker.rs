//! The Wasm edge: built for Workers, and run on plain workerd.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use crate::process::{output, root, run, shown};
use crate::{Failure, tools};

/// The mark for the whole bundle, gzipped, bytes.
const BUNDLE_BYTES_MAX: u64 = 300_000;
/// What its bytes come from.
const SOURCES: [&str; 9] = [
    "Cargo.lock",
    "Cargo.toml",
    "edge/Cargo.toml",
    "edge/bots",
    "edge/build.rs",
    "edge/networks",
    "edge/src",
    "shared/Cargo.toml",
    "shared/src",
];
/// What compilers and bindings generate; named, so that a newer optimizer adds nothing that workerd
/// does not know yet.
const WASM_FEATURES: [&str; 7] = [
    "--enable-bulk-memory",
    "--enable-exception-handling",
    "--enable-multivalue",
    "--enable-mutable-globals",
    "--enable-nontrapping-float-to-int",
    "--enable-reference-types",
    "--enable-sign-ext",
];

/// What was built.
pub(crate) struct Worker {
    /// With `index.js` and `index_bg.wasm`, which `edge/src/worker/entry.js` takes from there.
    pub(crate) folder: PathBuf,
}

/// Builds the Worker, unless it is newer than what it comes from.
///
/// # Errors
/// When a tool cannot be had, the build fails, or the bundle is larger than it may be.
pub(crate) fn build() -> Result<Worker, Failure> {
    let folder = root().join("edge/build");
    let built = folder.join("index_bg.wasm");
    let made = fs::metadata(&built).and_then(|meta| meta.modified()).ok();
    let newest = SOURCES.iter().map(|source| newest(&root().join(source))).max().flatten();
    if made.is_none() || made < newest {
        build_anew(&folder)?;
    }
    let entry = root().join("edge/src/worker/entry.js");
    let gzipped = gzipped(&[built, folder.join("index.js"), entry])?;
    println!("the Worker has {gzipped} bytes, gzipped; {BUNDLE_BYTES_MAX} are the mark");
    if gzipped > BUNDLE_BYTES_MAX {
        return Err(format!("the Worker is too large: {gzipped} bytes, gzipped"));
    }
    Ok(Worker { folder })
}

fn build_anew(folder: &Path) -> Result<(), Failure> {
    tools::ensure_wasm_target()?;
    let programs = tools::modules()?.join(".bin");
    let (flags, value) = tools::wasm_flags();
    let mut build = tools::WORKER_BUILD.command()?;
    build
        .current_dir(root().join("edge"))
        .args(["--profile", "wasm", "--no-opt", "--no-default-features", "--locked"])
        .env(flags, value)
        .env("WASM_BINDGEN_BIN", tools::WASM_BINDGEN.installed()?)
        .env("ESBUILD_BIN", programs.join("esbuild"));
    run(&mut build)?;
    let wasm = folder.join("index_bg.wasm");
    let optimized = folder.join("optimized.wasm");
    let mut optimize = Command::new(programs.join("wasm-opt"));
    // Nothing lies in the first KiB: the stack grows towards it, and ends the program before.
    optimize.args(["--low-memory-unused", "-Oz", "--strip-debug", "--strip-producers"]);
    optimize.args(WASM_FEATURES);
    run(optimize.arg(&wasm).arg("-o").arg(&optimized))?;
    fs::rename(&optimized, &wasm).map_err(|error| format!("{}: {error}", wasm.display()))
}

/// Where visitors find the Wasm edge.
const ADDRESS: &str = "127.0.0.1:8787";
/// As `countersign` calls it where nothing else is said.
const DATA: &str = "countersign-data";

/// Runs everything in one process, with the demo, and the Wasm edge on workerd in front of it.
///
/// # Errors
/// When either cannot be started, or ends.
pub(crate) fn up(binary: &Path, args: &[String]) -> Result<(), Failure> {
    let worker = build()?;
    let workerd = tools::workerd()?;
    crate::sdk::build()?;
    let after = |flag: &str| {
        let at = args.iter().position(|arg| arg == flag)?;
        args.get(at + 1).cloned()
    };
    let data = PathBuf::from(after("--data").unwrap_or_else(|| DATA.to_owned()));
    let public_url = format!("http://{ADDRESS}");
    let mut centre = Command::new(binary);
    centre.args(["up", "--demo", "--sdk"]).arg(root().join("sdk-js/dist")).args(args);
    centre.env("COUNTERSIGN_EDGE__PUBLIC_URL", &public_url);
    println!("$ {}", shown(&centre));
    let mut centre = centre.stdout(Stdio::piped()).spawn().map_err(|error| error.to_string())?;
    let mut lines = BufReader::new(centre.stdout.take().ok_or("no standard output")?).lines();
    let gateway = lines.by_ref().map_while(Result::ok).find_map(|line| {
        println!("{line}");
        line.strip_prefix("api listening on ").map(str::to_owned)
    });
    let gateway = gateway.ok_or("`countersign up` has ended")?;
    let mut keys = Command::new(binary);
    keys.args(["keys", "edge", "--issuer", "edge", "--data"]).arg(&data);
    let keys = output(&mut keys)?;
    let mut register = Command::new(binary);
    output(register.args(["edges", "register", "wasm", "--issuer", "edge", "--data"]).arg(&data))?;
    let outbox = data.join("worker-outbox");
    fs::create_dir_all(&outbox).map_err(|error| format!("{}: {error}", outbox.display()))?;
    let mut edge = Command::new(workerd);
    edge.arg("serve").arg(worker.folder.with_file_name("workerd.capnp"));
    edge.arg(format!("--socket-addr=http={ADDRESS}"));
    edge.arg(format!("--directory-path=outbox={}", outbox.display()));
    edge.envs([
        ("EDGE_NAME", "wasm"),
        ("EDGE_KEYS", keys.trim()),
        ("PUBLIC_URL", &public_url),
        ("GATEWAY_URL", &gateway),
    ]);
    let mut edge = edge.spawn().map_err(|error| format!("workerd: {error}"))?;
    println!("Wasm edge listening on {public_url} (workerd); the demo asks it");
    // The rest of what the centre says; it ends when the centre does, by Ctrl-C for one.
    lines.map_while(Result::ok).for_each(|line| println!("{line}"));
    // It may have ended by the same Ctrl-C. Its outbox is on disk.
    let _ = edge.kill();
    let _ = edge.wait();
    let status = centre.wait().map_err(|error| error.to_string())?;
    if status.success() { Ok(()) } else { Err(format!("`countersign up` failed: {status}")) }
}

/// When a file, or anything in a folder, was changed last.
fn newest(path: &Path) -> Option<SystemTime> {
    let own = fs::metadata(path).and_then(|meta| meta.modified()).ok();
    let inside = fs::read_dir(path).into_iter().flatten().flatten();
    inside.map(|entry| newest(&entry.path())).chain([own]).max().flatten()
}

/// Bytes of files, gzipped one by one at level 9, by zlib as the platform counts them.
fn gzipped(files: &[PathBuf]) -> Result<u64, Failure> {
    const SIZES: &str = "const { readFileSync } = require('fs'), { gzipSync } = require('zlib');\
        process.argv.slice(1).map((file) => gzipSync(readFileSync(file), { level: 9 }).length)\
        .reduce((sum, length) => sum + length, 0)";
    let size = output(tools::node().args(["-p", SIZES]).args(files))?;
    size.trim().parse().map_err(|_| format!("node says that the Worker has {size:?} bytes"))
}
