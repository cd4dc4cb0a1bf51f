//! `cargo xtask soak`: writes a short log many times over, and watches its files.

use std::process::ExitCode;

use coracle_tests::process::{end_children_on_panic, soak};

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
    end_children_on_panic();
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
