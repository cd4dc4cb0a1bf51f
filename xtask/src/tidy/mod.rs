//! The house rules that no other tool knows. Each finding says what to do.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

mod content;
mod dead;
mod floors;
mod length;
mod source;
mod wrap;

/// One text file of the project.
pub struct File {
    /// From the project's root, with `/`.
    path: String,
    text: String,
    /// The text of Rust files without comments and literals; of others, nothing.
    code: String,
}

impl File {
    fn new(path: &str, text: &str) -> Self {
        let code = match path.ends_with(".rs") {
            true => source::code_only(text),
            false => String::new(),
        };
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
            code,
        }
    }

    fn violation(&self, line: usize, what: String, fix: &str) -> Violation {
        Violation {
            place: format!("{}:{line}", self.path),
            what,
            fix: fix.to_owned(),
        }
    }
}

/// One finding.
pub struct Violation {
    place: String,
    what: String,
    fix: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.place, self.what, self.fix)
    }
}

/// Everything that is wrong with the project under `root`.
pub fn run(root: &Path) -> io::Result<Vec<Violation>> {
    let mut files = Vec::new();
    collect(root, root, &mut files)?;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(check(&files))
}

/// Wraps comment lines that are too long; gives how many files were changed.
pub fn wrap(root: &Path) -> io::Result<usize> {
    let mut files = Vec::new();
    collect(root, root, &mut files)?;
    let mut changed = 0;
    for file in files.iter().filter(|file| file.path.ends_with(".rs")) {
        let wrapped = wrap::wrapped(&file.text);
        if wrapped != file.text {
            fs::write(root.join(&file.path), wrapped)?;
            changed += 1;
        }
    }
    Ok(changed)
}

fn check(files: &[File]) -> Vec<Violation> {
    let mut found = Vec::new();
    for file in files {
        content::check(file, &mut found);
        if file.path.ends_with(".rs") {
            length::check(file, &mut found);
            floors::check(file, &mut found);
        }
    }
    content::check_limits(files, &mut found);
    dead::check(files, &mut found);
    found
}

const TEXT: [&str; 8] = ["rs", "md", "toml", "sh", "py", "yml", "service", "ld"];

fn collect(root: &Path, folder: &Path, files: &mut Vec<File>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        let is_skipped = ["target", ".git", "corpus", "artifacts"].contains(&name.as_ref());
        if is_skipped {
            continue;
        }
        if entry.file_type()?.is_dir() {
            collect(root, &path, files)?;
        } else if is_text(&path) {
            let name = path.strip_prefix(root).unwrap_or(&path);
            let name = name.to_string_lossy().replace('\\', "/");
            files.push(File::new(&name, &fs::read_to_string(&path)?));
        }
    }
    Ok(())
}

fn is_text(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default().to_string_lossy();
    TEXT.contains(&extension.as_ref()) || path.ends_with(".ci/run")
}

#[cfg(test)]
mod tests {
    use super::{File, Violation, check, run};

    /// What one check says about one file.
    pub fn violations(
        path: &str,
        text: &str,
        check: fn(&File, &mut Vec<Violation>),
    ) -> Vec<String> {
        let mut found = Vec::new();
        check(&File::new(path, text), &mut found);
        found.iter().map(|v| v.to_string()).collect()
    }

    #[test]
    fn a_finding_says_where_what_and_what_to_do() {
        let found = check(&[File::new("core/src/raft/mod.rs", "use crate::log::Log;")]);
        let found: Vec<String> = found.iter().map(|v| v.to_string()).collect();
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(
            found[0],
            "core/src/raft/mod.rs:1: `raft` names `log`, which is not on a lower floor: \
             move what both need down, or let `node` bring them together"
        );
    }

    #[test]
    fn the_project_is_found_and_read() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut files = Vec::new();
        super::collect(&root, &root, &mut files).unwrap();
        assert!(files.iter().any(|f| f.path == "core/src/units.rs"));
        assert!(files.iter().any(|f| f.path == "README.md"));
        assert!(files.iter().all(|f| !f.path.contains("target/")));
        run(&root).unwrap();
    }
}
