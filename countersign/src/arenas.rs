//! How many heaps the C library keeps for the threads of this process.

/// Begins the process anew with as many arenas as it may run threads at once, where nobody has said how
/// many there are to be. glibc gives threads up to eight for each core, and what was freed in one is of no
/// use to the others: what now this thread and now that one makes (a file of the archive) stands in memory
/// as often as there are arenas. It asks for the number before anything of ours runs, so this is the
/// only way to it without unsafe code.
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
        // A loader runs us, or something else that would be begun instead.
        return;
    }
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get).max(2);
    let mut again = std::process::Command::new(own);
    again.arg0(named).args(args).env(VARIABLE, threads.to_string());
    // It only comes back when it could not: a little more memory, then.
    let _ = again.exec();
}

/// Elsewhere the allocator is another.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) const fn bound() {}
