//! Clusters with tight timings under a steady load for long: which of them keep their leader.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::failover::{TIGHT, elections, timings};
use super::load::{Load, Shape, Wait};
use super::machine::load_average;
use crate::process::{Cluster, Plan};

/// A cluster with this is steady and quick enough.
const QUICK: Duration = Duration::from_millis(100);
/// Between an answer and the next message.
const PAUSE: Duration = Duration::from_millis(5);
/// A bounded log: that snapshots are taken and files deleted is part of the load.
const LOG: &str = "service = \"echo\"\nsegment_length = \"8MiB\"\nlog_max = \"96MiB\"\n";

/// What came of one cluster.
struct Held {
    label: String,
    messages: u64,
    /// Elections that no kill asked for.
    spurious: u64,
    /// The longest that a message waited for its answer.
    worst: Duration,
    /// From the kill at the end to the first echo of another leader.
    failover: Duration,
}

/// All timings at once, each with a cluster and a load of its own; a line each minute. At the end
/// each leader is killed. True if a cluster had no election without a cause and was quick enough.
///
/// # Errors
/// In words: a wrong answer, or none.
pub fn run(time: Duration, mut tell: impl FnMut(&str)) -> Result<bool, String> {
    let end = Instant::now() + time;
    let plans = [None].into_iter().chain(TIGHT.map(Some));
    // The kills come one after another: who has the word kills.
    let (mut runs, mut words) = (Vec::new(), Vec::new());
    let (report, reports) = channel();
    for timeout in plans {
        let label = timeout.map_or("default timings".into(), |t| {
            format!("leader timeout {t} ms")
        });
        let extra = timeout.map_or(String::new(), timings);
        let mut plan = Plan::new();
        plan.extra = format!("{LOG}{extra}");
        let cluster = Cluster::start("steady", plan);
        let (word, heard) = channel();
        let report = report.clone();
        words.push(word);
        runs.push(thread::spawn(move || {
            hold(label, cluster, end, report, &heard)
        }));
    }
    drop(report);
    minutes(&reports, &mut tell);
    let mut is_held = false;
    for (run, word) in runs.into_iter().zip(words) {
        // If it has failed already, its result says so.
        word.send(()).ok();
        let held = run.join().map_err(|_| "a load has panicked")??;
        tell(&format!(
            "{}: {} messages, {} elections without a cause, slowest answer {:.1} ms; \
             kill -9 to first echo {:.1} ms",
            held.label,
            held.messages,
            held.spurious,
            held.worst.as_secs_f64() * 1000.0,
            held.failover.as_secs_f64() * 1000.0
        ));
        is_held |= held.spurious == 0 && held.failover <= QUICK;
    }
    Ok(is_held)
}

/// How long the machine let nobody run, in microseconds, at most: as a thread sees it that sleeps a
/// millisecond at a time.
static PAUSE_SEEN: AtomicU64 = AtomicU64::new(0);

fn watch_pauses() {
    const NAP: Duration = Duration::from_millis(1);
    loop {
        let began = Instant::now();
        thread::sleep(NAP);
        let more = began.elapsed().saturating_sub(NAP).as_micros() as u64;
        PAUSE_SEEN.fetch_max(more, Ordering::Relaxed);
    }
}

/// An election without a cause is told at once, what the machine did each minute.
fn minutes(reports: &Receiver<String>, tell: &mut impl FnMut(&str)) {
    let began = Instant::now();
    thread::spawn(watch_pauses);
    for minute in 1.. {
        let next = began + Duration::from_secs(60 * minute);
        loop {
            let left = next.saturating_duration_since(Instant::now());
            match reports.recv_timeout(left) {
                Ok(line) => tell(&line),
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
        let pause = PAUSE_SEEN.swap(0, Ordering::Relaxed) as f64 / 1000.0;
        let load = load_average();
        tell(&format!(
            "minute {minute}: load average {load}; a thread that slept was late by {pause:.1} ms \
             at most"
        ));
    }
}

fn hold(
    label: String,
    mut cluster: Cluster,
    end: Instant,
    report: Sender<String>,
    word: &Receiver<()>,
) -> Result<Held, String> {
    let shape = Shape {
        wait: Wait::Block,
        len: 32,
        mtu: coracle_core::limits::MTU_DEFAULT,
    };
    let mut load = Load::open(&cluster.endpoints(), shape)?;
    let before = elections(&cluster)?;
    let (mut messages, mut spurious, mut worst) = (0, 0, Duration::ZERO);
    while Instant::now() < end {
        let asked = Instant::now();
        load.send(1, 1)?;
        worst = worst.max(asked.elapsed());
        messages += 1;
        if messages % 100 == 0 {
            let now = elections(&cluster)? - before;
            if now > spurious {
                let line =
                    format!("{label}: an election without a cause, slowest answer {worst:?}");
                // Nobody listens any more if another has failed: the result tells all the same.
                report.send(line).ok();
            }
            spurious = now;
        }
        thread::sleep(PAUSE);
    }
    spurious = elections(&cluster)? - before;
    // Once nobody can report any more the kills begin.
    drop(report);
    word.recv().map_err(|_| "another cluster has failed")?;
    let leader = cluster.leader();
    let began = Instant::now();
    cluster.signal(leader, Signal::KILL);
    let echoed = load.until_another_leader()?;
    cluster.wait(leader);
    Ok(Held {
        label,
        messages,
        spurious,
        worst,
        failover: echoed - began,
    })
}
