//! The Wasm edge: built for Workers, and run on plain workerd.

use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use crate::process::{output, root, run, shown, target_dir};
use crate::{Failure, tools};

/// The most bytes that may be uploaded, gzipped.
const UPLOAD_BYTES_MAX: u64 = 304_000;
/// The address in `wrangler.toml` that must be replaced.
const EXAMPLE: &str = "https://collector.example.com";
/// The sources of the Worker.
const SOURCES: [&str; 11] = [
    "Cargo.lock",
    "Cargo.toml",
    "catalogue/Cargo.toml",
    "catalogue/src",
    "edge/Cargo.toml",
    "edge/bots",
    "edge/build.rs",
    "edge/networks",
    "edge/src",
    "shared/Cargo.toml",
    "shared/src",
];
/// The Wasm features that compilers and bindings use. They are named so that a newer optimizer adds
/// nothing that workerd does not know yet.
const WASM_FEATURES: [&str; 7] = [
    "--enable-bulk-memory",
    "--enable-exception-handling",
    "--enable-multivalue",
    "--enable-mutable-globals",
    "--enable-nontrapping-float-to-int",
    "--enable-reference-types",
    "--enable-sign-ext",
];

/// A built Worker.
pub(crate) struct Worker {
    /// The folder with `index.js` and `index_bg.wasm`, which `edge/src/worker/entry.js` imports
    /// from there.
    pub(crate) folder: PathBuf,
}

/// Builds the Worker and measures what would be uploaded. Wrangler calls this too, as its build
/// command: then wrangler measures, and this checks what wrangler is about to do.
///
/// # Errors
/// As [`build`]; when the upload is larger than it may be; when `wrangler.toml` is still the example.
pub(crate) fn build_and_check() -> Result<(), Failure> {
    build()?;
    match env::var("WRANGLER_COMMAND") {
        Ok(doing) if doing == "dev" || doing == "types" => Ok(()),
        Ok(_) => is_set_up(&config()?),
        Err(_) => measure(),
    }
}

fn config() -> Result<String, Failure> {
    let file = root().join("wrangler.toml");
    fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))
}

/// Fails while the config still names the example's centre.
fn is_set_up(config: &str) -> Result<(), Failure> {
    let is_example = |line: &str| !line.trim_start().starts_with('#') && line.contains(EXAMPLE);
    if config.lines().any(is_example) {
        return Err(format!(
            "wrangler.toml still says {EXAMPLE}: write the address of your collector's API there \
             (GATEWAY_URL), or take the line out and set NATS_URL; see docs/worker.md"
        ));
    }
    Ok(())
}

/// The config without its build command, for another folder: there the built Worker is only
/// measured.
fn without_build(config: &str, root: &Path) -> String {
    let mut is_build = false;
    let mut text = String::new();
    for line in config.lines() {
        if line.starts_with('[') {
            is_build = line == "[build]";
        }
        if !is_build {
            text += &line.replace("main = \"", &format!("main = \"{}/", root.display()));
            text.push('\n');
        }
    }
    text
}

/// How much wrangler would upload, by its own dry run.
///
/// # Errors
/// When it is too much, or wrangler does not run.
pub(crate) fn measure() -> Result<(), Failure> {
    let folder = target_dir()?.join("worker");
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let file = folder.join("wrangler.toml");
    fs::write(&file, without_build(&config()?, &root()))
        .map_err(|error| format!("{}: {error}", file.display()))?;
    let mut dry = tools::wrangler()?;
    dry.args(["deploy", "--dry-run", "--outdir"]).arg(folder.join("upload"));
    let said = output(dry.arg("--config").arg(&file))?;
    let size = upload_bytes(&said).ok_or_else(|| format!("wrangler says no size:\n{said}"))?;
    println!(
        "the Worker has {size} bytes as it is uploaded, gzipped; {UPLOAD_BYTES_MAX} are the mark"
    );
    if size > UPLOAD_BYTES_MAX {
        return Err(format!("the Worker is too large: {size} bytes, gzipped"));
    }
    Ok(())
}

/// From a line like `Total Upload: 702.16 KiB / gzip: 285.85 KiB`.
fn upload_bytes(said: &str) -> Option<u64> {
    let (_, size) = said.lines().find_map(|line| line.split_once("/ gzip: "))?;
    let (number, unit) = size.split_once(' ')?;
    (unit.trim() == "KiB").then(|| number.parse::<f64>().ok())?.map(|kib| (kib * 1024.0) as u64)
}

/// Builds the Worker, unless it is newer than what it comes from.
///
/// # Errors
/// When a tool cannot be had, or the build fails.
pub(crate) fn build() -> Result<Worker, Failure> {
    let folder = root().join("edge/build");
    let built = folder.join("index_bg.wasm");
    let made = fs::metadata(&built).and_then(|meta| meta.modified()).ok();
    let newest = SOURCES.iter().map(|source| newest(&root().join(source))).max().flatten();
    if made.is_none() || made < newest {
        build_anew(&folder)?;
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
    // Nothing is in the first KiB: the stack grows towards it, and an overflow ends the program
    // before.
    optimize.args(["--low-memory-unused", "-Oz", "--strip-debug", "--strip-producers"]);
    optimize.args(WASM_FEATURES);
    run(optimize.arg(&wasm).arg("-o").arg(&optimized))?;
    fs::rename(&optimized, &wasm).map_err(|error| format!("{}: {error}", wasm.display()))
}

/// The address of the Wasm edge.
const ADDRESS: &str = "127.0.0.1:8787";
/// The default data directory of `countersign`.
const DATA: &str = "countersign-data";

/// Runs everything in one process, with the demo, and the Wasm edge on workerd in front of it.
///
/// # Errors
/// When either cannot be started, or ends.
pub(crate) fn up(binary: &Path, args: &[String]) -> Result<(), Failure> {
    let worker = build()?;
    let workerd = tools::workerd()?;
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
    // Passes on the rest of the centre's output. It ends when the centre does, for example by
    // Ctrl-C.
    lines.map_while(Result::ok).for_each(|line| println!("{line}"));
    // workerd may have ended by the same Ctrl-C. Its outbox is on disk.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_refused_and_what_replaces_it_is_not() {
        let shipped = config().expect("wrangler.toml");
        assert!(is_set_up(&shipped).is_err(), "the example must name no real centre");
        assert!(is_set_up(&shipped.replace(EXAMPLE, "https://centre.acme.example")).is_ok());
        assert!(is_set_up(&shipped.replace("GATEWAY_URL", "# GATEWAY_URL")).is_ok());
    }

    #[test]
    fn the_dry_run_builds_nothing() {
        let text = without_build(&config().expect("wrangler.toml"), Path::new("/checkout"));
        assert!(!text.contains("xtask") && !text.contains("watch_dir"), "{text}");
        assert!(text.contains("main = \"/checkout/edge/src/worker/entry.js\""), "{text}");
        assert!(text.contains("[vars]") && text.contains("[durable_objects]"), "{text}");
    }

    #[test]
    fn wranglers_size_is_read() {
        let said = "wrangler 4\nTotal Upload: 702.16 KiB / gzip: 285.85 KiB\nbindings";
        assert_eq!(upload_bytes(said), Some(292_710));
        assert_eq!(upload_bytes("Total Upload: 7 MiB / gzip: 2 MiB"), None);
        assert_eq!(upload_bytes("nothing"), None);
    }
}
