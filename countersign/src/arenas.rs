//! How many heaps the C library keeps for the threads of this process.

/// Starts the process again with `MALLOC_ARENA_MAX` set to the number of threads that it can run at
/// once, unless the environment says something about arenas already. By default glibc makes up to
/// eight arenas for each core, and memory that was freed in one arena is of no use to the others. A
/// large buffer that now one thread makes and now another (a file of the archive) would stay in
/// memory once for each arena. glibc reads the variable before any code of ours runs, so this is
/// the only way to set it without unsafe code.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(crate) fn bound() {
    use std::os::unix::process::CommandExt as _;

    const VARIABLE: &str = "MALLOC_ARENA_MAX";
    let is_said = |name: &str| std::env::var_os(name).is_some();
    if is_said(VARIABLE) || is_said("GLIBC_TUNABLES") {
        return;
    }
    let (Ok(own), mut args) = (std::env::current_exe(), std::env::args_os()) else { return };
    let named = args.next().unwrap_or_default();
    if own.file_name() != std::path::Path::new(&named).file_name() {
        // The program was started through a loader: `exec` would start that instead of us.
        return;
    }
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get).max(2);
    let mut again = std::process::Command::new(own);
    again.arg0(named).args(args).env(VARIABLE, threads.to_string());
    // `exec` returns only when it failed: the process then goes on, and uses a little more memory.
    let _ = again.exec();
}

/// Other systems have another allocator.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) const fn bound() {}
