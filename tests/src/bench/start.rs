//! Row g: from the start of three processes to the first echo, and what a long log adds.

use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use coracle_std::counters::{Counter, CountersReader, Reading};
use rustix::process::Signal;

use super::Options;
use super::figure::{Goal, Line, Row, Unit};
use super::load::{Load, Shape, Wait};
use crate::process::{Cluster, PATIENCE, Plan};

/// A frame of a 32-byte message in the log.
pub const FRAME: u64 = 96;

#[derive(Default)]
struct Found {
    empty: Vec<f64>,
    long: Vec<f64>,
    recovered: Vec<f64>,
    rate: Vec<f64>,
    replayed: Vec<f64>,
}

/// Measures, in turns.
///
/// # Errors
/// In words.
pub fn measure(options: &Options) -> Result<Vec<Row>, String> {
    Ok(vec![replay('g', options.messages, options.rounds)?])
}

/// Measures with so many messages in the log.
///
/// # Errors
/// In words.
pub fn replay(id: char, count: u64, rounds: usize) -> Result<Row, String> {
    let mut found = Found::default();
    for _ in 0..rounds {
        found.add(count)?;
    }
    let what = format!(
        "start of three nodes to the first echo; {count} messages of 32 B without a snapshot"
    );
    let mut row = Row::new(id, &what);
    let empty = Line::new("empty log", Unit::Millis, found.empty);
    let long = Line::new("long log", Unit::Millis, found.long);
    let rate = Line::new("messages by what it adds", Unit::Kilo, found.rate);
    row.lines = vec![
        empty.to_reach(Goal::AtMost(400.0)),
        match count {
            1_000_000 => long.to_reach(Goal::AtMost(600.0)),
            _ => long,
        },
        rate.to_reach(Goal::AtLeast(10_000.0)),
        Line::new("recovery alone", Unit::Millis, found.recovered),
        Line::new("service's replay alone", Unit::Kilo, found.replayed),
    ];
    row.notes.push(
        "recovery: from a member's start until it has read and checked its log; the service's \
         replay: from its first message to its last"
            .into(),
    );
    Ok(row)
}

impl Found {
    fn add(&mut self, messages: u64) -> Result<(), String> {
        let mut plan = Plan::new();
        // Room for all of it without a snapshot; small logs have the default's.
        let log = (messages * FRAME * 8 * 5 / 4)
            .max(1 << 30)
            .next_multiple_of(1 << 20);
        plan.extra = format!("service = \"echo\"\nlog_max = {log}\n");
        let mut cluster = Cluster::prepare("start", plan);
        let empty = first_echo(&mut cluster)?;
        let shape = Shape {
            wait: Wait::Yield,
            len: 32,
            mtu: coracle_core::limits::MTU_DEFAULT,
        };
        let mut load = Load::open(&cluster.endpoints(), shape)?;
        load.send(messages, 4096)?;
        drop(load);
        for member in 0..3 {
            cluster.signal(member, Signal::TERM);
        }
        for member in 0..3 {
            cluster.wait(member);
        }
        let began = Instant::now();
        let watched = watch(cluster.data(0), began, messages * FRAME);
        let long = first_echo(&mut cluster)?;
        let seen = watched.join().map_err(|_| "the watching thread died")?;
        let seen = seen.ok_or("a member has not replayed its log in time")?;
        let millis = |time: Duration| time.as_secs_f64() * 1000.0;
        self.empty.push(millis(empty));
        self.long.push(millis(long));
        self.recovered.push(millis(seen.recovered));
        // In thousands a second: messages a millisecond.
        self.rate
            .push(messages as f64 / millis(long.saturating_sub(empty)));
        self.replayed.push(messages as f64 / millis(seen.replayed));
        Ok(())
    }
}

fn first_echo(cluster: &mut Cluster) -> Result<Duration, String> {
    let began = Instant::now();
    for member in 0..3 {
        cluster.spawn(member);
    }
    let shape = Shape {
        wait: Wait::Block,
        len: 32,
        mtu: coracle_core::limits::MTU_DEFAULT,
    };
    let mut load = Load::open(&cluster.endpoints(), shape)?;
    load.send(1, 1)?;
    Ok(began.elapsed())
}

struct Seen {
    recovered: Duration,
    replayed: Duration,
}

/// Looks at the counters of a member that is being started until it has executed `bytes` of log.
fn watch(dir: PathBuf, began: Instant, bytes: u64) -> JoinHandle<Option<Seen>> {
    std::thread::spawn(move || {
        let old = CountersReader::open(&dir).map_or(0, |reader| reader.read().process);
        let reader = watched(|| {
            let reader = CountersReader::open(&dir).ok()?;
            let process = reader.read().process;
            (process != 0 && process != old).then_some(reader)
        })?;
        let recovered = began.elapsed();
        let applied = |reading: Reading| reading.get(Counter::Applied);
        watched(|| (applied(reader.read()) > 0).then_some(()))?;
        let first = Instant::now();
        watched(|| (applied(reader.read()) >= bytes).then_some(()))?;
        Some(Seen {
            recovered,
            replayed: first.elapsed(),
        })
    })
}

fn watched<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(found) = look() {
            return Some(found);
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    None
}
