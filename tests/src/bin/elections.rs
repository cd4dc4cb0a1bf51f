//! `cargo xtask elections`: the election-time figure of the Raft paper, from the simulator.

use std::path::PathBuf;
use std::process::ExitCode;

use coracle_tests::bench::curves::{Curves, to_svg};
use coracle_tests::process::root;
use coracle_tests::sim::elections::{Range, SCALES, SPREADS, hold};

const HELP: &str = "\
How long a cluster is without a leader when its leader dies, over ranges of the wait before a
candidacy: figure 16 of the Raft paper, in virtual time, from a seed.

usage: elections [--count N] [--seed N] [--svg FILE]

  --count N   elections for each line (default 1000)
  --seed N    (default 1)
  --svg FILE  where the figure goes (default target/elections.svg)";

struct Options {
    count: usize,
    seed: u64,
    svg: PathBuf,
}

fn main() -> ExitCode {
    let options = match parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(text) => {
            eprintln!("{text}");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("elections: {text}");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options {
        count: 1000,
        seed: 1,
        svg: root().join("target/elections.svg"),
    };
    while let Some(flag) = arguments.next() {
        let value = arguments.next().ok_or(HELP)?;
        let number = || {
            value
                .parse::<u64>()
                .map_err(|_| format!("{value} is no number"))
        };
        match flag.as_str() {
            "--count" => options.count = number()?.max(1) as usize,
            "--seed" => options.seed = number()?,
            "--svg" => options.svg = value.into(),
            _ => return Err(HELP.into()),
        }
    }
    Ok(options)
}

fn run(options: &Options) -> Result<(), String> {
    println!(
        "{} elections a line, seed {}; milliseconds without a leader\n",
        options.count, options.seed
    );
    println!("      range     p1    p50    p99    most   first ballot split   not over in 3 s");
    let frames = [
        frame(options, "How much randomness", [50.0, 3000.0], &SPREADS)?,
        frame(options, "How short a timeout", [10.0, 1000.0], &SCALES)?,
    ];
    std::fs::write(&options.svg, to_svg(&frames))
        .map_err(|e| format!("{}: {e}", options.svg.display()))?;
    println!("\nfigure: {}", options.svg.display());
    Ok(())
}

fn frame(
    options: &Options,
    title: &str,
    axis: [f64; 2],
    ranges: &[Range],
) -> Result<Curves, String> {
    let title = format!("{title}: elections that were over after so long");
    let mut curves = Curves::new(&title, axis);
    for range in ranges {
        let held = hold(*range, options.count, options.seed);
        let held = held.map_err(|v| format!("{}: {}", v.invariant, v.detail))?;
        let times: Vec<f64> = held.times.iter().map(|nanos| *nanos as f64 / 1e6).collect();
        let of = |part: f64| {
            // What is not over counts as longer than all that is.
            let at = (part * (held.count() - 1) as f64) as usize;
            times
                .get(at)
                .map_or("-".into(), |time| format!("{time:.0}"))
        };
        let share = |count: usize| count as f64 * 100.0 / held.count() as f64;
        let name = format!("{}-{} ms", range.least, range.most);
        println!(
            "{name:>11} {:>6} {:>6} {:>6} {:>7}   {:>16.1} %   {:>14.1} %",
            of(0.01),
            of(0.5),
            of(0.99),
            of(1.0),
            share(held.split + held.open),
            share(held.open),
        );
        curves.add(&name, times, held.count());
    }
    Ok(curves)
}
