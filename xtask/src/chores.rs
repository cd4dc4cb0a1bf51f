//! What each chore runs.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::bare;
use crate::panics;
use crate::steps::Steps;
use crate::tidy;

/// The project's root.
pub fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_path_buf()
}

pub fn cargo<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(root()).args(args);
    command
}

pub fn words(line: &str) -> std::str::SplitWhitespace<'_> {
    line.split_whitespace()
}

/// Packages that are workspaces of their own, by their folder.
const APART: [&str; 8] = [
    "fuzz",
    "platform-embedded/image",
    "xtask/linkcheck",
    "tests/copies",
    "tests/defmt",
    "tests/net",
    "tests/peer",
    "tests/rivals",
];

pub fn fmt(steps: &mut Steps) {
    steps.run("format", 5, &mut cargo(words("fmt --all --check")));
    for folder in APART {
        let mut command = cargo(words("fmt --check"));
        command.current_dir(root().join(folder));
        steps.run(&format!("format {folder}"), 5, &mut command);
    }
}

pub fn lint(steps: &mut Steps) {
    let line = "clippy --workspace --all-targets -- -D warnings";
    steps.run("clippy", 30, &mut cargo(words(line)));
    let line = "clippy --release --manifest-path xtask/linkcheck/Cargo.toml -- -D warnings";
    steps.run("clippy xtask/linkcheck", 10, &mut cargo(words(line)));
    for (folder, flags) in [
        ("fuzz", "--no-default-features"),
        ("tests/net", "--locked"),
        ("tests/copies", "--locked"),
        ("tests/defmt", "--locked"),
    ] {
        let line = format!("clippy --all-targets --manifest-path {folder}/Cargo.toml {flags}");
        let mut command = cargo(words(&line));
        let command = command.args(["--", "-D", "warnings"]);
        steps.run(&format!("clippy {folder}"), 10, command);
    }
    // In its folder, because its settings are there.
    for features in ["", "echo"] {
        let mut command = cargo(words("clippy --release --locked --features"));
        command.args([features, "--", "-D", "warnings"]);
        let command = command.current_dir(root().join("platform-embedded/image"));
        steps.run("clippy platform-embedded/image", 10, command);
    }
}

pub fn doc(steps: &mut Steps) {
    let mut command = cargo(words("doc --workspace --no-deps --document-private-items"));
    command.env("RUSTDOCFLAGS", "-D warnings");
    steps.run("docs", 30, &mut command);
}

pub fn tidy(steps: &mut Steps) {
    steps.check("tidy", || match tidy::run(&root()) {
        Ok(found) => {
            for violation in &found {
                println!("{violation}");
            }
            found.is_empty()
        }
        Err(error) => {
            println!("cannot read the project: {error}");
            false
        }
    });
}

/// Wraps comment lines that are too long.
pub fn wrap(steps: &mut Steps) {
    steps.check("wrap", || match tidy::wrap(&root()) {
        Ok(changed) => {
            println!("{changed} files changed");
            true
        }
        Err(error) => {
            println!("cannot rewrite the project: {error}");
            false
        }
    });
}

/// Unit tests, scenarios, doc tests, and the tests of every package that start processes.
pub fn unit(steps: &mut Steps) {
    let line = "test --workspace --exclude coracle-tests";
    steps.run("unit and process tests", 40, &mut cargo(words(line)));
    let line = "test -p coracle-core -p coracle-embedded --no-default-features";
    steps.run("room for three members", 20, &mut cargo(words(line)));
    let line = "test -p coracle-embedded --features smoltcp --lib";
    steps.run("embedded network", 10, &mut cargo(words(line)));
    steps.run("scenarios", 40, &mut cargo(words("test -p coracle-tests")));
}

/// The tests in `tests/net/` whose names start with `filter`: node processes on real networks.
fn real_network(steps: &mut Steps, filter: &str) {
    let line = "test --manifest-path tests/net/Cargo.toml --";
    let mut command = cargo(words(line));
    steps.run(&format!("test {filter}"), 20, command.arg(filter));
}

pub fn tshark(steps: &mut Steps) {
    if !works("tshark", &["--version"]) {
        steps.cannot("test tshark", "tshark is not installed (Debian: tshark)");
    } else if !is_root() {
        steps.cannot("test tshark", "capturing needs root");
    } else {
        real_network(steps, "tshark");
    }
}

pub fn netns(steps: &mut Steps) {
    if !works("ip", &["-V"]) {
        let missing = "`ip` is not installed (Debian: iproute2)";
        steps.cannot("test namespaces", missing);
    } else if !is_root() {
        steps.cannot("test namespaces", "making network namespaces needs root");
    } else {
        real_network(steps, "namespaces");
    }
}

/// What the C driver cannot be built without.
fn lacks_for_peer() -> Option<&'static str> {
    if !works("clang", &["--version"]) {
        Some("clang is not installed (Debian: clang libclang-dev)")
    } else if cmake_version() < Some((3, 30)) {
        Some("CMake 3.30 or newer is not installed (PyPI: cmake)")
    } else {
        None
    }
}

pub fn peer(steps: &mut Steps) {
    let name = "the C Aeron client";
    if let Some(missing) = lacks_for_peer() {
        return steps.cannot(name, missing);
    }
    let line = "test --manifest-path tests/peer/Cargo.toml";
    steps.run(name, 40, &mut cargo(words(line)));
    let line = "clippy --all-targets --features bare --manifest-path tests/peer/Cargo.toml";
    let mut clippy = cargo(words(line));
    steps.run(
        "clippy tests/peer",
        10,
        clippy.args(["--", "-D", "warnings"]),
    );
}

/// The same client and driver, from the same build, against bare-metal nodes in virtual machines;
/// flags are those of `qemu`.
pub fn peer_bare(steps: &mut Steps, flags: &[&str]) {
    let name = "the C Aeron client, bare metal";
    if let Some(missing) = lacks_for_peer().map(str::to_owned).or(lacks_qemu(flags)) {
        return steps.cannot(name, &missing);
    }
    let line = "test --features bare --test bare_metal --manifest-path tests/peer/Cargo.toml";
    let mut command = cargo(words(line));
    steps.run(name, 20, command.env("CORACLE_QEMU_FLAGS", flags.join(" ")));
}

/// The other systems that `bench --peers` measures: their servers' tests, and one short round.
pub fn rivals(steps: &mut Steps) {
    let cargo = |line: &str| {
        let mut command = cargo(words(line));
        let apart = "--locked --manifest-path tests/rivals/Cargo.toml --target-dir target/rivals";
        command.args(words(apart));
        command
    };
    // In release, which the bench builds in any case.
    steps.run("test tests/rivals", 30, &mut cargo("test --release"));
    let mut clippy = cargo("clippy --release --all-targets");
    steps.run(
        "clippy tests/rivals",
        15,
        clippy.args(["--", "-D", "warnings"]),
    );
    steps.check("bench --peers", || bench(&["--peers", "--quick"]));
}

/// What a machine of these flags cannot be started without.
fn lacks_qemu(flags: &[&str]) -> Option<String> {
    let is_riscv = flags.windows(2).any(|pair| pair == ["--arch", "riscv32"]);
    let (program, package) = match is_riscv {
        true => ("qemu-system-riscv32", "qemu-system-misc"),
        false => ("qemu-system-x86_64", "qemu-system-x86"),
    };
    (!works(program, &["--version"]))
        .then(|| format!("{program} is not installed (Debian: {package})"))
}

/// Bare-metal nodes in virtual machines; its own flags.
pub fn qemu(steps: &mut Steps, minutes: u32, flags: &[&str]) {
    let name = format!("qemu {}", flags.join(" "));
    if let Some(missing) = lacks_qemu(flags) {
        return steps.cannot(name.trim(), &missing);
    }
    let run = "run --release --quiet -p coracle-qemu --";
    steps.run(name.trim(), minutes, cargo(words(run)).args(flags));
}

/// Links and runs a `no_std`, `no_main` binary that drives every door of `core`.
pub fn linkcheck(steps: &mut Steps) {
    let line = "run --release --bin linkcheck --manifest-path xtask/linkcheck/Cargo.toml";
    steps.run("no_std link check", 20, &mut cargo(words(line)));
    let name = "no panic in any door of the";
    if !works("objdump", &["--version"]) || !works("addr2line", &["--version"]) {
        return steps.cannot(name, "objdump or addr2line is missing (Debian: binutils)");
    }
    let line = "build --release --bins --manifest-path xtask/linkcheck/Cargo.toml";
    steps.run("every door", 20, &mut cargo(words(line)));
    for (program, whose) in [("core_doors", "core"), ("doors", "embedded platform")] {
        let program = root().join("xtask/linkcheck/target/release").join(program);
        steps.check(&format!("{name} {whose}"), || {
            panics::is_free(&program, &root())
        });
    }
}

pub fn defmt(steps: &mut Steps) {
    let line = "clippy -p coracle-core --features defmt -- -D warnings";
    steps.run("defmt feature", 10, &mut cargo(words(line)));
    let line = "clippy -p coracle-embedded --features defmt -- -D warnings";
    steps.run("defmt on a board", 10, &mut cargo(words(line)));
    defmt_frames(steps);
}

/// A node for `thumbv7m` is built with its logs, and run in an emulator; what it has logged is
/// decoded and compared.
fn defmt_frames(steps: &mut Steps) {
    const TARGET: &str = "thumbv7m-none-eabi";
    const EMULATOR: &str = "qemu-arm";
    let name = "defmt frames";
    if !works(EMULATOR, &["--version"]) {
        let missing = format!("{EMULATOR} is not installed (Debian: qemu-user)");
        return steps.cannot(name, &missing);
    }
    let manifest = "--manifest-path tests/defmt/Cargo.toml --locked";
    let device = format!("build --release --features device --bin device {manifest}");
    let mut command = cargo(words(&device));
    // What is logged is decided when it is compiled.
    command.env("DEFMT_LOG", "info");
    // rustup's: Debian's compiler has none for such machines.
    if let Some(linker) = rust_lld() {
        command.env("CARGO_TARGET_THUMBV7M_NONE_EABI_LINKER", linker);
    }
    let Some(folder) = bare::prepare(&mut command, TARGET, "defmt", "core") else {
        return steps.cannot(name, &bare::no_library_for(TARGET));
    };
    steps.run("defmt device", 10, &mut command);
    let mut command = cargo(words(&format!("test {manifest} --target-dir target/defmt")));
    command.env("CORACLE_DEFMT_DEVICE", folder.join("release/device"));
    command.env("CORACLE_DEFMT_EMULATOR", EMULATOR);
    steps.run(name, 10, &mut command);
}

/// The linker that comes with this compiler.
fn rust_lld() -> Option<PathBuf> {
    let sysroot = PathBuf::from(output("rustc", &["--print", "sysroot"])?);
    let hosts = fs::read_dir(sysroot.join("lib/rustlib")).ok()?;
    let linkers = hosts.flatten().map(|host| host.path().join("bin/rust-lld"));
    linkers.into_iter().find(|linker| linker.exists())
}

/// The planted bugs must compile, and only with the switch.
pub fn planted_build(steps: &mut Steps) {
    let mut command = planted(words("check -p coracle-core -p coracle-tests"));
    steps.run("planted bugs compile", 20, &mut command);
}

/// Those of the log's that its crash model finds. Alone: a bug is planted for the whole process.
pub fn planted_model(steps: &mut Steps) {
    let test = "test --release --quiet -p coracle-core --lib the_model_finds_the_planted_bugs";
    steps.run("planted bugs of the log", 10, &mut planted(words(test)));
}

/// Cargo with the planted bugs switched in, in a target folder of its own.
pub fn planted<'a>(args: impl Iterator<Item = &'a str>) -> Command {
    let mut command = cargo(args);
    command
        .env("RUSTFLAGS", "--cfg coracle_planted")
        .env("CARGO_TARGET_DIR", root().join("target/planted"));
    command
}

/// The simulator, with its own flags: `--seed N`, `--seconds S`, `--planted` and what else it has.
pub fn sim(steps: &mut Steps, minutes: u32, flags: &[&str]) {
    let run = "run --release --quiet -p coracle-tests --bin sim --";
    let mut command = match flags.contains(&"--planted") {
        true => planted(words(run)),
        false => cargo(words(run)),
    };
    let name = format!("sim {}", flags.join(" "));
    steps.run(name.trim(), minutes, command.args(flags));
}

/// Fresh seeds with each commit, the same whenever it is tested: so many, from `first` on.
pub fn sim_of_commit(steps: &mut Steps, minutes: u32, first: u64, seeds: u64) {
    let mut git = Command::new("git");
    git.current_dir(root())
        .args(words("rev-parse --short=10 HEAD"));
    let name = git.output().map(|output| output.stdout).unwrap_or_default();
    let commit = String::from_utf8_lossy(&name[..name.len().min(10)]).into_owned();
    match u64::from_str_radix(&commit, 16) {
        // Room for a million seeds of each commit.
        Ok(number) => {
            let from = number * 1_000_000 + first;
            sim(
                steps,
                minutes,
                &["--seeds", &format!("{from}..{}", from + seeds)],
            );
        }
        Err(_) => steps.cannot("sim, seeds of this commit", "this is no checkout of git"),
    }
}

/// The worst gap in committed traffic while a snapshot is taken; its own flags.
pub fn gap(steps: &mut Steps, flags: &[&str]) {
    let run = "run --release --quiet -p coracle-tests --bin gap --";
    let mut command = cargo(words(run));
    let name = format!("gap {}", flags.join(" "));
    steps.run(name.trim(), 30, command.args(flags));
}

/// How long a cluster is without a leader; its own flags.
pub fn elections(steps: &mut Steps, flags: &[&str]) {
    let run = "run --release --quiet -p coracle-tests --bin elections --";
    let mut command = cargo(words(run));
    let name = format!("elections {}", flags.join(" "));
    steps.run(name.trim(), 60, command.args(flags));
}

/// Aeron's own Java client; its own flags.
pub fn java(steps: &mut Steps, flags: &[&str]) {
    let run = "run --release --quiet -p coracle-tests --bin java --";
    steps.run("java", 10, cargo(words(run)).args(flags));
}

/// The figures; its own flags. No step among others: `--json` is to be all of its output.
pub fn bench(flags: &[&str]) -> bool {
    let run = "run --release --quiet -p coracle-tests --bin bench --";
    let mut command = cargo(words(run));
    command.args(flags).status().is_ok_and(|s| s.success())
}

/// A short log that is written many times over by real processes: `--times N`.
pub fn soak(steps: &mut Steps, flags: &[&str]) {
    let line = "run --release --quiet -p coracle-tests --bin soak --";
    let name = format!("soak {}", flags.join(" "));
    steps.run(name.trim(), 60, cargo(words(line)).args(flags));
}

/// What `fuzz/` fuzzes, on stable Rust: random and damaged bytes through every target.
pub fn fuzz_smoke(steps: &mut Steps) {
    let line = "test --release --no-default-features --manifest-path fuzz/Cargo.toml";
    steps.run("fuzz targets, on stable", 20, &mut cargo(words(line)));
}

/// The fuzz targets under libFuzzer, each for some seconds.
pub fn fuzz(steps: &mut Steps, seconds: u32) {
    if !works("cargo", &["+nightly", "fuzz", "--version"]) {
        let missing = "cargo-fuzz or nightly Rust is not installed (cargo install cargo-fuzz)";
        return steps.cannot("fuzz", missing);
    }
    for target in fuzz_targets() {
        let name = format!("fuzz {target}");
        let time = format!("-max_total_time={seconds}");
        let mut command = cargo(words("+nightly fuzz run"));
        command.args([
            &target,
            "--",
            &time,
            "-max_len=4096",
            "-len_control=0",
            "-use_value_profile=1",
        ]);
        steps.run(&name, seconds / 60 + 20, &mut command);
    }
}

fn fuzz_targets() -> Vec<String> {
    let manifest = fs::read_to_string(root().join("fuzz/Cargo.toml")).unwrap_or_default();
    let mut lines = manifest.lines();
    let mut names = Vec::new();
    while lines.any(|line| line.trim() == "[[bin]]") {
        let name = lines.next().and_then(|line| line.split('"').nth(1));
        names.extend(name.map(str::to_owned));
    }
    names
}

/// The product itself, with three processes and kills.
pub fn demo(steps: &mut Steps, flags: &[&str]) {
    let mut command = cargo(words("run --release --quiet -- demo"));
    let name = format!("demo {}", flags.join(" "));
    steps.run(name.trim(), 15, command.args(flags));
}

/// Does this command run to a good end?
pub fn works(program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    command
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// What a command prints.
pub fn output(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn is_root() -> bool {
    output("id", &["-u"]).as_deref() == Some("0")
}

fn cmake_version() -> Option<(u32, u32)> {
    let version = output("cmake", &["--version"])?;
    let mut numbers = version.split_whitespace().nth(2)?.split('.');
    let major = numbers.next()?.parse().ok()?;
    Some((major, numbers.next()?.parse().ok()?))
}
