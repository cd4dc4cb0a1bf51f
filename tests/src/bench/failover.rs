//! Row e: from kill -9 of the leader to the first echo of another.

use std::time::{Duration, Instant};

use coracle_std::counters::{Counter, CountersReader};
use rustix::process::Signal;

use super::Options;
use super::figure::{Goal, Line, Row, Unit};
use super::load::{Load, Shape, Wait};
use crate::process::{Cluster, Plan};

/// Leader timeouts in milliseconds, tightest first; the heartbeat is a fifth.
pub(super) const TIGHT: [u64; 4] = [20, 40, 60, 80];

#[derive(Default)]
struct Found {
    millis: Vec<f64>,
    /// Elections that no kill asked for.
    spurious: u64,
    under_load: Duration,
}

/// Measures, in turns.
///
/// # Errors
/// In words.
pub fn measure(options: &Options) -> Result<Vec<Row>, String> {
    let mut default = Found::default();
    let mut tight: [Found; TIGHT.len()] = Default::default();
    for _ in 0..options.rounds {
        default.add(String::new(), options)?;
        for (timeout, found) in TIGHT.into_iter().zip(&mut tight) {
            found.add(timings(timeout), options)?;
        }
    }
    let mut row = Row::new(
        'e',
        "kill -9 of the leader to the first echo, otherwise default settings",
    );
    let line = Line::new("default timings", Unit::Millis, default.millis);
    row.lines.push(line.to_reach(Goal::AtMost(1000.0)));
    let mut is_found = false;
    for (timeout, found) in TIGHT.into_iter().zip(tight) {
        let label = format!("leader timeout {timeout} ms");
        let line = Line::new(&label, Unit::Millis, found.millis);
        let is_stable = found.spurious == 0;
        row.lines.push(match is_stable && !is_found {
            true => line.to_reach(Goal::AtMost(100.0)),
            false => line,
        });
        is_found |= is_stable;
        row.notes.push(format!(
            "{timeout} ms: {} elections without a cause in {:.0} s under load",
            found.spurious,
            found.under_load.as_secs_f64()
        ));
    }
    row.notes
        .push("the goal is for the tightest without such elections".into());
    Ok(vec![row])
}

pub(super) fn timings(timeout: u64) -> String {
    format!(
        "timings = {{ heartbeat = \"{} ms\", leader_timeout = \"{timeout} ms\", canvass = \"{} \
         ms\", nomination = \"{} ms\", ballot = \"{} ms\" }}\n",
        timeout / 5,
        (timeout / 10).max(1),
        timeout / 5,
        timeout / 2
    )
}

impl Found {
    fn add(&mut self, timings: String, options: &Options) -> Result<(), String> {
        let mut plan = Plan::new();
        plan.extra = format!("service = \"echo\"\n{timings}");
        let mut cluster = Cluster::start("failover", plan);
        let shape = Shape {
            wait: Wait::Block,
            len: 32,
            mtu: coracle_core::limits::MTU_DEFAULT,
        };
        let mut load = Load::open(&cluster.endpoints(), shape)?;
        // Elections of the start are none of the load's.
        let before = elections(&cluster)?;
        load.closed(options.time)?;
        self.spurious += elections(&cluster)? - before;
        self.under_load += options.time;
        let leader = cluster.leader();
        let began = Instant::now();
        cluster.signal(leader, Signal::KILL);
        let echoed = load.until_another_leader()?;
        self.millis.push((echoed - began).as_secs_f64() * 1000.0);
        cluster.wait(leader);
        Ok(())
    }
}

pub(super) fn elections(cluster: &Cluster) -> Result<u64, String> {
    let mut won = 0;
    for member in 0..3 {
        let reader = CountersReader::open(&cluster.data(member)).map_err(|e| e.to_string())?;
        won += reader.read().get(Counter::ElectionsWon);
    }
    Ok(won)
}
