//! No circle inside a room: where one of its top-level modules uses another, no way leads back. A
//! module and the files of its folder count as one; the root, which may name all modules, does not
//! count.

use std::collections::{BTreeMap, BTreeSet};

use crate::tree::{File, Tree};

/// Which module uses which, and the first file that says so.
type Arrows<'a> = BTreeMap<(&'a str, &'a str), &'a str>;

/// Every arrow that is part of a circle.
pub(crate) fn circles(tree: &Tree) -> Vec<String> {
    let rooms: BTreeSet<&str> =
        tree.files.iter().filter_map(|file| Some(file.path.split_once("/src/")?.0)).collect();
    let mut breaches = Vec::new();
    for room in rooms {
        let folder = format!("{room}/src/");
        let arrows = arrows(tree, &folder);
        let circular = arrows.iter().filter(|((from, to), _)| leads(&arrows, to, from));
        breaches.extend(circular.map(|((from, to), file)| {
            format!("{file}: {from} uses {to}, from where a way leads back to {from}")
        }));
    }
    breaches
}

fn leads(arrows: &Arrows<'_>, from: &str, to: &str) -> bool {
    let (mut reached, mut open) = (BTreeSet::new(), vec![from]);
    // Each module is opened once at most, when it is first reached, so circles end too.
    while let Some(at) = open.pop() {
        let next = arrows.keys().filter(|arrow| arrow.0 == at).map(|arrow| arrow.1);
        open.extend(next.filter(|next| reached.insert(*next)));
    }
    reached.contains(to)
}

fn arrows<'a>(tree: &'a Tree, folder: &'a str) -> Arrows<'a> {
    let files = tree.rust(folder).filter(|file| folder == "tests/src/" || !file.is_test());
    let paths = files.map(|file| {
        let path = file.path[folder.len()..].trim_end_matches(".rs");
        (file, path.split('/').collect::<Vec<_>>())
    });
    let (roots, files): (Vec<_>, Vec<_>) =
        paths.partition(|(_, path)| ["lib", "main", "bin"].contains(&path[0]));
    let mut owners: BTreeMap<&str, &str> =
        files.iter().map(|(_, path)| (path[0], path[0])).collect();
    for (root, _) in roots {
        let of_modules = passed_on(root, &owners);
        owners.extend(of_modules);
    }
    let mut arrows = Arrows::new();
    for (file, path) in files {
        for name in from_root(&words(file), path.len()) {
            match owners.get(name) {
                Some(&to) if to != path[0] => {
                    arrows.entry((path[0], to)).or_insert(&*file.path);
                }
                _ => {}
            }
        }
    }
    arrows
}

/// What a root imports from its modules and so passes on: `crate::Id` is `crate::id::Id`.
fn passed_on<'a>(root: &'a File, modules: &BTreeMap<&str, &'a str>) -> Vec<(&'a str, &'a str)> {
    let words = words(root);
    let uses = words.split(|word| *word == ";").filter_map(|statement| {
        let path = statement.iter().skip_while(|word| **word != "use").skip(1);
        let mut path = path.skip_while(|word| ["crate", "self", "::"].contains(*word));
        let module = *modules.get(path.next()?)?;
        Some(path.map(move |name| (*name, module)))
    });
    uses.flatten().collect()
}

/// The first names of all paths that begin at the root: those behind `crate::`, or behind as many
/// `super::` as the file is deep.
fn from_root<'a>(words: &[&'a str], depth: usize) -> Vec<&'a str> {
    let mut names = Vec::new();
    for at in 0..words.len() {
        let ups = words[at..].chunks(2).take_while(|pair| *pair == ["super", "::"]).count();
        let path = match &words[at..] {
            ["crate", "::", path @ ..] => path,
            path if ups >= depth => &path[2 * ups..],
            _ => continue,
        };
        match path {
            ["{", list @ ..] => names.extend(firsts(list)),
            [name, ..] => names.push(*name),
            [] => {}
        }
    }
    names
}

/// The first names of a list's paths: of `a::b, c::{d, e}}` they are `a` and `c`.
fn firsts<'a>(list: &[&'a str]) -> Vec<&'a str> {
    let (mut names, mut inner, mut begins) = (Vec::new(), 0, true);
    for word in list {
        match *word {
            "{" => inner += 1,
            "}" if inner == 0 => break,
            "}" => inner -= 1,
            "," => begins = inner == 0,
            name if begins => {
                names.push(name);
                begins = false;
            }
            _ => {}
        }
    }
    names
}

/// The words and signs of a file's code.
fn words(file: &File) -> Vec<&str> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut words = Vec::new();
    for (_, mut line) in file.code() {
        while let Some(first) = line.chars().next() {
            let length = match first {
                first if is_word(first) => line.find(|c| !is_word(c)).unwrap_or(line.len()),
                _ if line.starts_with("::") => 2,
                first => first.len_utf8(),
            };
            let (word, rest) = line.split_at(length);
            words.extend(Some(word).filter(|word| !word.trim().is_empty()));
            line = rest;
        }
    }
    words
}

#[cfg(test)]
mod can_fail {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        circles(&Tree::from_files(files))
    }

    #[test]
    fn a_circle_of_two_and_one_of_three() {
        let two = [("x/src/a.rs", "use crate::b::B;"), ("x/src/b.rs", "fn f(_: crate::a::A) {}")];
        assert_eq!(
            found(&two),
            [
                "x/src/a.rs: a uses b, from where a way leads back to a",
                "x/src/b.rs: b uses a, from where a way leads back to b",
            ]
        );
        let three = [
            ("x/src/a/deep.rs", "use super::super::{other::C, b::{self, c}};"),
            ("x/src/b.rs", "use super::c;"),
            ("x/src/c.rs", "use crate::{\n    b::{A},\n    a,\n};"),
            ("x/src/d.rs", "use crate::a;"),
        ];
        let of = ["a/deep.rs: a uses b", "b.rs: b uses c", "c.rs: c uses a", "c.rs: c uses b"];
        let found = found(&three);
        assert_eq!(found.len(), of.len(), "{found:?}");
        assert!(found.iter().zip(of).all(|(found, of)| found.contains(of)), "{found:?}");
    }

    #[test]
    fn a_circle_through_what_the_root_passes_on() {
        let root =
            ("x/src/lib.rs", "mod a;\nmod b;\npub use a::{A, inner::Deep};\nuse crate::b::B;");
        for name in ["A", "Deep", "a::A"] {
            let back = format!("use crate::{name};");
            assert_eq!(
                found(&[root, ("x/src/a.rs", "use crate::B;"), ("x/src/b.rs", &back)]).len(),
                2
            );
        }
    }

    #[test]
    fn what_is_none() {
        let files = [
            ("x/src/lib.rs", "mod a;\npub use a::A;\nuse b::B;"),
            (
                "x/src/a.rs",
                "//! crate::b\nuse crate::c; // crate::b\nmod d;\n#[cfg(test)]\nmod tests { use crate::b; }",
            ),
            ("x/src/a/d.rs", "use super::b;\nuse crate::{a::A, c::{b, B}};"),
            ("x/src/a/tests.rs", "use crate::b;"),
            ("x/src/b.rs", "use crate::a; pub(crate) struct B;"),
            ("x/src/c.rs", ""),
            ("y/src/c.rs", "use crate::a;"),
        ];
        assert_eq!(found(&files), [""; 0]);
    }
}
