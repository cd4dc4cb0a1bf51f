//! The product as an ARM appliance runs it, cross-built and in an emulator of single processes
//! (QEMU's user mode); and core's tests where a machine word has 32 bits.
//!
//! Those are of i686, which an x86-64 runs itself: emulated they take a quarter of an hour.

use std::path::Path;
use std::process::Command;

use crate::bare;
use crate::chores::{cargo, output, root, words, works};
use crate::steps::Steps;

const AARCH64: &str = "aarch64-unknown-linux-gnu";
const LINKER: &str = "aarch64-linux-gnu-gcc";
const EMULATOR: &str = "qemu-aarch64";
const LIBRARIES: &str = "/usr/aarch64-linux-gnu";
const I686: &str = "i686-unknown-linux-gnu";

pub fn run(steps: &mut Steps) {
    appliance(steps);
    narrow(steps);
}

fn appliance(steps: &mut Steps) {
    let name = "aarch64: build";
    let has_libraries = Path::new(LIBRARIES).join("lib/crt1.o").exists();
    if !has_libraries
        || ![LINKER, EMULATOR]
            .iter()
            .all(|tool| works(tool, &["--version"]))
    {
        let packages = "gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user";
        let missing = format!("a cross linker or an emulator is missing (Debian: {packages})");
        return steps.cannot(name, &missing);
    }
    let mut command = cargo(words("build --release -p coracle-std --bin coracle"));
    command.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", LINKER);
    let Some(folder) = bare::prepare(&mut command, AARCH64, "arm", "std") else {
        return steps.cannot(name, &bare::no_library_for(AARCH64));
    };
    steps.run(name, 15, &mut command);
    demo(steps, &folder.join("release/coracle"));
}

/// Three emulated nodes, an emulated client, one kill. Then this machine reads what they wrote.
fn demo(steps: &mut Steps, program: &Path) {
    let dir = root().join("target/arm-demo");
    let name = "aarch64: demo --kills 1";
    if dir.exists() && std::fs::remove_dir_all(&dir).is_err() {
        return steps.check(name, || {
            println!("cannot remove {}", dir.display());
            false
        });
    }
    let mut command = Command::new(EMULATOR);
    command.args(["-L", LIBRARIES]).arg(program);
    command.args(["demo", "--kills", "1", "--dir"]).arg(&dir);
    // An emulated process cannot start emulated ones by itself.
    command.env("CORACLE_RUNNER", format!("{EMULATOR} -L {LIBRARIES}"));
    steps.run(name, 10, &mut command);
    for member in 0..3 {
        let mut command = cargo(words("run --release --quiet -- log --verify --dir"));
        command.arg(dir.join(format!("node-{member}")));
        let name = format!("aarch64: log of member {member}, read here");
        steps.run(&name, 15, &mut command);
    }
}

/// Core's tests, where a length has 32 bits and a position 64.
fn narrow(steps: &mut Steps) {
    let name = "32 bits: core's tests";
    if !cfg!(target_arch = "x86_64") {
        return steps.cannot(name, "they are of i686, which only an x86-64 runs");
    }
    // Asked for a file that it does not have, gcc repeats its bare name.
    let has = |file: &str| {
        let path = output("gcc", &["-m32", &format!("-print-file-name={file}")]);
        path.is_some_and(|path| Path::new(&path).is_absolute())
    };
    if !has("crt1.o") || !has("libgcc.a") {
        let missing = "32-bit libraries are missing (Debian: libc6-dev-i386 and lib32gcc-12-dev, \
                       or that of your gcc's version)";
        return steps.cannot(name, missing);
    }
    let mut command = cargo(words("test -p coracle-core -p coracle-checksum --lib"));
    match bare::prepare(&mut command, I686, "arm", "std") {
        Some(_) => steps.run(name, 20, &mut command),
        None => steps.cannot(name, &bare::no_library_for(I686)),
    }
}
