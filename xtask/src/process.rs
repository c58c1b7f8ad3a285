//! Starts other programs, and finds the workspace's folders.

use std::env;
use std::ffi::OsString;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::Failure;

/// The workspace's root folder.
pub(crate) fn root() -> PathBuf {
    // Cargo sets the variable at run time too; a binary that was moved with a shared target folder
    // still acts on the checkout that it was called from.
    let manifest = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest.parent().map_or_else(|| manifest.clone(), Path::to_path_buf)
}

/// The cargo that started us, or the one on PATH.
fn cargo_program() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// A cargo command in the workspace's root.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(cargo_program());
    command.current_dir(root());
    without_cargo_variables(&mut command);
    command
}

/// Removes the variables by which cargo describes xtask itself, as if a person had called the
/// command. Build scripts depend on some of them (that of `ring` on the package's name), so
/// everything that needs those crates would be compiled anew whenever a call through xtask follows
/// one by a person.
pub(crate) fn without_cargo_variables(command: &mut Command) {
    let of_cargo = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "OUT_DIR"];
    let names = env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for name in names.filter(|name| of_cargo.iter().any(|start| name.starts_with(start))) {
        command.env_remove(name);
    }
}

/// `name` as this platform calls an executable.
pub(crate) fn exe(name: &str) -> String {
    format!("{name}{}", env::consts::EXE_SUFFIX)
}

/// The command line as a person would type it, for messages.
pub(crate) fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let program = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy();
    let mut line = program.into_owned();
    for arg in command.get_args() {
        line.push(' ');
        line.push_str(&arg.to_string_lossy());
    }
    line
}

/// Runs to the end with our own output streams.
///
/// # Errors
/// When it cannot be started or does not exit with 0.
pub(crate) fn run(command: &mut Command) -> Result<(), Failure> {
    let line = shown(command);
    println!("$ {line}");
    let status = command
        .stdin(Stdio::null())
        .status()
        .map_err(|error| format!("cannot start `{line}`: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("`{line}` failed: {status}")) }
}

/// Runs to the end and gives its standard output; standard error is kept for the failure's text.
///
/// # Errors
/// When it cannot be started or does not exit with 0.
pub(crate) fn output(command: &mut Command) -> Result<String, Failure> {
    let line = shown(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot start `{line}`: {error}"))?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        return Err(format!("`{line}` failed: {}\n{}", output.status, error.trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// As [`run`], but not longer than `limit`: for tests that use servers and browsers, and may wait
/// for one that never comes.
///
/// # Errors
/// As [`run`], and when it takes too long: it is ended then.
pub(crate) fn run_tests(limit: Duration, command: &mut Command) -> Result<(), Failure> {
    let line = shown(command);
    println!("$ {line}");
    let mut child = command
        .stdin(Stdio::null())
        .spawn()
        .map_err(|error| format!("cannot start `{line}`: {error}"))?;
    let status = wait_within(limit, &mut child, &line)?;
    if status.success() { Ok(()) } else { Err(format!("`{line}` failed: {status}")) }
}

/// Runs quietly to the end, but not longer than `limit`.
///
/// # Errors
/// When it cannot be started, takes too long (it is ended then) or does not exit with 0; the text
/// ends with the last of its standard error.
pub(crate) fn run_within(limit: Duration, command: &mut Command) -> Result<(), Failure> {
    let line = shown(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot start `{line}`: {error}"))?;
    let errors = child.stderr.take();
    // Read beside the wait, so that a full pipe cannot hold the child up.
    let reader = thread::spawn(move || {
        let mut text = Vec::new();
        errors.map_or(Ok(0), |mut errors| errors.read_to_end(&mut text)).map(|_| text)
    });
    // When it takes too long the reader is left alone: a grandchild may hold the pipe open.
    let status = wait_within(limit, &mut child, &line)?;
    if status.success() {
        return Ok(());
    }
    let text = reader.join().ok().and_then(Result::ok).unwrap_or_default();
    Err(format!("`{line}` failed: {status}\n{}", String::from_utf8_lossy(&text).trim()))
}

fn wait_within(limit: Duration, child: &mut Child, line: &str) -> Result<ExitStatus, Failure> {
    let start = Instant::now();
    loop {
        let ended = child.try_wait().map_err(|error| format!("`{line}`: {error}"))?;
        if let Some(status) = ended {
            return Ok(status);
        }
        if start.elapsed() > limit {
            child.kill().and_then(|()| child.wait()).map_err(|e| format!("`{line}`: {e}"))?;
            return Err(format!("`{line}` came to no end within {} s", limit.as_secs()));
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// Replaces this process with the command, so that signals (Ctrl-C, SIGTERM) and the exit code are
/// the command's own.
#[cfg(unix)]
pub(crate) fn replace_process(mut command: Command) -> Result<(), Failure> {
    use std::os::unix::process::CommandExt as _;
    let line = shown(&command);
    println!("$ {line}");
    let error = command.exec();
    Err(format!("cannot start `{line}`: {error}"))
}

/// Runs the command and ends with its exit code; Ctrl-C reaches both through the console.
#[cfg(not(unix))]
pub(crate) fn replace_process(mut command: Command) -> Result<(), Failure> {
    let line = shown(&command);
    println!("$ {line}");
    let status = command.status().map_err(|error| format!("cannot start `{line}`: {error}"))?;
    std::process::exit(status.code().unwrap_or(1));
}

/// The workspace as `cargo metadata --no-deps` describes it.
pub(crate) fn metadata() -> Result<serde_json::Value, Failure> {
    let text =
        output(cargo().args(["metadata", "--no-deps", "--locked", "--format-version", "1"]))?;
    serde_json::from_str(&text).map_err(|error| format!("cargo metadata: {error}"))
}

/// Where cargo puts what it builds (`CARGO_TARGET_DIR` and settings considered).
pub(crate) fn target_dir() -> Result<PathBuf, Failure> {
    let metadata = metadata()?;
    let dir = metadata["target_directory"].as_str().ok_or("cargo metadata: no target_directory")?;
    Ok(PathBuf::from(dir))
}

/// Builds `bins` of the rooms `tests` and `countersign`, optimised, and gives their folder.
pub(crate) fn build_release(bins: &[&str]) -> Result<PathBuf, Failure> {
    let mut command = cargo();
    // Always both rooms, so that the libraries are built with the same features as for `cargo xtask
    // up`, and not once more with fewer.
    command.args(["build", "--locked", "--release", "-p", "countersign", "-p", "tests"]);
    for bin in bins {
        command.args(["--bin", bin]);
    }
    run(&mut command)?;
    Ok(target_dir()?.join("release"))
}

/// Builds every test and program just as the tests do, and gives the programs' folder.
pub(crate) fn build_as_tests() -> Result<PathBuf, Failure> {
    run(cargo().args([
        "test",
        "--locked",
        "--no-run",
        "--quiet",
        "--workspace",
        "--all-features",
    ]))?;
    Ok(target_dir()?.join("debug"))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn an_exit_code_other_than_0_is_a_failure_with_its_error_text() {
        assert!(run(&mut sh("exit 3")).is_err());
        assert_eq!(output(&mut sh("echo out; echo err >&2")), Ok("out\n".to_owned()));
        let failure = output(&mut sh("echo why >&2; exit 1")).expect_err("exits with 1");
        assert!(failure.ends_with("why"), "{failure}");
    }

    #[test]
    fn what_takes_too_long_is_ended() {
        let limit = Duration::from_secs(20);
        assert_eq!(run_within(limit, &mut sh("exit 0")), Ok(()));
        let failure = run_within(limit, &mut sh("echo why >&2; exit 1")).expect_err("exits with 1");
        assert!(failure.ends_with("why"), "{failure}");
        let limit = Duration::from_millis(100);
        let failure = run_within(limit, &mut sh("exec sleep 60")).expect_err("too long");
        assert!(failure.contains("no end"), "{failure}");
    }
}
