//! Other systems on the same work, in turns with Coracle in the same run. What each of them does,
//! and over which transport, is in `tests/rivals/README.md`, where they are: in a workspace of
//! their own, which only this builds.

mod coracle;
mod core;
mod rival;

use std::collections::BTreeMap;

use serde_json::Value;

use super::Options;
use super::figure::{Line, Row, Unit};
use super::load::Wait;
use crate::process::Scratch;
use rival::{Found, Program};

/// What is to be done, by all.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Work {
    /// Of a message, in bytes.
    pub len: usize,
    /// Messages without an answer.
    pub in_flight: usize,
    /// Whether every member flushes before it acknowledges.
    pub is_durable: bool,
}

const fn work(len: usize, in_flight: usize, is_durable: bool) -> Work {
    Work {
        len,
        in_flight,
        is_durable,
    }
}

const DEEP: usize = 4096;

/// The first ones are also those of a quick run.
const WORKS: [Work; 7] = [
    work(32, 1, false),
    work(32, 1, true),
    work(32, DEEP, false),
    work(32, DEEP, true),
    work(288, 1, true),
    work(288, DEEP, false),
    work(288, DEEP, true),
];
const QUICK: usize = 4;

/// Who does it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum System {
    /// This one.
    Coracle(Wait),
    /// The crate `raft`, in a server of ours.
    RaftRs(Wait),
    /// The crate `openraft`, in a server of ours.
    Openraft,
    /// Debian's.
    Etcd,
    /// Where the user has its jars.
    Aeron,
}

/// Coracle's two come first, since the others are compared with them.
const SYSTEMS: [System; 7] = [
    System::Coracle(Wait::Yield),
    System::Coracle(Wait::Block),
    System::RaftRs(Wait::Yield),
    System::RaftRs(Wait::Block),
    System::Openraft,
    System::Etcd,
    System::Aeron,
];

impl System {
    /// Its name in a row.
    pub fn name(self) -> &'static str {
        match self {
            Self::Coracle(Wait::Yield) => "Coracle, yield",
            Self::Coracle(Wait::Block) => "Coracle, sleep",
            Self::RaftRs(Wait::Yield) => "raft-rs, yield",
            Self::RaftRs(Wait::Block) => "raft-rs, sleep",
            Self::Openraft => "openraft",
            Self::Etcd => "etcd",
            Self::Aeron => "Aeron Cluster, yield",
        }
    }

    /// Which of Coracle's two waits as this does. tokio and Go sleep when there is nothing to do.
    fn alike(self) -> usize {
        match self {
            Self::Coracle(wait) | Self::RaftRs(wait) => usize::from(wait == Wait::Block),
            Self::Openraft | Self::Etcd => 1,
            Self::Aeron => 0,
        }
    }
}

impl Work {
    fn what(&self) -> String {
        let Self { len, in_flight, .. } = self;
        let durable = match self.is_durable {
            true => "durable: every member flushes before it acknowledges",
            false => "no flush is waited for",
        };
        format!("peers, {len} B, {in_flight} in flight, {durable}")
    }
}

/// Each round's figures of one system at one work.
type Rounds = Vec<Found>;

/// Measures, in turns.
///
/// # Errors
/// In words.
pub fn measure(options: &Options) -> Result<Vec<Row>, String> {
    let program = Program::build(options.aeron.clone())?;
    let versions = program.versions()?;
    let systems = present(&versions, options)?;
    let works = &WORKS[..if options.is_quick { QUICK } else { WORKS.len() }];
    let mut found: BTreeMap<(Work, usize), Rounds> = BTreeMap::new();
    let mut failed = Vec::new();
    for round in 0..options.rounds {
        for work in works {
            for (at, system) in systems.iter().enumerate() {
                eprintln!("round {}: {}: {}", round + 1, work.what(), system.name());
                let what = format!("{}, {}", system.name(), work.what());
                let mut one = || run(*system, work, options, &program);
                let one = again(&what, &mut one, &mut failed)?;
                found.entry((*work, at)).or_default().push(one);
            }
        }
    }
    let alone = core::measure(options, &program, &mut failed)?;
    let mut rows = vec![versions_row(&versions, &systems)];
    rows[0].notes.extend(failed);
    for work in works {
        let of = |at| found.get(&(*work, at)).map_or(&[][..], Vec::as_slice);
        let all: Vec<(System, &[Found])> = systems.iter().copied().zip((0..).map(of)).collect();
        rows.push(row(work, &all));
    }
    rows.extend(alone);
    Ok(rows)
}

/// Runs of one figure before it is given up.
const TRIES: usize = 3;

/// A run, and another one if it fails: on a busy machine a leader is replaced now and then, and
/// what its clients had on their way is lost. Which ones failed is in the report.
fn again<T>(
    what: &str,
    run: &mut dyn FnMut() -> Result<T, String>,
    failed: &mut Vec<String>,
) -> Result<T, String> {
    for _ in 1..TRIES {
        match run() {
            Ok(found) => return Ok(found),
            Err(error) => {
                let text = format!("FAILED: {what}: {error}");
                eprintln!("{text}");
                failed.push(text);
            }
        }
    }
    run().map_err(|error| format!("{what}: {error}"))
}

/// Those that can run here; what is missing is said, and fails where nothing may be missing.
fn present(versions: &Value, options: &Options) -> Result<Vec<System>, String> {
    let mut systems = SYSTEMS.to_vec();
    if options.aeron.is_none() {
        systems.retain(|system| *system != System::Aeron);
    }
    if versions["etcd"].is_null() {
        let missing = "etcd is not installed (Debian: apt-get update && apt-get install \
            etcd-server)";
        if std::env::var("CI").is_ok_and(|v| v == "true") {
            return Err(format!("{missing}. In CI nothing is skipped."));
        }
        eprintln!("SKIPPED: {missing}.");
        systems.retain(|system| *system != System::Etcd);
    }
    Ok(systems)
}

fn run(system: System, work: &Work, options: &Options, program: &Program) -> Result<Found, String> {
    let scratch = Scratch::new("peers");
    match system {
        System::Coracle(wait) => coracle::run(wait, work, options),
        _ => program.run(system, work, options, scratch.path()),
    }
}

fn versions_row(versions: &Value, systems: &[System]) -> Row {
    let mut row = Row::new('p', "peers: versions");
    let all = versions.as_object().into_iter().flatten();
    for (name, version) in all {
        let version = version.as_str().unwrap_or("not here");
        row.notes.push(format!("{name} {version}"));
    }
    if systems.contains(&System::Aeron) {
        row.notes
            .push("Aeron Cluster: that of the given class path".into());
    }
    row
}

fn row(work: &Work, all: &[(System, &[Found])]) -> Row {
    let mut row = Row::new('p', &work.what());
    // A rate says the same as the latency where one message is on its way, and less precisely.
    if work.in_flight > 1 {
        row.lines
            .extend(lines(all, "", Unit::Kilo, |found| found.rate / 1000.0));
    }
    let (unit, scale) = match work.in_flight {
        1 => (Unit::Micros, 1.0),
        _ => (Unit::Millis, 1000.0),
    };
    row.lines
        .extend(lines(all, " p50", unit, |found| found.p50 / scale));
    row.lines
        .extend(lines(all, " p99", unit, |found| found.p99 / scale));
    row.lines
        .extend(lines(all, " time", Unit::Micros, |found| found.members));
    let note = "ratios are to Coracle in the same round: latencies and times above 1 and rates \
        below 1 are worse than its; `time` is processor time of all three members for a message";
    row.notes.push(note.into());
    if all.iter().any(|(system, _)| *system == System::Etcd) {
        let note = match work.is_durable {
            true => "etcd puts a key, and does not echo",
            false => "etcd puts a key, and does not echo; it has --unsafe-no-fsync here",
        };
        row.notes.push(note.into());
    }
    row
}

/// One figure of all systems, each beside that of Coracle which waits in the same way.
fn lines(
    all: &[(System, &[Found])],
    what: &str,
    unit: Unit,
    figure: impl Fn(&Found) -> f64,
) -> Vec<Line> {
    let of = |rounds: &[Found]| rounds.iter().map(&figure).collect::<Vec<f64>>();
    let line = |(system, rounds): &(System, &[Found])| {
        let line = Line::new(&format!("{}{what}", system.name()), unit, of(rounds));
        match system {
            System::Coracle(_) => line,
            _ => {
                let (coracle, rounds) = &all[system.alike()];
                line.beside(coracle.name(), of(rounds))
            }
        }
    };
    all.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(rate: f64) -> Found {
        Found {
            rate,
            p50: 2000.0,
            p99: 3000.0,
            members: 4.0,
        }
    }

    #[test]
    fn each_is_compared_with_the_coracle_that_waits_like_it() {
        let rounds = SYSTEMS.map(|system| match system {
            System::Coracle(Wait::Yield) => [found(1_000_000.0)],
            System::Coracle(Wait::Block) => [found(500_000.0)],
            _ => [found(250_000.0)],
        });
        let all: Vec<(System, &[Found])> = SYSTEMS
            .into_iter()
            .zip(rounds.iter().map(|rounds| &rounds[..]))
            .collect();
        let row = row(&WORKS[2], &all);
        let rates: Vec<_> = row.lines.iter().filter(|l| l.unit == Unit::Kilo).collect();
        assert_eq!(rates.len(), SYSTEMS.len());
        for (line, system) in rates.iter().zip(SYSTEMS) {
            let beside = line.limit.clone().map(|(_, runs)| runs);
            let expected = match system {
                System::Coracle(_) => None,
                System::RaftRs(Wait::Yield) | System::Aeron => Some(vec![1000.0]),
                System::RaftRs(Wait::Block) | System::Openraft | System::Etcd => Some(vec![500.0]),
            };
            assert_eq!(beside, expected, "{}", line.label);
        }
        let p50 = row.lines.iter().find(|l| l.label == "etcd p50").unwrap();
        assert_eq!((p50.unit, p50.runs[0]), (Unit::Millis, 2.0));
        assert!(
            row.notes
                .iter()
                .any(|note| note.contains("--unsafe-no-fsync"))
        );
    }

    #[test]
    fn what_fails_is_run_again_and_told() {
        let (mut failed, mut left) = (Vec::new(), 2);
        let mut run = || {
            left -= 1;
            if left < 0 {
                Ok(found(1.0))
            } else {
                Err("no leader".to_owned())
            }
        };
        assert_eq!(again("x", &mut run, &mut failed), Ok(found(1.0)));
        assert_eq!(failed, ["FAILED: x: no leader"; 2]);
        left = TRIES as i32;
        let mut run = || {
            left -= 1;
            if left < 0 {
                Ok(found(1.0))
            } else {
                Err("no leader".to_owned())
            }
        };
        assert!(again("x", &mut run, &mut failed).is_err());
    }

    #[test]
    fn a_closed_loop_is_told_in_microseconds_and_without_a_rate() {
        let rounds = [found(1.0)];
        let all = [(System::Coracle(Wait::Yield), &rounds[..])];
        let row = row(&WORKS[0], &all);
        assert!(row.lines.iter().all(|line| line.unit == Unit::Micros));
        assert_eq!(row.lines[0].runs, [2000.0]);
    }

    #[test]
    fn the_systems_that_all_are_compared_with_come_first() {
        for system in SYSTEMS {
            assert!(matches!(SYSTEMS[system.alike()], System::Coracle(_)));
            assert!(system.alike() < 2);
        }
    }
}
