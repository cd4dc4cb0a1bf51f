//! Core and the embedded platform, built for machines that have no `std` at all.
//!
//! A target that rustup has installed is built for as it is. Else Debian's compiler is used with
//! the library's own source (`rustc-web`, `rust-web-src`): they are of one version, and `core` is
//! built from that. A link is not needed: what is built are libraries.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::chores::{cargo, root, words, works};
use crate::frames::Frames;
use crate::steps::Steps;

const TARGETS: [&str; 2] = ["thumbv7m-none-eabi", "riscv32imac-unknown-none-elf"];
/// Debian's, which is not found by a rustup that stands before it.
const DEBIAN: &str = "/usr/bin/rustc";
/// The example whose functions' stack is looked at, and the most that each may take: what `TINY`
/// lacks to 64 KiB, a quarter of it for interrupts, tables of calls, and what a board does itself.
const STACK: [(&str, u64); 2] = [("5sizes4open", 15 * 1024), ("5sizes4turn", 15 * 1024)];
const BUILD: &str = "build --release -p coracle-core -p coracle-embedded --lib --examples";
/// With room for so many members.
const MEMBERS: [(&str, u32); 2] = [("", 7), (" --no-default-features", 3)];

pub fn run(steps: &mut Steps) {
    for target in TARGETS {
        for (flags, members) in MEMBERS {
            build(steps, target, flags, members);
        }
    }
}

fn build(steps: &mut Steps, target: &str, flags: &str, members: u32) {
    let of = format!("{target}, {members} members");
    let name = format!("no std: {of}");
    let mut command = cargo(words(BUILD).chain(words(flags)));
    // Objects of the target and no bitcode: their symbols are read.
    command.env("CARGO_PROFILE_RELEASE_LTO", "off");
    // Neither stable nor needed to build: it says how large each function's frame is.
    command.env("RUSTC_BOOTSTRAP", "1");
    command.env("RUSTFLAGS", "-Zemit-stack-sizes");
    let Some(folder) = prepare(&mut command, target, "bare", "core") else {
        return steps.cannot(&name, &no_library_for(target));
    };
    steps.run(&name, 20, &mut command);
    let release = folder.join("release");
    say_sizes(&of, &release.join("examples/libsizes.rlib"));
    steps.check(&format!("stack: {of}"), || is_shallow(&release));
}

/// Prints the stack that a start and a turn of a tiny member need. False if it is too much, or
/// cannot be told.
fn is_shallow(release: &Path) -> bool {
    let mut frames = Frames::default();
    for library in [
        "examples/libsizes",
        "libcoracle_core",
        "libcoracle_embedded",
    ] {
        let path = release.join(library).with_extension("rlib");
        if !std::fs::read(&path).is_ok_and(|bytes| frames.add_library(&bytes)) {
            println!("{} cannot be read", path.display());
            return false;
        }
    }
    let mut is_shallow = true;
    for (function, most) in STACK {
        let way = frames.deepest(function).unwrap_or_default();
        let total: u64 = way.iter().map(|(size, _)| size).sum();
        println!("{total:>10}  {function}, at most {most}");
        for (size, name) in &way {
            println!("{size:>14}  {name}");
        }
        is_shallow &= (1..=most).contains(&total);
    }
    is_shallow
}

/// Has cargo build for `target`, into a folder of this name; gives that of the target in it. `None`
/// if there is no standard library for the target, nor the source of one (`library`).
pub fn prepare(
    command: &mut Command,
    target: &str,
    folder: &str,
    library: &str,
) -> Option<PathBuf> {
    let mut folder = root().join("target").join(folder);
    if !has_target(target) {
        if !has_source(DEBIAN) {
            return None;
        }
        // Another compiler: what it builds is kept apart.
        folder.as_mut_os_string().push("-debian");
        command.arg(format!("-Zbuild-std={library}"));
        command.env("RUSTC", DEBIAN).env("RUSTC_BOOTSTRAP", "1");
    }
    command.args(["--target", target, "--target-dir"]);
    command.arg(&folder);
    Some(folder.join(target))
}

/// What is missing where [`prepare`] gives nothing.
pub fn no_library_for(target: &str) -> String {
    format!(
        "there is no library for it (`rustup target add {target}`, or Debian's rustc-web and \
         rust-web-src)"
    )
}

/// Whether this compiler has the source of its own library.
fn has_source(compiler: &str) -> bool {
    let printed = Command::new(compiler).args(["--print", "sysroot"]).output();
    let folder = printed.ok().and_then(|o| String::from_utf8(o.stdout).ok());
    let library = "lib/rustlib/src/rust/library/core";
    folder.is_some_and(|folder| Path::new(folder.trim()).join(library).exists())
}

fn has_target(target: &str) -> bool {
    let mut command = Command::new("rustc");
    command.current_dir(root());
    let printed = command.args(["--print", "target-libdir", "--target", target]);
    let folder = printed.output().ok().filter(|o| o.status.success());
    let folder = folder.and_then(|o| String::from_utf8(o.stdout).ok());
    folder.is_some_and(|folder| {
        let files = std::fs::read_dir(folder.trim());
        files.is_ok_and(|mut files| files.next().is_some())
    })
}

/// Prints the size of each symbol of `examples/sizes.rs`. That none is too large was checked when
/// it was built.
fn say_sizes(of: &str, library: &Path) {
    if !library.exists() || !works("nm", &["--version"]) {
        return;
    }
    let output = Command::new("nm").arg("-S").arg(library).output();
    let Ok(output) = output else {
        return;
    };
    println!("bytes on {of}:");
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        if let Some((name, size)) = symbol(line) {
            println!("{size:>10}  {name}");
        }
    }
}

/// A line of `nm -S`: address, size, kind, mangled name.
fn symbol(line: &str) -> Option<(&str, u64)> {
    let mut fields = line.split_whitespace().skip(1);
    let size = u64::from_str_radix(fields.next()?, 16).ok()?;
    let mangled = fields.nth(1)?;
    let name = mangled.get(mangled.find("CORACLE_")?..)?;
    let end = name
        .find(|c: char| c.is_ascii_lowercase())
        .unwrap_or(name.len());
    // The hash begins with its length and an `h`.
    let name = name
        .get(..end)?
        .trim_end_matches(|c: char| c.is_ascii_digit());
    Some((name, size))
}

#[cfg(test)]
mod tests {
    use super::symbol;

    #[test]
    fn a_symbol_has_a_name_and_a_size() {
        let line = "00000000 00004620 B _ZN5sizes22CORACLE_TINY_SUPERLOOP17h128fafe579210d1bE";
        assert_eq!(symbol(line), Some(("CORACLE_TINY_SUPERLOOP", 17_952)));
        assert_eq!(symbol("00000000 T _ZN5sizes4ALL17h128fafe579210d1bE"), None);
        assert_eq!(symbol("sizes.o:"), None);
    }
}
