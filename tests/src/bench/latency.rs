//! Rows a to c: the time of one message, beside the raw chain of the same round.

use super::chain::{Chain, Mode};
use super::figure::{Goal, Line, Row, Unit};
use super::flush::flushes;
use super::load::{Echoed, Latencies, Load, Shape, Wait};
use super::{Kind, Options, THREE};

/// A frame of a 32-byte message with its headers: what the raw chain carries.
const DATAGRAM: usize = 96;
/// Of the open loop.
const RATE: u32 = 20_000;

struct Way {
    name: &'static str,
    mode: Mode,
    idle: &'static str,
    goals: &'static [(u32, Goal)],
}

const fn mode(wait: Wait, is_durable: bool) -> Mode {
    Mode { wait, is_durable }
}

const WAYS: [Way; 4] = [
    Way {
        name: "yield, replication-only",
        mode: mode(Wait::Yield, false),
        idle: "yield",
        // A third of what Aeron Cluster needs at the 99th percentile.
        goals: &[
            (500, Goal::RatioAtMost(2.0)),
            (990, Goal::AtMost(250.0 / 3.0)),
        ],
    },
    Way {
        name: "yield, durable",
        mode: mode(Wait::Yield, true),
        idle: "yield",
        goals: &[(500, Goal::RatioAtMost(1.2))],
    },
    Way {
        name: "sleep (default), durable (default)",
        mode: mode(Wait::Block, true),
        idle: "sleep",
        goals: &[],
    },
    Way {
        name: "sleep (default), replication-only",
        mode: mode(Wait::Block, false),
        idle: "sleep",
        goals: &[(500, Goal::RatioAtMost(1.4))],
    },
];

/// All rounds of the same thing.
#[derive(Default)]
struct Rounds(Vec<Latencies>);

impl Rounds {
    fn at(&self, of_1000: u32) -> Vec<f64> {
        self.0.iter().map(|l| l.micros(of_1000)).collect()
    }

    /// One line for each percentile, beside the same one of `limit`.
    fn lines(&self, limit: Option<(&str, &Rounds)>, goals: &[(u32, Goal)]) -> Vec<Line> {
        let lines = [(500, "p50"), (990, "p99"), (999, "p99.9")].map(|(of_1000, label)| {
            let mut line = Line::new(label, Unit::Micros, self.at(of_1000));
            if let Some((name, limit)) = limit {
                line = line.beside(name, limit.at(of_1000));
            }
            match goals.iter().find(|(of, _)| *of == of_1000) {
                Some((_, goal)) => line.to_reach(*goal),
                None => line,
            }
        });
        lines.into()
    }
}

#[derive(Default)]
struct Found {
    flushes: Rounds,
    raw: [Rounds; 4],
    cluster: [Rounds; 4],
    open_raw: Rounds,
    open: Rounds,
    rates: Vec<f64>,
}

/// Measures, in turns.
///
/// # Errors
/// In words.
pub fn measure(options: &Options) -> Result<Vec<Row>, String> {
    let mut found = Found::default();
    for _ in 0..options.rounds {
        let system = |error: std::io::Error| format!("raw limits: {error}");
        found
            .flushes
            .0
            .push(flushes(options.time / 2).map_err(system)?);
        for (at, way) in WAYS.iter().enumerate() {
            if options.has('a') || options.has('b') {
                found.raw[at]
                    .0
                    .push(raw(way.mode, options).map_err(system)?);
            }
            if options.has('b') {
                let echoed = on_cluster(way, options, |load| load.closed(options.time))?;
                found.cluster[at].0.push(echoed.latencies);
            }
            if at == 0 && options.has('c') {
                let chain = raw_open_loop(way.mode, options).map_err(system)?;
                found.open_raw.0.push(chain);
                let echoed = on_cluster(way, options, |load| load.open_loop(RATE, options.time))?;
                found.rates.push(echoed.rate / 1000.0);
                found.open.0.push(echoed.latencies);
            }
        }
    }
    Ok(rows(options, &found))
}

fn rows(options: &Options, found: &Found) -> Vec<Row> {
    let mut rows = Vec::new();
    if options.has('a') {
        let mut row = Row::new(
            'a',
            "raw flush: an appended block of 4 KiB, in a file made before",
        );
        row.lines = found.flushes.lines(None, &[]);
        rows.push(row);
        for (way, raw) in WAYS.iter().zip(&found.raw) {
            let (wait, durable) = (way.mode.wait.name(), way.mode.is_durable);
            let flush = if durable { ", overlapped flushes" } else { "" };
            let what = format!("raw chain of four processes, one datagram of 96 B, {wait}{flush}");
            let mut row = Row::new('a', &what);
            row.lines = raw.lines(None, &[]);
            rows.push(row);
        }
    }
    if options.has('b') {
        for ((way, raw), cluster) in WAYS.iter().zip(&found.raw).zip(&found.cluster) {
            let what = format!("closed loop, 1 outstanding, 32 B, {}", way.name);
            let mut row = Row::new('b', &what);
            row.lines = cluster.lines(Some(("raw chain", raw)), way.goals);
            let count: u64 = cluster.0.iter().map(Latencies::count).sum();
            row.notes.push(format!("{count} messages"));
            rows.push(row);
        }
    }
    if options.has('c') {
        let what = "open loop, 20,000/s, 32 B, yield, replication-only: from when each was due";
        let mut row = Row::new('c', what);
        let goals = [(500, Goal::AtMost(60.0)), (990, Goal::AtMost(300.0))];
        row.lines = found
            .open
            .lines(Some(("raw chain", &found.open_raw)), &goals);
        row.lines
            .push(Line::new("answered", Unit::Kilo, found.rates.clone()));
        let note = "the chain carries as many datagrams a second, each from when it was due";
        row.notes.push(note.into());
        rows.push(row);
    }
    rows
}

fn raw(mode: Mode, options: &Options) -> std::io::Result<Latencies> {
    let mut chain = Chain::start(mode)?;
    chain.closed(DATAGRAM, options.warm_up())?;
    chain.closed(DATAGRAM, options.time)
}

fn raw_open_loop(mode: Mode, options: &Options) -> std::io::Result<Latencies> {
    let mut chain = Chain::start(mode)?;
    chain.closed(DATAGRAM, options.warm_up())?;
    chain.open_loop(DATAGRAM, RATE, options.time)
}

fn on_cluster(
    way: &Way,
    options: &Options,
    run: impl FnOnce(&mut Load) -> Result<Echoed, String>,
) -> Result<Echoed, String> {
    let kind = Kind {
        idle: way.idle,
        is_durable: way.mode.is_durable,
        ..THREE
    };
    let cluster = kind.start();
    let shape = Shape {
        wait: way.mode.wait,
        len: 32,
        mtu: kind.mtu,
    };
    let mut load = Load::open(&cluster.endpoints(), shape)?;
    load.closed(options.warm_up())?;
    run(&mut load).map_err(|error| format!("{}: {error}", way.name))
}
