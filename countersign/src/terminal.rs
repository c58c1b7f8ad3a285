//! Standard output, for what a person or a script asked for. Logs and progress go to stderr.

use std::io::Write as _;

/// Prints a line. When its reader has gone that is no failure: what was asked for was done.
pub(crate) fn line(text: impl AsRef<str>) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{}", text.as_ref()).and_then(|()| out.flush());
}

/// A table with aligned columns: the first to the left, the others to the right.
pub(crate) fn table(rows: &[Vec<String>]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in rows {
        let mut text = String::new();
        for (column, cell) in row.iter().enumerate() {
            let (width, last) = (widths[column], column + 1 == columns);
            match column {
                0 => text.push_str(&format!("{cell:<width$}")),
                // The last column holds explanations, which need no aligned end.
                _ if last => text.push_str(&format!("  {cell}")),
                _ => text.push_str(&format!("  {cell:>width$}")),
            }
        }
        line(text.trim_end());
    }
}
