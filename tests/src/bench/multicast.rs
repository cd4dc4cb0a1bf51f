//! Row m: the log to each follower alone, and once to all of them; datagrams of any length.

use coracle_std::counters::{Counter, CountersReader};

use super::figure::{Line, Row, Unit};
use super::load::{Load, Shape, Wait};
use super::usage::run_time;
use super::{Kind, Options, THREE};
use crate::process::Cluster;

/// The length of a message.
const LEN: usize = 288;
/// Messages on their way.
const IN_FLIGHT: usize = 4096;
/// What the counter `Role` says of a leader.
const LEADER: u64 = 2;
/// The usual datagrams, those of a network with jumbo frames, and the longest that loopback takes
/// whole.
const MTUS: [usize; 3] = [THREE.mtu, 8 << 10, 60 << 10];
const MEMBERS: [u8; 3] = [3, 5, 7];

#[derive(Default)]
struct Found {
    rates: Vec<f64>,
    /// Log bytes that the leader sent for a byte of log.
    sent: Vec<f64>,
    /// Requests to send again for a thousand messages, of all followers.
    naks: Vec<f64>,
    /// Processor time of a message: the leader's, a follower's.
    costs: [Vec<f64>; 2],
}

/// Measures, in turns.
///
/// # Errors
/// In words.
pub fn measure(options: &Options) -> Result<Vec<Row>, String> {
    let by_members = MEMBERS.map(|members| Kind { members, ..THREE });
    let by_mtu = MTUS.map(|mtu| Kind { mtu, ..THREE });
    let mut found: Vec<Found> = Vec::new();
    let kinds: Vec<Kind> = by_members
        .into_iter()
        // The first of these is the first of those.
        .chain(by_mtu.into_iter().skip(1))
        .flat_map(|kind| [false, true].map(|multicast| Kind { multicast, ..kind }))
        .collect();
    found.resize_with(kinds.len(), Found::default);
    for _ in 0..options.rounds.min(3) {
        for (kind, found) in kinds.iter().zip(&mut found) {
            run(kind, options, found)?;
        }
    }
    Ok(kinds.iter().zip(&found).map(|(k, f)| row(k, f)).collect())
}

fn run(kind: &Kind, options: &Options, found: &mut Found) -> Result<(), String> {
    let cluster = kind.start();
    let shape = Shape {
        wait: Wait::Yield,
        len: LEN,
        mtu: kind.mtu,
    };
    let mut load = Load::open(&cluster.endpoints(), shape)?;
    load.flood(IN_FLIGHT, options.warm_up())?;
    let before = Taken::so_far(&cluster, kind.members)?;
    let echoed = load.flood(IN_FLIGHT, options.time)?;
    let taken = Taken::so_far(&cluster, kind.members)?;
    let count = echoed.latencies.count() as f64;
    found.rates.push(echoed.rate / 1000.0);
    if taken.leader != before.leader {
        // An election in the run: the counters of two leaders are not one's.
        return Ok(());
    }
    let log = taken.log - before.log;
    found.sent.push((taken.sent - before.sent) / log);
    found.naks.push((taken.naks - before.naks) * 1000.0 / count);
    for (at, costs) in found.costs.iter_mut().enumerate() {
        costs.push((taken.seconds[at] - before.seconds[at]) * 1e6 / count);
    }
    Ok(())
}

fn row(kind: &Kind, found: &Found) -> Row {
    let way = match kind.multicast {
        true => "once to all, by multicast",
        false => "to each follower alone",
    };
    let what = format!(
        "the log {way}: {} members, {LEN} B, {IN_FLIGHT} in flight, yield, replication-only, \
         datagrams of {} B",
        kind.members, kind.mtu
    );
    let mut row = Row::new('m', &what);
    row.lines
        .push(Line::new("rate", Unit::Kilo, found.rates.clone()));
    let sent = Line::new("log bytes sent for one", Unit::Count, found.sent.clone());
    row.lines.push(sent);
    for (label, costs) in ["leader's time", "a follower's time"]
        .iter()
        .zip(&found.costs)
    {
        row.lines
            .push(Line::new(label, Unit::Micros, costs.clone()));
    }
    row.lines
        .push(Line::new("asked again", Unit::Count, found.naks.clone()));
    row.notes
        .push("times are of one message, requests to send again of a thousand".into());
    row
}

/// What was taken since the processes began.
#[derive(Default)]
struct Taken {
    leader: u8,
    /// The leader, a follower on average.
    seconds: [f64; 2],
    log: f64,
    sent: f64,
    naks: f64,
}

impl Taken {
    fn so_far(cluster: &Cluster, members: u8) -> Result<Self, String> {
        let mut taken = Self::default();
        for member in 0..members {
            let reader = CountersReader::open(&cluster.data(member)).map_err(|e| e.to_string())?;
            let (reading, time) = (reader.read(), run_time(cluster.process(member))?);
            taken.naks += reading.get(Counter::Naks) as f64;
            if reading.get(Counter::Role) == LEADER {
                taken.leader = member;
                taken.seconds[0] += time;
                taken.log += reading.get(Counter::Appended) as f64;
                taken.sent += reading.get(Counter::LogSent) as f64;
            } else {
                taken.seconds[1] += time / f64::from(members - 1);
            }
        }
        Ok(taken)
    }
}
