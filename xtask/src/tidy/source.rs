//! Just enough of Rust's lexical grammar to look at code without being fooled by its text.

/// The source with comments, strings and character literals replaced by spaces. Lines and columns
/// stay where they are.
pub fn code_only(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = skip(&chars, at);
        if end == at {
            out.push(chars[at]);
            at += 1;
        } else {
            out.extend(chars[at..end].iter().map(|c| match c {
                '\n' => '\n',
                _ => ' ',
            }));
            at = end;
        }
    }
    out
}

/// Where the comment or literal that starts at `at` ends; `at` if none starts there.
fn skip(chars: &[char], at: usize) -> usize {
    let next = |n: usize| chars.get(at + n).copied().unwrap_or('\0');
    match chars[at] {
        '/' if next(1) == '/' => chars[at..]
            .iter()
            .position(|c| *c == '\n')
            .map_or(chars.len(), |n| at + n),
        '/' if next(1) == '*' => block_comment(chars, at),
        '"' => string(chars, at),
        'r' if !within_word(chars, at) => raw_string(chars, at).unwrap_or(at),
        // A lifetime has no closing quote two places on, unless it is a one-letter char literal.
        '\'' if next(1) == '\\' => chars[at + 3..]
            .iter()
            .position(|c| *c == '\'')
            .map_or(chars.len(), |n| at + n + 4),
        '\'' if next(2) == '\'' => at + 3,
        _ => at,
    }
}

fn within_word(chars: &[char], at: usize) -> bool {
    // `br"..."` is a raw string too.
    let before = |n: usize| at.checked_sub(n).map(|i| chars[i]);
    let is_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    match before(1) {
        Some('b') => is_word(before(2)),
        c => is_word(c),
    }
}

fn block_comment(chars: &[char], at: usize) -> usize {
    let (mut depth, mut at) = (0_usize, at);
    while at + 1 < chars.len() {
        match (chars[at], chars[at + 1]) {
            ('/', '*') => (depth, at) = (depth + 1, at + 2),
            ('*', '/') if depth == 1 => return at + 2,
            ('*', '/') => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    chars.len()
}

fn string(chars: &[char], at: usize) -> usize {
    let mut at = at + 1;
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

fn raw_string(chars: &[char], at: usize) -> Option<usize> {
    let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
    let mut inside = at + 2 + hashes;
    if chars.get(inside - 1) != Some(&'"') {
        return None;
    }
    while inside < chars.len() {
        let closes = chars[inside] == '"'
            && chars[inside + 1..].len() >= hashes
            && chars[inside + 1..=inside + hashes]
                .iter()
                .all(|c| *c == '#');
        if closes {
            return Some(inside + 1 + hashes);
        }
        inside += 1;
    }
    Some(chars.len())
}

/// The line, from 1, of a byte offset.
pub fn line_of(text: &str, offset: usize) -> usize {
    text[..offset].matches('\n').count() + 1
}

/// Every whole word with its byte offset.
pub fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let start = at + code[at..].find(is_word)?;
        let len = code[start..]
            .find(|c| !is_word(c))
            .unwrap_or(code.len() - start);
        at = start + len;
        Some((start, &code[start..at]))
    })
}

#[cfg(test)]
mod tests {
    use super::code_only;

    #[test]
    fn text_is_blanked_and_code_is_not() {
        let code =
            code_only("let a = \"fn x { \\\" }\"; // fn y {\nlet b = '{'; /* { /* { */ */ c");
        assert_eq!(code.split_whitespace().collect::<String>(), "leta=;letb=;c");
        assert_eq!(code.lines().count(), 2);
    }

    #[test]
    fn lifetimes_raw_strings_and_escapes_are_told_apart() {
        let code =
            code_only(r###"fn f<'a>(x: &'a str) { br#"{ " }"#; r"\"; '\''; '\u{7f}'; bar"# }"###);
        let code: String = code.split_whitespace().collect();
        assert!(code.starts_with("fnf<'a>(x:&'astr){b;;;;bar"), "{code}");
    }
}
