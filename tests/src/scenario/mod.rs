//! Scenario pictures in text: commands, and under `----` what they print.
//!
//! A file is a story. Each block is one or more commands, a line of four dashes, and the output
//! that they must give, up to an empty line (etcd's data-driven tests are the model). With the
//! environment variable `REWRITE` set, a run writes the output into the file instead of comparing
//! it.
//!
//! The cluster is the simulator's, with quiet links, and the checker watches every step here too.

mod commands;
mod disk;
mod group;
mod services;

use std::path::Path;

use commands::Stage;

const RULE: &str = "----";

/// Plays the story in `path`.
///
/// # Errors
/// The first block whose output differs, or an invariant that broke.
pub fn play(path: &Path) -> Result<(), String> {
    let story = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let played = perform(&story)?;
    if std::env::var_os("REWRITE").is_some() {
        return std::fs::write(path, played).map_err(|e| format!("{}: {e}", path.display()));
    }
    compare(&story, &played)
}

/// The story with the output that its commands give now.
fn perform(story: &str) -> Result<String, String> {
    let mut stage = Stage::default();
    let mut played = String::new();
    let mut output = String::new();
    let mut lines = story.lines();
    while let Some(line) = lines.next() {
        played.push_str(line);
        played.push('\n');
        if line == RULE {
            played.push_str(&output);
            output.clear();
            // The old output, up to the empty line, is left out.
            if lines.any(str::is_empty) {
                played.push('\n');
            }
        } else if !line.is_empty() && !line.starts_with('#') {
            let said = stage.perform(line).map_err(|e| format!("{line}: {e}"))?;
            output.push_str(&said);
        }
    }
    if output.is_empty() {
        Ok(played)
    } else {
        Err(format!(
            "the last block has no line of dashes; it prints\n{output}"
        ))
    }
}

fn compare(story: &str, played: &str) -> Result<(), String> {
    let (have, want): (Vec<&str>, Vec<&str>) = (played.lines().collect(), story.lines().collect());
    let differs = (0..have.len().max(want.len())).find(|i| have.get(*i) != want.get(*i));
    match differs {
        None => Ok(()),
        Some(at) => {
            let around = at.saturating_sub(12);
            let show = |lines: &[&str]| {
                lines[around.min(lines.len())..(at + 12).min(lines.len())].join("\n")
            };
            Err(format!(
                "line {} differs\n--- expected\n{}\n--- got\n{}\n(REWRITE=1 takes it over)",
                at + 1,
                show(&want),
                show(&have)
            ))
        }
    }
}
