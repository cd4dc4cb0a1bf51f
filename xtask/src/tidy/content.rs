//! Words that may not be committed, and limits that nobody obeys.

use super::source::words;
use super::{File, Violation};

/// What stands for work not done, in code.
const UNFINISHED: [&str; 4] = ["todo!", "dbg!", "unimplemented!", "#[ignore"];
/// What may not stand anywhere, comments and prose included. Written in two parts, so that this
/// file does not contain them.
const NOWHERE: [(&str, &str); 4] = [
    (
        concat!("FIX", "ME"),
        "do it, or write it up where work is planned",
    ),
    (
        concat!("XX", "X"),
        "do it, or write it up where work is planned",
    ),
    (concat!("/wo", "rk/"), "name no path of one machine"),
    (concat!("/ho", "me/"), "name no path of one machine"),
];

pub fn check(file: &File, found: &mut Vec<Violation>) {
    for (n, line) in file.code.lines().enumerate() {
        for word in UNFINISHED.iter().filter(|word| line.contains(*word)) {
            let fix = "finish it: nothing half done is committed, and every test runs";
            found.push(file.violation(n + 1, format!("`{word}`"), fix));
        }
    }
    for (n, line) in file.text.lines().enumerate() {
        for (word, fix) in NOWHERE.iter().filter(|(word, _)| line.contains(word)) {
            found.push(file.violation(n + 1, format!("`{word}`"), fix));
        }
    }
}

/// Every constant of `core/src/limits.rs` is named at least once outside its own definition.
pub fn check_limits(files: &[File], found: &mut Vec<Violation>) {
    let Some(limits) = files.iter().find(|f| f.path == "core/src/limits.rs") else {
        return;
    };
    for (n, line) in limits.code.lines().enumerate() {
        let Some((_, definition)) = line.split_once("pub const ") else {
            continue;
        };
        let Some((_, name)) = words(definition).next() else {
            continue;
        };
        let uses = files
            .iter()
            .flat_map(|f| words(&f.code))
            .filter(|(_, word)| *word == name)
            .count();
        if uses < 2 {
            let fix = "enforce the limit where its value enters, or remove it";
            found.push(limits.violation(n + 1, format!("`{name}` limits nothing"), fix));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::File;
    use super::super::tests::violations;
    use super::{NOWHERE, UNFINISHED, check, check_limits};

    #[test]
    fn every_banned_word_is_found() {
        for word in UNFINISHED {
            assert_eq!(violations("a.rs", &format!("{word}()"), check).len(), 1);
            assert_eq!(violations("a.rs", &format!("// {word}()"), check).len(), 0);
        }
        for (word, _) in NOWHERE {
            assert_eq!(violations("a.rs", &format!("// {word}"), check).len(), 1);
            assert_eq!(violations("a.md", &format!("see {word}"), check).len(), 1);
        }
    }

    #[test]
    fn a_limit_that_nobody_names_is_found() {
        let limits = "/// One.\npub const ONE_MAX: usize = 1;\npub const TWO_MAX: u8 = 2;\n";
        let files = [
            File::new("core/src/limits.rs", limits),
            File::new("core/src/wire/mod.rs", "// ONE_MAX\nfn f() { g(TWO_MAX) }"),
        ];
        let mut found = Vec::new();
        check_limits(&files, &mut found);
        assert_eq!(found.len(), 1);
        assert!(
            found[0]
                .to_string()
                .contains("core/src/limits.rs:2: `ONE_MAX`")
        );
    }
}
