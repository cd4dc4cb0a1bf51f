//! Instructions of the core per committed message and per empty turn, counted under callgrind.
//!
//! Each load is run at two lengths: the difference is free of starts, elections and connections. A
//! role's cost is what callgrind counts inside that role's function, and all that it calls.
//!
//! `commit` is what a consensus library would be counted with: a client's messages in, on all three
//! nodes' disks, committed and executed. `echo` adds what comes of it: an answer to each.

mod baseline;
mod callgrind;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::chores::{output, root, works};
use crate::steps::Steps;
use baseline::{Figure, Here};

/// Where the functions are that are told apart.
const ROLES: &str = "coracle_tests::instructions::roles::";
/// What one load is, at two lengths, and how many messages or turns lie between these.
struct Load {
    name: &'static str,
    /// The binary's arguments before the length.
    args: &'static str,
    lengths: [u32; 2],
    /// Messages or turns for each unit of length.
    each: u32,
    roles: &'static [&'static str],
    /// What leader and followers may cost together (issue: performance figures), if that is bound.
    target: Option<f64>,
}

const NODES_AND_CLIENT: &[&str] = &["leader", "follower", "client"];
const NODES: &[&str] = &["leader", "follower"];

const LOADS: [Load; 6] = [
    Load {
        name: "commit, batch 256",
        args: "commit 1 256",
        lengths: [20, 120],
        each: 256,
        roles: NODES_AND_CLIENT,
        target: Some(1000.0),
    },
    Load {
        name: "commit, batch 1",
        args: "commit 1 1",
        lengths: [200, 1200],
        each: 1,
        roles: NODES_AND_CLIENT,
        target: Some(5000.0),
    },
    Load {
        name: "echo, batch 256",
        args: "echo 1 256",
        lengths: [20, 120],
        each: 256,
        roles: NODES_AND_CLIENT,
        target: None,
    },
    Load {
        name: "echo, batch 1",
        args: "echo 1 1",
        lengths: [200, 1200],
        each: 1,
        roles: NODES_AND_CLIENT,
        target: None,
    },
    Load {
        name: "idle turn, 1 session",
        args: "idle 1",
        lengths: [500, 2500],
        each: 1,
        roles: NODES,
        target: None,
    },
    Load {
        name: "idle turn, 56 sessions",
        args: "idle 56",
        lengths: [500, 2500],
        each: 1,
        roles: NODES,
        target: None,
    },
];

/// Counts, prints the table, and compares it with the one in the repository; or puts it there.
pub fn run(steps: &mut Steps, blesses: bool) {
    let name = "instructions";
    if !works("valgrind", &["--version"]) {
        let missing = "`valgrind` is not installed (Debian: apt-get update && apt-get install \
            valgrind)";
        return steps.cannot(name, missing);
    }
    let mut build = Command::new("cargo");
    let args = "build --release --quiet -p coracle-tests --bin instructions";
    build.current_dir(root()).args(args.split(' '));
    steps.run("build what is counted", 20, &mut build);
    steps.check(name, || match count_all() {
        Ok(figures) => judge(&figures, blesses),
        Err(error) => {
            println!("{error}");
            false
        }
    });
}

fn judge(figures: &[Figure], blesses: bool) -> bool {
    let path = root().join("tests/instructions.txt");
    let here = Here::find();
    print_table(figures, &here);
    if blesses {
        let written = std::fs::write(&path, baseline::render(&here, figures));
        println!("written to {}: {written:?}", path.display());
        return written.is_ok();
    }
    match std::fs::read_to_string(&path) {
        Ok(text) => baseline::compare(&text, &here, figures),
        Err(error) => {
            println!("{}: {error}; `--bless` writes it", path.display());
            false
        }
    }
}

fn print_table(figures: &[Figure], here: &Here) {
    for line in here.lines() {
        println!("{line}");
    }
    println!(
        "\n{:<26}{:>10}{:>12}{:>10}{:>10}",
        "", "leader", "2 followers", "nodes", "client"
    );
    for load in LOADS {
        let of = |role| {
            let mut of_load = figures.iter().filter(|f| f.load == load.name);
            of_load.find(|f| f.role == role).map(|f| f.count)
        };
        let followers = of("follower").unwrap_or_default();
        let nodes = of("leader").unwrap_or_default() + followers;
        print!(
            "{:<26}{:>10.0}",
            load.name,
            of("leader").unwrap_or_default()
        );
        // Of idle followers one turns, of those that echo both.
        print!("{followers:>12.0}{nodes:>10.0}");
        match of("client") {
            Some(client) => print!("{client:>10.0}"),
            None => print!("{:>10}", ""),
        }
        match load.target {
            Some(target) if nodes > target => println!("   over the target of {target:.0}"),
            Some(target) => println!("   within the target of {target:.0}"),
            None if load.roles == NODES => println!("   (one follower)"),
            None => println!("   with its answer to the client"),
        }
    }
}

fn count_all() -> Result<Vec<Figure>, String> {
    let folder = target_dir().join("instructions");
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut figures = Vec::new();
    for (at, load) in LOADS.iter().enumerate() {
        let mut totals = [Vec::new(), Vec::new()];
        for (total, length) in totals.iter_mut().zip(load.lengths) {
            let file = folder.join(format!("callgrind.{at}.{length}"));
            *total = count(load, length, &file)?;
        }
        let per = f64::from((load.lengths[1] - load.lengths[0]) * load.each);
        for (slot, role) in load.roles.iter().enumerate() {
            let more = totals[1][slot].saturating_sub(totals[0][slot]);
            if more == 0 {
                return Err(format!("{}: callgrind saw no {role}", load.name));
            }
            figures.push(Figure {
                load: load.name.to_owned(),
                role: (*role).to_owned(),
                count: more as f64 / per,
            });
        }
    }
    Ok(figures)
}

/// The instructions of each role in one run.
fn count(load: &Load, length: u32, file: &Path) -> Result<Vec<u64>, String> {
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=callgrind", "--quiet"])
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(target_dir().join("release/instructions"))
        .args(load.args.split(' '))
        .arg(length.to_string())
        // What a feature of the C library's tuning would change.
        .env_remove("GLIBC_TUNABLES")
        .stdin(Stdio::null());
    let status = command.status().map_err(|error| error.to_string())?;
    if !status.success() {
        return Err(format!("{}: valgrind: {status}", load.name));
    }
    let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
    let inclusive = |role| callgrind::inclusive(&text, &format!("{ROLES}{role}"));
    Ok(load.roles.iter().map(inclusive).collect())
}

fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => root().join(folder),
        None => root().join("target"),
    }
}

impl Here {
    /// What counts depend on beside the code: compilers, the C library, and what valgrind's
    /// processor can do, which follows this machine's.
    fn find() -> Self {
        let first_line = |text: Option<String>| {
            let text = text.unwrap_or_default();
            text.lines().next().unwrap_or("unknown").trim().to_owned()
        };
        let host = output("rustc", &["-vV"]).unwrap_or_default();
        let host = host.lines().find_map(|line| line.strip_prefix("host: "));
        let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let has = |flag: &str| cpu.split_whitespace().any(|word| word == flag);
        let used = ["avx2", "erms", "pclmulqdq", "sse4_2"].map(|f| if has(f) { f } else { "-" });
        Self(vec![
            ("rustc".to_owned(), first_line(output("rustc", &["-V"]))),
            ("host".to_owned(), host.unwrap_or("unknown").to_owned()),
            ("target-cpu".to_owned(), target_cpu()),
            (
                "valgrind".to_owned(),
                first_line(output("valgrind", &["--version"])),
            ),
            ("libc".to_owned(), first_line(output("ldd", &["--version"]))),
            ("processor".to_owned(), used.join(" ")),
        ])
    }
}

/// What cargo is told in the environment; the project itself sets nothing.
fn target_cpu() -> String {
    let flags = [
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_BUILD_RUSTFLAGS",
    ]
    .map(|name| {
        std::env::var(name)
            .unwrap_or_default()
            .replace('\u{1f}', " ")
    });
    let flags = flags.join(" ");
    match flags.trim() {
        "" => "the default".to_owned(),
        flags => flags.to_owned(),
    }
}
