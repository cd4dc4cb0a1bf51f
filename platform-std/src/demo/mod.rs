//! `coracle demo`: a cluster of three processes, a stream of messages, a killed leader, and a
//! verdict.

mod checker;
mod ledger;
mod load;
mod nodes;
mod recovery;
mod report;
mod source;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;

use crate::cli::Failure;
use crate::config::{ServiceKind, Span};
use crate::counters::{Counter, Reading};
use checker::{Known, Rest};
use ledger::Ledger;
use load::{Load, WINDOW_BYTES, WINDOW_MESSAGES};
use nodes::Nodes;
use recovery::short_log;
use report::{Kill, Report};
use source::Source;

/// Messages that are acknowledged before each kill and after it, at least.
const BETWEEN_KILLS: u64 = 10_000;
/// After how many of these the killed node is started again.
const BEFORE_RESTART: u64 = 3_000;
/// How long a restarted node may take to be level.
const CATCH_UP_MAX: Duration = Duration::from_secs(60);

/// See it work: three nodes, one stream of messages, the leader is killed
#[derive(Debug, Args)]
#[command(after_long_help = "\
Starts three node processes on loopback, opens a session, streams messages, kills the leader with
SIGKILL in mid-stream, goes on with the new leader, restarts the killed node, waits until it is
level, stops all three, and reads their directories. No message is sent twice: those in flight at a
kill are of unknown outcome, and listed.

Exit code 0 only if every acknowledged message is in every member's history exactly once and in one
order, all digests are equal, and every killed node is level again.

  coracle demo
  coracle demo --input /usr/share/dict/words --service kv
  coracle demo --kills 10 --json

With --snapshot the log is short (16 MiB), and what it cannot hold is in snapshots: one is asked for
under load, a member's directory is wiped while it is down, and when the others have deleted the log
that it would need, it comes back by a snapshot that they send; the leader is killed; all members
are killed at once and start from their snapshots. Exit code 0 only if all of that works, too.

  coracle demo --snapshot
  coracle demo --snapshot --service kv --json")]
pub struct DemoArgs {
    /// Send the lines of this file, each as one message; else messages of 1 byte to 100 KiB
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// How many leaders to kill, one after the other
    #[arg(long, value_name = "N", default_value_t = 1)]
    kills: u32,
    /// Show snapshots: take one under load, lose a directory, restart everything from them
    #[arg(long, conflicts_with = "kills")]
    snapshot: bool,
    /// Fail, too, if a failover takes longer than this, for instance "1200 ms"
    #[arg(long, value_name = "TIME")]
    failover_max: Option<Span>,
    /// The service that runs on the nodes
    #[arg(long, value_enum, default_value = "echo")]
    service: ServiceKind,
    /// Run it on a thread of its own
    #[arg(long)]
    service_thread: bool,
    /// Print the report as one line of JSON
    #[arg(long)]
    json: bool,
    /// Where the nodes keep their data: an empty or missing directory, kept afterwards
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// The verdict is bad, or the demo cannot be carried through.
pub fn run(args: &DemoArgs) -> Result<(), Failure> {
    let dir = match &args.dir {
        Some(dir) => dir.clone(),
        None => unused(&std::env::temp_dir().join(format!("coracle-demo-{}", std::process::id()))),
    };
    if dir
        .read_dir()
        .is_ok_and(|mut entries| entries.next().is_some())
    {
        return Err(Failure::usage(format!(
            "{} is not empty: give an empty or missing directory",
            dir.display()
        )));
    }
    let outcome = Demo::start(args, dir.clone()).and_then(|demo| match args.snapshot {
        true => demo.run_with_snapshots(),
        false => demo.run(args.kills),
    });
    let mut report = outcome.map_err(|failure| {
        Failure::outcome(format!(
            "the demo failed: {failure}\nThe nodes' directories and logs are in {}",
            dir.display()
        ))
    })?;
    if let Some(most) = args.failover_max {
        report.faults.extend(late(&report.kills, most.0));
    }
    if args.json {
        println!("{}", report.json());
    } else {
        report.print();
    }
    if !report.faults.is_empty() {
        return Err(Failure::outcome(format!(
            "the verdict is bad; the directories are in {}",
            dir.display()
        )));
    }
    if args.dir.is_none() {
        std::fs::remove_dir_all(&dir)?;
    }
    Ok(())
}

/// This folder, or one named after it that is not there: a demo that failed keeps its own, and its
/// process id comes again.
fn unused(folder: &Path) -> PathBuf {
    let name = |n: u32| PathBuf::from(format!("{}-{n}", folder.display()));
    let mut names = std::iter::once(folder.to_path_buf()).chain((1..1000).map(name));
    names
        .find(|name| !name.exists())
        .unwrap_or_else(|| folder.to_path_buf())
}

struct Demo {
    nodes: Nodes,
    load: Load,
    source: Source,
    service: ServiceKind,
    kills: Vec<Kill>,
    rests: Vec<Rest>,
    loaded: Duration,
    progress: Progress,
}

impl Demo {
    fn start(args: &DemoArgs, dir: PathBuf) -> Result<Self, Failure> {
        let progress = Progress::new();
        progress.say(&format!("starting three nodes in {}", dir.display()));
        let nodes = Nodes::start(&dir, 3, |settings| {
            settings.service = args.service;
            settings.service_thread = args.service_thread;
            if args.snapshot {
                short_log(settings);
            }
        })?;
        let source = match &args.input {
            Some(path) => Source::file(path, args.service, nodes.settings().message_max.0)?,
            None => Source::generated(args.service),
        };
        let endpoints = nodes.settings().ingress_endpoints();
        let load = Load::start(&endpoints, source.clone())?;
        let leader = load.leader().map_or_else(|| "?".into(), |l| l.to_string());
        progress.say(&format!("session open, member {leader} leads"));
        Ok(Self {
            nodes,
            load,
            source,
            service: args.service,
            kills: Vec::new(),
            rests: Vec::new(),
            loaded: Duration::ZERO,
            progress,
        })
    }

    fn run(mut self, kills: u32) -> Result<Report, Failure> {
        self.send(BETWEEN_KILLS)?;
        for _ in 0..kills {
            self.kill_one()?;
        }
        self.send_rest()?;
        self.finish()
    }

    /// A file is sent to its end, at least once; then all comes to rest.
    fn send_rest(&mut self) -> Result<(), Failure> {
        while self.load.ledger().next() < self.source.pass() {
            let left = self.source.pass() - self.load.ledger().next();
            self.send(left.min(1000))?;
        }
        self.drain()?;
        self.progress.say("waiting until all are level");
        self.level()
    }

    /// Sends until so many more are acknowledged.
    fn send(&mut self, count: u64) -> Result<(), Failure> {
        let start = Instant::now();
        let target = self.load.ledger().acknowledged() + count;
        while self.load.ledger().acknowledged() < target {
            self.turn(false)?;
        }
        self.loaded += start.elapsed();
        Ok(())
    }

    fn drain(&mut self) -> Result<(), Failure> {
        let start = Instant::now();
        while self.load.in_flight() > 0 {
            self.turn(true)?;
        }
        self.loaded += start.elapsed();
        Ok(())
    }

    fn turn(&mut self, drain: bool) -> Result<(), Failure> {
        self.load.turn(drain)?;
        let ledger = self.load.ledger();
        if self.progress.is_due() {
            self.nodes.require_alive()?;
            self.progress.show(&format!(
                "{} acknowledged, {} in flight, leader {}",
                ledger.acknowledged(),
                self.load.in_flight(),
                self.load.leader().map_or("?".into(), |l| l.to_string())
            ));
        }
        Ok(())
    }

    fn kill_one(&mut self) -> Result<(), Failure> {
        let (member, before) = loop {
            self.turn(false)?;
            if let Some(leader) = self.load.leader()
                && self.load.in_flight() > 0
            {
                break (leader, self.load.ledger().lost());
            }
        };
        let in_flight = self.load.in_flight();
        let (changes, acknowledged) = (self.load.new_leaders(), self.load.ledger().acknowledged());
        let offered = self.load.ledger().next();
        self.nodes.kill(member)?;
        let killed = Instant::now();
        self.progress.say(&format!(
            "killed the leader, member {member}, after {acknowledged} acknowledged messages, with \
             {in_flight} in flight"
        ));
        while self.load.new_leaders() == changes {
            self.turn(false)?;
        }
        let offered_later = self.load.ledger().next() - offered;
        let first = self.load.ledger().acknowledged();
        while self.load.ledger().acknowledged() == first {
            self.turn(false)?;
        }
        let failover = killed.elapsed();
        let successor = self.load.leader().unwrap_or(member);
        self.progress.say(&format!(
            "member {successor} leads; its first answer came {} ms after the kill",
            failover.as_millis()
        ));
        self.send(BEFORE_RESTART)?;
        self.nodes.spawn(member)?;
        let restarted = Instant::now();
        self.progress.say(&format!("restarted member {member}"));
        self.send(BETWEEN_KILLS - BEFORE_RESTART)?;
        self.drain()?;
        self.level()?;
        self.kills.push(Kill {
            member,
            successor,
            in_flight,
            offered_later,
            unknown: self.load.ledger().lost() - before,
            failover,
            catch_up: restarted.elapsed(),
        });
        self.progress
            .say(&format!("member {member} is level again"));
        Ok(())
    }

    /// Waits until every member has executed everything that is committed.
    fn level(&mut self) -> Result<(), Failure> {
        let start = Instant::now();
        loop {
            self.turn(true)?;
            if let Some(position) = self.is_level() {
                if self.load.in_flight() == 0 {
                    let next = self.load.ledger().next();
                    self.rests.push(Rest { position, next });
                }
                return Ok(());
            }
            if start.elapsed() > CATCH_UP_MAX {
                return Err(Failure::outcome(format!(
                    "the members are not level after {} s: {:?}",
                    CATCH_UP_MAX.as_secs(),
                    self.positions()
                )));
            }
        }
    }

    fn positions(&self) -> Vec<Option<(u64, u64)>> {
        (0..self.nodes.count())
            .map(|member| {
                let reading = self.nodes.counters(member)?;
                let applied = reading.get(Counter::Applied);
                Some((applied, reading.get(Counter::Appended)))
            })
            .collect()
    }

    /// Where all members are, if that is at one position.
    fn is_level(&self) -> Option<u64> {
        let positions = self.positions();
        let (first, _) = positions.first().copied().flatten()?;
        let is_there = |at: &Option<(u64, u64)>| *at == Some((first, first));
        positions.iter().all(is_there).then_some(first)
    }

    fn finish(mut self) -> Result<Report, Failure> {
        let round_trips =
            [50.0, 99.0, 99.9, 100.0].map(|p| self.load.round_trips.value_at_percentile(p));
        let (bytes, most_in_flight) = (self.load.bytes, self.load.most_in_flight);
        let (leader, leader_changes) = (self.load.leader(), self.load.new_leaders());
        let ledger = self.load.close()?;
        let last = settle(&self.nodes)?;
        self.progress
            .say("stopping the nodes, reading their directories");
        // The leader last: nobody is left to be elected in its place, and all logs end alike.
        let mut order: Vec<u8> = (0..self.nodes.count()).collect();
        order.sort_by_key(|member| Some(*member) == leader);
        for member in order {
            self.nodes.close(member)?;
        }
        let dirs = (0..self.nodes.count()).map(|member| self.nodes.data(member));
        let dirs: Vec<PathBuf> = dirs.collect();
        let mut common = 0;
        for dir in &dirs {
            common = checker::log_start(dir)?.max(common);
        }
        let mut found = Vec::new();
        for dir in &dirs {
            let known = Known {
                source: &self.source,
                ledger: &ledger,
                rests: &self.rests,
            };
            found.push(checker::read(dir, known, common)?);
        }
        let names = |numbers: &[u64]| numbers.iter().map(|n| self.source.name(*n)).collect();
        Ok(Report {
            service: match self.service {
                ServiceKind::Echo => "echo",
                ServiceKind::Kv => "kv",
            },
            acknowledged: ledger.acknowledged(),
            unknown: names(&ledger.unknown()),
            unknown_executed: found.first().map_or(vec![], |f| names(&f.executed_unknown)),
            bytes,
            loaded: self.loaded,
            round_trips,
            window_messages: WINDOW_MESSAGES,
            window_bytes: WINDOW_BYTES,
            most_in_flight,
            leader_timeout: self.nodes.settings().timings.leader_timeout.0,
            leader_changes,
            faults: faults(&found, leader_changes, &ledger),
            recovery: None,
            kills: self.kills,
            last,
            found,
        })
    }
}

fn faults(found: &[checker::Found], leader_changes: u64, ledger: &Ledger) -> Vec<String> {
    let mut faults = checker::compare(found);
    faults.extend(unexplained(leader_changes, ledger));
    faults
}

/// A machine that is slow or stands still may cost a leader that nobody has killed.
fn unexplained(leader_changes: u64, ledger: &Ledger) -> Option<String> {
    let unknown = ledger.unknown().len() as u64;
    let is_more = unknown > leader_changes * WINDOW_MESSAGES as u64;
    is_more.then(|| {
        format!(
            "{unknown} messages are of unknown outcome, more than {leader_changes} changes of \
             leader with a window of {WINDOW_MESSAGES} explain"
        )
    })
}

/// The failovers that took longer than they may.
fn late(kills: &[Kill], most: Duration) -> impl Iterator<Item = String> {
    let late = kills.iter().filter(move |kill| kill.failover > most);
    late.map(move |kill| {
        format!(
            "the failover from member {} took {} ms, more than {} ms",
            kill.member,
            kill.failover.as_millis(),
            most.as_millis()
        )
    })
}

/// Waits, without a session, until all members are level; what their counters say then.
fn settle(nodes: &Nodes) -> Result<Vec<Reading>, Failure> {
    let start = Instant::now();
    loop {
        std::thread::sleep(Duration::from_millis(50));
        let readings: Vec<Reading> = (0..nodes.count())
            .filter_map(|m| nodes.counters(m))
            .collect();
        let level = |r: &Reading| {
            let all = [
                Counter::Appended,
                Counter::Durable,
                Counter::Committed,
                Counter::Applied,
            ];
            let first = readings.first().map_or(0, |r| r.get(Counter::Applied));
            all.iter().all(|counter| r.get(*counter) == first)
        };
        if readings.len() == usize::from(nodes.count()) && readings.iter().all(level) {
            return Ok(readings);
        }
        if start.elapsed() > CATCH_UP_MAX {
            return Err(Failure::outcome(
                "the members do not come to rest at one position",
            ));
        }
    }
}

/// What is going on, on standard error: one line that changes, or a line now and then if nobody
/// looks.
struct Progress {
    terminal: bool,
    start: Instant,
    next: Instant,
}

impl Progress {
    fn new() -> Self {
        let start = Instant::now();
        Self {
            terminal: std::io::stderr().is_terminal(),
            start,
            next: start,
        }
    }

    fn is_due(&mut self) -> bool {
        let period = Duration::from_millis(if self.terminal { 200 } else { 2000 });
        let now = Instant::now();
        if now < self.next {
            return false;
        }
        self.next = now + period;
        true
    }

    fn show(&self, text: &str) {
        // A terminal's line is written over by the next one.
        self.write(text, if self.terminal { "" } else { "\n" });
    }

    fn say(&self, text: &str) {
        self.write(text, "\n");
    }

    fn write(&self, text: &str, end: &str) {
        let start = if self.terminal { "\r" } else { "" };
        let width = if self.terminal { 78 } else { 0 };
        let seconds = self.start.elapsed().as_secs_f64();
        let mut err = std::io::stderr().lock();
        let written = write!(err, "{start}{seconds:6.1} s  {text:<width$}{end}");
        // Nobody can be told that standard error is gone.
        drop(written.and_then(|()| err.flush()));
    }
}

#[cfg(test)]
mod tests {
    use super::ledger::{Ledger, Outcome};
    use super::{WINDOW_MESSAGES, unexplained, unused};

    #[test]
    fn what_an_earlier_demo_has_kept_is_in_nobodys_way() {
        let folder = std::env::temp_dir().join(format!("coracle-unused-{}", std::process::id()));
        let first = unused(&folder);
        std::fs::create_dir(&first).unwrap();
        let second = unused(&folder);
        assert!(second != first && !second.exists(), "{}", second.display());
        std::fs::remove_dir(&first).unwrap();
    }

    #[test]
    fn what_a_leader_took_along_that_nobody_has_killed_is_no_fault() {
        let mut ledger = Ledger::default();
        for number in 0..2 * WINDOW_MESSAGES as u64 {
            ledger.offered();
            ledger.settle(number, Outcome::Unknown);
        }
        assert_eq!(unexplained(2, &ledger), None);
        assert!(unexplained(1, &ledger).is_some());
    }
}
