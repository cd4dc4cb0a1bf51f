//! Which panics the linker has kept: the calls of the library's panicking functions in a program,
//! and whose lines they are.
//!
//! A panic that the compiler can prove to be out of reach is not in the program. What is left is
//! attributed to the innermost line of this project that was inlined there: so an index in `core`
//! is `core`'s, wherever it was inlined, and a slice method that panics is whose call it is.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// A panic in a program: the kind, and the line of this project that may come to it.
pub type Site = (String, String);

/// Parts of the library that take anything: their panics are out of reach by its own promise.
const TRUSTED: [&str; 6] = [
    "core::fmt::",
    "core::net::",
    "core::num::",
    "core::str::",
    "core::slice::memchr::",
    "core::panic",
];

/// A function's calls: where each is, and of what.
type Calls = Vec<(u64, u64)>;

#[derive(Default)]
struct Program {
    names: BTreeMap<u64, String>,
    calls: BTreeMap<u64, Calls>,
}

impl Program {
    /// From what `objdump -d -C` prints.
    fn parse(listing: &str) -> Self {
        let mut program = Self::default();
        let mut inside = 0;
        for line in listing.lines() {
            if let Some((address, name)) = heading(line) {
                inside = address;
                program.names.insert(address, name.to_owned());
            } else if let Some(call) = call(line) {
                program.calls.entry(inside).or_default().push(call);
            }
        }
        program
    }

    fn name(&self, function: u64) -> &str {
        self.names.get(&function).map_or("", String::as_str)
    }
}

/// `0000000000276007 <core::panicking::panic_bounds_check>:`
fn heading(line: &str) -> Option<(u64, &str)> {
    let (address, name) = line.strip_suffix(">:")?.split_once(" <")?;
    Some((u64::from_str_radix(address, 16).ok()?, name))
}

/// ` 401000:`, a tab, `call 276007 <core::panicking::panic_bounds_check>`; also a jump out of a
/// function.
fn call(line: &str) -> Option<(u64, u64)> {
    let (address, instruction) = line.split_once(":\t")?;
    let (name, target) = instruction.split_once(' ')?;
    if !name.starts_with("call") && !name.starts_with('j') {
        return None;
    }
    let (target, _) = target.trim_start().split_once(" <")?;
    let number = |text: &str| u64::from_str_radix(text.trim(), 16).ok();
    Some((number(address)?, number(target)?))
}

/// What the compiler calls where something cannot go on.
fn is_panic(name: &str) -> bool {
    let last = name.split("::<").next().unwrap_or(name);
    name.starts_with("core::")
        && (last.contains("::panic") || last.ends_with("_fail") || last.contains("_failed"))
}

/// Where one is, so that a program in which none is found is known not to have been understood.
const PLANTED: &str = "xtask/linkcheck/src/planted.rs:";

/// Says which panics a program has but the one that is planted. False if there is any, or nothing
/// can be said. All that a device, network or configuration can bring about has a typed error, and
/// what only a bug of ours can bring about is a typed reason to halt.
pub fn is_free(program: &Path, root: &Path) -> bool {
    match find(program, root) {
        Some(sites) => is_only_planted(&sites),
        None => {
            println!("{} cannot be read", program.display());
            false
        }
    }
}

fn is_only_planted(sites: &BTreeSet<Site>) -> bool {
    let (planted, ours): (Vec<_>, Vec<_>) = sites
        .iter()
        .partition(|(_, line)| line.starts_with(PLANTED));
    for (kind, line) in &ours {
        println!("FOUND: {kind} at {line}");
    }
    println!("{} found, and {} planted", ours.len(), planted.len());
    ours.is_empty() && planted.len() == 1
}

/// Every panic in a program that a line of the project may come to, once for each line. None if
/// the tools are missing, or cannot read it.
pub fn find(program: &Path, root: &Path) -> Option<BTreeSet<Site>> {
    let mut command = Command::new("objdump");
    command
        .args(["-d", "-C", "--no-show-raw-insn"])
        .arg(program);
    let listing = command.output().ok().filter(|o| o.status.success())?;
    let read = Program::parse(&String::from_utf8_lossy(&listing.stdout));
    // By function, the panics that it may come to without a line of the project in between.
    let mut kinds: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
    for (address, name) in read.names.iter().filter(|(_, name)| is_panic(name)) {
        kinds.insert(*address, [kind(name)].into());
    }
    let mut sites = BTreeSet::new();
    let mut lines: BTreeMap<u64, Option<String>> = BTreeMap::new();
    loop {
        let mut found: Vec<(u64, u64, u64)> = Vec::new();
        for (function, calls) in &read.calls {
            let name = read.name(*function);
            if is_panic(name) || TRUSTED.iter().any(|trusted| name.contains(trusted)) {
                continue;
            }
            let to_panics = calls
                .iter()
                .filter(|(_, target)| kinds.contains_key(target));
            found.extend(to_panics.map(|(at, target)| (*function, *at, *target)));
        }
        let new: Vec<u64> = found.iter().map(|(_, at, _)| *at).collect();
        let new: Vec<u64> = new
            .into_iter()
            .filter(|at| !lines.contains_key(at))
            .collect();
        for (at, line) in new.iter().zip(project_lines(program, root, &new)?) {
            lines.insert(*at, line);
        }
        let mut has_more = false;
        for (function, at, target) in found {
            let reached = kinds.get(&target).cloned().unwrap_or_default();
            match lines.get(&at).cloned().flatten() {
                Some(line) => sites.extend(reached.into_iter().map(|kind| (kind, line.clone()))),
                None if function != target => {
                    let own = kinds.entry(function).or_default();
                    let before = own.len();
                    own.extend(reached);
                    has_more |= own.len() > before;
                }
                None => {}
            }
        }
        if !has_more {
            return Some(sites);
        }
    }
}

/// In words, from a panicking function's name.
fn kind(name: &str) -> String {
    let last = name.split("::<").next().unwrap_or(name);
    let last = last.rsplit("::").next().unwrap_or(last);
    last.to_owned()
}

/// For each address the innermost line of the project that was inlined there, if there is one.
fn project_lines(program: &Path, root: &Path, at: &[u64]) -> Option<Vec<Option<String>>> {
    let mut child = Command::new("addr2line")
        .args(["-a", "-i", "-e"])
        .arg(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .ok()?;
    let asked: String = at.iter().map(|at| format!("{at:x}\n")).collect();
    let mut input = child.stdin.take()?;
    let writer = std::thread::spawn(move || input.write_all(asked.as_bytes()));
    let output = child.wait_with_output().ok()?;
    writer.join().ok()?.ok()?;
    let mut lines = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        if line.starts_with("0x") {
            lines.push(None);
        } else if let (Some(own), Some(last)) = (own_line(root, line), lines.last_mut()) {
            last.get_or_insert(own);
        }
    }
    (lines.len() == at.len()).then_some(lines)
}

/// A file and line below the project's root, by whatever way the compiler got there.
fn own_line(root: &Path, line: &str) -> Option<String> {
    let line = line.split(" (").next()?;
    let (file, number) = line.rsplit_once(':')?;
    let file = Path::new(file);
    let mut plain = std::path::PathBuf::new();
    for part in file.components() {
        match part {
            std::path::Component::ParentDir => drop(plain.pop()),
            part => plain.push(part),
        }
    }
    let own = plain.strip_prefix(root).ok()?;
    Some(format!("{}:{number}", own.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "\
0000000000001000 <core::slice::index::slice_index_fail>:
    1000:\tud2

0000000000002000 <a::door>:
    2000:\tcmp    $0x3,%rdi
    2004:\tjbe    2010 <a::door+0x10>
    2008:\tcall   1000 <core::slice::index::slice_index_fail>
    2010:\tjmp    3000 <a::other>
";

    #[test]
    fn calls_are_found_in_a_listing() {
        let program = Program::parse(LISTING);
        assert_eq!(program.name(0x2000), "a::door");
        let calls = [(0x2004, 0x2010), (0x2008, 0x1000), (0x2010, 0x3000)];
        assert_eq!(program.calls.get(&0x2000), Some(&calls.to_vec()));
    }

    #[test]
    fn panicking_functions_are_known_by_their_names() {
        for name in [
            "core::panicking::panic_fmt",
            "core::panicking::panic_const::panic_const_div_by_zero",
            "core::slice::index::slice_index_fail",
            "core::slice::copy_from_slice_impl::len_mismatch_fail",
            "core::option::expect_failed",
            "core::panicking::assert_failed::<u64, u64>",
        ] {
            assert!(is_panic(name), "{name}");
        }
        assert!(!is_panic("core::fmt::write"));
        assert!(!is_panic("a::Failed::panic"));
    }

    #[test]
    fn any_panic_but_the_planted_one_fails_the_check_and_so_does_none_at_all() {
        let passes = |lines: &[&str]| {
            let site = |line: &&str| ("panic_fmt".to_owned(), (*line).to_owned());
            is_only_planted(&lines.iter().map(site).collect())
        };
        let planted = "xtask/linkcheck/src/planted.rs:5";
        assert!(passes(&[planted]));
        for line in [
            "core/src/log/window.rs:104",
            "core/src/log/append.rs:?",
            "checksum/src/lib.rs:71",
            "platform-embedded/src/superloop.rs:1",
            "xtask/linkcheck/src/bin/doors.rs:?",
        ] {
            assert!(!passes(&[planted, line]), "{line}");
        }
        assert!(!passes(&[]), "a program that was not understood");
    }

    #[test]
    fn a_line_is_the_projects_however_it_was_included() {
        let own = |line| own_line(Path::new("/p"), line);
        assert_eq!(
            own("/p/a/../core/src/x.rs:7 (discriminator 2)").as_deref(),
            Some("core/src/x.rs:7")
        );
        assert_eq!(own("/rustc/1/library/core/src/option.rs:9"), None);
        assert_eq!(own("??:0"), None);
    }
}
