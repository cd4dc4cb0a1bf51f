//! A short log, written many times over: its files never take more than they may.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{Cluster, Plan, Session, until};

/// Segment files of 1 MiB, and 4 KiB for the header of each.
const LOG_MAX: u64 = 16 << 20;
/// How often a line is told.
const PERIOD: Duration = Duration::from_secs(1);
/// How long a watcher rests between two measurements: a file is there for longer than that.
const REST: Duration = Duration::from_millis(10);
/// How long a member is away, in times the bound.
const AWAY: u64 = 2;
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
    /// How long the member that was away took to be level, and what it was sent a snapshot for: how
    /// far its log ended below where the leader's began.
    pub away: Option<(Duration, u64)>,
    /// How long all members took to be level after they were killed and started.
    pub restart: Duration,
    /// The digest of all members after that.
    pub digest: String,
}

/// Writes `times` the bound through a cluster of three processes, measuring all the while; with
/// `is_away` one member is killed after a third of it, for twice the bound. Then kills and starts
/// all, and goes on. `tell` is given a line every second.
///
/// # Panics
/// If a log takes up more than its bound, a message is not answered, or the states differ.
pub fn soak(times: u64, is_away: bool, mut tell: impl FnMut(&str)) -> Soaked {
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
        away: None,
        restart: Duration::ZERO,
        digest: String::new(),
    };
    let watch = Watch::start(&cluster);
    if is_away {
        seen.write(&cluster, &mut session, target / 3);
        tell("killing a member, and writing on");
        seen.away = Some(away(&mut cluster, &mut session, &mut seen));
        tell("it is level again");
    }
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
    watch.end(&mut seen);
    tell("killing all members, and starting them");
    restart(&mut cluster, &mut session, &mut seen);
    seen
}

/// A member misses more than the others keep, and is sent a snapshot.
fn away(cluster: &mut Cluster, session: &mut Session, seen: &mut Soaked) -> (Duration, u64) {
    let gone = (cluster.leader() + 1) % 3;
    let ended = cluster.answer_of(gone)["appended"].as_u64().unwrap_or(0);
    cluster.kill(gone);
    seen.write(cluster, session, seen.written + AWAY * LOG_MAX);
    let status = cluster.answer_of(cluster.leader());
    let starts = status["log_start"].as_u64().unwrap_or(0);
    assert!(starts > ended, "the others keep what it misses: {status}");
    let start = Instant::now();
    cluster.spawn(gone);
    cluster.level();
    let log = cluster.log(gone);
    assert!(log.contains("receiving a snapshot"), "{log}");
    (start.elapsed(), starts - ended)
}

/// Measures all log folders without pause, on a thread of its own.
struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(u64, u64, u64)>,
}

impl Watch {
    fn start(cluster: &Cluster) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let is_over = stop.clone();
        let folders: Vec<PathBuf> = (0..3).map(|m| cluster.data(m).join("log")).collect();
        let thread = std::thread::spawn(move || {
            let (mut measured, mut peak, mut peak_blocks) = (0, 0, 0);
            while !is_over.load(Ordering::Relaxed) {
                for (bytes, blocks) in folders.iter().map(|path| folder(path)) {
                    peak = bytes.max(peak);
                    peak_blocks = blocks.max(peak_blocks);
                }
                measured += 1;
                std::thread::sleep(REST);
            }
            (measured, peak, peak_blocks)
        });
        Self { stop, thread }
    }

    #[track_caller]
    fn end(self, seen: &mut Soaked) {
        self.stop.store(true, Ordering::Relaxed);
        let (measured, peak, blocks) = self.thread.join().expect("it only measures");
        seen.measured += measured;
        seen.peak = seen.peak.max(peak);
        seen.peak_blocks = seen.peak_blocks.max(blocks);
        assert!(
            peak <= LOG_MAX,
            "a log took up {peak} bytes, more than {LOG_MAX}"
        );
    }
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
    /// Writes until so much is committed.
    fn write(&mut self, cluster: &Cluster, session: &mut Session, target: u64) {
        while self.written < target {
            session.stream(500, 64, MESSAGE);
            self.measure(cluster);
        }
    }

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
