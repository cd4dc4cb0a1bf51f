//! `cargo xtask soak`: writes a short log many times over, and watches its files.

use std::process::ExitCode;

use coracle_tests::process::soak;
use rustix::process::{Pid, Signal, kill_process};

const HELP: &str = "\
soak [--times N] [--away]

Three processes of `coracle node` with a log of 16 MiB at most; writes N times that (default 20),
sums up the files of each log folder all the while (a hundred times a second, if the machine keeps
up), then kills and starts all. With --away one member is killed on the way, for as long as takes
twice the bound, and comes back by a snapshot. Fails if a log ever takes up more than its bound, if
a message has no answer, or if the members' states differ.
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let is_away = args.last() == Some(&"--away");
    let rest = &args[..args.len() - usize::from(is_away)];
    let times = match rest {
        [] => Some(20),
        ["--times", times] => times.parse().ok().filter(|times| *times > 0),
        _ => None,
    };
    let Some(times) = times else {
        eprint!("{HELP}");
        return ExitCode::from(2);
    };
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        default(panic);
        end_children();
    }));
    let seen = soak::soak(times, is_away, |line| println!("{line}"));
    println!(
        "soak: {} MiB of log written in {:.1} s, {:.1} times the bound; files measured {} times, \
         at most {} bytes for one member (bound {}; {} as the file system counts); restart level \
         after {} ms; digests equal, {}",
        seen.written >> 20,
        seen.time.as_secs_f64(),
        seen.written as f64 / seen.log_max as f64,
        seen.measured,
        seen.peak,
        seen.log_max,
        seen.peak_blocks,
        seen.restart.as_millis(),
        seen.digest
    );
    if let Some((time, missed)) = seen.away {
        println!(
            "soak: the member that was away missed {} KiB more than the others keep, and was level \
             after {} ms",
            missed >> 10,
            time.as_millis()
        );
    }
    ExitCode::SUCCESS
}

/// A release build aborts where it panics, so nothing else would end the nodes.
fn end_children() {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten();
    for task in tasks.flatten() {
        let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        let children = children.split_whitespace().filter_map(|id| id.parse().ok());
        for child in children.filter_map(Pid::from_raw) {
            // Ended already is fine too.
            kill_process(child, Signal::KILL).ok();
        }
    }
}
