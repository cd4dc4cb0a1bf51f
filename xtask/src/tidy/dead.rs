//! Source files that no crate reaches.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use super::source::words;
use super::{File, Violation};

pub fn check(files: &[File], found: &mut Vec<Violation>) {
    let sources: BTreeMap<&Path, &File> = files
        .iter()
        .filter(|f| f.path.ends_with(".rs"))
        .map(|f| (Path::new(&f.path), f))
        .collect();
    let mut reached = BTreeSet::new();
    let roots = roots(files, &sources);
    let mut queue = roots.clone();
    while let Some(path) = queue.pop() {
        let Some(file) = sources.get(path.as_path()) else {
            continue;
        };
        if reached.insert(path.clone()) {
            let is_root = roots.contains(&path);
            queue.extend(modules(file, is_root));
        }
    }
    for (path, file) in &sources {
        if !reached.contains(*path) {
            let fix = "declare it with `mod`, or delete it";
            found.push(file.violation(1, "no crate reaches this file".to_owned(), fix));
        }
    }
}

/// The root files of every crate: what cargo finds by itself, and every `path = "x.rs"`.
fn roots(files: &[File], sources: &BTreeMap<&Path, &File>) -> Vec<PathBuf> {
    let manifests = files.iter().filter(|f| f.path.ends_with("Cargo.toml"));
    let mut roots = Vec::new();
    for manifest in manifests {
        let folder = Path::new(&manifest.path).parent().unwrap_or(Path::new(""));
        let explicit = manifest.text.lines().filter_map(|line| {
            let path = line.split_once("path = \"")?.1.split_once('"')?.0;
            path.ends_with(".rs").then(|| normal(&folder.join(path)))
        });
        roots.extend(explicit);
        roots.extend(["src/lib.rs", "src/main.rs", "build.rs"].map(|name| folder.join(name)));
        for group in ["src/bin", "tests", "examples", "benches"] {
            let group = folder.join(group);
            let group = Some(group.as_path());
            let is_root = |path: &Path| {
                let is_main = path.file_name().is_some_and(|name| name == "main.rs");
                path.parent() == group || is_main && path.parent().and_then(Path::parent) == group
            };
            let of_group = sources.keys().filter(|path| is_root(path));
            roots.extend(of_group.map(|path| path.to_path_buf()));
        }
    }
    roots
}

/// The files that a file's `mod name;` items may mean.
fn modules(file: &File, is_root: bool) -> Vec<PathBuf> {
    let path = Path::new(&file.path);
    let folder = path.parent().unwrap_or(Path::new(""));
    let stem = path.file_stem().unwrap_or_default();
    let inside = if is_root || stem == "mod" {
        folder.to_path_buf()
    } else {
        folder.join(stem)
    };
    let mut named = Vec::new();
    let mut all = words(&file.code).peekable();
    while let Some((_, word)) = all.next() {
        if let Some((at, name)) = all.peek().copied().filter(|_| word == "mod") {
            let is_item = file.code[at + name.len()..].trim_start().starts_with(';');
            if is_item {
                named.push(inside.join(format!("{name}.rs")));
                named.push(inside.join(name).join("mod.rs"));
            }
        }
    }
    named.extend(file.text.lines().filter_map(|line| {
        let path = line.trim().strip_prefix("#[path = \"")?.split_once('"')?.0;
        Some(normal(&folder.join(path)))
    }));
    named
}

/// `a/../b` as `b`.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(out.pop()),
            Component::CurDir => {}
            part => out.push(part),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::File;
    use super::check;

    #[test]
    fn a_file_that_nothing_reaches_is_found() {
        let files = [
            File::new("a/Cargo.toml", "[[bin]]\npath = \"odd/place.rs\"\n"),
            File::new("a/src/lib.rs", "mod one;\n// mod lost;\n"),
            File::new(
                "a/src/one.rs",
                "pub mod two;\n#[path = \"../else.rs\"]\nmod far;",
            ),
            File::new("a/src/one/two.rs", ""),
            File::new("a/else.rs", ""),
            File::new("a/odd/place.rs", "mod beside;"),
            File::new("a/odd/beside/mod.rs", ""),
            File::new("a/tests/process.rs", ""),
            File::new("a/src/lost.rs", ""),
            File::new("a/src/two.rs", ""),
        ];
        let mut found = Vec::new();
        check(&files, &mut found);
        let found: Vec<String> = found.iter().map(|v| v.to_string()).collect();
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("a/src/lost.rs:1"), "{found:?}");
        assert!(found[1].starts_with("a/src/two.rs:1"), "{found:?}");
    }
}
