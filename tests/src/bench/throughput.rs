//! Row d: how many messages a second, beside the raw pipelined chain of the same round. With the
//! log's default bounds, when it has gone round once: so it is for a member that has run for a
//! while.

use std::time::{Duration, Instant};

use coracle_std::counters::{Counter, CountersReader};

use super::chain::{Chain, Mode};
use super::figure::{Goal, Line, Row, Unit};
use super::load::{Load, Shape, Wait};
use super::place::Placed;
use super::usage::run_time;
use super::{Kind, Options, THREE};
use crate::process::Cluster;

/// The longest datagram in the tuned rows: large, and nowhere near what loopback takes, because
/// past this the raw chain gains little.
const LARGE: usize = 8192;
/// What a frame adds to a message: its header and the session's.
const HEADERS: usize = 64;
/// What the counter `Role` says of a leader.
const LEADER: u64 = 2;
/// Until the log has gone round once.
const ROUND_MAX: Duration = Duration::from_secs(120);
/// Datagrams on their way in the raw chain.
const RAW_IN_FLIGHT: u64 = 32;
/// The raw chains: length of a datagram, and whether the processes are kept on processors.
type Limit = (usize, bool);
const LIMITS: [Limit; 3] = [(LARGE, false), (THREE.mtu, false), (LARGE, true)];

struct Way {
    len: usize,
    in_flight: usize,
    is_durable: bool,
    mtu: usize,
    /// Leader and client are kept on one processor, the followers on another.
    is_placed: bool,
    rate: Option<f64>,
    p50: Option<f64>,
}

const fn way(len: usize, mtu: usize, rate: Option<f64>) -> Way {
    Way {
        len,
        in_flight: 4096,
        is_durable: false,
        mtu,
        is_placed: false,
        rate,
        p50: None,
    }
}

const WAYS: [Way; 7] = [
    way(32, LARGE, Some(2100.0)),
    way(32, THREE.mtu, None),
    way(288, LARGE, Some(1200.0)),
    Way {
        is_placed: true,
        ..way(288, LARGE, Some(1200.0))
    },
    way(288, THREE.mtu, None),
    Way {
        in_flight: 16_384,
        is_durable: true,
        // A third of 16,384 in flight at the 526,000/s of Aeron Cluster.
        p50: Some(16_384.0 / 526.0 / 3.0),
        ..way(32, LARGE, Some(1600.0))
    },
    Way {
        in_flight: 16_384,
        is_durable: true,
        ..way(32, THREE.mtu, None)
    },
];

#[derive(Default)]
struct Found {
    rates: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
    raw: Vec<f64>,
    /// Processor time of a message: the leader's, a follower's, the client's.
    costs: [Vec<f64>; 3],
    /// Datagrams that the leader sends for a message.
    sent: Vec<f64>,
}

/// Measures, in turns.
///
/// # Errors
/// In words.
pub fn measure(options: &Options) -> Result<Vec<Row>, String> {
    let mut found: [Found; WAYS.len()] = Default::default();
    let limits = LIMITS
        .into_iter()
        .filter(|(_, is_placed)| !is_placed || Placed::is_possible());
    let mut raw: Vec<(Limit, Vec<f64>)> = limits.map(|limit| (limit, Vec::new())).collect();
    for _ in 0..options.rounds {
        for (limit, raw) in &mut raw {
            raw.push(raw_rate(*limit, options)? / 1000.0);
        }
        if !options.has('d') {
            continue;
        }
        for (way, found) in WAYS.iter().zip(&mut found) {
            if !way.is_wanted(options) {
                continue;
            }
            let limit = raw
                .iter()
                .find(|(limit, _)| *limit == (way.mtu, way.is_placed));
            let datagrams = limit.and_then(|(_, raw)| raw.last());
            let in_each = way.mtu / (way.len + HEADERS);
            found.raw.push(datagrams.unwrap_or(&0.0) * in_each as f64);
            way.run(options, found)?;
        }
    }
    let mut rows = Vec::new();
    if options.has('a') {
        for ((len, is_placed), raw) in raw {
            let what = format!(
                "raw pipelined chain of four processes, {RAW_IN_FLIGHT} datagrams of {len} B on \
                 their way, yield{}",
                placed(is_placed)
            );
            let mut row = Row::new('a', &what);
            row.lines.push(Line::new("datagrams", Unit::Kilo, raw));
            rows.push(row);
        }
    }
    if options.has('d') {
        let wanted = WAYS.iter().zip(&found);
        let wanted = wanted.filter(|(way, _)| way.is_wanted(options));
        rows.extend(wanted.map(|(way, found)| way.row(found)));
    }
    Ok(rows)
}

fn raw_rate((len, is_placed): Limit, options: &Options) -> Result<f64, String> {
    let told = |e: std::io::Error| format!("raw chain: {e}");
    let mode = Mode {
        wait: Wait::Yield,
        is_durable: false,
    };
    let mut chain = Chain::start(mode).map_err(told)?;
    let [leader, followers @ ..] = chain.processes();
    let keep = || Placed::keep(leader, &followers);
    let _placed = is_placed.then(keep).transpose()?;
    let mut run = |time| chain.pipelined(len, RAW_IN_FLIGHT, time).map_err(told);
    run(options.warm_up())?;
    run(options.time)
}

/// For a row's name.
fn placed(is_placed: bool) -> &'static str {
    match is_placed {
        true => "; leader and client kept on one processor, followers on another",
        false => "",
    }
}

impl Way {
    fn is_wanted(&self, options: &Options) -> bool {
        let is_possible = !self.is_placed || Placed::is_possible();
        is_possible && options.len.is_none_or(|len| len == self.len)
    }

    fn run(&self, options: &Options, found: &mut Found) -> Result<(), String> {
        let kind = Kind {
            is_durable: self.is_durable,
            mtu: self.mtu,
            goes_round: true,
            ..THREE
        };
        let cluster = kind.start();
        let shape = Shape {
            wait: Wait::Yield,
            len: self.len,
            mtu: self.mtu,
        };
        let mut load = Load::open(&cluster.endpoints(), shape)?;
        self.go_round(&cluster, &mut load)?;
        let keep = |(leader, followers): (u32, Vec<u32>)| Placed::keep(leader, &followers);
        let placed = || roles(&cluster).and_then(keep);
        let _placed = self.is_placed.then(placed).transpose()?;
        load.flood(self.in_flight, options.warm_up())?;
        let before = Taken::so_far(&cluster)?;
        let echoed = load.flood(self.in_flight, options.time)?;
        let taken = Taken::so_far(&cluster)?;
        let count = echoed.latencies.count() as f64;
        for (at, costs) in found.costs.iter_mut().enumerate() {
            costs.push((taken.seconds[at] - before.seconds[at]) * 1e6 / count);
        }
        found.sent.push((taken.sent - before.sent) / count);
        found.rates.push(echoed.rate / 1000.0);
        found.p50.push(echoed.latencies.micros(500) / 1000.0);
        found.p99.push(echoed.latencies.micros(990) / 1000.0);
        Ok(())
    }

    /// Until the log of each member has gone round once: a short run finds another system, with
    /// files that are made ahead and memory that was never used.
    fn go_round(&self, cluster: &Cluster, load: &mut Load) -> Result<(), String> {
        let began = Instant::now();
        loop {
            load.flood(self.in_flight, Duration::from_millis(250))?;
            let mut starts = (0..3).map(|member| {
                let reader = CountersReader::open(&cluster.data(member));
                let reader = reader.map_err(|e| e.to_string())?;
                Ok::<u64, String>(reader.read().get(Counter::LogStart))
            });
            if starts.try_fold(true, |all, start| Ok::<_, String>(all && start? > 0))? {
                return Ok(());
            }
            if began.elapsed() > ROUND_MAX {
                return Err(format!("the log has not gone round in {ROUND_MAX:?}"));
            }
        }
    }

    fn row(&self, found: &Found) -> Row {
        let durable = if self.is_durable {
            "durable"
        } else {
            "replication-only"
        };
        let what = format!(
            "echoes, {} B, {} in flight, yield, {durable}, datagrams of {} B{}",
            self.len,
            self.in_flight,
            self.mtu,
            placed(self.is_placed)
        );
        let mut row = Row::new('d', &what);
        let rate = Line::new("rate", Unit::Kilo, found.rates.clone());
        let rate = rate.beside("raw chain, frames in full datagrams", found.raw.clone());
        row.lines.push(match self.rate {
            Some(least) => rate.to_reach(Goal::AtLeast(least)),
            None => rate,
        });
        let p50 = Line::new("p50", Unit::Millis, found.p50.clone());
        row.lines.push(match self.p50 {
            Some(most) => p50.to_reach(Goal::AtMost(most)),
            None => p50,
        });
        row.lines
            .push(Line::new("p99", Unit::Millis, found.p99.clone()));
        let costs = ["leader's time", "a follower's time", "client's time"].into_iter();
        for (label, costs) in costs.zip(&found.costs) {
            row.lines
                .push(Line::new(label, Unit::Micros, costs.clone()));
        }
        let sent = Line::new("leader's datagrams", Unit::Count, found.sent.clone());
        row.lines.push(sent);
        row.notes
            .push("times and datagrams are of one message; the log has gone round once".into());
        row
    }
}

/// The leader's process, and the followers'.
fn roles(cluster: &Cluster) -> Result<(u32, Vec<u32>), String> {
    let (mut leader, mut followers) = (None, Vec::new());
    for member in 0..3 {
        let reader = CountersReader::open(&cluster.data(member)).map_err(|e| e.to_string())?;
        match reader.read().get(Counter::Role) {
            LEADER => leader = Some(cluster.process(member)),
            _ => followers.push(cluster.process(member)),
        }
    }
    Ok((leader.ok_or("nobody leads")?, followers))
}

/// What was taken since the processes began.
struct Taken {
    /// The leader, a follower on average, this client.
    seconds: [f64; 3],
    sent: f64,
}

impl Taken {
    fn so_far(cluster: &Cluster) -> Result<Self, String> {
        let mut taken = Self {
            seconds: [0.0, 0.0, run_time(std::process::id())?],
            sent: 0.0,
        };
        for member in 0..3 {
            let reader = CountersReader::open(&cluster.data(member)).map_err(|e| e.to_string())?;
            let (reading, time) = (reader.read(), run_time(cluster.process(member))?);
            if reading.get(Counter::Role) == LEADER {
                taken.seconds[0] += time;
                taken.sent += reading.get(Counter::Sent) as f64;
            } else {
                taken.seconds[1] += time / 2.0;
            }
        }
        Ok(taken)
    }
}
