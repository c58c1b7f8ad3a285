//! Describes the machine that the figures were measured on.

use std::fs;
use std::process::Command;
use std::thread;

use crate::process::{output, root};

/// A paragraph: processor, cores, memory, system, compiler, revision, date.
pub(super) fn describe() -> String {
    let cores = thread::available_parallelism().map_or(0, usize::from);
    format!(
        "Machine: {}, {cores} cores, {} of memory, {}. Compiler: {}. Revision: {}. Date: {}.",
        processor(),
        memory(),
        said("uname", &["-sr"]),
        said("rustc", &["--version"]),
        revision(),
        said("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
    )
}

fn processor() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    field(&info, "model name")
        .map_or_else(|| said("sysctl", &["-n", "machdep.cpu.brand_string"]), str::to_owned)
}

fn memory() -> String {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = field(&info, "MemTotal").and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
    kib.map_or_else(|| "an unknown amount".to_owned(), |kib| format!("{} GiB", kib >> 20))
}

fn revision() -> String {
    let revision = said("git", &["rev-parse", "--short", "HEAD"]);
    let mut status = Command::new("git");
    status.current_dir(root()).args(["status", "--porcelain", "--untracked-files=no"]);
    match output(&mut status) {
        // A change of the page that is being written does not count.
        Ok(text) if text.lines().all(|line| line.ends_with(" docs/benchmarks.md")) => revision,
        Ok(_) => format!("{revision} with changes"),
        Err(_) => revision,
    }
}

/// The value of the first `key : value` line.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.trim() == key)
        .map(|(_, value)| value.trim())
}

/// The first line that a program prints, or "unknown": a missing program does not spoil the
/// benchmark.
fn said(program: &str, args: &[&str]) -> String {
    output(Command::new(program).current_dir(root()).args(args))
        .ok()
        .and_then(|text| text.lines().next().map(str::to_owned))
        .unwrap_or_else(|| "unknown".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let text = "model\t\t: 1\nmodel name\t: Some CPU @ 3 GHz\nmodel name\t: other\n";
        assert_eq!(field(text, "model name"), Some("Some CPU @ 3 GHz"));
        assert_eq!(field(text, "name"), None);
    }
}
