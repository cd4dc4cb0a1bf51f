//! Mends comment lines that are too long, which `rustfmt` leaves alone.

use super::length::LINE_CHARS_MAX;

/// The text with the words that stick out of comment lines carried over to the next line. Lists,
/// tables, code blocks and everything that fits stay as they are.
pub fn wrapped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut carried = Vec::new();
    let mut prefix = "";
    // Under a list's item its further lines are indented, or they would be no part of it.
    let mut hang = String::new();
    let mut is_code_block = false;
    for line in text.lines() {
        let comment = split(line);
        let words: &str = comment.map_or("", |(_, words)| words);
        is_code_block ^= words.starts_with("```");
        let goes_on = comment.is_some_and(|(p, words)| p == prefix && is_prose(words));
        if !carried.is_empty() && !goes_on {
            flush(&mut out, prefix, &hang, &mut carried);
        }
        let is_too_long = line.chars().count() > LINE_CHARS_MAX && !is_code_block;
        match comment {
            Some((p, words)) if is_too_long || !carried.is_empty() => {
                prefix = p;
                let indent = if carried.is_empty() {
                    let (indent, further) = indents(words);
                    hang = further;
                    indent
                } else {
                    hang.clone()
                };
                carried.extend(words.split_whitespace().map(str::to_owned));
                take_line(&mut out, prefix, &indent, &mut carried);
            }
            _ => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    flush(&mut out, prefix, &hang, &mut carried);
    out
}

/// The indentation of a comment's line, and of the lines that go on with it.
fn indents(words: &str) -> (String, String) {
    let indent = words.len() - words.trim_start().len();
    let mark = words.split_whitespace().next().filter(|word| is_item(word));
    let hang = indent + mark.map_or(0, |mark| mark.len() + 1);
    (" ".repeat(indent), " ".repeat(hang))
}

/// A comment line's indentation and slashes, and what it says.
fn split(line: &str) -> Option<(&str, &str)> {
    let indent = line.len() - line.trim_start().len();
    let slashes = ["//!", "///", "//"]
        .into_iter()
        .find(|slashes| line[indent..].starts_with(slashes))?;
    let (prefix, words) = line.split_at(indent + slashes.len());
    Some((prefix, words.strip_prefix(' ').unwrap_or(words)))
}

/// Whether a line that starts with this word is a list's item, a table's row and so on.
fn is_item(word: &str) -> bool {
    let number = word.strip_suffix('.').unwrap_or(word);
    ["-", "*", "|", "#", "```", ">"].contains(&word)
        || word.starts_with("```")
        || (number.len() < word.len() && number.parse::<u8>().is_ok())
}

/// Whether a line goes on with the sentence of the one before.
fn is_prose(words: &str) -> bool {
    !words.starts_with(' ') && words.split_whitespace().next().is_some_and(|w| !is_item(w))
}

/// Writes one line of what is carried, and keeps what does not fit.
fn take_line(out: &mut String, prefix: &str, indent: &str, carried: &mut Vec<String>) {
    let mut len = prefix.chars().count() + indent.len();
    let mut taken = 0;
    for word in carried.iter() {
        len += 1 + word.chars().count();
        if len > LINE_CHARS_MAX && taken > 0 {
            break;
        }
        taken += 1;
    }
    out.push_str(prefix);
    out.push_str(indent);
    for word in carried.drain(..taken) {
        out.push(' ');
        out.push_str(&word);
    }
    out.push('\n');
}

fn flush(out: &mut String, prefix: &str, indent: &str, carried: &mut Vec<String>) {
    while !carried.is_empty() {
        take_line(out, prefix, indent, carried);
    }
}

#[cfg(test)]
mod tests {
    use super::wrapped;

    #[test]
    fn words_that_stick_out_go_to_the_next_line_of_the_sentence() {
        let long = "x ".repeat(48);
        let text = format!("    /// {long}yy\n    /// end.\n    /// - item\n    fn f();\n");
        let expected = format!(
            "    /// {}\n    /// x yy end.\n    /// - item\n    fn f();\n",
            "x ".repeat(46).trim_end()
        );
        let expected = expected.replace("/// x yy", "/// x x yy");
        assert_eq!(wrapped(&text), expected);
        assert_eq!(wrapped(&expected), expected);
    }

    #[test]
    fn a_list_item_stays_one_item() {
        let long = "word ".repeat(20);
        let text = format!("//! 5. {long}\n//! end.\n//! 6. next\n");
        let expected = format!(
            "//! 5. {}\n//!    word word end.\n//! 6. next\n",
            "word ".repeat(18).trim_end()
        );
        assert_eq!(wrapped(&text), expected);
        assert_eq!(wrapped(&expected), expected);
    }

    #[test]
    fn what_fits_and_what_is_no_prose_stays() {
        let wide = "x".repeat(120);
        let text =
            format!("//! a\n//! b\n//!\n//! ```text\n//! {wide}\n//! ```\nlet x = 1; // a\n");
        assert_eq!(wrapped(&text), text);
        let alone = format!("// {}\nfn f() {{}}\n", "word ".repeat(20).trim_end());
        let lines: Vec<_> = wrapped(&alone).lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[1], "// word");
    }
}
