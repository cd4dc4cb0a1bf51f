//! Coracle on the work that the others do.

use super::super::load::{Load, Shape, Wait};
use super::super::usage::run_time;
use super::super::{Kind, Options, THREE};
use super::Work;
use super::rival::Found;
use crate::process::Cluster;

/// For deep windows: TCP, which the others have, fills segments of 64 KiB on loopback.
const MTU: usize = 8192;

/// Runs it.
///
/// # Errors
/// In words.
pub fn run(wait: Wait, work: &Work, options: &Options) -> Result<Found, String> {
    let kind = Kind {
        idle: match wait {
            Wait::Yield => "yield",
            Wait::Block => "sleep",
        },
        is_durable: work.is_durable,
        mtu: if work.in_flight > 1 { MTU } else { THREE.mtu },
        ..THREE
    };
    let cluster = kind.start();
    let shape = Shape {
        wait,
        len: work.len,
        mtu: kind.mtu,
    };
    let mut load = Load::open(&cluster.endpoints(), shape)?;
    load.flood(work.in_flight, options.peer_warm_up())?;
    let before = members(&cluster)?;
    let echoed = load.flood(work.in_flight, options.time)?;
    let taken = members(&cluster)? - before;
    Ok(Found {
        rate: echoed.rate,
        p50: echoed.latencies.micros(500),
        p99: echoed.latencies.micros(990),
        members: taken * 1e6 / echoed.latencies.count() as f64,
    })
}

fn members(cluster: &Cluster) -> Result<f64, String> {
    (0..3).map(|member| run_time(cluster.process(member))).sum()
}
