//! Mends comment lines that are too long, which `rustfmt` leaves alone.

use super::length::LINE_CHARS_MAX;

/// The text with the words that stick out of comment lines carried over to the next line. Lists,
/// tables, code blocks and everything that fits stay as they are.
pub fn wrapped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut carried = Vec::new();
    let mut prefix = "";
    let mut is_code_block = false;
    for line in text.lines() {
        let comment = split(line);
        let words: &str = comment.map_or("", |(_, words)| words);
        is_code_block ^= words.starts_with("```");
        let goes_on = comment.is_some_and(|(p, words)| p == prefix && is_prose(words));
        if !carried.is_empty() && !goes_on {
            flush(&mut out, prefix, &mut carried);
        }
        let is_too_long = line.chars().count() > LINE_CHARS_MAX && !is_code_block;
        match comment {
            Some((p, words)) if is_too_long || !carried.is_empty() => {
                prefix = p;
                carried.extend(words.split_whitespace().map(str::to_owned));
                take_line(&mut out, prefix, &mut carried);
            }
            _ => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    flush(&mut out, prefix, &mut carried);
    out
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

/// Whether a line goes on with the sentence of the one before.
fn is_prose(words: &str) -> bool {
    let is_item = |word: &str| {
        let number = word.strip_suffix('.').unwrap_or(word);
        ["-", "*", "|", "#", "```", ">"].contains(&word)
            || word.starts_with("```")
            || (number.len() < word.len() && number.parse::<u8>().is_ok())
    };
    !words.starts_with(' ') && words.split_whitespace().next().is_some_and(|w| !is_item(w))
}

/// Writes one line of what is carried, and keeps what does not fit.
fn take_line(out: &mut String, prefix: &str, carried: &mut Vec<String>) {
    let mut len = prefix.chars().count();
    let mut taken = 0;
    for word in carried.iter() {
        len += 1 + word.chars().count();
        if len > LINE_CHARS_MAX && taken > 0 {
            break;
        }
        taken += 1;
    }
    out.push_str(prefix);
    for word in carried.drain(..taken) {
        out.push(' ');
        out.push_str(&word);
    }
    out.push('\n');
}

fn flush(out: &mut String, prefix: &str, carried: &mut Vec<String>) {
    while !carried.is_empty() {
        take_line(out, prefix, carried);
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
