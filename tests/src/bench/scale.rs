//! Row h: how cost grows with the length of a message, with sessions and with members.

use std::time::{Duration, Instant};

use super::figure::{Line, Row, Spread, Unit};
use super::load::{Latencies, Load, Shape, Wait};
use super::svg::{Panel, Plot};
use super::usage::resident;
use super::{Kind, Options, THREE};
use crate::process::{Cluster, allow_files};

const SIZES: [usize; 7] = [0, 32, 256, 1024, 4096, 16_384, 65_536];
const SESSIONS: [usize; 6] = [1, 4, 16, 64, 256, 1000];
const MEMBERS: [u8; 4] = [1, 3, 5, 7];
/// Messages on their way, all sessions together.
const IN_FLIGHT: usize = 4096;
/// Bytes on their way: what a window takes.
const BYTES: usize = 2 << 20;

/// One point: the rate, and the latency of a message that is alone.
#[derive(Default)]
struct Point {
    rates: Vec<f64>,
    p50: Vec<f64>,
    /// MiB of the node that has most, before the sessions are opened and when the load is over.
    resident: [Vec<f64>; 2],
}

#[derive(Clone, Copy)]
struct Case {
    len: usize,
    sessions: usize,
    members: u8,
}

const CASE: Case = Case {
    len: 32,
    sessions: 1,
    members: 3,
};

/// Measures, and writes the plot.
///
/// # Errors
/// In words.
pub fn measure(options: &Options) -> Result<Vec<Row>, String> {
    let sizes = SIZES.map(|len| (len, Case { len, ..CASE }));
    let sessions = SESSIONS.map(|sessions| (sessions, Case { sessions, ..CASE }));
    let members = MEMBERS.map(|members| (members.into(), Case { members, ..CASE }));
    let series: [(&str, &[(usize, Case)]); 3] = [
        ("bytes of a message", &sizes),
        ("sessions", &sessions),
        ("members", &members),
    ];
    let mut found: Vec<Vec<Point>> = series
        .iter()
        .map(|(_, cases)| cases.iter().map(|_| Point::default()).collect())
        .collect();
    // Each session is a socket.
    allow_files(2 * SESSIONS.into_iter().max().unwrap_or(0) as u64)?;
    // A plot needs no five rounds of each of its points.
    for _ in 0..options.rounds.min(3) {
        for ((_, cases), points) in series.iter().zip(&mut found) {
            for ((_, case), point) in cases.iter().zip(points) {
                case.run(options, point)?;
            }
        }
    }
    let mut rows = Vec::new();
    let mut plot = Plot::new("echoes a second (thousands), yield, replication-only");
    for ((name, cases), points) in series.iter().zip(&found) {
        let what = format!("cost by {name}; otherwise 32 B, 1 session, 3 members; yield");
        let mut row = Row::new('h', &what);
        let mut panel = Panel::new(name);
        for ((x, _), point) in cases.iter().zip(points) {
            let label = format!("{x}: rate");
            row.lines
                .push(Line::new(&label, Unit::Kilo, point.rates.clone()));
            let label = format!("{x}: p50 alone");
            row.lines
                .push(Line::new(&label, Unit::Micros, point.p50.clone()));
            for (when, resident) in ["before", "after load"].into_iter().zip(&point.resident) {
                let label = format!("{x}: resident {when}");
                row.lines
                    .push(Line::new(&label, Unit::Mib, resident.clone()));
            }
            if let Some(spread) = Spread::of(&point.rates) {
                panel.add(*x as f64, spread);
            }
        }
        rows.push(row);
        plot.add(panel);
    }
    let path = &options.svg;
    let folder = path.parent().unwrap_or(path);
    let made = std::fs::create_dir_all(folder);
    let written = made.and_then(|()| std::fs::write(path, plot.to_svg()));
    written.map_err(|e| format!("{}: {e}", path.display()))?;
    if let Some(row) = rows.last_mut() {
        row.notes.push(format!("plot: {}", path.display()));
    }
    Ok(rows)
}

impl Case {
    fn run(&self, options: &Options, point: &mut Point) -> Result<(), String> {
        let kind = Kind {
            members: self.members,
            ..THREE
        };
        let cluster = kind.start();
        let shape = Shape {
            wait: Wait::Yield,
            len: self.len,
            mtu: kind.mtu,
        };
        point.resident[0].push(self.resident(&cluster)?);
        let mut loads = Vec::new();
        for at in 0..self.sessions {
            let endpoints = cluster.endpoints();
            loads.push(Load::open_among(self.sessions, &endpoints, shape)?);
            // The others must not be taken for dead meanwhile.
            if at % 16 == 0 {
                turns(&mut loads, 0, Duration::from_millis(1))?;
            }
        }
        let in_flight = IN_FLIGHT.min(BYTES / (self.len + 64)).max(1);
        let of_each = (in_flight / self.sessions).max(1);
        turns(&mut loads, of_each, options.warm_up())?;
        let (latencies, rate) = turns(&mut loads, of_each, options.time)?;
        if latencies.count() == 0 {
            return Err(format!("no echo in {:?}", options.time));
        }
        point.rates.push(rate / 1000.0);
        point.resident[1].push(self.resident(&cluster)?);
        for load in &mut loads {
            load.drain()?;
        }
        // The other sessions are silent; a few seconds of that are no time.
        let alone = loads[0].closed(options.warm_up())?;
        point.p50.push(alone.latencies.micros(500));
        Ok(())
    }

    fn resident(&self, cluster: &Cluster) -> Result<f64, String> {
        let mut nodes = (0..self.members).map(|member| resident(cluster.process(member)));
        nodes.try_fold(0.0, |most: f64, node| Ok(most.max(node?)))
    }
}

/// Puts load on through all sessions in turn; the answers' latencies, and how many a second.
fn turns(loads: &mut [Load], in_flight: usize, time: Duration) -> Result<(Latencies, f64), String> {
    let mut latencies = Latencies::new();
    let began = Instant::now();
    for load in loads.iter_mut() {
        load.begin();
    }
    while began.elapsed() < time {
        for load in loads.iter_mut() {
            load.turn(in_flight, &mut latencies)?;
        }
    }
    let rate = latencies.count() as f64 / began.elapsed().as_secs_f64();
    Ok((latencies, rate))
}
