//! Runs the simulator: one seed, a range, as many as fit in a time, or the planted bugs.

use std::process::ExitCode;
use std::time::{Duration, Instant};

#[cfg(coracle_planted)]
use coracle_core::planted::Planted;
use coracle_tests::sim::plan::Profile;
use coracle_tests::sim::stats::Stats;
use coracle_tests::sim::{Options, Outcome, run};

const HELP: &str = "\
Runs the cluster simulator: virtual time, faulty links, disks and clocks, all from one seed.

usage: sim --seed N [--profile P]     run one seed and say how it went, step by step if it failed
       sim --seeds A..B [--profile P] run a range
       sim --seconds S [--profile P]  run fresh seeds for so long
       sim --planted [NAME]           break the core on purpose, one bug at a time, and find each

profiles: calm mixed links partitions kills power tails naks wipes stalls clocks snapshots embedded
In one run of five, and in all of `embedded`, some or all members are boards: the superloop and the
storage of coracle-embedded, on disks and flash chips whose power goes in the middle of a call.
Exit status 0: no invariant was broken (with --planted: every bug was found).";

/// More seeds than this without a violation, and a planted bug has survived.
#[cfg(coracle_planted)]
const PLANTED_SEEDS: u64 = 6000;

enum Job {
    Seed(u64),
    Seeds(u64, u64),
    Seconds(u64),
    Planted(Option<String>),
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (job, profile) = match parse(&arguments) {
        Ok(parsed) => parsed,
        Err(text) => {
            println!("{text}");
            let asked = arguments.iter().any(|a| a == "--help" || a == "-h");
            return if asked {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(2)
            };
        }
    };
    let sound = match job {
        Job::Seed(seed) => one(seed, profile),
        Job::Seeds(from, to) => many(from..to, None, profile),
        Job::Seconds(seconds) => {
            let first = fresh_seed();
            many(first..u64::MAX, Some(Duration::from_secs(seconds)), profile)
        }
        Job::Planted(name) => planted(name.as_deref()),
    };
    if sound {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn parse(arguments: &[String]) -> Result<(Job, Option<Profile>), String> {
    let mut job = None;
    let mut profile = None;
    let mut rest = arguments.iter().peekable();
    while let Some(argument) = rest.next() {
        let mut value = || {
            rest.next()
                .ok_or_else(|| format!("{argument} needs a value\n\n{HELP}"))
        };
        let number = |text: &String| {
            text.parse::<u64>()
                .map_err(|_| format!("{text} is no number\n\n{HELP}"))
        };
        match argument.as_str() {
            "--seed" => job = Some(Job::Seed(number(value()?)?)),
            "--seconds" => job = Some(Job::Seconds(number(value()?)?)),
            "--seeds" => {
                let text = value()?;
                let (from, to) = text
                    .split_once("..")
                    .ok_or_else(|| format!("a range is A..B, not {text}\n\n{HELP}"))?;
                job = Some(Job::Seeds(number(&from.into())?, number(&to.into())?));
            }
            "--planted" => {
                let name = rest.next_if(|next| !next.starts_with("--")).cloned();
                job = Some(Job::Planted(name));
            }
            "--profile" => {
                let text = value()?;
                let named = |p: &Profile| format!("{p:?}").eq_ignore_ascii_case(text);
                let found = Profile::ALL.into_iter().find(named);
                profile = Some(found.ok_or_else(|| format!("no profile {text}\n\n{HELP}"))?);
            }
            other => return Err(format!("what is {other}?\n\n{HELP}")),
        }
    }
    job.map(|job| (job, profile)).ok_or_else(|| HELP.into())
}

/// Fresh seeds are the one thing here that is not drawn from a seed.
fn fresh_seed() -> u64 {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    since.as_millis() as u64 * 1000
}

fn one(seed: u64, profile: Option<Profile>) -> bool {
    let keep = std::env::var("KEEP")
        .ok()
        .and_then(|text| text.parse().ok());
    let keep = keep.unwrap_or(coracle_tests::sim::run::KEEP);
    let outcome = run(seed, Options { profile, keep });
    println!("{}", outcome.stats);
    report(&outcome)
}

fn report(outcome: &Outcome) -> bool {
    match &outcome.failure {
        None => true,
        Some(failure) => {
            println!("\n{}", failure.scenario);
            false
        }
    }
}

fn many(
    seeds: impl Iterator<Item = u64>,
    time: Option<Duration>,
    profile: Option<Profile>,
) -> bool {
    let began = Instant::now();
    let mut total = Stats::default();
    let mut sound = true;
    for seed in seeds {
        if time.is_some_and(|time| began.elapsed() >= time) {
            break;
        }
        let outcome = run(seed, Options { profile, keep: 0 });
        total.add(&outcome.stats);
        if std::env::var_os("VERBOSE").is_some() {
            println!("{seed}: {} steps", outcome.stats.steps);
        }
        if outcome.failure.is_some() {
            sound = one(seed, profile);
            break;
        }
    }
    let took = began.elapsed().as_secs_f64();
    println!("{total}");
    println!(
        "{:.1} s: {:.0} steps a second, {:.0} times real time; {}",
        took,
        total.steps as f64 / took,
        total.virtual_nanos as f64 / 1e9 / took,
        if sound { "no violation" } else { "a violation" }
    );
    sound
}

/// Runs this program again, built with the planted bugs, in a target directory of its own.
#[cfg(not(coracle_planted))]
fn planted(name: Option<&str>) -> bool {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    let mut cargo =
        std::process::Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(root)
        .env("RUSTFLAGS", format!("{flags} --cfg coracle_planted"))
        .args([
            "run",
            "--quiet",
            "--release",
            "--target-dir",
            "target/planted",
        ])
        .args(["-p", "coracle-tests", "--bin", "sim", "--", "--planted"])
        .args(name);
    match cargo.status() {
        Ok(status) => status.success(),
        Err(error) => {
            println!("cannot run cargo to build the planted bugs: {error}");
            false
        }
    }
}

/// Switches on one bug after the other and counts the seeds until it is found.
#[cfg(coracle_planted)]
fn planted(name: Option<&str>) -> bool {
    let mut all_found = true;
    println!(
        "{:<46} {:>6}  {:<34} profile",
        "planted bug", "seeds", "found as"
    );
    for bug in Planted::ALL {
        if name.is_some_and(|name| !format!("{bug:?}").eq_ignore_ascii_case(name)) {
            continue;
        }
        Planted::activate(Some(bug));
        let found = (0..PLANTED_SEEDS).find_map(|seed| {
            let outcome = run(seed, Options::default());
            outcome
                .failure
                .map(|failure| (seed, failure.violation.invariant))
        });
        Planted::activate(None);
        match found {
            Some((seed, invariant)) => {
                let profile = coracle_tests::sim::plan::Plan::new(seed, None).profile;
                println!(
                    "{:<46} {:>6}  {invariant:<34} {profile:?}",
                    format!("{bug:?}"),
                    seed + 1
                );
            }
            None => {
                println!("{:<46} survived {PLANTED_SEEDS} seeds", format!("{bug:?}"));
                all_found = false;
            }
        }
    }
    all_found
}
