//! `bench --pipeline`: what stages have which part of the log at what time, with many messages on
//! their way and with one.

use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use rustix::time::{ClockId, clock_gettime};

use super::figure::{Line, Row, Unit};
use super::load::{Load, Shape, Wait};
use super::timeline::{Lane, Picture};
use super::trace::{Trace, at_work};
use super::{Kind, Options, THREE};
use crate::process::{Cluster, coracle};

/// Messages on their way in the load that fills the pipeline.
const MANY: usize = 4096;
/// A frame of a 32-byte message in the log.
const FRAME: f64 = 96.0;
/// How much of the time is drawn: so many messages, of which each waits for the one before.
const DRAWN: f64 = 5.0;
/// How much of the time is looked at for figures.
const LOOKED_AT: u64 = 300_000_000;
/// So long before a load's end nothing counts any more: it is running out.
const RUN_OUT: u64 = 60_000_000;

/// What is drawn of the leader and of the follower: what a member calls a stage, and what it is.
const LEADER: [(&str, &str); 7] = [
    ("append", "order"),
    ("transmit", "transmit"),
    ("write", "write"),
    ("flush", "flush"),
    ("commit", "commit"),
    ("execute", "execute"),
    ("answer", "answer"),
];
const FOLLOWER: [(&str, &str); 5] = [
    ("append", "receive"),
    ("write", "write"),
    ("flush", "flush"),
    ("acknowledge", "acknowledge"),
    ("execute", "execute"),
];

/// One load, as the leader and one follower have seen it.
struct Run {
    rate: f64,
    leader: Trace,
    follower: Trace,
    /// The load ended at this time.
    ended: u64,
}

#[derive(Default)]
struct Found {
    rates: Vec<f64>,
    at_work: Vec<f64>,
    two: Vec<f64>,
    apart: Vec<f64>,
    held: Vec<f64>,
}

/// Measures both in turns, and draws those of the last round.
///
/// # Errors
/// In words.
pub fn measure(options: &Options) -> Result<Vec<Row>, String> {
    let mut found: [Found; 2] = Default::default();
    let mut last = None;
    for _ in 0..options.rounds {
        let runs = [Run::of(MANY, options)?, Run::of(1, options)?];
        for (run, found) in runs.iter().zip(&mut found) {
            found.add(run)?;
        }
        last = Some(runs);
    }
    let [many, one] = found;
    let what = format!(
        "pipeline: 32 B, durable, yield, {MANY} messages on their way, and one; leader and a \
         follower"
    );
    let mut row = Row::new('p', &what);
    let rate = Line::new("rate, many", Unit::Kilo, many.rates);
    row.lines.push(rate.beside("rate, one", one.rates));
    for (name, found) in [
        ("many", (many.at_work, many.two, many.apart, many.held)),
        ("one", (one.at_work, one.two, one.apart, one.held)),
    ] {
        let (at_work, two, apart, held) = found;
        let mut add = |what: &str, unit, runs| {
            row.lines
                .push(Line::new(&format!("{name}: {what}"), unit, runs));
        };
        add("somebody at work", Unit::Percent, at_work);
        add("two at work", Unit::Percent, two);
        add("on different parts", Unit::Percent, apart);
        add("ordered, unanswered", Unit::Count, held);
    }
    row.notes.push(
        "at work: the leader's thread, its disk, the follower's thread, its disk; percent of time"
            .into(),
    );
    if let Some(runs) = last {
        let path = &options.svg;
        draw(&runs, path)?;
        row.notes.push(format!("timeline: {}", path.display()));
    }
    Ok(vec![row])
}

impl Run {
    fn of(in_flight: usize, options: &Options) -> Result<Self, String> {
        let kind = Kind {
            is_durable: true,
            ..THREE
        };
        let mut cluster = Cluster::prepare("pipeline", kind.plan());
        let trace = |cluster: &Cluster, id: u8| cluster.scratch().join(format!("trace-{id}"));
        for id in 0..3 {
            let mut node = Command::new(coracle());
            node.args(["node", "--init", "--config"]);
            node.arg(cluster.config(id)).arg("--trace");
            node.arg(trace(&cluster, id));
            cluster.spawn_as(id, node);
        }
        let leader = cluster.leader();
        let shape = Shape {
            wait: Wait::Yield,
            len: 32,
            mtu: kind.mtu,
        };
        let mut load = Load::open(&cluster.endpoints(), shape)?;
        load.flood(in_flight, options.warm_up())?;
        let echoed = load.flood(in_flight, options.time)?;
        let ended = nanos();
        if cluster.leader() != leader {
            return Err("another member leads than before the load: once more, please".into());
        }
        for id in 0..3 {
            cluster.signal(id, Signal::TERM);
        }
        for id in 0..3 {
            cluster.wait(id);
        }
        let follower = u8::from(leader == 0);
        Ok(Self {
            rate: echoed.rate / 1000.0,
            leader: Trace::read(&trace(&cluster, leader))?,
            follower: Trace::read(&trace(&cluster, follower))?,
            ended,
        })
    }

    /// The last `length` that all is known of.
    fn window(&self, length: u64) -> Result<[u64; 2], String> {
        let end = self.ended - RUN_OUT;
        let first = self.leader.first().max(self.follower.first());
        match first.max(end - length) {
            begin if begin < end => Ok([begin, end]),
            _ => {
                Err("the members have noted too little: a longer load, or a quicker machine".into())
            }
        }
    }
}

impl Found {
    fn add(&mut self, run: &Run) -> Result<(), String> {
        let window = run.window(LOOKED_AT)?;
        let work = at_work(&[&run.leader, &run.follower], window);
        self.rates.push(run.rate);
        self.at_work.push(work.any * 100.0);
        self.two.push(work.two * 100.0);
        self.apart.push(work.apart * 100.0);
        let held = run.leader.between("append", "answer", window);
        self.held.push(held / FRAME);
        Ok(())
    }
}

fn draw(runs: &[Run; 2], path: &Path) -> Result<(), String> {
    let mut picture =
        Picture::new("One colour is one part of the log. Both on the same time scale");
    let drawn = (DRAWN * 1e6 / runs[1].rate) as u64;
    for (run, words) in runs
        .iter()
        .zip(["4,096 messages on their way", "one message on its way"])
    {
        let window = run.window(drawn)?;
        let title = format!("{words}: {:.0} a second", run.rate * 1000.0);
        let mut lanes = Vec::new();
        for (who, trace, stages) in [
            ("leader", &run.leader, &LEADER[..]),
            ("follower", &run.follower, &FOLLOWER[..]),
        ] {
            for (stage, name) in stages {
                let notes = trace.within(window).filter(|note| note.stage == *stage);
                lanes.push(Lane {
                    group: who,
                    name,
                    notes: notes.cloned().collect(),
                });
            }
        }
        picture.add(&title, window, lanes);
    }
    std::fs::write(path, picture.to_svg()).map_err(|e| format!("{}: {e}", path.display()))
}

/// The clock that all processes of a machine share.
fn nanos() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
