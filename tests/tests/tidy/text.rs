//! Rules about text: length, left-overs, paths, links, attribution.

use crate::tree::{File, Tree};

/// A file with more lines than this is worth a note.
pub(crate) const LINES_NEAR: usize = 450;
/// A file with more lines than this must be split.
pub(crate) const LINES_MAX: usize = 600;

const SOURCE: [&str; 3] = ["rs", "ts", "js"];

pub(crate) fn longer_than(tree: &Tree, lines_max: usize) -> Vec<String> {
    let sources = tree.files.iter().filter(|file| file.has_extension(&SOURCE));
    let counted = sources.map(|file| (file, file.text.lines().count()));
    counted
        .filter(|(_, lines)| *lines > lines_max)
        .map(|(file, lines)| format!("{}: {lines} lines", file.path))
        .collect()
}

/// Written in two halves, so that this file does not break its own rule.
const LEFTOVERS: [&str; 9] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("todo", "!("),
    concat!("unimple", "mented!("),
    concat!("db", "g!("),
    concat!("#[ig", "nore"),
    concat!("it.sk", "ip"),
    concat!("test.sk", "ip"),
];

pub(crate) fn leftovers(tree: &Tree) -> Vec<String> {
    let looked_at = |file: &&File| {
        file.has_extension(&SOURCE)
            || file.has_extension(&["py", "sh", "toml", "html", "css"])
            || file.path == ".ci/run"
    };
    tree.files.iter().filter(looked_at).flat_map(|file| lines_with(file, &LEFTOVERS)).collect()
}

const MACHINE_PATHS: [&str; 4] = [
    concat!("/wo", "rk/"),
    concat!("/fa", "rm/"),
    concat!("/tmp/ba", "sh_jobs"),
    concat!("/ro", "ot/."),
];

pub(crate) fn machine_paths(tree: &Tree) -> Vec<String> {
    tree.files.iter().flat_map(|file| lines_with(file, &MACHINE_PATHS)).collect()
}

fn lines_with(file: &File, words: &[&str]) -> Vec<String> {
    let lines = file.text.lines().enumerate();
    lines
        .filter(|(_, line)| words.iter().any(|word| line.contains(word)))
        .map(|(at, line)| format!("{}:{}: {}", file.path, at + 1, line.trim()))
        .collect()
}

/// Markdown links to files, and files that a page names in backticks (`docs/decisions.md`).
pub(crate) fn links(tree: &Tree) -> Vec<String> {
    let mut breaches = Vec::new();
    for page in tree.files.iter().filter(|file| file.has_extension(&["md"])) {
        let folder = page.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let mut fenced = false;
        for (at, line) in page.text.lines().enumerate() {
            if line.trim_start().starts_with("```") {
                fenced = !fenced;
            }
            if fenced {
                continue;
            }
            // Every second part stands between backticks.
            let parts: Vec<&str> = line.split('`').collect();
            let plain: String = parts.iter().step_by(2).copied().collect();
            let linked = link_targets(&plain).into_iter().map(|target| resolve(folder, target));
            let named = parts.iter().skip(1).step_by(2).filter(|name| is_file_name(tree, name));
            for target in linked.chain(named.map(|name| Some((*name).to_owned()))) {
                if !target.as_ref().is_some_and(|target| tree.has(target)) {
                    let shown = target.unwrap_or_else(|| "outside the project".to_owned());
                    breaches.push(format!("{}:{}: {shown}", page.path, at + 1));
                }
            }
        }
    }
    breaches
}

/// The targets of `[text](target)` that are files.
fn link_targets(line: &str) -> Vec<&str> {
    let targets = line.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next());
    targets
        .filter(|target| !target.contains(':') && !target.starts_with('#'))
        .map(|target| target.split('#').next().unwrap_or(target))
        .collect()
}

/// A link's target as a path from the root; `None` when it leads out of the project.
fn resolve(folder: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

/// Whether a name looks like the path of one of our files: it begins with a folder that we have,
/// and has a known ending.
fn is_file_name(tree: &Tree, name: &str) -> bool {
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c));
    let ours = name.split_once('/').is_some_and(|(first, _)| tree.has(first));
    plain && ours && [".md", ".rs", ".toml", ".csv"].iter().any(|end| name.ends_with(end))
}

/// Every decision of a room's page stands in the list of all, word for word.
pub(crate) fn decisions(tree: &Tree) -> Vec<String> {
    let page = |name: &str| tree.files.iter().find(|file| file.path == name);
    let Some(list) = page("docs/decisions.md") else { return vec!["docs/decisions.md".to_owned()] };
    let pages = tree.files.iter().filter(|file| file.path.starts_with("docs/decisions/"));
    let mut breaches = Vec::new();
    for page in pages {
        let target = page.path.trim_start_matches("docs/");
        for heading in page.text.lines().filter_map(|line| line.strip_prefix("## ")) {
            if !list.text.contains(&format!("\n- [{heading}]({target}#")) {
                breaches.push(format!("{}: {heading}", page.path));
            }
        }
    }
    breaches
}

pub(crate) fn attribution(tree: &Tree) -> Vec<String> {
    let said = tree.get("tests/data/README.md").map_or("", |file| &file.text);
    let in_data =
        |file: &&File| file.path.starts_with("tests/data/") && !file.path.ends_with(".md");
    let files = tree.files.iter().filter(in_data);
    let mut breaches: Vec<String> = files
        .filter_map(|file| file.path.rsplit('/').next())
        .filter(|name| !said.contains(name))
        .map(|name| format!("tests/data/{name} is not named"))
        .collect();
    for word in ["Open Bandit Dataset", "ZOZO", "CC BY 4.0", "Reduced"] {
        if !said.contains(word) {
            breaches.push(format!("`{word}` is not said"));
        }
    }
    breaches
}

#[cfg(test)]
mod can_fail {
    use super::*;

    #[test]
    fn a_long_file() {
        let tree = Tree::from_files(&[("a.rs", &"\n".repeat(601)), ("b.js", &"\n".repeat(600))]);
        assert_eq!(longer_than(&tree, LINES_MAX), ["a.rs: 601 lines"]);
    }

    #[test]
    fn every_leftover() {
        for word in LEFTOVERS {
            let tree = Tree::from_files(&[
                ("a/b.rs", &format!("fn a() {{}}\n    {word}")),
                ("c.md", word),
            ]);
            assert_eq!(leftovers(&tree), [format!("a/b.rs:2: {word}")]);
        }
    }

    #[test]
    fn every_machine_path() {
        for path in MACHINE_PATHS {
            let tree = Tree::from_files(&[("docs/a.md", &format!("see {path}x"))]);
            assert_eq!(machine_paths(&tree), [format!("docs/a.md:1: see {path}x")]);
        }
    }

    #[test]
    fn a_dead_link_or_name() {
        let good = "[a](docs/b.md#c) [d](#e) [f](https://g.h/i.md) `docs/b.md` `x/y.md` `docs/*.md`\n\
                    ```\n[a](gone.md)\n```\n`[a](gone.md)`";
        let tree =
            Tree::from_files(&[("README.md", good), ("docs/b.md", "[up](../README.md) [b](b.md)")]);
        assert_eq!(links(&tree), [""; 0]);
        let bad = "[a](b.md) [c](../../README.md)\n`docs/gone.rs`";
        let tree = Tree::from_files(&[("README.md", ""), ("docs/a.md", bad)]);
        let found = links(&tree);
        let lines = ["docs/a.md:1: docs/b.md", "docs/a.md:1: outside the project"];
        assert_eq!(found, [&lines[..], &["docs/a.md:2: docs/gone.rs"]].concat());
    }

    #[test]
    fn a_decision_that_is_not_listed() {
        let list = "# Decisions\n- [A `b`](decisions/edge.md#a-b)\n";
        let page = "# Decisions: edge\n\n## A `b`\nx\n\n## C\ny\n";
        let tree =
            Tree::from_files(&[("docs/decisions.md", list), ("docs/decisions/edge.md", page)]);
        assert_eq!(decisions(&tree), ["docs/decisions/edge.md: C"]);
        assert_eq!(decisions(&Tree::from_files(&[])), ["docs/decisions.md"]);
    }

    #[test]
    fn data_from_nowhere() {
        let tree =
            Tree::from_files(&[("tests/data/a.csv", ""), ("tests/data/README.md", "`b.csv`")]);
        assert_eq!(attribution(&tree).len(), 5);
    }
}
