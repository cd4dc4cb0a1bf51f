//! `cargo xtask bench`: the figures, each beside its physical limit and what is to be reached.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use coracle_tests::bench::{Options, PIPELINE, ROWS, chain, profile, run, steady};
use coracle_tests::process::{end_children_on_panic, root};

const HELP: &str = "\
Measures clusters of real node processes on loopback, with the library's client, beside the raw
limits of the same run. docs/performance.md explains each row.

usage: bench [--rows a,b] [--quick] [--rounds N] [--seconds S] [--messages N] [--len BYTES]
             [--svg FILE] [--json] [--peers [--aeron-classpath JARS]]
       bench --pipeline [--rounds N] [--seconds S] [--svg FILE] [--json]
       bench --profile [--seconds S] [--len BYTES]
       bench --steady MINUTES

  --rows LIST   only these rows:
                  a  the raw chain, its flushes, its datagrams
                  b  closed loop, one outstanding
                  c  open loop, 20,000 a second
                  d  throughput
                  e  kill -9 of the leader to the first echo
                  f  processor time when idle, resident memory
                  g  start to first echo, replay
                  h  sizes, sessions, members; a plot
                  i  ten times as many messages to replay; a follower that was away
                  m  the log by multicast and to each follower; long datagrams
  --pipeline    only a timeline of a leader and a follower, beside that with one message on its
                way, and how the two compare
  --profile     only where processor time goes under load, as `perf` sees it
  --steady MINUTES
                only clusters with ever tighter timings, all at once under a steady load: which of
                them keep their leader, and how quickly another one leads after a kill at the end.
                Fails if none is steady and takes at most 100 ms
  --quick       all of it in a few minutes, for CI: too short to say much
  --rounds N    how often each is measured, in turns (default 5)
  --seconds S   how long each load lasts (default 3)
  --messages N  in the log that is replayed (default 1000000)
  --len BYTES   of row d only messages of this length; of the profile's (default 32)
  --svg FILE    where the plot goes (default target/bench.svg, target/pipeline.svg)
  --json        JSON instead of text
  --peers       raft-rs, openraft and etcd (Debian: etcd-server) on the same work, in turns with
                Coracle; of the rows above only those that --rows names
  --aeron-classpath JARS
                with --peers: Aeron Cluster too, from these jars, with a JDK";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some((chain::MEMBER, rest)) = arguments.split_first().map(|(a, b)| (a.as_str(), b)) {
        return match chain::member(rest) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("raw chain: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let options = match parse(arguments.into_iter()) {
        Ok(options) => options,
        Err(text) => {
            eprintln!("{text}");
            return ExitCode::from(2);
        }
    };
    end_children_on_panic();
    let done = match options.steady {
        Some(time) => keep_leaders(time),
        None if options.is_profile => profile::run(&options),
        None => run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("bench: {text}");
            ExitCode::FAILURE
        }
    }
}

fn keep_leaders(time: Duration) -> Result<(), String> {
    match steady::run(time, |line| println!("{line}"))? {
        true => Ok(()),
        false => Err("no cluster both kept its leader and had another within 100 ms".into()),
    }
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let (mut rows, mut svg, mut is_json, mut is_quick) = (None, None, false, false);
    let mut is_profile = false;
    let (mut rounds, mut seconds, mut messages, mut minutes) = (None, None, None, None);
    let mut len = None;
    let (mut has_peers, mut aeron) = (false, None);
    while let Some(flag) = arguments.next() {
        let mut next = || arguments.next().ok_or_else(|| format!("{flag} needs more"));
        let number = |text: String| {
            let number = text.parse::<f64>().ok().filter(|n| (0.1..1e8).contains(n));
            number.ok_or_else(|| format!("{flag}: `{text}` is no number that makes sense"))
        };
        match flag.as_str() {
            "--rows" => rows = Some(next()?.replace(',', "")),
            "--peers" => has_peers = true,
            "--aeron-classpath" => aeron = Some(next()?),
            "--svg" => svg = Some(PathBuf::from(next()?)),
            "--rounds" => rounds = Some(number(next()?)?.max(1.0) as usize),
            "--seconds" => seconds = Some(number(next()?)?),
            "--steady" => minutes = Some(number(next()?)?),
            "--messages" => messages = Some(number(next()?)?.max(1.0) as u64),
            "--len" => len = Some(number(next()?)? as usize),
            "--pipeline" => rows = Some(PIPELINE.to_owned()),
            "--profile" => is_profile = true,
            "--quick" => is_quick = true,
            "--json" => is_json = true,
            _ => return Err(HELP.to_owned()),
        }
    }
    if aeron.is_some() && !has_peers {
        return Err("--aeron-classpath is of --peers".into());
    }
    let rows = rows.unwrap_or_else(|| {
        if has_peers {
            String::new()
        } else {
            ROWS.to_owned()
        }
    });
    let is_pipeline = rows == PIPELINE;
    if let Some(row) = rows
        .chars()
        .find(|row| !is_pipeline && !ROWS.contains(*row))
    {
        return Err(format!("there is no row `{row}`\n\n{HELP}"));
    }
    let plot = match is_pipeline {
        true => "target/pipeline.svg",
        false => "target/bench.svg",
    };
    Ok(Options {
        rows,
        rounds: rounds.unwrap_or(if is_quick { 1 } else { 5 }),
        time: Duration::from_secs_f64(seconds.unwrap_or(if is_quick { 0.5 } else { 3.0 })),
        messages: messages.unwrap_or(if is_quick { 100_000 } else { 1_000_000 }),
        len,
        is_quick,
        is_profile,
        steady: minutes.map(|minutes| Duration::from_secs_f64(60.0 * minutes)),
        is_json,
        svg: svg.unwrap_or_else(|| root().join(plot)),
        has_peers,
        aeron,
    })
}
