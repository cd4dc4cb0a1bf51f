//! One binary for every chore: `cargo xtask <chore>`.

use std::process::ExitCode;

mod arm;
mod bare;
mod chores;
mod copies;
mod frames;
mod instructions;
mod panics;
mod steps;
mod tidy;

use steps::Steps;

const HELP: &str = "\
cargo xtask <chore>

  test                 the whole test command: all that follows down to `netns`, each once
  fmt, lint, doc       format, clippy and documentation, warnings denied
  tidy                 length of files and functions, floor edges, banned words, dead files
  unit                 unit tests, scenarios, doc tests, tests with processes
  sim [flags]          the simulator: --seed N, --seconds S, --planted; `sim --help` has all
  soak [--times N] [--away]  a log of 16 MiB, written N times over (default 20) by real processes;
                       with --away a member is missing for a while
  linkcheck            links and runs a no_std binary that drives every door of core; and that no
                       panic can be reached from a door of core or of the embedded platform
  bare                 core and platform-embedded for machines where there is no std, and how large
                       things are there
  defmt                the defmt feature; what an emulated node logs with it is decoded and compared
  planted              core compiles with the planted bugs
  fuzz-smoke           the fuzz targets on stable Rust, with random bytes
  peer --bare [flags]  the C Aeron client against bare-metal nodes in virtual machines
  peer, tshark, netns  against the C Aeron client, under tshark, in network namespaces
  rivals               what `bench --peers` measures: tests of its servers, and one short round

  fuzz [--seconds S]   the fuzz targets under cargo-fuzz, S seconds each (default 60)
  gap [flags]          how long traffic stands still while a snapshot is taken; `gap --help`
  bench [flags]        the figures, beside the raw limits of the same run; `bench --help`
  java --aeron-classpath JARS
                       Aeron's own Java client with a cluster of ours; `java --help`
  elections [flags]    how long a cluster is without a leader, over ranges of its timeouts
  instructions [--bless]
                       instructions of the core per message, under callgrind; `--bless` keeps them
  copies               what nodes copy for each byte of payload, against the limits; and that a copy
                       too many is found
  qemu [flags]         bare-metal nodes in virtual machines: --arch riscv32, --mixed; `qemu --help`
  arm                  `demo --kills 1` for aarch64, emulated; core's tests on 32 bits (i686)
  wrap                 breaks comment lines that are too long
  ci                   test, and the heavier runs: fresh seeds, planted bugs, demos, soak, fuzz

What needs root or a missing tool is skipped with a loud line; with CI=true it fails instead. Every
chore ends with the line `N passed, N failed` and exits with 1 if anything failed.
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut steps = Steps::default();
    let steps = match args.as_slice() {
        [] | ["help" | "--help" | "-h", ..] => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        ["sim", flags @ ..] => {
            chores::sim(&mut steps, 600, flags);
            steps
        }
        ["gap", flags @ ..] => {
            chores::gap(&mut steps, flags);
            steps
        }
        ["bench", flags @ ..] => {
            return match chores::bench(flags) {
                true => ExitCode::SUCCESS,
                false => ExitCode::FAILURE,
            };
        }
        ["java", flags @ ..] => {
            chores::java(&mut steps, flags);
            steps
        }
        ["elections", flags @ ..] => {
            chores::elections(&mut steps, flags);
            steps
        }
        ["soak", flags @ ..] => {
            chores::soak(&mut steps, flags);
            steps
        }
        ["qemu", flags @ ..] => {
            chores::qemu(&mut steps, 20, flags);
            steps
        }
        ["peer", "--bare", flags @ ..] => {
            chores::peer_bare(&mut steps, flags);
            steps
        }
        ["instructions", "--bless"] => {
            instructions::run(&mut steps, true);
            steps
        }
        ["fuzz", "--seconds", seconds] => match seconds.parse() {
            Ok(seconds) => {
                chores::fuzz(&mut steps, seconds);
                steps
            }
            Err(_) => return unknown(&args),
        },
        [chore] => match run(chore, &mut steps) {
            true => steps,
            false => return unknown(&args),
        },
        _ => return unknown(&args),
    };
    match steps.finish() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn unknown(args: &[&str]) -> ExitCode {
    eprintln!("unknown chore `{}`\n\n{HELP}", args.join(" "));
    ExitCode::from(2)
}

/// Runs one chore; false if there is none of that name.
fn run(chore: &str, steps: &mut Steps) -> bool {
    match chore {
        "test" => test(steps),
        "ci" => ci(steps),
        "fmt" => chores::fmt(steps),
        "lint" => chores::lint(steps),
        "doc" => chores::doc(steps),
        "tidy" => chores::tidy(steps),
        "wrap" => chores::wrap(steps),
        "unit" => chores::unit(steps),
        "bare" => bare::run(steps),
        "arm" => arm::run(steps),
        "linkcheck" => chores::linkcheck(steps),
        "defmt" => chores::defmt(steps),
        "planted" => chores::planted_build(steps),
        "fuzz" => chores::fuzz(steps, 60),
        "fuzz-smoke" => chores::fuzz_smoke(steps),
        "copies" => copies::run(steps),
        "instructions" => instructions::run(steps, false),
        "peer" => chores::peer(steps),
        "rivals" => chores::rivals(steps),
        "tshark" => chores::tshark(steps),
        "netns" => chores::netns(steps),
        _ => return false,
    }
    true
}

fn test(steps: &mut Steps) {
    chores::fmt(steps);
    chores::tidy(steps);
    chores::lint(steps);
    chores::doc(steps);
    chores::unit(steps);
    chores::defmt(steps);
    chores::planted_build(steps);
    chores::linkcheck(steps);
    bare::run(steps);
    chores::fuzz_smoke(steps);
    chores::sim(steps, 20, &["--seeds", "0..100"]);
    chores::sim_of_commit(steps, 10, 0, 200);
    instructions::run(steps, false);
    chores::tshark(steps);
    chores::netns(steps);
    chores::peer(steps);
    chores::peer_bare(steps, &[]);
}

/// So that with what `.ci/run` installs first the whole stays under 75 minutes.
const CI_MINUTES: u64 = 65;

fn ci(steps: &mut Steps) {
    *steps = Steps::within(CI_MINUTES);
    chores::demo(steps, &[]);
    test(steps);
    chores::sim_of_commit(steps, 10, 200, 1500);
    chores::sim(steps, 25, &["--planted"]);
    chores::planted_model(steps);
    // Three times the leader timeout that the demo's nodes have.
    chores::demo(steps, &["--kills", "10", "--failover-max", "1200ms"]);
    chores::demo(steps, &["--snapshot"]);
    chores::demo(steps, &["--snapshot", "--service", "kv"]);
    chores::soak(steps, &[]);
    copies::run(steps);
    chores::rivals(steps);
    chores::qemu(steps, 10, &[]);
    chores::qemu(steps, 10, &["--mixed"]);
    arm::run(steps);
    chores::fuzz(steps, 20);
}
