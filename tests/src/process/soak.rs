//! A short log, written many times over: its files never take more than they may.

use std::path::Path;
use std::time::{Duration, Instant};

use super::{Cluster, Plan, Session, until};

/// Segment files of 1 MiB, and 4 KiB for the header of each.
const LOG_MAX: u64 = 16 << 20;
/// How often the files are measured.
const PERIOD: Duration = Duration::from_secs(1);
/// Bytes of each message.
const MESSAGE: usize = 8000;

/// What was seen.
#[derive(Clone, Debug)]
pub struct Soaked {
    /// The bound, in bytes.
    pub log_max: u64,
    /// Bytes of log that were written.
    pub written: u64,
    /// How often every member's files were measured.
    pub measured: u64,
    /// The most bytes that any member's log folder had.
    pub peak: u64,
    /// The same, as the file system counts what it has given.
    pub peak_blocks: u64,
    /// How long the writing took.
    pub time: Duration,
    /// How long all members took to be level after they were killed and started.
    pub restart: Duration,
    /// The digest of all members after that.
    pub digest: String,
}

/// Writes `times` the bound through a cluster of three processes, measuring all the while; then
/// kills and starts all, and goes on. `tell` is given a line for each measurement.
///
/// # Panics
/// If a log takes up more than its bound, a message is not answered, or the states differ.
pub fn soak(times: u64, mut tell: impl FnMut(&str)) -> Soaked {
    let mut plan = Plan::new();
    plan.extra = format!(
        "service = \"echo\"\nsegment_length = \"1MiB\"\nmessage_max = \"64KiB\"\n\
         window = \"1MiB\"\nlog_max = \"{LOG_MAX}B\"\n"
    );
    let mut cluster = Cluster::start("soak", plan);
    let mut session = Session::open(&cluster.endpoints(), 0);
    let (start, target) = (Instant::now(), times * LOG_MAX);
    let mut seen = Soaked {
        log_max: LOG_MAX,
        written: 0,
        measured: 0,
        peak: 0,
        peak_blocks: 0,
        time: Duration::ZERO,
        restart: Duration::ZERO,
        digest: String::new(),
    };
    let mut next = start;
    while seen.written < target {
        session.stream(100, 64, MESSAGE);
        if Instant::now() >= next {
            seen.measure(&cluster);
            tell(&format!(
                "{:>6.1} s  {} of {} MiB written; logs of at most {} KiB so far, of {} KiB",
                start.elapsed().as_secs_f64(),
                seen.written >> 20,
                target >> 20,
                seen.peak >> 10,
                LOG_MAX >> 10
            ));
            next = Instant::now() + PERIOD;
        }
    }
    seen.time = start.elapsed();
    cluster.level();
    seen.measure(&cluster);
    tell("killing all members, and starting them");
    restart(&mut cluster, &mut session, &mut seen);
    seen
}

/// All members start from snapshots and what is left of their logs, and go on.
fn restart(cluster: &mut Cluster, session: &mut Session, seen: &mut Soaked) {
    let before = cluster.level();
    for member in 0..3 {
        cluster.kill(member);
    }
    let start = Instant::now();
    for member in 0..3 {
        cluster.spawn(member);
    }
    let after = cluster.level();
    seen.restart = start.elapsed();
    for (before, after) in before.iter().zip(&after) {
        assert!(after["log_start"].as_u64() > Some(0), "purged: {after}");
        let applied = |m: &super::Reading| m["applied"].as_u64();
        assert!(applied(after) >= applied(before), "{after}");
    }
    until("the session to go on", || {
        session
            .poll(Duration::from_millis(20))
            .expect("it lives on");
        session.is_renewed().then_some(())
    });
    session.stream(1000, 64, MESSAGE);
    let last = cluster.level();
    seen.digest = last[0]["digest"].as_str().unwrap_or_default().to_owned();
    seen.measure(cluster);
}

impl Soaked {
    #[track_caller]
    fn measure(&mut self, cluster: &Cluster) {
        for member in 0..3 {
            let (bytes, blocks) = folder(&cluster.data(member).join("log"));
            self.peak = self.peak.max(bytes);
            self.peak_blocks = self.peak_blocks.max(blocks);
            assert!(
                bytes <= LOG_MAX,
                "the log of member {member} takes up {bytes} bytes, more than {LOG_MAX}"
            );
        }
        self.measured += 1;
        let status = cluster.status();
        let written = status.iter().filter_map(|m| m["committed"].as_u64()).max();
        self.written = written.unwrap_or(0).max(self.written);
    }
}

/// The lengths of all files in a folder, and what the file system has given them. A file that is
/// deleted meanwhile is gone.
fn folder(folder: &Path) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(folder).expect("a log folder");
    let (mut bytes, mut blocks) = (0, 0);
    for data in entries.flatten().filter_map(|entry| entry.metadata().ok()) {
        bytes += data.len();
        blocks += data.blocks() * 512;
    }
    (bytes, blocks)
}
