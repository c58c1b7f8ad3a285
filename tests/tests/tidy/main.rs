//! House rules that an ordinary test can check. Each rule is a function over the tree that lists
//! what breaks it, and each is tried on a small tree that does break it.

#![allow(clippy::unwrap_used, reason = "a rule that cannot read the tree must fail")]
#![allow(clippy::print_stdout, reason = "notes for whoever reads a test's output")]

mod circles;
mod rooms;
mod text;
mod tree;

use tree::Tree;

/// Fails with one line per breach.
fn hold(rule: &str, breaches: &[String]) {
    assert!(breaches.is_empty(), "{rule}:\n  {}\n", breaches.join("\n  "));
}

#[test]
fn dependencies_follow_the_arrows() {
    hold("arrows between rooms run one way", &rooms::arrows(&rooms::packages()));
}

#[test]
fn modules_have_no_circles() {
    hold("what two modules of a room need lies below both", &circles::circles(&Tree::read()));
}

#[test]
fn pure_code_touches_no_platform() {
    hold("platform crates only at the rims", &rooms::pure(&Tree::read()));
}

#[test]
fn manifests_share_lints_and_versions() {
    hold("lints and versions are set once, in the root", &rooms::manifests(&Tree::read()));
}

#[test]
fn clocks_and_randomness_come_from_one_file() {
    hold("only shared/src/ambient.rs may set the ban aside", &rooms::ambient(&Tree::read()));
}

#[test]
fn readme_maps_the_code() {
    hold("README.md names every room and both commands", &rooms::readme(&Tree::read()));
}

#[test]
fn files_are_short() {
    let tree = Tree::read();
    for note in text::longer_than(&tree, text::LINES_NEAR) {
        println!("note: {note}");
    }
    hold("a source file has at most 600 lines", &text::longer_than(&tree, text::LINES_MAX));
}

#[test]
fn nothing_is_left_over() {
    hold("no left-overs, no skipped tests", &text::leftovers(&Tree::read()));
}

#[test]
fn no_path_of_one_machine() {
    hold("no absolute path of one machine", &text::machine_paths(&Tree::read()));
}

#[test]
fn links_and_named_files_exist() {
    hold("what a page links to or names is there", &text::links(&Tree::read()));
}

#[test]
fn decisions_are_listed() {
    hold("docs/decisions.md lists what its pages decide", &text::decisions(&Tree::read()));
}

#[test]
fn data_is_attributed() {
    hold("tests/data/README.md says whence each file comes", &text::attribution(&Tree::read()));
}
