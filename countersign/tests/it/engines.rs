//! Other engines that read Parquet, each in a process of Python: DuckDB and ClickHouse.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::run;

/// Stands between the answers.
const NEXT: &str = "-- next";

/// Prints the rows of each answer, one a line.
const DUCKDB: &str = "
import duckdb, sys
connection = duckdb.connect()
connection.execute('SET enable_progress_bar = false')
for sql in open(sys.argv[1]).read().split('-- next'):
    for row in connection.execute(sql).fetchall():
        print(*row, sep='|')
    print('-- next')
";

/// The same.
const CLICKHOUSE: &str = "
import sys
from chdb import session
connection = session.Session(sys.argv[1] + '.state')
for sql in open(sys.argv[1]).read().split('-- next'):
    rows = connection.query(sql, 'TabSeparatedRaw').bytes().decode()
    print(rows.replace('\\t', '|'), end='')
    print('-- next')
";

/// The folder of a Python module: from a variable, or where `cargo xtask test` has installed it.
pub(crate) fn module(variable: &str, name: &str) -> PathBuf {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools");
    let installed = || {
        let folders = std::fs::read_dir(tools).ok()?.flatten().map(|folder| folder.path());
        folders.filter(|path| path.join(name).exists()).max()
    };
    let module = std::env::var_os(variable).map(PathBuf::from).or_else(installed);
    module.unwrap_or_else(|| panic!("no {name}: `cargo xtask test --only nextest` installs it"))
}

/// The rows of each of some statements, which must all go well.
pub(crate) fn duckdb_all(folder: &Path, script: &[String]) -> Vec<Vec<String>> {
    all(DUCKDB, &module("COUNTERSIGN_DUCKDB", "duckdb"), folder, script)
}

/// The same by ClickHouse.
pub(crate) fn clickhouse_all(folder: &Path, script: &[String]) -> Vec<Vec<String>> {
    all(CLICKHOUSE, &module("COUNTERSIGN_CHDB", "chdb"), folder, script)
}

fn all(program: &str, module: &Path, folder: &Path, script: &[String]) -> Vec<Vec<String>> {
    let file = tempfile::NamedTempFile::new_in(folder).unwrap();
    std::fs::write(&file, script.join(NEXT)).unwrap();
    let mut python = Command::new("python3");
    python.args(["-c", program]).arg(file.path()).env("PYTHONPATH", module);
    let (code, said, err) = run(python.current_dir(folder));
    assert_eq!(code, Some(0), "{err}\n{}", script.join("\n"));
    let end = format!("{NEXT}\n");
    let rows = |rows: &str| rows.lines().map(str::to_owned).collect();
    let mut answers: Vec<Vec<String>> = said.split(&end).map(rows).collect();
    assert_eq!(answers.pop().as_deref(), Some(&[][..]), "{said}");
    assert_eq!(answers.len(), script.len(), "{said}");
    answers
}
