//! The project's own files.

use std::fs;
use std::path::{Path, PathBuf};

/// A file of the project, with `/` between the parts of its path from the root.
pub(crate) struct File {
    pub(crate) path: String,
    /// Empty when it is not text.
    pub(crate) text: String,
}

impl File {
    pub(crate) fn has_extension(&self, extensions: &[&str]) -> bool {
        self.path.rsplit_once('.').is_some_and(|(_, extension)| extensions.contains(&extension))
    }

    /// Whether the file has only tests, and is never compiled into the product.
    pub(crate) fn is_test(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        name == "tests.rs"
            || name.ends_with("_tests.rs")
            || self.path.starts_with("tests/")
            || self.path.contains("/tests/")
            || self.path.contains("/benches/")
    }

    /// The numbered lines of a Rust file that are compiled into the product: no comments, and
    /// nothing of the test module that closes the file.
    pub(crate) fn code(&self) -> Vec<(usize, &str)> {
        let lines: Vec<&str> = self.text.lines().collect();
        let opens_tests = |at: usize| {
            ["#[cfg(test)]", "#[cfg(all(test,"].iter().any(|cfg| lines[at].trim().starts_with(cfg))
                && lines[at + 1..]
                    .iter()
                    .map(|line| line.trim())
                    .find(|line| !line.starts_with("#["))
                    .filter(|line| !line.ends_with(';'))
                    .is_some_and(|line| line.starts_with("mod ") || line.contains(" mod "))
        };
        let end = (0..lines.len()).find(|&at| opens_tests(at)).unwrap_or(lines.len());
        let numbered = lines[..end].iter().enumerate().map(|(at, line)| (at + 1, *line));
        numbered
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
            .map(|(number, line)| (number, line.split_once(" // ").map_or(line, |(code, _)| code)))
            .collect()
    }
}

/// All files of the project.
pub(crate) struct Tree {
    pub(crate) files: Vec<File>,
}

impl Tree {
    /// The checkout that this test was built in, without what `.gitignore` names by its place.
    pub(crate) fn read() -> Self {
        let root = root();
        let ignored = fs::read_to_string(root.join(".gitignore")).unwrap();
        let mut skipped: Vec<String> =
            ignored.lines().filter_map(|line| Some(line.strip_prefix('/')?.to_owned())).collect();
        skipped.push(".git".to_owned());
        let mut files = Vec::new();
        walk(&root, "", &skipped, &mut files);
        files.sort_by(|a, b| a.path.cmp(&b.path));
        assert!(files.iter().any(|file| file.path == "Cargo.toml"), "not the project's root");
        Self { files }
    }

    /// A small tree to try a rule on.
    pub(crate) fn from_files(files: &[(&str, &str)]) -> Self {
        let file = |&(path, text): &(&str, &str)| File { path: path.into(), text: text.into() };
        Self { files: files.iter().map(file).collect() }
    }

    pub(crate) fn get(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }

    /// Whether there is such a file, or a folder with files in it.
    pub(crate) fn has(&self, path: &str) -> bool {
        let folder = format!("{}/", path.trim_end_matches('/'));
        self.files.iter().any(|file| file.path == path || file.path.starts_with(&folder))
    }

    /// The Rust files below the folder, or of that path.
    pub(crate) fn rust<'a>(&'a self, below: &'a str) -> impl Iterator<Item = &'a File> {
        self.files.iter().filter(move |file| {
            file.has_extension(&["rs"])
                && file.path.strip_prefix(below).is_some_and(|rest| {
                    below.ends_with('/') || rest.is_empty() || rest.starts_with('/')
                })
        })
    }
}

pub(crate) fn root() -> PathBuf {
    let room = Path::new(env!("CARGO_MANIFEST_DIR"));
    room.parent().unwrap().to_path_buf()
}

fn walk(root: &Path, below: &str, skipped: &[String], files: &mut Vec<File>) {
    for entry in fs::read_dir(root.join(below)).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let path = if below.is_empty() { name } else { format!("{below}/{name}") };
        if skipped.contains(&path) {
            continue;
        }
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            walk(root, &path, skipped, files);
        } else if kind.is_file() {
            // A file may vanish between the two calls (an editor's); what is no text has no lines.
            let bytes = fs::read(entry.path()).unwrap_or_default();
            files.push(File { path, text: String::from_utf8(bytes).unwrap_or_default() });
        }
    }
}

#[test]
fn code_is_neither_comment_nor_test() {
    let text = "//! doc\nuse a;\n#[cfg(test)]\nmod elsewhere;\n#[cfg(test)]\nfn only_here() {}\nlet b; // why\n#[cfg(test)]\n\
                #[allow(x)]\nmod tests {\nuse c;\n}\n";
    let tree = Tree::from_files(&[("a/src/lib.rs", text)]);
    let code = tree.files[0].code();
    let code: Vec<_> = code.into_iter().filter(|(_, line)| *line != "#[cfg(test)]").collect();
    let expected = [(2, "use a;"), (4, "mod elsewhere;"), (6, "fn only_here() {}"), (7, "let b;")];
    assert_eq!(code, expected);
}
