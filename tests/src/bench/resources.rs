//! Row f: what nodes take of the machine while nothing happens, and what memory under load.

use std::time::{Duration, Instant};

use super::Options;
use super::figure::{Goal, Line, Row, Unit};
use super::load::{Load, Shape, Wait};
use super::usage::{resident, run_time};
use crate::process::{Cluster, Plan};

/// Until an idle cluster has made its files and said all that there is to say.
const SETTLED: Duration = Duration::from_secs(3);

#[derive(Default)]
struct Found {
    busiest: Vec<f64>,
    average: Vec<f64>,
    idle: Vec<f64>,
    loaded: Vec<f64>,
    growth: Vec<f64>,
}

/// Measures.
///
/// # Errors
/// In words.
pub fn measure(options: &Options) -> Result<Vec<Row>, String> {
    let mut found = Found::default();
    // The figure has little spread, and takes long.
    for _ in 0..options.rounds.min(3) {
        found.add(options)?;
    }
    let mut row = Row::new(
        'f',
        "three idle nodes, default settings: processor time, memory",
    );
    let busiest = Line::new("busiest node", Unit::Percent, found.busiest);
    let idle = Line::new("resident, idle", Unit::Mib, found.idle);
    let growth = Line::new("more in a second load", Unit::Mib, found.growth);
    row.lines = vec![
        busiest.to_reach(Goal::AtMost(0.5)),
        Line::new("average node", Unit::Percent, found.average),
        idle.to_reach(Goal::AtMost(16.0)),
        Line::new("resident, after load", Unit::Mib, found.loaded),
        growth.to_reach(Goal::AtMost(1.0)),
    ];
    row.notes
        .push("memory is the largest node's VmRSS; no log is mapped".into());
    Ok(vec![row])
}

impl Found {
    fn add(&mut self, options: &Options) -> Result<(), String> {
        let time = Duration::from_secs(if options.is_quick { 3 } else { 10 });
        let mut plan = Plan::new();
        plan.extra = "service = \"echo\"\n".into();
        let cluster = Cluster::start("idle", plan);
        std::thread::sleep(SETTLED);
        let before = processor_time(&cluster)?;
        let began = Instant::now();
        std::thread::sleep(time);
        let after = processor_time(&cluster)?;
        let took = began.elapsed().as_secs_f64();
        let shares = [0, 1, 2].map(|at| (after[at] - before[at]) / took * 100.0);
        self.busiest.push(shares.into_iter().fold(0.0, f64::max));
        self.average.push(shares.iter().sum::<f64>() / 3.0);
        self.idle.push(largest(&cluster)?);
        let shape = Shape {
            wait: Wait::Yield,
            len: 32,
            mtu: coracle_core::limits::MTU_DEFAULT,
        };
        let mut load = Load::open(&cluster.endpoints(), shape)?;
        load.flood(4096, options.time)?;
        let loaded = largest(&cluster)?;
        load.flood(4096, options.time)?;
        self.growth.push(largest(&cluster)? - loaded);
        self.loaded.push(loaded);
        Ok(())
    }
}

fn processor_time(cluster: &Cluster) -> Result<[f64; 3], String> {
    let mut seconds = [0.0; 3];
    for (member, seconds) in seconds.iter_mut().enumerate() {
        *seconds = run_time(cluster.process(member as u8))?;
    }
    Ok(seconds)
}

/// Of the node that has most, in MiB.
fn largest(cluster: &Cluster) -> Result<f64, String> {
    let mut most: f64 = 0.0;
    for member in 0..3 {
        most = most.max(resident(cluster.process(member))?);
    }
    Ok(most)
}
