//! The load whose instructions `cargo xtask instructions` counts.

use std::process::ExitCode;

use coracle_tests::instructions::Cluster;

const HELP: &str = "\
usage: instructions commit <clients> <batch> <rounds>
       instructions echo <clients> <batch> <rounds>
       instructions idle <clients> <turns>

Three nodes and some clients in memory. `commit`: one client has `batch` messages of 32 bytes in
flight until the leader has executed them, `rounds` times. `echo`: until all are answered. `idle`: a
leader and a follower turn with nothing to do. It prints nothing: run it under callgrind, or use
`cargo xtask instructions`.";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let numbers: Option<Vec<usize>> = args.iter().skip(1).map(|arg| arg.parse().ok()).collect();
    let numbers = numbers.unwrap_or_default();
    match (args.first().map(String::as_str), numbers.as_slice()) {
        (Some("echo"), [clients @ 1..=56, batch, rounds]) if *batch > 0 => {
            Cluster::new(*clients, true).echo(*rounds, *batch);
        }
        (Some("commit"), [clients @ 1..=56, batch, rounds]) if *batch > 0 => {
            Cluster::new(*clients, false).commit(*rounds, *batch);
        }
        (Some("idle"), [clients @ 0..=56, turns]) => Cluster::new(*clients, false).idle(*turns),
        _ => {
            eprintln!("{HELP}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}
