//! `coracle demo --snapshot`: what a short log needs. A snapshot under load, a member whose
//! directory is lost after the log that it would need, a killed leader, a restart of everything.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::report::Report;
use super::{BEFORE_RESTART, BETWEEN_KILLS, CATCH_UP_MAX, Demo};
use crate::cli::{Failure, ask_for_snapshot, query};
use crate::config::{Admin, Settings, Size};
use crate::counters::Counter;

/// How often the members are looked at under load.
const PERIOD: Duration = Duration::from_millis(20);

/// Settings with which the log is deleted after seconds.
pub fn short_log(settings: &mut Settings) {
    settings.admin = Admin::Allow;
    settings.segment_length = Size(1 << 20);
    settings.message_max = Size(128 << 10);
    settings.window = Size(2 << 20);
    settings.log_max = Size(16 << 20);
}

/// What was done, and how long it took.
#[derive(Clone, Debug)]
pub struct Recovery {
    pub log_max: Size,
    pub snapshot: Taken,
    pub install: Installed,
    pub restart: Restarted,
}

/// A snapshot that was asked for under load.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// What was committed when it was asked for.
    pub asked_at: u64,
    /// Until every member had stored it.
    pub stored: Duration,
    /// Messages that were acknowledged meanwhile.
    pub acknowledged: u64,
    /// The slowest round trip meanwhile.
    pub slowest: Duration,
}

/// A member that came back by a snapshot that it was sent.
#[derive(Clone, Copy, Debug)]
pub struct Installed {
    pub member: u8,
    /// Where the others' logs started when it came back: it had nothing.
    pub log_start: u64,
    /// The position of the snapshot that it was sent, and its bytes.
    pub position: u64,
    pub bytes: u64,
    /// From its start until it had the snapshot, was level, and counted.
    pub installed: Duration,
    pub level: Duration,
    pub counts: Duration,
}

/// All members were killed at once, and started.
#[derive(Clone, Debug)]
pub struct Restarted {
    /// Until the first answer.
    pub answers: Duration,
    /// Until all were level.
    pub level: Duration,
    /// Where the log of each started, and its newest snapshot, when they were level.
    pub members: Vec<(u64, u64)>,
    /// The digest of all of them then; `None` if they differ.
    pub digest: Option<u64>,
}

impl Demo {
    /// The whole story.
    pub(super) fn run_with_snapshots(mut self) -> Result<Report, Failure> {
        self.send(BETWEEN_KILLS)?;
        let snapshot = self.snapshot_under_load()?;
        let install = self.lose_a_directory()?;
        self.kill_one()?;
        let restart = self.restart_all()?;
        self.send(BETWEEN_KILLS)?;
        self.send_rest()?;
        let log_max = self.nodes.settings().log_max;
        let mut report = self.finish()?;
        report.faults.extend(restart.faults());
        report.recovery = Some(Recovery {
            log_max,
            snapshot,
            install,
            restart,
        });
        Ok(report)
    }

    fn snapshot_under_load(&mut self) -> Result<Taken, Failure> {
        let asked_at = self.lowest(Counter::Committed, None);
        let acknowledged = self.load.ledger().acknowledged();
        let endpoints = self.nodes.settings().ingress_endpoints();
        self.progress
            .say(&format!("asking for a snapshot at position {asked_at}"));
        let start = Instant::now();
        self.load.slowest = Duration::ZERO;
        let asking = std::thread::Builder::new()
            .name("operator".into())
            .spawn(move || ask_for_snapshot(&endpoints, Instant::now() + CATCH_UP_MAX))?;
        self.under_load("the snapshot is asked for", |_| asking.is_finished())?;
        asking
            .join()
            .unwrap_or_else(|_| Err(Failure::outcome("the thread that asks has panicked")))?;
        self.under_load("every member has stored the snapshot", |demo| {
            demo.lowest(Counter::Snapshot, None) >= asked_at
        })?;
        let taken = Taken {
            asked_at,
            stored: start.elapsed(),
            acknowledged: self.load.ledger().acknowledged() - acknowledged,
            slowest: self.load.slowest,
        };
        self.progress.say(&format!(
            "every member has stored it after {} ms; {} messages were acknowledged meanwhile",
            taken.stored.as_millis(),
            taken.acknowledged
        ));
        Ok(taken)
    }

    fn lose_a_directory(&mut self) -> Result<Installed, Failure> {
        let leader = self.load.leader().unwrap_or_default();
        let member = (leader + 1) % self.nodes.count();
        self.nodes.kill(member)?;
        self.nodes.wipe(member)?;
        self.progress.say(&format!(
            "killed member {member} and wiped its directory; on until the others have deleted the \
             log that it would need"
        ));
        self.under_load("the others have deleted old log", |demo| {
            demo.lowest(Counter::LogStart, Some(member)) > 0
        })?;
        let log_start = self.lowest(Counter::LogStart, Some(member));
        self.nodes.replace(member)?;
        let start = Instant::now();
        self.progress.say(&format!(
            "the others' logs start at position {log_start}; started member {member} with nothing"
        ));
        self.under_load("the new member has a snapshot", |demo| {
            demo.counter(member, Counter::LogStart) > 0
        })?;
        let installed = start.elapsed();
        let position = self.counter(member, Counter::Snapshot);
        let bytes = folder_bytes(&self.nodes.data(member).join("snapshot"));
        self.progress.say(&format!(
            "it was sent a snapshot of position {position} within {} ms",
            installed.as_millis()
        ));
        self.send(BEFORE_RESTART)?;
        self.drain()?;
        self.level()?;
        let level = start.elapsed();
        let endpoints: Vec<(u8, String)> = self.endpoints();
        loop {
            self.turn(true)?;
            let reports = query(&endpoints, Duration::from_secs(1))?;
            if reports.iter().flatten().filter(|r| r.votes).count() == endpoints.len() {
                break;
            }
            require_patience(start, "the new member counts")?;
        }
        let counts = start.elapsed();
        self.progress.say(&format!(
            "member {member} is level after {} ms, and counts",
            level.as_millis()
        ));
        Ok(Installed {
            member,
            log_start,
            position,
            bytes,
            installed,
            level,
            counts,
        })
    }

    fn restart_all(&mut self) -> Result<Restarted, Failure> {
        self.drain()?;
        self.level()?;
        let changes = self.load.new_leaders();
        for member in 0..self.nodes.count() {
            self.nodes.kill(member)?;
        }
        let start = Instant::now();
        self.progress
            .say("killed all members; starting them from their snapshots");
        for member in 0..self.nodes.count() {
            self.nodes.spawn(member)?;
        }
        while self.load.new_leaders() == changes {
            self.turn(true)?;
            require_patience(start, "a leader speaks to the session")?;
        }
        self.send(1)?;
        let answers = start.elapsed();
        self.drain()?;
        self.level()?;
        let level = start.elapsed();
        let all = 0..self.nodes.count();
        let of = |member| {
            let counter = |which| self.counter(member, which);
            (counter(Counter::LogStart), counter(Counter::Snapshot))
        };
        let members = all.clone().map(of).collect();
        let digest = self.counter(0, Counter::Digest);
        let is_equal = |member| self.counter(member, Counter::Digest) == digest;
        let digest = all.clone().all(is_equal).then_some(digest);
        self.progress.say(&format!(
            "the first answer came after {} ms, all are level after {} ms",
            answers.as_millis(),
            level.as_millis()
        ));
        Ok(Restarted {
            answers,
            level,
            members,
            digest,
        })
    }

    /// Sends on until something is so.
    fn under_load(
        &mut self,
        what: &str,
        mut is_so: impl FnMut(&Self) -> bool,
    ) -> Result<(), Failure> {
        let start = Instant::now();
        let mut next = start;
        loop {
            self.turn(false)?;
            let now = Instant::now();
            if now >= next {
                if is_so(self) {
                    self.loaded += start.elapsed();
                    return Ok(());
                }
                require_patience(start, what)?;
                next = now + PERIOD;
            }
        }
    }

    fn counter(&self, member: u8, counter: Counter) -> u64 {
        let reading = self.nodes.counters(member);
        reading.map_or(0, |reading| reading.get(counter))
    }

    /// The least that any member has; 0 if one has no counters.
    fn lowest(&self, counter: Counter, but: Option<u8>) -> u64 {
        let members = (0..self.nodes.count()).filter(|member| Some(*member) != but);
        let values = members.map(|member| self.counter(member, counter));
        values.min().unwrap_or(0)
    }

    fn endpoints(&self) -> Vec<(u8, String)> {
        let members = self.nodes.settings().members.iter();
        members.map(|m| (m.id, m.ingress.clone())).collect()
    }
}

fn require_patience(start: Instant, what: &str) -> Result<(), Failure> {
    if start.elapsed() <= CATCH_UP_MAX {
        return Ok(());
    }
    let seconds = CATCH_UP_MAX.as_secs();
    Err(Failure::outcome(format!(
        "waited {seconds} s in vain until {what}"
    )))
}

/// The bytes of all files below a folder; what goes away meanwhile does not count.
fn folder_bytes(folder: &Path) -> u64 {
    let entries = folder.read_dir().into_iter().flatten().flatten();
    let of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(data) if data.is_dir() => folder_bytes(&entry.path()),
        Ok(data) => data.len(),
        Err(_) => 0,
    };
    entries.map(of).sum()
}

impl Restarted {
    /// What of it went wrong.
    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (member, (log_start, snapshot)) in self.members.iter().enumerate() {
            if *log_start == 0 || *snapshot == 0 {
                faults.push(format!(
                    "member {member} did not need its snapshot to start: its log starts at \
                     {log_start}, its newest snapshot is of position {snapshot}"
                ));
            }
        }
        if self.digest.is_none() {
            faults.push("the digests differ after the restart from snapshots".into());
        }
        faults
    }
}

impl Recovery {
    /// For people.
    pub fn print(&self) {
        let Self {
            snapshot,
            install,
            restart,
            ..
        } = self;
        println!(
            "snapshot       {} ms from the request at position {} until all members had stored it; \
             {} messages were acknowledged meanwhile, the slowest in {:.1} ms",
            snapshot.stored.as_millis(),
            snapshot.asked_at,
            snapshot.acknowledged,
            snapshot.slowest.as_secs_f64() * 1e3
        );
        println!(
            "install        member {} came back with nothing when the others' logs started at {}: \
             it had a snapshot of position {} ({}) after {} ms, was level after {} ms, counted \
             after {} ms",
            install.member,
            install.log_start,
            install.position,
            Size(install.bytes),
            install.installed.as_millis(),
            install.level.as_millis(),
            install.counts.as_millis()
        );
        let snapshots = restart.members.iter().map(|(_, at)| at.to_string());
        println!(
            "restart        all members killed: first answer after {} ms, all level after {} ms; \
             newest snapshots at {}; {}",
            restart.answers.as_millis(),
            restart.level.as_millis(),
            snapshots.collect::<Vec<_>>().join(", "),
            match restart.digest {
                Some(digest) => format!("digests equal, {digest:016x}"),
                None => "digests DIFFER".into(),
            }
        );
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let ms = |time: Duration| time.as_millis() as u64;
        let Self {
            snapshot,
            install,
            restart,
            ..
        } = self;
        json!({
            "log_max": self.log_max.0,
            "snapshot": {
                "asked_at": snapshot.asked_at,
                "stored_ms": ms(snapshot.stored),
                "acknowledged_meanwhile": snapshot.acknowledged,
                "slowest_us": snapshot.slowest.as_micros() as u64,
            },
            "install": {
                "member": install.member,
                "others_log_start": install.log_start,
                "position": install.position,
                "bytes": install.bytes,
                "installed_ms": ms(install.installed),
                "level_ms": ms(install.level),
                "counts_ms": ms(install.counts),
            },
            "restart": {
                "first_answer_ms": ms(restart.answers),
                "level_ms": ms(restart.level),
                "snapshots": restart.members.iter().map(|(_, at)| at).collect::<Vec<_>>(),
                "log_starts": restart.members.iter().map(|(at, _)| at).collect::<Vec<_>>(),
                "digest": restart.digest.map(|digest| format!("{digest:016x}")),
            },
        })
    }
}
