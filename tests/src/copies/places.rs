//! From addresses in a running process to lines of this project's sources.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// Where in the sources each address is: `path:line`, the innermost that is the project's own and
/// does not just copy for others, or `elsewhere`.
///
/// # Errors
/// The process, or `addr2line`, is not there.
pub fn named(
    process: u32,
    program: &Path,
    addresses: impl Iterator<Item = u64>,
) -> Result<BTreeMap<u64, String>, String> {
    let maps = std::fs::read_to_string(format!("/proc/{process}/maps"))
        .map_err(|error| format!("the process of a node: {error}"))?;
    let Some(loaded) = loaded_at(&maps, &program.display().to_string()) else {
        return Err(format!(
            "{} is not mapped by its own process",
            program.display()
        ));
    };
    let addresses: Vec<u64> = addresses.collect();
    let mut command = Command::new("addr2line");
    command
        .args(["--addresses", "--inlines", "--exe"])
        .arg(program);
    // The byte before is of the call; after it may be another line.
    let offset = |at: &u64| format!("{:#x}", at.wrapping_sub(loaded).wrapping_sub(1));
    command.args(addresses.iter().map(offset));
    let output = command
        .output()
        .map_err(|error| format!("`addr2line` is needed (Debian: binutils): {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let names = split(&text);
    if names.len() != addresses.len() {
        return Err(format!(
            "addr2line: {}",
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    Ok(addresses.into_iter().zip(names).collect())
}

/// Where the first byte of a program's file would be in its process.
fn loaded_at(maps: &str, program: &str) -> Option<u64> {
    let line = maps.lines().find(|line| line.ends_with(program))?;
    let start = line.split('-').next()?;
    let offset = line.split_whitespace().nth(2)?;
    let number = |digits| u64::from_str_radix(digits, 16).ok();
    number(start)?.checked_sub(number(offset)?)
}

/// Has `put`, which copies for whoever calls it.
const COPIER: &str = "core/src/wire/frame.rs";

/// One name for each address in what `addr2line` says.
fn split(text: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for line in text.lines() {
        if line.starts_with("0x") {
            names.push("elsewhere".into());
            continue;
        }
        let line = line.split(" (").next().unwrap_or(line);
        let own = ["core/src/", "platform-std/src/", "checksum/src/"];
        let is_own = |path: &str| !path.contains("/rustc/") && !path.contains("registry");
        let found = own
            .iter()
            .find_map(|folder| line.find(folder))
            .filter(|_| is_own(line));
        match (names.last_mut(), found) {
            (Some(name), Some(at)) if name == "elsewhere" || name.starts_with(COPIER) => {
                *name = line[at..].to_owned();
            }
            _ => {}
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_line_of_ours_is_the_name() {
        let text = "0x0000000000000010\n/rustc/abc/library/core/src/slice/mod.rs:3962\n\
            /x/core/src/stream/image.rs:411\n/x/core/src/node/mod.rs:7\n\
            0x0000000000000020\n??:0\n0x30\n/x/core/src/wire/frame.rs:71\n\
            /x/core/src/log/append.rs:80 (discriminator 2)\n/x/core/src/log/mod.rs:3\n";
        let names = [
            "core/src/stream/image.rs:411",
            "elsewhere",
            "core/src/log/append.rs:80",
        ];
        assert_eq!(split(text), names);
    }

    #[test]
    fn a_program_is_found_where_its_file_begins() {
        let maps = "5500-5600 r-xp 00001000 fe:00 12 /x/lib.so\n\
            7f10002000-7f10003000 r--p 00001000 fe:00 13                 /x/coracle\n";
        assert_eq!(loaded_at(maps, "/x/coracle"), Some(0x7f_1000_1000));
        assert_eq!(loaded_at(maps, "/x/other"), None);
    }
}
