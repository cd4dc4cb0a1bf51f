//! How long files, functions and lines may be.

use super::source::{line_of, words};
use super::{File, Violation};

const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;
pub const LINE_CHARS_MAX: usize = 100;

pub fn check(file: &File, found: &mut Vec<Violation>) {
    let lines = file.text.lines().count();
    if lines >= FILE_LINES_MAX {
        let what = format!("{lines} lines; files have less than {FILE_LINES_MAX}");
        found.push(file.violation(1, what, "split the file where one idea ends"));
    }
    for (n, line) in file.text.lines().enumerate() {
        let chars = line.chars().count();
        if chars > LINE_CHARS_MAX {
            let what = format!("{chars} characters; lines have at most {LINE_CHARS_MAX}");
            found.push(file.violation(n + 1, what, "break the line"));
        }
    }
    for (name, line, lines) in functions(&file.code) {
        if lines > FUNCTION_LINES_MAX {
            let what = format!("`{name}` has {lines} lines; functions have at most 70");
            found.push(file.violation(line, what, "give a part of it a name of its own"));
        }
    }
}

/// Name, first line and number of lines of every function with a body.
fn functions(code: &str) -> Vec<(String, usize, usize)> {
    let mut found = Vec::new();
    let mut all = words(code).peekable();
    while let Some((at, word)) = all.next() {
        // `fn(` is a type, and has no name right after it.
        let Some((name_at, name)) = all.peek().copied().filter(|_| word == "fn") else {
            continue;
        };
        if code[at + 2..name_at].trim() != "" {
            continue;
        }
        if let Some(end) = body_end(code, name_at) {
            let first = line_of(code, at);
            found.push((name.to_owned(), first, line_of(code, end) - first + 1));
        }
    }
    found
}

/// Where the body of the function whose name is at `from` ends; none if it has no body.
fn body_end(code: &str, from: usize) -> Option<usize> {
    let (mut parens, mut braces) = (0_usize, 0_usize);
    for (at, c) in code[from..].char_indices() {
        match c {
            '(' | '[' if braces == 0 => parens += 1,
            ')' | ']' if braces == 0 => parens = parens.saturating_sub(1),
            ';' if parens == 0 && braces == 0 => return None,
            '{' if parens == 0 => braces += 1,
            '}' if parens == 0 && braces <= 1 => return Some(from + at),
            '}' if parens == 0 => braces -= 1,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::tests::violations;
    use super::check;

    fn function(lines: usize) -> String {
        let body = "    a({ [0; 3] });\n".repeat(lines - 2);
        format!("fn long(x: [u8; 4]) -> [u8; 4] {{\n{body}}}\n")
    }

    #[test]
    fn a_function_of_71_lines_is_found_and_one_of_70_is_not() {
        assert!(violations("a.rs", &function(70), check).is_empty());
        let found = violations("a.rs", &function(71), check);
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("`long` has 71 lines"), "{found:?}");
    }

    #[test]
    fn declarations_and_function_types_have_no_body() {
        let text = format!(
            "trait T {{ fn f(&self); }}\ntype F = fn(u8);\n{}",
            function(70)
        );
        assert!(violations("a.rs", &text, check).is_empty());
    }

    #[test]
    fn long_files_and_long_lines_are_found() {
        assert!(violations("a.rs", &"\n".repeat(599), check).is_empty());
        assert_eq!(violations("a.rs", &"\n".repeat(600), check).len(), 1);
        assert!(violations("a.rs", &"ü".repeat(100), check).is_empty());
        assert_eq!(violations("a.rs", &"x".repeat(101), check).len(), 1);
    }
}
